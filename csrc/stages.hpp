// Which filter stages a layer passes through: the rule, in one place. It changes no vote.
#pragma once

#include <vector>

#include "session.hpp"

namespace pdepth {

// The stages that may answer the session's present layer, in their order: each takes the queries
// that the one before could not serve. `Question::first_stage` says where they begin, or the rule.
std::vector<const FilterStage*> stages_of(Session& session);

}  // namespace pdepth
