// One filter stage over a layer: candidates, certificate, and settlement where the vote needs it.
#pragma once

#include <cstdint>
#include <vector>

#include "bound.hpp"
#include "leaves.hpp"
#include "session.hpp"

namespace pdepth {

// Answers `queries` (numbers of the call) by a stage and the bound that belongs to it; returns those
// whose candidates did not fit in their lists.
std::vector<int64_t> filter(Session& session, const FilterStage& stage, const ProductsBound& bound,
                            const std::vector<int64_t>& queries);
std::vector<int64_t> filter(Session& session, const FilterStage& stage,
                            const InnerProductsBound& bound, const std::vector<int64_t>& queries);
std::vector<int64_t> filter(Session& session, const FilterStage& stage,
                            const DifferencesBound& bound, const std::vector<int64_t>& queries,
                            const Leaves* leaves = nullptr);

}  // namespace pdepth
