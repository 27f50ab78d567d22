#include "support.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <utility>

#include "leaves.hpp"
#include "directions.hpp"

namespace pdepth {
namespace {

constexpr int64_t kRowsPerItem = 64;
constexpr int64_t kLastingKeep = 257;  // equal rows of a support that later searches share: for k to 256
constexpr double kLargestKept = 0x1p61;  // scaled norm of a row that joins

// Compares rows by their bytes, or by those of what they stand for where they have norms: rows of one
// direction are equal, too.
class Equality {
public:
    Equality(const Matrix& rows, const Level& level)
        : rows_(rows), level_(level), a_(rows.norms ? rows.width : 0), b_(a_.size()) {}

    bool operator()(int64_t a, int64_t b) {
        const auto bytes = static_cast<std::size_t>(rows_.width * rows_.item_size);
        if (!rows_.norms) return std::memcmp(rows_.row(a), rows_.row(b), bytes) == 0;
        level_.widen(rows_, a, 0, rows_.width, a_.data());
        level_.widen(rows_, b, 0, rows_.width, b_.data());
        return std::memcmp(a_.data(), b_.data(), a_.size() * sizeof(double)) == 0;
    }

private:
    const Matrix& rows_;
    const Level& level_;
    std::vector<double> a_, b_;
};

// The first `keep` of each set of equal rows from `begin` on, in ascending order.
std::vector<int64_t> first_of_equals(const Matrix& rows, int64_t begin, int64_t keep,
                                     const std::vector<uint64_t>& hashes, const Level& level) {
    struct EqualRows {
        int64_t row;  // the first of them
        int64_t size;
        int64_t next; // other rows of the same hash, or -1
    };
    Equality equal(rows, level);
    std::size_t slots = 16;
    while (slots < 2 * hashes.size()) slots *= 2;
    std::vector<int64_t> heads(slots, -1);
    std::vector<EqualRows> sets;
    sets.reserve(hashes.size());
    std::vector<int64_t> kept;
    kept.reserve(hashes.size());
    for (int64_t row = begin; row < rows.rows; row++) {
        const uint64_t hash = hashes[row - begin];
        int64_t& head = heads[hash & (slots - 1)];
        int64_t at = head;
        while (at >= 0 && (hashes[sets[at].row - begin] != hash || !equal(sets[at].row, row)))
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
        level.widen(rows, order[i], 0, rows.width, wide.data());
        for (int64_t c = 0; c < rows.width; c++) centre[c] += wide[c];
        counted++;
    }
    for (double& value : centre) value /= static_cast<double>(counted);
    return centre;
}

// What is read of each row from `begin` on.
struct Summaries {
    std::vector<uint64_t> hashes;
    std::vector<double> norms;  // rounded up
    bool exact;

    Summaries(const Matrix& rows, int64_t begin, const Level& level, Team& team)
        : hashes(rows.rows - begin), norms(rows.rows - begin) {
        std::atomic<bool> all_exact{true};
        const int64_t count = rows.rows - begin;
        team.run(ceil_div(count, kRowsPerItem), [&](int64_t item, int) {
            const int64_t end = std::min(count, (item + 1) * kRowsPerItem);
            for (int64_t i = item * kRowsPerItem; i < end; i++) {
                const RowSummary summary = level.summarise(rows, begin + i);
                norms[i] = summary.norm;
                hashes[i] = summary.hash;
                if (!summary.exact) all_exact = false;
            }
        });
        exact = all_exact;
    }

