// NEON, which every 64-bit ARM has: 8-bit and 16-bit products take an instruction for each half of a
// register, which multiplies and adds. Its speed is unmeasured.
#include <arm_neon.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "level.hpp"

namespace {

#include "neon.inc"

using Simd = Neon;

#include "tile.inc"

#include "directions.inc"

}  // namespace

namespace pdepth {
constexpr Level neon_level{"neon", widen, finite, summarise, squared_distance, inner_product, kth_score,
                           search_leaves, score_boxes,
                           kDifferences, kLeaves, kLeafRows, 3, {kByteProducts, kIntegerProducts, kFloatProducts},
                           kDirections, project, near_distance};
}
