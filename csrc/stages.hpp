// Which filter stages a layer passes through: the rule, in one place. It changes no vote.
#pragma once

#include <memory>
#include <vector>

#include "session.hpp"

namespace pdepth {

// What an element of the support costs to pack, in multiply-adds.
constexpr double kToPack = 128;

// The stages that may answer the session's present layer, in their order: each takes the queries
// that the one before could not serve. `Question::first_stage` says where they begin, or the rule,
// which may try a stage on a sample; a support that lasts remembers what came of it. `queries` are to
// be answered.
std::vector<const FilterStage*> stages_of(Session& session, int64_t queries);

// Whether a stage is not worth its packing for so few queries as are left.
bool too_few(const Session& session, const FilterStage& stage, int64_t queries);

// The layer's rows in leaves, where a search of them begins there; else null. Those of a support that
// keeps its packed forms stay with it.
std::shared_ptr<const Leaves> leaves_for(Session& session, const std::vector<int64_t>& queries);

}  // namespace pdepth
