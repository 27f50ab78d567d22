// The votes of whole layers: filter, certificate, settlement, majority.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "level.hpp"

namespace pdepth {

struct Layer {
    Matrix support;
    Matrix queries;  // the support itself where own_rows
    bool own_rows;
};

struct Question {
    const int32_t* codes;       // (M,) class of each support row, 0 .. classes - 1
    int32_t classes;
    int64_t k;
    bool exclude_self;
    const int64_t* query_rows;  // (N,) rows of `queries` that are asked, or null for all
    int64_t queries;            // N
    const int32_t* wanted;      // (N,) for depth only: a query leaves at its first other vote
    int64_t held_bytes;         // of packed support at a time; a larger one is packed in stretches
    const double* within;       // (N,) rows with a distance above this need not be told, or null
};

constexpr int32_t kNotAsked = -1;  // as a vote

// Where answers go; each may be null. Of layer l, the answers of query i lie at [l][i].
struct Answers {
    int32_t* votes = nullptr;    // (L, N); with `wanted`, that or kNotAsked
    uint8_t* tied = nullptr;     // (L, N)
    int32_t* counts = nullptr;   // (L, N, classes)
    double* distances = nullptr; // (L, N, k); what is not told stays as it is
    int64_t* rows = nullptr;     // (L, N, k)
};

// How far the present layer is: called on the calling thread, some ten times a second.
using Progress = std::function<void(int64_t layer, double fraction, int64_t queries)>;

// Walks the layers, from the last to the first if `wanted` is given. Throws what `progress` throws.
// Returns the seconds that threads took, together, for float64 distances.
double probe(const std::vector<Layer>& layers, const Question& question, const Answers& answers,
             const Level& level, int threads, const Progress& progress);

// The first row that holds a NaN or an infinity, or -1. Throws what `poll` throws.
int64_t first_not_finite(const Matrix& matrix, const Level& level, int threads,
                         const std::function<void()>& poll);

}  // namespace pdepth
