// What one reading of a layer's support finds out before anything is packed.
#pragma once

#include <cstdint>
#include <vector>

#include "level.hpp"
#include "team.hpp"

namespace pdepth {

struct Support {
    std::vector<int64_t> order;      // packed position -> support row
    std::vector<uint32_t> positions; // support row -> packed position, or kNoPosition; empty unless needed
    std::vector<double> centre;      // with zeros up to a multiple of 8 columns
    double largest_norm;             // at least that of any row, with and without the centre
    bool exact;                      // float32 holds every value

    // Rows are put in a fixed scattered order, so that files sorted by class do not feed a query
    // its far rows first. Of rows that are equal only the first `keep` are kept: equal rows are
    // equally far from any query and come in the order of their numbers, so with `keep` > k no
    // later one can be among the k nearest.
    Support(const Matrix& rows, int64_t keep, bool need_positions, const Level& level, Team& team);
};

}  // namespace pdepth
