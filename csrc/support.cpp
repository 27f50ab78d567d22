#include "support.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace pdepth {
namespace {

constexpr int64_t kRowsPerItem = 64;

uint64_t mix(uint64_t value) {
    value *= 0x9e3779b97f4a7c15u;
    return value ^ (value >> 32);
}

// Four independent chains, so that the multiplications overlap.
uint64_t hash_of(const char* bytes, int64_t size) {
    uint64_t lanes[4] = {1, 2, 3, 4}, word;
    int64_t at = 0;
    for (; at + 32 <= size; at += 32)
        for (int j = 0; j < 4; j++) {
            std::memcpy(&word, bytes + at + 8 * j, 8);
            lanes[j] = mix(lanes[j] ^ word);
        }
    for (; at < size; at += 8) {
        word = 0;
        std::memcpy(&word, bytes + at, std::min<int64_t>(8, size - at));
        lanes[0] = mix(lanes[0] ^ word);
    }
    return mix(mix(mix(lanes[0]) ^ lanes[1]) ^ mix(lanes[2]) ^ (lanes[3] << 1));
}

// The first `keep` of each set of equal rows, in ascending order.
std::vector<int64_t> first_of_equals(const Matrix& rows, int64_t keep,
                                     const std::vector<uint64_t>& hashes) {
    struct EqualRows {
        int64_t row;  // the first of them
        int64_t size;
        int64_t next; // other rows of the same hash, or -1
    };
    const auto bytes = static_cast<std::size_t>(rows.width * rows.item_size);
    std::size_t slots = 16;
    while (slots < 2 * hashes.size()) slots *= 2;
    std::vector<int64_t> heads(slots, -1);
    std::vector<EqualRows> sets;
    sets.reserve(hashes.size());
    std::vector<int64_t> kept;
    kept.reserve(hashes.size());
    for (int64_t row = 0; row < rows.rows; row++) {
        int64_t& head = heads[hashes[row] & (slots - 1)];
        int64_t at = head;
        while (at >= 0 && (hashes[sets[at].row] != hashes[row] ||
                           std::memcmp(rows.row(sets[at].row), rows.row(row), bytes) != 0))
            at = sets[at].next;
        if (at < 0) {
            at = static_cast<int64_t>(sets.size());
            sets.push_back({row, 0, head});
            head = at;
        }
        if (sets[at].size++ < keep) kept.push_back(row);
    }
    return kept;
}

// Rows `step` apart, wrapping around; `step` shares no factor with their number.
std::vector<int64_t> scattered(const std::vector<int64_t>& rows) {
    const auto count = static_cast<int64_t>(rows.size());
    auto step = static_cast<int64_t>(0.6180339887498949 * static_cast<double>(count)) | 1;
    while (std::gcd(step, count) != 1) step++;
    std::vector<int64_t> order(rows.size());
    for (int64_t i = 0, at = 0; i < count; i++, at = (at + step) % count) order[i] = rows[at];
    return order;
}

// The mean of a sample. Any centre gives the same votes; a near one gives small norms and so tight
// bounds, which is why rows far larger than the others have no say in it.
std::vector<double> centre_of(const Matrix& rows, const std::vector<int64_t>& order,
                              const std::vector<double>& norms, const Level& level) {
    const int64_t sample = std::min<int64_t>(
        static_cast<int64_t>(order.size()),
        std::clamp<int64_t>((int64_t(1) << 21) / rows.width, 64, 1024));
    std::vector<double> sampled(sample);
    for (int64_t i = 0; i < sample; i++) sampled[i] = norms[order[i]];
    std::nth_element(sampled.begin(), sampled.begin() + sample / 2, sampled.end());
    const double ordinary = 8 * sampled[sample / 2];

    std::vector<double> centre(round_up(rows.width, 8), 0.0), wide(rows.width);
    int64_t counted = 0;
    for (int64_t i = 0; i < sample; i++) {
        if (norms[order[i]] > ordinary) continue;
        level.widen(rows.row(order[i]), rows.type, 0, rows.width, wide.data());
        for (int64_t c = 0; c < rows.width; c++) centre[c] += wide[c];
        counted++;
    }
    for (double& value : centre) value /= static_cast<double>(counted);
    return centre;
}

}  // namespace

Support::Support(const Matrix& rows, int64_t keep, bool need_positions, const Level& level,
                 Team& team) {
    std::vector<uint64_t> hashes(rows.rows);
    std::vector<double> norms(rows.rows);
    std::atomic<bool> all_exact{true};
    team.run(ceil_div(rows.rows, kRowsPerItem), [&](int64_t item, int) {
        const int64_t end = std::min(rows.rows, (item + 1) * kRowsPerItem);
        for (int64_t row = item * kRowsPerItem; row < end; row++) {
            hashes[row] = hash_of(static_cast<const char*>(rows.row(row)),
                                  rows.width * rows.item_size);
            const RowSummary summary = level.summarise(rows.row(row), rows.type, rows.width);
            norms[row] = summary.norm;
            if (!summary.exact) all_exact = false;
        }
    });
    exact = all_exact;
    order = scattered(first_of_equals(rows, keep, hashes));
    if (need_positions) {
        positions.assign(rows.rows, kNoPosition);
        for (std::size_t i = 0; i < order.size(); i++)
            positions[order[i]] = static_cast<uint32_t>(i);
    }
    centre = centre_of(rows, order, norms, level);
    double square = 0;
    for (double value : centre) square += value * value;
    largest_norm = *std::max_element(norms.begin(), norms.end()) + std::sqrt(square);
}

}  // namespace pdepth
