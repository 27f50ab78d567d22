#include "scores.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "bound.hpp"
#include "leaves.hpp"
#include "packed.hpp"

namespace pdepth {
namespace {

Panel packed(const Matrix& rows, Transform transform, const FilterStage& stage, Side side,
             PackedRows& memory) {
    const int64_t tile = side == Side::query ? stage.query_rows : stage.support_rows;
    const int64_t padded = round_up(rows.rows, tile);
    const Panel panel = memory.reserve(padded, padded, stage.columns(rows.width) * stage.item_size,
                                       stage.starts(rows.width));
    std::vector<int64_t> numbers(rows.rows);
    std::iota(numbers.begin(), numbers.end(), 0);
    for (int64_t i = 0; i * tile < rows.rows; i++)
        stage.pack(rows, numbers.data() + i * tile, std::min(tile, rows.rows - i * tile), transform,
                  panel, side, i);
    return panel;
}

// One scan of all pairs.
class Scan {
public:
    Scan(const FilterStage& stage, int64_t width, const Panel& support, int64_t rows,
         const Panel& queries, int64_t count)
        : stage_(stage), rows_(rows), count_(count),
          padded_(round_up(count, stage.query_rows)), capacity_(rows + 2 * stage.support_rows),
          none_(padded_, 0), listed_(padded_ * capacity_), size_(padded_),
          limit_(padded_, static_cast<int32_t>(capacity_)), self_(padded_, kNoPosition),
          positions_(padded_ * capacity_) {
        item_.queries = queries.values;
        item_.support = support.values;
        item_.half_norms = support.half_norms;
        item_.query_units = queries.units;
        item_.query_starts = queries.starts;
        item_.starts = stage.starts(width);
        item_.support_units = support.units;
        item_.columns = stage.columns(width);
        item_.query_tiles = padded_ / stage.query_rows;
        item_.support_count = rows;
        item_.first_position = 0;
        item_.partial = partial_.reserve(padded_ * stage.kept_tiles * stage.support_rows);
        item_.errors = {support.norms, support.residuals, nullptr, nullptr};
    }

    // With a cut for each query, and its shares of each row's errors.
    void run(const float* cut, const float* of_norm, const float* of_residual) {
        std::vector<float> cuts(padded_, -std::numeric_limits<float>::infinity());
        std::copy_n(cut, count_, cuts.begin());
        std::fill(size_.begin(), size_.end(), 0);
        item_.lists = {cuts.data(), size_.data(), limit_.data(), self_.data(), listed_.data(),
                       positions_.data(), capacity_, [](void*, int64_t) {}, nullptr};
        item_.errors.of_norm = of_norm;
        item_.errors.of_residual = of_residual;
        stage_.scan(item_);
    }

    const float* no_shares() const { return none_.data(); }
    int64_t padded() const { return padded_; }

