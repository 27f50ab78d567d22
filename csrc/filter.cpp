#include "filter.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "candidates.hpp"
#include "certificate.hpp"
#include "packing.hpp"
#include "pair_run.hpp"
#include "settle.hpp"

namespace pdepth {
namespace {

// Sizes of the work. None of them changes a vote.
constexpr int64_t kSmallItem = 24;                    // queries, towards the end of the work
constexpr int64_t kQueryBytes = int64_t(16) << 20;    // packed queries and lists held at once, where
constexpr int64_t kQueryFloor = 768;                  // all the support is: at least so many,
constexpr int64_t kFloorBytes = int64_t(48) << 20;    // if they take no more than this;
constexpr int64_t kLeastQueryBytes = int64_t(4) << 20;
constexpr int64_t kMostQueryBytes = int64_t(256) << 20;  // else, since each chunk has it packed anew
constexpr int64_t kProductsBetweenChecks = int64_t(1) << 31;  // of whether to go on
constexpr int64_t kColumnsOfBound = 64;               // of a distance, which take as long as a bound
constexpr int64_t kList = 256, kByteList = 1024;      // candidates of a query, at least; of bytes
constexpr int32_t kMostDrops = 128;                   // of one query's list, before it is given up

// Runs one stage. The packed support is held a chunk at a time, and so are the queries; a chunk of
// queries is scanned in items, one a thread.
template <class Bound>
class Filter {
public:
    // With leaves, each query scans only those that are near it.
    Filter(Session& session, const FilterStage& stage, const Bound& bound,
           const Leaves* leaves = nullptr)
        : session_(session), stage_(stage), bound_(bound), leaves_(leaves),
          order_(leaves ? leaves->order : session.reading->order),
          positions_of_(leaves ? leaves->positions : session.reading->positions),
          columns_(stage.columns(session.support->width)),
          row_bytes_(columns_ * stage.item_size),
          starts_(stage.starts(session.support->width)),
          rows_(static_cast<int64_t>(order_.size())),
          most_at_once_(leaves ? session.level.leaf_rows : stage.support_rows) {
        const int64_t k = session.question.k, tile = most_at_once_;
        soft_limit_ = std::max<int64_t>(128, k + k / 2 + 2 * tile);
        capacity_ = std::min(std::max(stage.item_size == 1 ? kByteList : kList, 2 * soft_limit_),
                             round_up(rows_, tile) + 2 * tile);
    }

    std::vector<int64_t> run(const std::vector<int64_t>& queries) {
        const auto count = static_cast<int64_t>(queries.size());
        session_.order = &order_;
        const bool kept = find_kept();
        held_ = kept ? round_up(rows_, stage_.support_rows) : rows_held();
        if (kept)
            packed_ = 0;
        else
            support_ = session_.buffers.packed_support.reserve(
                held_, round_up(rows_, stage_.support_rows), row_bytes_);
        row_residuals_ = support_.residuals;
        PairRun<Filter> pairs(*this);
        if (in_pairs(session_, stage_, count, pairs.most())) {
            pairs.run(own_queries(session_, queries));
        } else {
            session_.begin_stage(count * ceil_div(rows_, held_));
            run_apart(queries);
        }
        return std::move(given_up_);
    }

private:
    friend PairRun<Filter>;

    // Each query for itself.
    void run_apart(const std::vector<int64_t>& queries) {
        const auto count = static_cast<int64_t>(queries.size());
        const int64_t most = queries_held(count, held_);
        hold_queries(most);
        for (int64_t begin = 0; begin < count; begin += most) {
            const int64_t chunk = std::min(most, count - begin);
            std::vector<int64_t> rows(chunk);
            for (int64_t i = 0; i < chunk; i++) rows[i] = session_.source_row(queries[begin + i]);
            start(queries.data() + begin, rows);
            for (int64_t first = 0; first < rows_; first += held_) {
                const int64_t support_chunk = std::min(held_, rows_ - first);
                pack_support(first, support_chunk);
                scan_chunk(chunk, first, support_chunk, first + support_chunk == rows_);
            }
            hand_on(chunk);
        }
    }

