// AVX2: 16-bit and 8-bit products take two instructions, one to multiply and one to add.
#include <immintrin.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "level.hpp"

namespace {

#include "avx2.inc"

using Simd = Avx2;

#include "tile.inc"

#include "directions.inc"

}  // namespace

namespace pdepth {
constexpr Level avx2_level{"avx2", widen, finite, summarise, squared_distance, inner_product, kth_score,
                           search_leaves, score_boxes,
                           kDifferences, kLeaves, kLeafRows, 3, {kByteProducts, kIntegerProducts, kFloatProducts},
                                 kDirections, project, near_distance};
}
