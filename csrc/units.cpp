#include "units.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "team.hpp"

namespace pdepth {
namespace {

constexpr int64_t kRowsPerItem = 16;

// A row times a power of two that brings its largest value to 1/2 .. 1: no square overflows, and
// none is lost that counts. Elements are rounded, if at all, where they leave the normal numbers.
void scale(double* row, int64_t width) {
    double largest = 0;
    for (int64_t c = 0; c < width; c++) largest = std::max(largest, std::fabs(row[c]));
    int exponent = 0;
    std::frexp(largest, &exponent);
    // Of the smallest rows the factor itself is beyond float64; to scale up in two steps is exact.
    const int first = std::min(-exponent, std::numeric_limits<double>::max_exponent - 1);
    const double factor = std::ldexp(1.0, first), rest = std::ldexp(1.0, -exponent - first);
    for (int64_t c = 0; c < width; c++) row[c] = row[c] * factor * rest;
}

// In the order of pdepth.definition: the last half is added to the first until one term is left.
double sum_of_squares(const double* row, int64_t width, double* sums) {
    for (int64_t c = 0; c < width; c++) sums[c] = row[c] * row[c];
    for (int64_t count = width; count > 1;) {
        const int64_t half = count / 2;
        count -= half;
        for (int64_t c = 0; c < half; c++) sums[c] += sums[count + c];
    }
    return sums[0];
}

}  // namespace

int64_t unit_rows(const Matrix& rows, double* out, const Level& level, int threads,
                  const std::function<void()>& poll) {
    std::atomic<int64_t> first{rows.rows};
    Team team(threads_to_read(rows, threads), poll);
    std::vector<std::vector<double>> scratch(team.size(), std::vector<double>(rows.width));
    team.run(ceil_div(rows.rows, kRowsPerItem), [&](int64_t item, int thread) {
        const int64_t end = std::min(rows.rows, (item + 1) * kRowsPerItem);
        for (int64_t row = item * kRowsPerItem; row < end; row++) {
            double* const unit = out + row * rows.width;
            level.widen(rows.row(row), rows.type, 0, rows.width, unit);
            scale(unit, rows.width);
            const double norm = std::sqrt(sum_of_squares(unit, rows.width, scratch[thread].data()));
            for (int64_t c = 0; c < rows.width; c++) unit[c] /= norm;
            int64_t known = first;
            while (norm == 0 && row < known && !first.compare_exchange_weak(known, row)) {}
        }
    });
    return first < rows.rows ? first.load() : -1;
}

}  // namespace pdepth
