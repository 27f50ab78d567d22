// From what is known of a query's neighbours to its answer.
#pragma once

#include <cstdint>
#include <vector>

#include "session.hpp"

namespace pdepth {

// The vote of a ballot whose counts are complete, and whatever else the call returns.
void answer(const Session& session, int64_t query, const Ballot& ballot);

// A class that wins alone, whatever the counts; kUnknown where the target does not win.
void answer_winner(const Session& session, int64_t query, int32_t winner);

// Computes the float64 distances of the rows in s.possible; the `open` nearest join the ballot.
void settle(const Session& session, int64_t query, int64_t open, Scratch& s);

// Settles the candidates of s.lists, which it empties.
void settle_lists(const Session& session, Scratch& s);

// Parts the rows at `positions`, whose scores lie between s.lower and s.upper, into certain
// neighbours, possible ones and others; computes float64 distances only where the vote hangs on them.
// The k nearest rows, or all that matter if those are fewer, are among them.
void conclude(const Session& session, int64_t query, const uint32_t* positions, Scratch& s);

// Every distance in float64, for the queries that no filter stage can serve.
void settle_completely(Session& session, const std::vector<int64_t>& queries);

}  // namespace pdepth
