// What a filter stage would leave of a layer, tried on a sample.
#pragma once

#include "session.hpp"

namespace pdepth {

constexpr int64_t kPilotShare = 8;  // the sample is no more than this part of the rows

// What a candidate costs that a pilot counts, in multiply-adds of AVX2's 16-bit integers, as measured
// at width 512 to 65,536: to keep it while it may be near, to bound its distance, and three in ten times
// to compute it.
inline double cost_of_candidate(int64_t width) { return 6000 + 10 * static_cast<double>(width); }

// About how many candidates a query would have left after a stage by products, of all the rows:
// from a sample of the support's own rows. A negative number where there is no sample to be had.
double candidates_left(Session& session, const FilterStage& stage);

}  // namespace pdepth
