// What the bounds of a query's candidates prove of its vote and of its nearest rows, and the distances
// that are needed where they do not prove enough.
#pragma once

#include "bound.hpp"
#include "session.hpp"

namespace pdepth {

// Answers a query from s.candidates, which hold all rows that may be among its neighbours.
void answer_from_candidates(const Session& session, int64_t query, const ScoreOfDistance& score_of,
                            Scratch& s);

// Writes the nearest rows of a query beside its vote, from s.candidates, which hold all that may be
// among them.
void order_nearest(const Session& session, int64_t query, const ScoreOfDistance& score_of,
                   Scratch& s);

}  // namespace pdepth
