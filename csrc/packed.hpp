// Memory for packed rows and for what is measured of each, kept from stage to stage.
#pragma once

#include <cstdint>

#include "buffer.hpp"
#include "level.hpp"

namespace pdepth {

struct PackedRows {
    Buffer<char> values;
    Buffer<float> half_norms, norms, residuals, units;
    Buffer<int32_t> starts;

    // Values of `held` rows at a time, norms of all `rows`; start values of queries.
    Panel reserve(int64_t held, int64_t rows, int64_t row_bytes, int64_t row_starts = 0) {
        return {values.reserve(held * row_bytes), half_norms.reserve(rows), norms.reserve(rows),
                residuals.reserve(rows), units.reserve(rows), starts.reserve(held * row_starts)};
    }
    int64_t nbytes() const {
        return values.nbytes() + half_norms.nbytes() + norms.nbytes() + residuals.nbytes() +
               units.nbytes() + starts.nbytes();
    }
};

}  // namespace pdepth