    // take(query, row, score) of what became a candidate.
    template <class Take>
    void each(Take take) const {
        for (int64_t i = 0; i < count_; i++)
            for (int64_t at = i * capacity_; at < i * capacity_ + size_[i]; at++)
                take(i, positions_[at], listed_[at]);
    }

private:
    const FilterStage& stage_;
    int64_t rows_, count_, padded_, capacity_;
    std::vector<float> none_, listed_;
    std::vector<int32_t> size_, limit_;
    std::vector<uint32_t> self_, positions_;
    Buffer<float> partial_;
    ScanItem item_;
};

// Cuts of scores less each row's errors, were the lower bounds proven, and what they let through.
template <class Bound>
void apply_by_row(const FilterStage& stage, int64_t width, const Bound& bound, const Panel& support,
                  const Panel& queries, int64_t rows, int64_t count, const StageScores& out) {
    Scan scan(stage, width, support, rows, queries, count);
    std::vector<float> of_norm(scan.padded(), 0), of_residual(scan.padded(), 0), cut(count);
    std::fill_n(out.listed, count * rows * rows, uint8_t(0));
    for (int64_t j = 0; j < rows; j++) {
        for (int64_t i = 0; i < count; i++) {
            const auto query = bound.query(queries.norms[i], queries.residuals[i]);
            const RowShares shares = bound.row_shares(query);
            of_norm[i] = shares.of_norm;
            of_residual[i] = shares.of_residual;
            cut[i] = out.row_cuts[i * rows + j] = bound.row_cut(query, out.lower[i * rows + j]);
        }
        scan.run(cut.data(), of_norm.data(), of_residual.data());
        scan.each([&](int64_t i, uint32_t row, float) { out.listed[(i * rows + j) * rows + row] = 1; });
    }
}

template <class Bound>
void apply(const FilterStage& stage, int64_t width, Bound bound, const Panel& support,
           const Panel& queries, int64_t rows, int64_t count, double scale, const StageScores& out) {
    bound.add_rows(relative_of(support.norms, support.residuals, rows));
    for (int64_t i = 0; i < count; i++) {
        const auto query = bound.query(queries.norms[i], queries.residuals[i]);
        for (int64_t j = 0; j < rows; j++) {
            const int64_t at = i * rows + j;
            const Interval score = bound.bounds(query, out.scores[at], support.norms[j], support.residuals[j]);
            out.lower[at] = score.lower;
            out.upper[at] = score.upper;
            const double norm = support.norms[j];
            out.at_norm[at] = bound.score_at(query, norm * norm);
            const Interval from = bound.score_of_distance(query, scale).at(norm * norm);
            out.from_lower[at] = from.lower;
            out.from_upper[at] = from.upper;
            const Interval distance = bound.score_of_distance(query, scale).distances(score);
            out.nearest[at] = distance.lower;
            out.farthest[at] = distance.upper;
            out.cuts[at] = bound.cut(query, out.lower[at]);
        }
    }
    if constexpr (Bound::kByNorm)
        if (stage.row_errors)
            apply_by_row(stage, width, bound, support, queries, rows, count, out);
}

struct Both {
    PackedRows support_memory, query_memory;
    Panel y{}, x{};
};

// Packs both, and scores every pair of them.
void scan_all(const Matrix& support, const Matrix& queries, Transform transform,
              const FilterStage& stage, Both& both, const StageScores& out) {
    const Panel y = both.y = packed(support, transform, stage, Side::support, both.support_memory);
    const Panel x = both.x = packed(queries, transform, stage, Side::query, both.query_memory);
    score_packed(stage, support.width, y, support.rows, x, queries.rows, out.scores);
    std::copy_n(y.norms, support.rows, out.support_norms);
    std::copy_n(y.residuals, support.rows, out.support_residuals);
    std::copy_n(x.norms, queries.rows, out.query_norms);
    std::copy_n(x.residuals, queries.rows, out.query_residuals);
}

}  // namespace

void score_packed(const FilterStage& stage, int64_t width, const Panel& support, int64_t rows,
                  const Panel& queries, int64_t count, float* scores) {
    const std::vector<float> cut(count, std::numeric_limits<float>::infinity());
    Scan scan(stage, width, support, rows, queries, count);
    scan.run(cut.data(), scan.no_shares(), scan.no_shares());
    scan.each([&](int64_t i, uint32_t row, float score) { scores[i * rows + row] = score; });
}

void score_all(const Matrix& support, const Matrix& queries, Transform transform, const FilterStage& stage,
             bool differences, const StageScores& out) {
    Both both;
    scan_all(support, queries, transform, stage, both, out);
    const Panel &y = both.y, &x = both.x;
    const double largest = *std::max_element(y.norms, y.norms + support.rows);
    if (transform.inner_products) {
        double square = 0;
        for (int64_t c = 0; c < support.width; c++) square += transform.centre[c] * transform.centre[c];
        const double centre = std::sqrt(square) * transform.scale;
        apply(stage, support.width, InnerProductsBound(stage, support.width, largest, centre), y, x, support.rows,
              queries.rows, transform.scale, out);
    } else if (differences)
        apply(stage, support.width, DifferencesBound(stage, support.width, largest), y, x, support.rows,
              queries.rows, transform.scale, out);
    else
        apply(stage, support.width, ProductsBound(stage, support.width, largest), y, x, support.rows,
              queries.rows, transform.scale, out);
}

LeafScores score_leaves(const Matrix& support, const Matrix& queries, const Level& level) {
    Team team(1, [] {});
    Support rows(support, Metric::squared_distance, 0);
    const std::shared_ptr<Reading> reading = rows.read(support.rows, level, team);
    const std::shared_ptr<const Leaves> leaves = split(support, *reading, team);
    const FilterStage& stage = level.differences;
    PackedRows memory;
    const Panel x = packed(queries, reading->transform(stage), stage, Side::query, memory);

    LeafScores out{leaves->count, level.leaf_rows, leaves->order, {}, {}};
    const int64_t places = leaves->count * level.leaf_rows;
    out.boxes.resize(queries.rows * leaves->count);
    out.scores.assign(queries.rows * places, std::numeric_limits<float>::infinity());
    LeafScratch room;
    for (int64_t q = 0; q < queries.rows; q++) {
        // A cut above any finite score takes every row: with all seeds, each leaf is scanned.
        float cut = std::numeric_limits<float>::infinity();
        int32_t size = 0, limit = static_cast<int32_t>(places) + 1;
        uint32_t self = kNoPosition;
        std::vector<float> scores(limit);
        std::vector<uint32_t> positions(limit);
        LeafSearch search = leaves->search(support.rows, level, room);
        const int64_t tile = stage.query_rows;
        search.query =
            static_cast<const float*>(x.values) + q / tile * tile * support.width + q % tile;
        search.lists = {&cut, &size, &limit, &self, scores.data(), positions.data(), limit,
                        [](void*, int64_t) {}, nullptr};
        level.search_leaves(search);
        for (int32_t i = 0; i < size; i++) out.scores[q * places + positions[i]] = scores[i];
        for (int64_t group = 0; group < leaves->count / kBoxes; group++)
            level.score_boxes(search, search.boxes, group,
                              out.boxes.data() + q * leaves->count + group * kBoxes);
    }
    return out;
}

void score_images(const Matrix& support, const Matrix& queries, Transform transform,
                  const FilterStage& stage, double departure, const double* distances,
                  const StageScores& out) {
    Both both;
    scan_all(support, queries, transform, stage, both, out);
    ImagesBound bound(stage, support.width, departure, transform.directions.floor);
    bound.add_rows(relative_of(both.y.norms, both.y.residuals, support.rows));
    for (int64_t i = 0; i < queries.rows; i++) {
        const auto query = bound.query(both.x.norms[i], both.x.residuals[i]);
        for (int64_t at = i * support.rows; at < (i + 1) * support.rows; at++)
            out.cuts[at] = bound.cut(query, distances[at]);
    }
}

}  // namespace pdepth
