#include "norms.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "team.hpp"

namespace pdepth {
namespace {

constexpr int64_t kRowsPerItem = 16;

// What a row is multiplied by, a power of two: its largest value comes to 1/2 .. 1, so that no square
// overflows, and none is lost that counts. Of the smallest rows, which it leaves below 1/2, the factor
// would be beyond float64; their squares are still far from its end.
double factor_of(const double* row, int64_t width) {
    double largest = 0;
    for (int64_t c = 0; c < width; c++) largest = std::max(largest, std::fabs(row[c]));
    int exponent = 0;
    std::frexp(largest, &exponent);
    return std::ldexp(1.0, std::min(-exponent, std::numeric_limits<double>::max_exponent - 1));
}

}  // namespace

// The definition takes every row times a power of two. Where no square is near an end of float64 the
// same bits come without, since a power of two in all terms is one in their sum: so it is of all types
// but float64.
int64_t find_norms(const Matrix& rows, Norm* norms, const Level& level, int threads,
                   const std::function<void()>& poll) {
    std::atomic<int64_t> first{rows.rows};
    Team team(threads_to_read(rows, threads), poll);
    struct Room {
        std::vector<double> row, sums;
    };
    std::vector<Room> rooms(team.size());
    for (Room& room : rooms) {
        room.row.resize(rows.width);
        room.sums.resize(2 * rows.width);
    }
    team.run(ceil_div(rows.rows, kRowsPerItem), [&](int64_t item, int thread) {
        auto& [wide, sums] = rooms[thread];
        const auto* const values = reinterpret_cast<const char*>(wide.data());
        const Matrix scaled{values, 1, rows.width, 0, sizeof(double), DType::f64};
        const int64_t end = std::min(rows.rows, (item + 1) * kRowsPerItem);
        for (int64_t row = item * kRowsPerItem; row < end; row++) {
            level.widen(rows, row, 0, rows.width, wide.data());
            const double factor = rows.type == DType::f64 ? factor_of(wide.data(), rows.width) : 1.0;
            for (double& value : wide) value *= factor;
            const double norm = std::sqrt(level.inner_product(wide.data(), scaled, 0, sums.data()));
            norms[row] = {factor, norm};
            int64_t known = first;
            while (norm == 0 && row < known && !first.compare_exchange_weak(known, row)) {}
        }
    });
    return first < rows.rows ? first.load() : -1;
}

}  // namespace pdepth