    void hold_queries(int64_t most) {
        Buffers& buffers = session_.buffers;
        queries_ = buffers.packed_queries.reserve(most, most, row_bytes_, starts_);
        scores_ = buffers.scores.reserve(most * capacity_);
        positions_ = buffers.positions.reserve(most * capacity_);
        const int64_t in_item = std::min(stage_.item_queries, most);
        for (auto& s : session_.scratch) s->partial.reserve(in_item * kept_rows());
    }

    // Queries of the chunk that another stage has to answer.
    void hand_on(int64_t count) {
        for (int64_t i = 0; i < count; i++)
            if (overflowed_[i] && numbers_[i] != OwnQueries::kNone)
                given_up_.push_back(numbers_[i]);
    }

    int64_t kept_rows() const { return stage_.kept_tiles * stage_.support_rows; }

    // Takes the packed form that the support keeps, if it keeps one.
    bool find_kept() {
        if (leaves_) {
            support_ = leaves_->panel;
            return true;
        }
        const Support& support = *session_.layer->support;
        if (rows_ * row_bytes_ > support.kept_bytes) return false;
        try {
            const PackedStage whole =
                packed_whole(*session_.support, *session_.reading, stage_, session_.team);
            support_ = whole.panel;
            kept_ = whole.memory;
            bound_.add_rows(whole.relative);
            return true;
        } catch (const std::bad_alloc&) {  // in chunks, then
            return false;
        }
    }

    // Rows of a chunk of the support.
    int64_t rows_held() const {
        const int64_t kept = kept_rows(), tile = stage_.support_rows;
        const int64_t held = session_.question.held_bytes / row_bytes_;
        return std::min(held < kept ? round_up(std::max(held, kSmallItem), tile) : held / kept * kept,
                        round_up(rows_, tile));
    }

    int64_t query_bytes() const { return row_bytes_ + starts_ * 4 + capacity_ * 8; }
    int64_t query_budget() const {
        return std::min(kMostQueryBytes,
                        std::max(session_.question.held_bytes, kLeastQueryBytes));
    }

    // Rows of a chunk of the queries: as equal as may be. No more bytes than are held of the
    // support, so that one number bounds the memory of a call.
    int64_t queries_held(int64_t count, int64_t held) const {
        const int64_t bytes = query_bytes(), threads = session_.team.size();
        const int64_t most = query_budget() / bytes;
        const int64_t floor = std::min(kQueryFloor, kFloorBytes / bytes);
        const int64_t enough = held >= rows_ ? std::max({kQueryBytes / bytes, floor,
                                                         stage_.item_queries * threads})
                                             : most;
        const int64_t chunks =
            ceil_div(count, std::max(std::min(enough, most), stage_.query_rows * threads));
        return round_up(ceil_div(count, chunks), stage_.query_rows);
    }

    // Where items begin, and their end: large ones first, for reuse of the support in the caches,
    // and then smaller ones, so that threads end together.
    std::vector<int64_t> items_of(int64_t count) const {
        const int64_t tile = stage_.query_rows;
        std::vector<int64_t> begins{0};
        while (begins.back() < count) {
            const int64_t rest = count - begins.back();
            const int64_t share = round_up(ceil_div(rest, 2 * session_.team.size()), tile);
            const int64_t size =
                std::min(stage_.item_queries, std::max(round_up(kSmallItem, tile), share));
            begins.push_back(begins.back() + std::min(size, rest));
        }
        return begins;
    }

    // The values of the held chunk, and what is known of each of its rows.
    Panel panel_at(int64_t first) const {
        return {support_.values, support_.half_norms + first, support_.norms + first,
                support_.residuals + first, support_.units + first, nullptr};
    }

    void pack_support(int64_t first, int64_t count) {
        if (packed_ == first) return;
        packed_ = first;
        const Panel panel = panel_at(first);
        pack_positions(*session_.support, *session_.reading, first, count, stage_, panel,
                       session_.team);
        bound_.add_rows(relative_of(panel.norms, panel.residuals, count));
    }

