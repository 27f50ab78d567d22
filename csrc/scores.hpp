// Every score of one filter stage with its bound, for the tests that try to break the bound.
#pragma once

#include "level.hpp"

namespace pdepth {

struct StageScores {
    float* scores;             // (N, M)
    double* lower;             // (N, M) of the true score
    double* upper;             // (N, M)
    double* at_norm;           // (N, M) score of a row whose distance is the support row's norm
    float* cuts;               // (N, M) the cut, were the lower bound proven
    float* support_norms;      // (M,)
    float* support_residuals;  // (M,)
    float* query_norms;        // (N,)
    float* query_residuals;    // (N,)
};

// Norms, the centre's too where it matters, must be below 2^60 after the transform.
void score_all(const Matrix& support, const Matrix& queries, Transform transform,
               const FilterStage& stage, bool differences, const StageScores& out);

// Likewise of images, with the cut at the squared distance of each pair, (N, M).
void score_images(const Matrix& support, const Matrix& queries, Transform transform,
                  const FilterStage& stage, double departure, const double* distances,
                  const StageScores& out);

}  // namespace pdepth
