// What a filter stage would leave of a layer, tried on a sample.
#pragma once

#include "session.hpp"

namespace pdepth {

constexpr int64_t kPilotShare = 8;  // the sample is no more than this part of the rows

// About how many candidates a query would have left after a stage by products, of all the rows:
// from a sample of the support's own rows. A negative number where there is no sample to be had.
double candidates_left(Session& session, const FilterStage& stage);

}  // namespace pdepth