    // A chunk of queries, by their numbers in the call and their rows; kNone where no answer is due.
    void start(const int64_t* queries, const std::vector<int64_t>& rows) {
        const auto count = static_cast<int64_t>(rows.size());
        const int64_t padded = round_up(count, stage_.query_rows) + stage_.support_rows;
        pack_queries(session_.layer->queries, rows.data(), count, session_.reading->transform(stage_),
                     stage_, queries_, session_.team);

        numbers_ = queries;
        limits_.resize(count);
        proven_.assign(count, kInfinity);
        cut_.assign(padded, -kInfinity);  // the padding takes no candidates
        size_.assign(padded, 0);
        limit_.assign(padded, static_cast<int32_t>(std::min(soft_limit_, capacity_)));
        self_.assign(padded, kNoPosition);
        overflowed_.assign(count, 0);
        drops_.assign(count, 0);
        dropped_.assign(count, kInfinity);
        for (int64_t i = 0; i < count; i++) {
            limits_[i] = bound_.query(queries_.norms[i], queries_.residuals[i]);
            overflowed_[i] = !(queries_.norms[i] <= kLargestScaled);
            if (queries[i] == OwnQueries::kNone) {
                overflowed_[i] = 1;
                continue;
            }
            const double within = session_.within(queries[i]);
            const double scale = session_.reading->scale;
            if (within < kInfinity)
                proven_[i] = bound_.score_at(limits_[i], within * scale * scale);
            if (session_.leaves_out()) self_[i] = positions_of_[rows[i]];
        }
    }

    // All queries of the chunk against the held rows from position `first` on.
    void scan_chunk(int64_t queries, int64_t first, int64_t count, bool last) {
        const std::vector<int64_t> items = items_of(queries);
        session_.team.run(static_cast<int64_t>(items.size()) - 1, [&](int64_t item, int thread) {
            const int64_t query = items[item], end = items[item + 1];
            // The bound may have grown with this chunk.
            for (int64_t q = query; q < end; q++) lower_cut(q);
            if (leaves_)
                search_leaves(query, end, thread);
            else
                scan_item(query, end, first, count, thread);
            if (last) finish(query, end, thread);
            session_.done += end - query;
        });
    }

    struct Context {
        Filter* filter;
        int64_t first_query;
    };

    Lists lists_of(Context& context) {
        const int64_t query = context.first_query;
        return {cut_.data() + query,
                size_.data() + query,
                limit_.data() + query,
                self_.data() + query,
                scores_ + query * capacity_,
                positions_ + query * capacity_,
                capacity_,
                [](void* c, int64_t q) {
                    auto* in = static_cast<Context*>(c);
                    in->filter->make_room(in->first_query + q);
                },
                &context};
    }

    void search_leaves(int64_t query, int64_t end, int thread) {
        LeafScratch& room = session_.scratch[thread]->leaves;
        const int64_t tile = stage_.query_rows;
        LeafSearch search = leaves_->search(session_.question.k, session_.level, room);
        for (int64_t q = query; q < end; q++) {
            if (overflowed_[q]) continue;
            Context context{this, q};
            search.query =
                static_cast<const float*>(queries_.values) + q / tile * tile * columns_ + q % tile;
            search.lists = lists_of(context);
            session_.level.search_leaves(search);
        }
        session_.team.check(thread);
    }

    // own: the position of the chunk's first query, where the support's rows are queries of the chunk
    // too, others than these, and have lists to be filled.
    void scan_item(int64_t query, int64_t end, int64_t first, int64_t count, int thread,
                   const int64_t* own = nullptr) {
        Context context{this, query}, others{this, 0};
        const int64_t kept = kept_rows();
        const int64_t step =
            std::max(kept, kProductsBetweenChecks / (columns_ * (end - query)) / kept * kept);
        ScanItem item;
        item.queries = static_cast<char*>(queries_.values) + query * row_bytes_;
        item.query_units = queries_.units + query;
        item.query_starts = queries_.starts + query * starts_;
        item.starts = starts_;
        item.columns = columns_;
        item.query_tiles = ceil_div(end - query, stage_.query_rows);
        item.partial = session_.scratch[thread]->partial.get();
        item.lists = lists_of(context);
        item.query_half_norms = queries_.half_norms + query;
        for (int64_t at = 0; at < count; at += step) {
            const Panel support = panel_at(first + at);
            item.support =
                static_cast<char*>(support.values) + (first + at - packed_) * row_bytes_;
            item.half_norms = support.half_norms;
            item.support_units = support.units;
            item.support_count = std::min(step, count - at);
            item.first_position = static_cast<uint32_t>(first + at);
            if (own) {
                others.first_query = first + at - *own;
                item.others = lists_of(others);
                item.first_query_position = static_cast<uint32_t>(*own + query);
                stage_.scan_pairs(item);
            } else {
                stage_.scan(item);
            }
            session_.team.check(thread);
        }
    }

