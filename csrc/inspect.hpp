// One pass laid open: every score with its bound, for the tests that try to break the bound.
#pragma once

#include "level.hpp"

namespace pdepth {

struct Inspection {
    float* scores;             // (N, M)
    double* lower;             // (N, M) of the true score
    double* upper;             // (N, M)
    float* support_norms;      // (M,)
    float* support_residuals;  // (M,)
    float* query_norms;        // (N,)
    float* query_residuals;    // (N,)
};

// Rows are packed as they are, without centre or scale. Norms must be below 2^60.
void inspect(const Matrix& support, const Matrix& queries, const Pass& pass, bool differences,
             const Inspection& out);

}  // namespace pdepth
