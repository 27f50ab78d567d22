// Votes counted from lists of neighbours: with weights, and for several k at once.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace pdepth {

// Rows of a support that vote, nearest first, and the classes of the support's rows.
struct VoteLists {
    const int64_t* rows;     // (N, width)
    const double* weights;   // (N, width), none negative; null: one vote each
    int64_t queries, width;
    const int32_t* codes;    // (support,)
    int64_t support;
    int32_t classes;
};

// The answers for one k. Sum: int32_t of whole votes, double with weights.
template <class Sum>
struct Tally {
    int64_t k;      // at most the lists' width
    int32_t* votes; // (N,) the class with most votes; of equals the smallest
    uint8_t* tied;  // (N,) whether another class has as many
    Sum* counts;    // (N, classes) of zeros, or null
};

// Each class adds up its votes in the neighbours' order: the sums of pdepth.definition, and its
// majority. Other classes tie with the winner already where they have its votes but for a share
// `slack`. Throws std::invalid_argument for a row or a class that is none, and what `poll` throws.
template <class Sum>
void count_votes(const VoteLists& lists, std::vector<Tally<Sum>> tallies, double slack, int threads,
                 const std::function<void()>& poll);

}  // namespace pdepth
