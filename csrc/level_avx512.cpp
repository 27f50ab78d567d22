// AVX-512 without VNNI: 16-bit products would take two instructions, no faster than float32's one.
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "level.hpp"

namespace {

#include "avx512.inc"

using Simd = Avx512;

#include "tile.inc"

}  // namespace

namespace pdepth {
constexpr Level avx512_level{"avx512", widen, finite, summarise, squared_distance, inner_product, kth_score,
                             search_leaves, score_boxes,
                           kDifferences, kLeaves, kLeafRows, 1, {kFloatProducts}};
}
