// Any processor.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "level.hpp"

namespace {

#include "portable.inc"

using Simd = Portable;

#include "tile.inc"

#include "directions.inc"

}  // namespace

namespace pdepth {
constexpr Level portable_level{"portable", widen, finite, summarise, squared_distance, inner_product, kth_score,
                               search_leaves, score_boxes,
                               kDifferences, kLeaves, kLeafRows, 3, {kByteProducts, kIntegerProducts, kFloatProducts},
                                 kDirections, project, near_distance};
}