    double largest() const {
        return norms.empty() ? 0 : *std::max_element(norms.begin(), norms.end());
    }
};

double norm_of(const std::vector<double>& values) {
    double square = 0;
    for (double value : values) square += value * value;
    return std::sqrt(square);
}

// Positions at which the tiles of every stage of a level begin.
int64_t common_tile(const Level& level) {
    int64_t tile = level.differences.support_rows;
    for (int i = 0; i < level.products_count; i++)
        tile = std::lcm(tile, level.products[i].support_rows);
    return tile;
}

// Rows from `begin` on join a reading.
void append(Reading& reading, const Matrix& rows, int64_t begin, const Summaries& summaries) {
    const std::vector<int64_t> kept =
        first_of_equals(rows, begin, reading.keep, summaries.hashes, *reading.level);
    reading.dropped |= static_cast<int64_t>(kept.size()) < rows.rows - begin;
    reading.positions.resize(rows.rows, kNoPosition);
    for (int64_t row : scattered(kept)) {
        reading.positions[row] = static_cast<uint32_t>(reading.order.size());
        reading.order.push_back(row);
    }
    reading.exact &= summaries.exact;
    reading.rows = rows.rows;
}

std::shared_ptr<Reading> reading_of(const Matrix& rows, Metric metric, int64_t keep,
                                    const Level& level, Team& team) {
    auto reading = std::make_shared<Reading>();
    const Summaries summaries(rows, 0, level, team);
    reading->level = &level;
    reading->metric = metric;
    reading->keep = keep;
    append(*reading, rows, 0, summaries);
    reading->first_rows = rows.rows;
    reading->centre = centre_of(rows, reading->order, summaries.norms, level);
    reading->centre_norm = norm_of(reading->centre);
    const double norm = summaries.largest() + reading->centre_norm;
    reading->largest_norm = norm;
    if (norm > 0 && reading->bounded())
        reading->scale = std::ldexp(1.0, kScaledExponent - 1 - std::ilogb(norm));
    return reading;
}

// The reading of `before` with the rows that follow, or null where all are to be read anew.
std::shared_ptr<Reading> extended(Reading& before, const Matrix& rows, int64_t keep,
                                  const Level& level, Team& team) {
    const bool few = rows.rows <= 2 * before.first_rows;
    if (!few || before.level != &level || before.keep < keep || before.largest_norm == 0 ||
        !before.bounded())
        return nullptr;
    const Summaries summaries(rows, before.rows, level, team);
    const double norm =
        std::max(before.largest_norm, summaries.largest() + before.centre_norm);
    if (!(norm * before.scale < kLargestKept) || (before.exact && !summaries.exact)) return nullptr;
    auto reading = std::make_shared<Reading>();
    reading->level = &level;
    reading->metric = before.metric;
    reading->order = before.order;
    reading->order.resize(round_up(reading->order.size(), common_tile(level)), Reading::kNoRow);
    if (static_cast<int64_t>(reading->order.size()) > 4 * before.first_rows + common_tile(level))
        return nullptr;  // too many of them fill tiles
    reading->positions = before.positions;
    reading->centre = before.centre;
    reading->centre_norm = before.centre_norm;
    reading->largest_norm = norm;
    reading->scale = before.scale;
    reading->exact = before.exact;
    reading->keep = before.keep;
    reading->dropped = before.dropped;
    reading->first_rows = before.first_rows;
    append(*reading, rows, before.rows, summaries);
    const std::lock_guard<ForkMutex> lock(before.mutex);
    reading->stages = before.stages;
    reading->pilots = before.pilots;
    reading->trial = before.trial;
    reading->directions = before.directions;
    return reading;
}

}  // namespace

bool Reading::bounded() const {
    return largest_norm == 0 || (largest_norm > 0x1p-400 && largest_norm < 0x1p400);
}

Transform Reading::transform(const FilterStage& stage) const {
    const bool plain = exact && &stage == &level->differences;
    return {plain ? nullptr : centre.data(), scale, metric == Metric::inner_product,
            stage.images ? directions->packed() : Directions{}};
}

std::shared_ptr<Reading> Support::read(int64_t k, const Level& level, Team& team) {
    const std::lock_guard<ForkMutex> lock(mutex_);
    forget_abandoned();
    if (reading_ && reading_->level == &level && (!reading_->dropped || k < reading_->keep))
        return reading_;
    const int64_t keep = kept_bytes ? std::max(k + 1, kLastingKeep) : k + 1;
    std::shared_ptr<Reading> next;
    if (const std::shared_ptr<Reading> earlier = before_ ? before_->present() : nullptr)
        next = extended(*earlier, rows, keep, level, team);
    reading_ = next ? next : reading_of(rows, metric, keep, level, team);
    before_ = nullptr;
    return reading_;
}

std::shared_ptr<const Support> Support::last_read(std::shared_ptr<const Support> support) {
    const std::unique_lock<ForkMutex> lock(support->mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return support;
    support->forget_abandoned();
    return !support->reading_ && support->before_ ? support->before_ : support;
}

void Support::forget_abandoned() const {
    // What may be half written is left alone: neither read nor freed.
    if (mutex_.take_over()) {
        new (&reading_) std::shared_ptr<Reading>;
        new (&before_) std::shared_ptr<const Support>;
    } else if (reading_ && reading_->mutex.abandoned()) {
        new (&reading_) std::shared_ptr<Reading>;
    }
}

std::shared_ptr<Reading> Support::present() const {
    const std::lock_guard<ForkMutex> lock(mutex_);
    forget_abandoned();
    return reading_ || !before_ ? reading_ : before_->present();
}

int64_t Support::nbytes() const {
    const std::shared_ptr<Reading> reading = present();
    if (!reading) return 0;
    const std::lock_guard<ForkMutex> lock(reading->mutex);
    auto bytes = static_cast<int64_t>(reading->order.size() * sizeof(int64_t) +
                                      reading->positions.size() * sizeof(uint32_t));
    for (const PackedStage& packed : reading->stages) bytes += packed.memory->nbytes();
    if (reading->leaves) bytes += reading->leaves->nbytes();
    if (reading->directions) bytes += reading->directions->nbytes();
    return bytes;
}

}  // namespace pdepth
