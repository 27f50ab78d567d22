#include "pilot.hpp"

#include <algorithm>
#include <vector>

#include "bound.hpp"
#include "packing.hpp"

namespace pdepth {
namespace {

// The sample's packing costs little beside that of all rows; so many are enough to count candidates,
// and so many queries for a steady mean.
constexpr int64_t kLeastRows = 64, kMostRows = 1024, kQueries = 32;

// Of the support's packed positions, which lie scattered.
struct Sample {
    int64_t rows, queries;
};

Sample sample_of(const Session& session, const FilterStage& stage) {
    const int64_t tile = stage.support_rows;
    const auto count = static_cast<int64_t>(session.reading->order.size());
    const int64_t row_bytes = stage.columns(session.support->width) * stage.item_size;
    const int64_t rows = std::min({count / kPilotShare, kMostRows, session.question.held_bytes / row_bytes});
    return {rows / tile * tile, std::min(kQueries, count - rows)};
}

Panel packed(Session& session, const FilterStage& stage, Side side, int64_t first, int64_t count) {
    const int64_t width = session.support->width;
    const int64_t tile = side == Side::query ? stage.query_rows : stage.support_rows;
    const int64_t padded = round_up(count, tile);
    PackedRows& memory = side == Side::query ? session.buffers.packed_queries
                                             : session.buffers.packed_support;
    const Panel panel = memory.reserve(padded, padded, stage.columns(width) * stage.item_size,
                                       side == Side::query ? stage.starts(width) : 0);
    std::vector<int64_t> rows;
    for (int64_t i = first; i < first + count; i++)
        rows.push_back(std::max<int64_t>(0, session.reading->order[i]));  // some row, to fill a tile
    const Transform transform = session.reading->transform(stage);
    session.team.run(ceil_div(count, tile), [&](int64_t i, int) {
        stage.pack(*session.support, rows.data() + i * tile, std::min(tile, count - i * tile),
                   transform, panel, side, i);
    });
    return panel;
}

// All scores of the queries, [query][position]: no cut, and lists with room for all.
const float* scores_of(Session& session, const FilterStage& stage, const Sample& sample,
                       const Panel& support, const Panel& queries) {
    const int64_t tiles = ceil_div(sample.queries, stage.query_rows);
    const int64_t padded = tiles * stage.query_rows, capacity = sample.rows + 2 * stage.support_rows;
    std::vector<float> cut(padded, -kInfinity);
    std::fill_n(cut.begin(), sample.queries, kInfinity);
    std::vector<int32_t> size(padded, 0), limit(padded, static_cast<int32_t>(capacity));
    std::vector<uint32_t> self(padded, kNoPosition);
    Scratch& scratch = *session.scratch[0];
    ScanItem item;
    item.queries = queries.values;
    item.support = support.values;
    item.half_norms = support.half_norms;
    item.query_units = queries.units;
    item.support_units = support.units;
    item.query_starts = queries.starts;
    item.starts = stage.starts(session.support->width);
    item.columns = stage.columns(session.support->width);
    item.query_tiles = tiles;
    item.support_count = sample.rows;
    item.first_position = 0;
    item.partial = scratch.partial.reserve(padded * stage.kept_tiles * stage.support_rows);
    float* const scores = session.buffers.scores.reserve(padded * capacity);
    item.lists = {cut.data(), size.data(), limit.data(), self.data(), scores,
                  session.buffers.positions.reserve(padded * capacity), capacity,
                  [](void*, int64_t) {}, nullptr};
    stage.scan(item);
    return scores;
}

template <class Bound>
double left_of_sample(Session& session, const FilterStage& stage, Bound bound) {
    const Sample sample = sample_of(session, stage);
    if (sample.rows < kLeastRows || sample.queries < 1) return -1;
    const Panel support = packed(session, stage, Side::support, 0, sample.rows);
    const Panel queries = packed(session, stage, Side::query, sample.rows, sample.queries);
    const float* const scores = scores_of(session, stage, sample, support, queries);
    const int64_t capacity = sample.rows + 2 * stage.support_rows;
    bound.add_rows(relative_of(support.norms, support.residuals, sample.rows));

    const auto all = static_cast<double>(session.reading->order.size());
    const double share = all / static_cast<double>(sample.rows);  // of all rows to those of the sample
    const auto rank = static_cast<int64_t>(static_cast<double>(session.question.k) / share);
    std::vector<double> lower(sample.rows), upper(sample.rows);
    double left = 0;
    for (int64_t q = 0; q < sample.queries; q++) {
        const auto query = bound.query(queries.norms[q], queries.residuals[q]);
        for (int64_t i = 0; i < sample.rows; i++) {
            const Interval score = bound.bounds(query, scores[q * capacity + i], support.norms[i],
                                                support.residuals[i]);
            lower[i] = score.lower;
            upper[i] = score.upper;
        }
        const auto nearest = upper.begin() + std::min(rank, sample.rows - 1);
        std::nth_element(upper.begin(), nearest, upper.end());
        left += static_cast<double>(std::count_if(lower.begin(), lower.end(),
                                                  [=](double value) { return value <= *nearest; }));
    }
    return left / static_cast<double>(sample.queries) * share;
}

}  // namespace

double candidates_left(Session& session, const FilterStage& stage) {
    const Reading& reading = *session.reading;
    const int64_t width = session.support->width;
    const double largest = reading.largest_norm * reading.scale;
    if (session.inner_products())
        return left_of_sample(session, stage,
                              InnerProductsBound(stage, width, largest,
                                                 reading.centre_norm * reading.scale));
    return left_of_sample(session, stage, ProductsBound(stage, width, largest));
}

}  // namespace pdepth
