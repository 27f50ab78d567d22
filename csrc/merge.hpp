// Lists of candidates from several parts of a support: how they merge, and which votes they prove.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "call.hpp"
#include "matrix.hpp"

namespace pdepth {

// As a row of a list, beside kEnd: one that is not there, and all that did not fit into the list.
constexpr int64_t kLeftOut = -2, kTooMany = -3;

// Candidates of N queries: those of query i are at begins[i] .. begins[i + 1] - 1. A row's distance
// is from lower to upper; it is known where these are equal. Among the rows are the k nearest of the
// part of the support that they come from.
struct BoundedLists {
    const int64_t* begins;
    const double *lower, *upper;
    const int64_t* rows;
};

struct OwnLists {
    std::vector<int64_t> begins{0};
    std::vector<double> lower, upper;
    std::vector<int64_t> rows;
    std::vector<uint8_t> asked;  // where a distance is needed
};

// The lists of all parts together, without rows that are surely not among the k nearest. A query
// with more than `width` candidates left loses them.
OwnLists merge(const std::vector<BoundedLists>& parts, int64_t queries, int64_t k, int64_t width,
               int threads, const std::function<void()>& poll);

struct Election {
    const int32_t* codes;  // of the support's rows
    int32_t classes;
    int64_t k;
    int64_t asked;  // distances of a query, at most; 0: of all that may be its neighbours
};

// The votes of N queries that lists of a whole support prove, and whether they are tied; `open` are
// the others. Returns the lists of those, with the candidates whose distances decide most.
OwnLists prove(const BoundedLists& lists, int64_t queries, const Election& election, int32_t* votes,
               uint8_t* tied, uint8_t* open, int threads, const std::function<void()>& poll);

// Distances in float64 of some pairs of a query and a support row.
struct Pairs {
    const int64_t *queries, *rows;
    int64_t count;
};
void settle_pairs(const Matrix& support, const Matrix& queries, const Pairs& pairs, double* distances,
                  const Level& level, int threads, const std::function<void()>& poll);

}  // namespace pdepth
