#include "pilot.hpp"

#include <algorithm>
#include <vector>

#include "bound.hpp"
#include "packing.hpp"
#include "scores.hpp"

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

template <class Bound>
double left_of_sample(Session& session, const FilterStage& stage, Bound bound) {
    const Sample sample = sample_of(session, stage);
    if (sample.rows < kLeastRows || sample.queries < 1) return -1;
    const Matrix& rows = *session.support;
    const Reading& reading = *session.reading;
    const int64_t row_bytes = stage.columns(rows.width) * stage.item_size;
    const int64_t padded = round_up(sample.queries, stage.query_rows);
    const Panel support =
        session.buffers.packed_support.reserve(sample.rows, sample.rows, row_bytes);
    const Panel queries = session.buffers.packed_queries.reserve(padded, padded, row_bytes,
                                                                 stage.starts(rows.width));
    pack_positions(rows, reading, 0, sample.rows, stage, support, session.team);
    std::vector<int64_t> numbers(reading.order.begin() + sample.rows,
                                 reading.order.begin() + sample.rows + sample.queries);
    std::replace(numbers.begin(), numbers.end(), Reading::kNoRow, int64_t(0));  // any row
    pack_queries(rows, numbers.data(), sample.queries, reading.transform(stage), stage,
                 queries, session.team);
    std::vector<float> scores(sample.queries * sample.rows, kInfinity);
    score_packed(stage, rows.width, support, sample.rows, queries, sample.queries, scores.data());
    bound.add_rows(relative_of(support.norms, support.residuals, sample.rows));

    const auto all = static_cast<double>(session.reading->order.size());
    const double share = all / static_cast<double>(sample.rows);  // of all rows to those of the sample
    const auto rank = static_cast<int64_t>(static_cast<double>(session.question.k) / share);
    std::vector<double> lower(sample.rows), upper(sample.rows);
    double left = 0;
    for (int64_t q = 0; q < sample.queries; q++) {
        const auto query = bound.query(queries.norms[q], queries.residuals[q]);
        for (int64_t i = 0; i < sample.rows; i++) {
            const Interval score = bound.bounds(query, scores[q * sample.rows + i], support.norms[i],
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
