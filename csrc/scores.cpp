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

template <class Bound>
void apply(Bound bound, const Panel& support, const Panel& queries, int64_t rows, int64_t count,
           double scale, const StageScores& out) {
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
            out.cuts[at] = bound.cut(query, out.lower[at]);
        }
    }
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
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const int64_t query_tiles = ceil_div(count, stage.query_rows);
    const int64_t padded = query_tiles * stage.query_rows;
    const int64_t capacity = rows + 2 * stage.support_rows;
    std::vector<float> cut(padded, -kInfinity), listed(padded * capacity);
    std::fill_n(cut.begin(), count, kInfinity);
    std::vector<int32_t> size(padded, 0), limit(padded, static_cast<int32_t>(capacity));
    std::vector<uint32_t> self(padded, kNoPosition), positions(padded * capacity);
    Buffer<float> partial;

    ScanItem item;
    item.queries = queries.values;
    item.support = support.values;
    item.half_norms = support.half_norms;
    item.query_units = queries.units;
    item.query_starts = queries.starts;
    item.starts = stage.starts(width);
    item.support_units = support.units;
    item.columns = stage.columns(width);
    item.query_tiles = query_tiles;
    item.support_count = rows;
    item.first_position = 0;
    item.partial = partial.reserve(padded * stage.kept_tiles * stage.support_rows);
    item.lists = {cut.data(), size.data(), limit.data(), self.data(), listed.data(),
                  positions.data(), capacity, [](void*, int64_t) {}, nullptr};
    stage.scan(item);

    for (int64_t i = 0; i < count; i++)
        for (int64_t n = 0; n < size[i]; n++)
            scores[i * rows + positions[i * capacity + n]] = listed[i * capacity + n];
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
        apply(InnerProductsBound(stage, support.width, largest, centre), y, x, support.rows,
              queries.rows, transform.scale, out);
    } else if (differences)
        apply(DifferencesBound(stage, support.width, largest), y, x, support.rows,
              queries.rows, transform.scale, out);
    else
        apply(ProductsBound(stage, support.width, largest), y, x, support.rows,
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
