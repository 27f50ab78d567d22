// Norms of rows, for the cosine metric: rows divided by them have the bits of pdepth.definition.
#pragma once

#include <cstdint>
#include <functional>

#include "level.hpp"

namespace pdepth {

// Finds the norm of each row of finite values, which must have none yet. Returns the first row of
// zeros, or -1. Throws what `poll` throws.
int64_t find_norms(const Matrix& rows, Norm* norms, const Level& level, int threads,
                   const std::function<void()>& poll);

}  // namespace pdepth
