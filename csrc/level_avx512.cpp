// AVX-512 without VNNI: products of integers take two instructions, so that those of 16 bits would be
// no faster than float32's one, and those of 8 bits are.
#include <immintrin.h>

#include <cmath>
#include <cstdlib>
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
                           kDifferences, kLeaves, kLeafRows, 2, {kByteProducts, kFloatProducts}};
}
