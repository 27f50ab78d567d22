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

// Where the call asks for the nearest rows beside votes: the first of s.neighbours, which are in order.
void write_nearest(const Session& session, int64_t query, const Scratch& s);

// Has a row of the support on its way from memory.
void prefetch(const Matrix& support, int64_t row);

// Distances of one query in float64.
class SettledQuery {
public:
    // Rows lie anywhere in memory: some way ahead of the one at hand they are on their way.
    static constexpr int64_t kAhead = 8;

    SettledQuery(const Session& session, int64_t query, Scratch& s);
    ~SettledQuery();
    SettledQuery(const SettledQuery&) = delete;
    SettledQuery& operator=(const SettledQuery&) = delete;

    double value(int64_t row) const;  // as Neighbour::distance
    void prefetch(int64_t row) const;
    // The `open` nearest of s.neighbours join the ballot, and the query is answered.
    void add_nearest(int64_t open);

private:
    const Session& session_;
    int64_t query_;
    Scratch& s_;
    std::chrono::steady_clock::time_point start_;
};

// Settles the candidates of s.lists, which it empties.
void settle_lists(const Session& session, Scratch& s);

// Every distance in float64, for the queries that no filter stage can serve.
void settle_completely(Session& session, const std::vector<int64_t>& queries);

}  // namespace pdepth