    void lower_cut(int64_t q) {
        cut_[q] = overflowed_[q] ? -kInfinity : bound_.cut(limits_[q], proven_[q]);
    }

    void make_room(int64_t q) {
        tighten(q);
        const int64_t needed = size_[q] + most_at_once_;
        if (needed > limit_[q])
            limit_[q] = static_cast<int32_t>(std::min(capacity_, 2 * needed));
        if (needed <= capacity_) return;
        if (++drops_[q] > kMostDrops) return give_up(q);
        keep_best(q);
    }

    void give_up(int64_t q) {
        overflowed_[q] = 1;
        cut_[q] = -kInfinity;
        size_[q] = 0;
    }

    // Keeps the candidates of a list for which stays(score) holds.
    template <class Stays>
    void keep(int64_t q, Stays stays) {
        float* const scores = scores_ + q * capacity_;
        uint32_t* const positions = positions_ + q * capacity_;
        int64_t size = 0;
        for (int64_t i = 0; i < size_[q]; i++) {
            const bool kept = stays(scores[i]);
            scores[size] = scores[i];
            positions[size] = positions[i];
            size += kept;
        }
        size_[q] = static_cast<int32_t>(size);
    }

    // Drops all but the k best candidates and remembers the best score it dropped: far rows that
    // tie need not be kept, if only nearer ones are to come that bring the cut below them.
    void keep_best(int64_t q) {
        const float* const scores = scores_ + q * capacity_;
        const float best = session_.level.kth_score(scores, size_[q], session_.question.k);
        int64_t ties = session_.question.k;  // room for those, after the better ones
        for (int64_t i = 0; i < size_[q]; i++) ties -= scores[i] < best;
        keep(q, [&](float score) {
            const bool kept = score < best || (score == best && ties-- > 0);
            if (!kept) dropped_[q] = std::min(dropped_[q], score);
            return kept;
        });
    }

    // Lowers the cut to what the k best candidates prove, and drops the candidates above it. Returns
    // a score that k of them do not exceed, and more only where they tie.
    float tighten(int64_t q) {
        const float* const scores = scores_ + q * capacity_;
        const uint32_t* const positions = positions_ + q * capacity_;
        if (size_[q] < session_.question.k) return kInfinity;
        const float best = session_.level.kth_score(scores, size_[q], session_.question.k);
        // The bound grows with the norm, the residual and the score.
        const auto [norm, residual] = largest(q, best);
        proven_[q] = std::min(proven_[q], bound_.bounds(limits_[q], best, norm, residual).upper);
        lower_cut(q);
        keep(q, [cut = cut_[q]](float score) { return score < cut; });
        return best;
    }

    // The largest norm and residual of the candidates whose score is at most `best`.
    std::pair<float, float> largest(int64_t q, float best) const {
        if (!Bound::kByNorm) return {0.0f, 0.0f};
        const float* const scores = scores_ + q * capacity_;
        const uint32_t* const positions = positions_ + q * capacity_;
        return {largest_of(support_.norms, scores, positions, size_[q], best),
                largest_of(row_residuals_, scores, positions, size_[q], best)};
    }

    // Whether exactly k candidates score no more than `best`, and all others surely more: whichever
    // has the largest norm and residual, with which the error grows.
    bool has_gap(int64_t q, float best) const {
        const float* const scores = scores_ + q * capacity_;
        const Gap gap = gap_after(scores, size_[q], best);
        if (gap.near != session_.question.k || gap.next == kInfinity)
            return gap.near == session_.question.k;
        const auto [norm, residual] = largest(q, kInfinity);
        return bound_.bounds(limits_[q], gap.last, norm, residual).upper <
               bound_.bounds(limits_[q], gap.next, norm, residual).lower;
    }

