// The answers of whole layers: filter stages, certificate, settlement, majority.
//
// All layers of one call share its threads, each thread's scratch and the buffers of packed rows,
// which is why a call takes several; what a lasting support has packed it keeps for later calls. Every layer answers all queries of the call; a caller that drops
// queries between layers, as early exit does, makes a call for each.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "level.hpp"
#include "support.hpp"

namespace pdepth {

struct Layer {
    std::shared_ptr<Support> support;
    Matrix queries;  // the support's rows where own_rows
    bool own_rows;
};

struct Question {
    const int32_t* codes;       // (M,) class of each support row, 0 .. classes - 1
    int32_t classes;
    int64_t k;
    bool exclude_self;
    const int64_t* query_rows;  // (N,) rows of each layer's `queries`, or null for all of them
    int64_t queries;            // N
    const int32_t* target;      // (N,) the class a vote has to equal, or null: which class wins?
    int64_t held_bytes;         // of packed support at a time; a larger one is packed in chunks
    const double* within;       // (N,) squared distance beyond which rows may be left out, or null
    const char* first_stage;    // name of the filter stage to begin with, or null: a rule chooses
    // Whether rows that ask for themselves serve each other, pair by pair; unset: where it pays.
    std::optional<bool> pairs;
};

constexpr int32_t kUnknown = -1;  // as a vote: some class other than the target
constexpr int64_t kEnd = -1;      // as a row of a list: there are no more

// Where answers go; each may be null. Of layer l, the answers of query i lie at [l][i].
struct Answers {
    int32_t* votes = nullptr;    // (L, N); with `target`, that class or kUnknown
    uint8_t* tied = nullptr;     // (L, N)
    int32_t* counts = nullptr;   // (L, N, classes)
    // (L, N, k) squared distances, or inner products with their signs turned; what is left out keeps
    // its value.
    double* distances = nullptr;
    int64_t* rows = nullptr;     // (L, N, k)
    // With it, distances and rows are of candidates, (L, N, width), the k nearest rows among them:
    // distances that are no more than theirs, and here such that are no less; equal where computed.
    // A row kEnd is after the last.
    double* upper = nullptr;
    int64_t width = 0;           // k without it
    // (L, N, nearest) of the nearest rows alone, as `distances` and `rows`, beside votes.
    double* nearest_distances = nullptr;
    int64_t* nearest_rows = nullptr;
    int64_t nearest = 0;         // 1 to k, with these
};

// How far the present layer is: called on the calling thread, some ten times a second.
using Progress = std::function<void(int64_t layer, double fraction, int64_t queries)>;

// Answers the layers in their order. Throws what `progress` throws. Returns the seconds that
// threads took, together, for float64 distances.
double answer_layers(const std::vector<Layer>& layers, const Question& question,
                     const Answers& answers, const Level& level, int threads,
                     const Progress& progress);

// The first row that holds a NaN or an infinity, or -1. Throws what `poll` throws.
int64_t first_not_finite(const Matrix& matrix, const Level& level, int threads,
                         const std::function<void()>& poll);

}  // namespace pdepth
