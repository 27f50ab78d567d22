// Rows divided by their norms, for the cosine metric: the bits of pdepth.definition.
#pragma once

#include <cstdint>
#include <functional>

#include "level.hpp"

namespace pdepth {

// Writes each row of finite values, divided by its norm, to `out` (rows, width). Returns the first
// row of zeros, or -1. Throws what `poll` throws.
int64_t unit_rows(const Matrix& rows, double* out, const Level& level, int threads,
                  const std::function<void()>& poll);

}  // namespace pdepth