    void answer_best(int64_t q, float best, Scratch& s) {
        s.ballot.clear();
        for (int64_t i = q * capacity_; i < q * capacity_ + size_[q]; i++)
            if (scores_[i] <= best) s.ballot.add(session_.question.codes[order_[positions_[i]]]);
        answer(session_, numbers_[q], s.ballot);
    }

    // Whether to settle all of so many candidates takes less than to drop those that may be.
    bool few_more(int64_t count) const {
        return (count - session_.question.k) * session_.support->width <= kColumnsOfBound * count;
    }

    void finish(int64_t query, int64_t end, int thread) {
        Scratch& s = *session_.scratch[thread];
        for (int64_t q = query; q < end; q++) finish(q, s);
        settle_lists(session_, s);
    }

    // Answers a query from its list.
    void finish(int64_t q, Scratch& s) {
        if (overflowed_[q]) return;
        const float best = tighten(q);
        // The list holds k, or all that are near enough; if not, the bound would be wrong: then
        // slowly rather than wrongly.
        const Question& question = session_.question;
        const int64_t k = question.k, query = numbers_[q], count = size_[q];
        const bool few = count < k;
        if (dropped_[q] < cut_[q] || (few && !(session_.within(query) < kInfinity)))
            return give_up(q);
        if (!few && !session_.answers.rows && has_gap(q, best)) return answer_best(q, best, s);
        const float* const scores = scores_ + q * capacity_;
        const uint32_t* const positions = positions_ + q * capacity_;
        if (session_.answers.rows && few_more(count)) {
            s.lists.push_back({query, std::min(k, count), positions, count});
            return;
        }
        s.candidates.clear();
        for (int64_t i = 0; i < count; i++) {
            const uint32_t at = positions[i];
            const Interval score =
                bound_.bounds(limits_[q], scores[i], support_.norms[at], row_residuals_[at]);
            s.candidates.push_back({score.lower, score.upper, order_[at]});
        }
        answer_from_candidates(session_, query,
                               bound_.score_of_distance(limits_[q], session_.reading->scale), s);
    }

    Session& session_;
    const FilterStage& stage_;
    Bound bound_;
    const Leaves* leaves_;
    const std::vector<int64_t>& order_;
    const std::vector<uint32_t>& positions_of_;
    int64_t columns_, row_bytes_, starts_, rows_;
    int64_t most_at_once_;  // candidates
    int64_t soft_limit_, capacity_;
    int64_t held_ = 0;     // rows of the packed support at a time
    int64_t packed_ = -1;  // the first position of those that are packed
    std::vector<int64_t> given_up_;
    Panel support_{}, queries_{};
    const float* row_residuals_ = nullptr;  // of support rows; where they are queries, of either side
    std::shared_ptr<KeptRows> kept_;  // the support's memory, where it outlives the call
    float* scores_ = nullptr;
    uint32_t* positions_ = nullptr;
    const int64_t* numbers_ = nullptr;  // of the chunk's queries in the call
    std::vector<typename Bound::Query> limits_;
    std::vector<double> proven_;  // the k-th neighbour's true score is no more than this
    std::vector<float> cut_;
    std::vector<int32_t> size_, limit_;
    std::vector<uint32_t> self_;
    std::vector<uint8_t> overflowed_;
    std::vector<int32_t> drops_;
    std::vector<float> dropped_;  // the best score that was dropped for want of room
};

}  // namespace

std::vector<int64_t> filter(Session& session, const FilterStage& stage, const ProductsBound& bound,
                            const std::vector<int64_t>& queries) {
    return Filter<ProductsBound>(session, stage, bound).run(queries);
}

std::vector<int64_t> filter(Session& session, const FilterStage& stage,
                            const InnerProductsBound& bound, const std::vector<int64_t>& queries) {
    return Filter<InnerProductsBound>(session, stage, bound).run(queries);
}

std::vector<int64_t> filter(Session& session, const FilterStage& stage,
                            const DifferencesBound& bound, const std::vector<int64_t>& queries,
                            const Leaves* leaves) {
    return Filter<DifferencesBound>(session, stage, bound, leaves).run(queries);
}

}  // namespace pdepth
