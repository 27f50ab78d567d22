// A support that is asked for its own rows: what is computed of a pair of rows serves both.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "session.hpp"

namespace pdepth {

// Which of a call's queries are rows of the packed support.
struct OwnQueries {
    static constexpr int64_t kNone = -1;

    std::vector<int64_t> at;    // packed position -> query, or kNone
    std::vector<int64_t> rest;  // all others: equal rows that are not packed, rows asked twice
};

// Whether a stage shall take the queries in the order of packed positions, by `held` rows at a time:
// a measured rule, unless the question decides it.
bool in_pairs(const Session& session, const FilterStage& stage, int64_t queries, int64_t held);

OwnQueries own_queries(const Session& session, const std::vector<int64_t>& queries);

// Rows cut into bands, and the bands into rounds of pairs that share none, so that threads never
// write one list at a time. The first round is of each band with itself.
class Rounds {
public:
    Rounds(int64_t rows, const FilterStage& stage, int threads);

    struct Rows {
        int64_t begin, end;
    };
    using Pair = std::pair<Rows, Rows>;

    int64_t count() const { return ceil_div(bands_, 2) * 2; }
    int64_t rows_of_band() const { return size_; }  // of the last one at most
    std::vector<Pair> round(int64_t number) const;

private:
    Rows band(int64_t number) const;

    int64_t rows_, size_, bands_;
};

}  // namespace pdepth
