// A stage over a support that asks for its own rows: the schedule of PairRun, the work of filter.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "bound.hpp"
#include "pairs.hpp"

namespace pdepth {

// Queries in the order in which the support is packed, all of which is held: the rows of a chunk serve
// each other, pair by pair.
template <class Filter>
class PairRun {
public:
    explicit PairRun(Filter& filter)
        : filter_(filter), session_(filter.session_), stage_(filter.stage_), rows_(filter.rows_),
          most_(filter.held_ < rows_ ? 0 : rows_of_chunk()) {}

    // Rows of a chunk: as equal as may be, and of whole tiles. 0 where no chunk has room.
    int64_t most() const { return most_; }

    void run(const OwnQueries& own) {
        filter_.hold_queries(most_);
        filter_.pack_support(0, rows_);
        // Rows before and after those of a chunk, those of the chunk, and their certificates.
        const int64_t before = std::max<int64_t>(0, rows_ - most_);
        const int64_t after = (rows_ - 1) / most_ * most_;
        session_.begin_stage(static_cast<int64_t>(own.rest.size()) + before + after + 2 * rows_);
        for (int64_t begin = 0; begin < rows_; begin += most_) {
            const int64_t chunk = std::min(most_, rows_ - begin), end = begin + chunk;
            start(own.at.data() + begin, begin, chunk);
            scan(begin, chunk);
            if (begin > 0) filter_.scan_chunk(chunk, 0, begin, false);
            if (end < rows_) filter_.scan_chunk(chunk, end, rows_ - end, false);
            finish(chunk);
            filter_.hand_on(chunk);
        }
        filter_.lists_.set_rows(filter_.support_.norms, filter_.support_.residuals);
        if (!own.rest.empty()) filter_.run_apart(own.rest);
    }

private:
    int64_t rows_of_chunk() const {
        const int64_t tiles = std::lcm(stage_.query_rows, stage_.support_rows);
        const int64_t most = filter_.query_budget() / filter_.query_bytes() / tiles * tiles;
        return most == 0 ? 0 : round_up(ceil_div(rows_, ceil_div(rows_, most)), tiles);
    }

    // The rows at `count` positions from `first` on, which ask at the numbers given.
    void start(const int64_t* numbers, int64_t first, int64_t count) {
        const std::vector<int64_t>& order = session_.reading->order;
        std::vector<int64_t> rows(order.begin() + first, order.begin() + first + count);
        std::replace(rows.begin(), rows.end(), Reading::kNoRow, int64_t(0));  // any row, as padding
        filter_.start(numbers, rows);
        const Panel &queries = filter_.queries_, &support = filter_.support_;
        // A product is of one row as it was packed for queries, the other for the support; which is
        // which differs from pair to pair.
        filter_.bound_.add_rows(relative_of(queries.norms, queries.residuals, count));
        // Tiles are read to their ends.
        const int64_t padded = rows_ + stage_.support_rows + stage_.query_rows;
        norms_.assign(support.norms, support.norms + rows_);
        residuals_.assign(support.residuals, support.residuals + rows_);
        norms_.resize(padded);
        residuals_.resize(padded);
        filter_.lists_.set_rows(norms_.data(), residuals_.data());
        for (int64_t i = 0; i < count; i++) {
            float& residual = residuals_[first + i];
            residual = std::max(residual, queries.residuals[i]);
            filter_.lists_.set_limits(i, filter_.bound_.query(queries.norms[i], residual));
            filter_.lists_.lower_cut(i);
            if (order[first + i] == Reading::kNoRow) queries.half_norms[i] = kInfinity;
        }
        for (int64_t i = count; i % stage_.query_rows; i++) queries.half_norms[i] = kInfinity;
    }

    // Every two rows of the chunk, which begins at position `first`.
    void scan(int64_t first, int64_t count) {
        const Rounds rounds(count, stage_, session_.team.size());
        const int64_t before = session_.done;
        for (int64_t number = 0; number < rounds.count(); number++) {
            const std::vector<Rounds::Pair> pairs = rounds.round(number);
            session_.team.run(static_cast<int64_t>(pairs.size()), [&](int64_t i, int thread) {
                const auto [queries, rows] = pairs[i];
                const bool same = queries.begin == rows.begin;
                for (int64_t q = queries.begin; q < queries.end; q += stage_.item_queries) {
                    const int64_t end = std::min(queries.end, q + stage_.item_queries);
                    if (same) filter_.scan_item(q, end, first + q, end - q, thread);
                    const int64_t next = same ? end : rows.begin;
                    if (next < rows.end)
                        filter_.scan_item(q, end, first + next, rows.end - next, thread, &first);
                }
            });
            session_.done = before + count * (number + 1) / rounds.count();
            const int64_t seen = (number + 1) * rounds.rows_of_band();
            const bool doubled = (number & (number + 1)) == 0;
            if (doubled && seen < rows_ && filter_.may_guess()) guess(count, seen);
        }
    }

    // Each row of the chunk has met about so many.
    void guess(int64_t count, int64_t seen) {
        const int64_t size = stage_.item_queries;
        session_.team.run(ceil_div(count, size), [&](int64_t item, int) {
            filter_.guess(item * size, std::min(count, (item + 1) * size), seen);
        });
    }

    void finish(int64_t count) {
        const int64_t size = stage_.item_queries;
        session_.team.run(ceil_div(count, size), [&](int64_t item, int thread) {
            const int64_t begin = item * size, end = std::min(count, begin + size);
            filter_.finish(begin, end, thread);
            session_.done += end - begin;
        });
    }

    Filter& filter_;
    Session& session_;
    const FilterStage& stage_;
    int64_t rows_, most_;
    std::vector<float> norms_, residuals_;  // of each row, the latter as it was packed for either side
};

}  // namespace pdepth
