// Every score of one filter stage, and its bound, for the tests that try to break the bound.
#pragma once

#include <vector>

#include "level.hpp"

namespace pdepth {

// Scores packed queries against packed rows, without a cut: [query][row]; those that are no number
// below infinity stay as they are.
void score_packed(const FilterStage& stage, int64_t width, const Panel& support, int64_t rows,
                  const Panel& queries, int64_t count, float* scores);

struct StageScores {
    float* scores;             // (N, M)
    double* lower;             // (N, M) of the true score
    double* upper;             // (N, M)
    double* at_norm;           // (N, M) score of a row whose distance is the support row's norm
    double* from_lower;        // (N, M) what that distance, in float64, says of the true score
    double* from_upper;        // (N, M)
    float* cuts;               // (N, M) the cut, were the lower bound proven
    float* support_norms;      // (M,)
    float* support_residuals;  // (M,)
    float* query_norms;        // (N,)
    float* query_residuals;    // (N,)
    // Of a stage that takes errors off row by row:
    float* row_cuts = nullptr;  // (N, M) the cut, likewise
    uint8_t* listed = nullptr;  // (N, M, M) and which rows become candidates with it
    double *nearest = nullptr, *farthest = nullptr;  // (N, M) what the bounds say of the distance
};

// Norms, the centre's too where it matters, must be below 2^60 after the transform.
void score_all(const Matrix& support, const Matrix& queries, Transform transform,
               const FilterStage& stage, bool differences, const StageScores& out);

// Likewise of images, with the cut at the squared distance of each pair, (N, M).
void score_images(const Matrix& support, const Matrix& queries, Transform transform,
                  const FilterStage& stage, double departure, const double* distances,
                  const StageScores& out);

// What leaves are compared by: of each query, the score of each leaf's box and of each row in it.
struct LeafScores {
    int64_t leaves, leaf_rows;
    std::vector<int64_t> rows;  // leaves x leaf_rows, -1 where there is none
    std::vector<float> boxes;   // queries x leaves
    std::vector<float> scores;  // queries x leaves x leaf_rows
};

LeafScores score_leaves(const Matrix& support, const Matrix& queries, const Level& level);

}  // namespace pdepth
