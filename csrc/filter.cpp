#include "filter.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "candidate_lists.hpp"
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
// Thresholds are guessed when so many tiles of rows have been seen, and whenever the rows seen are so
// many times as many; not where more than this part of them was added later.
constexpr int64_t kFirstGuess = 2, kNextGuess = 4, kAddedShare = 8;

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
          lists_(session, stage, bound_, stage.item_size == 1 ? kByteList : kList, rows_,
                 leaves ? session.level.leaf_rows : stage.support_rows) {}

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
        lists_.set_rows(support_.norms, support_.residuals);
        PairRun<Filter> pairs(*this);
        if (in_pairs(session_, stage_, count, pairs.most())) {
            pairs.run(own_queries(session_, queries));
        } else {
            session_.begin_stage(count * ceil_div(rows_, held_));
            run_apart(queries);
        }
        run_missed();
        return std::move(given_up_);
    }

private:
    friend PairRun<Filter>;
    using Context = typename CandidateLists<Bound>::Context;

    // Each query for itself.
    void run_apart(const std::vector<int64_t>& queries) {
        guesses_ = may_guess();
        run_chunks(queries);
    }

    // Those whose thresholds were guessed wrongly.
    void run_missed() {
        const std::vector<int64_t> missed = std::exchange(missed_, {});
        if (missed.empty()) return;
        guesses_ = false;
        session_.total += static_cast<int64_t>(missed.size());
        run_chunks(missed);
    }

    // Whether rows seen say something of the others: they lie scattered, and none is packed again for
    // the sake of a guess.
    bool may_guess() const {
        const Reading& reading = *session_.reading;
        return !leaves_ && held_ >= rows_ &&
               reading.rows - reading.first_rows <= reading.first_rows / kAddedShare;
    }

    void run_chunks(const std::vector<int64_t>& queries) {
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
        queries_ = session_.buffers.packed_queries.reserve(most, most, row_bytes_, starts_);
        lists_.hold(most);
        const int64_t in_item = std::min(stage_.item_queries, most);
        for (auto& s : session_.scratch) s->partial.reserve(in_item * kept_rows());
    }

    // Queries of the chunk that another stage has to answer, or this one once more.
    void hand_on(int64_t count) {
        for (int64_t i = 0; i < count; i++) {
            if (numbers_[i] == OwnQueries::kNone) continue;
            if (lists_.given_up(i)) given_up_.push_back(numbers_[i]);
            if (lists_.missed(i)) missed_.push_back(numbers_[i]);
        }
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

    int64_t query_bytes() const { return row_bytes_ + starts_ * 4 + lists_.query_bytes(); }
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
    // and then smaller ones, so that threads end together; of few queries each thread has some.
    std::vector<int64_t> items_of(int64_t count) const {
        const int64_t tile = stage_.query_rows;
        std::vector<int64_t> begins{0};
        while (begins.back() < count) {
            const int64_t rest = count - begins.back();
            const int64_t share = round_up(ceil_div(rest, 2 * session_.team.size()), tile);
            const int64_t small = round_up(std::min(kSmallItem, count / session_.team.size()), tile);
            const int64_t size = std::min(stage_.item_queries, std::max(small, share));
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
        lists_.start(count, padded);
        const double scale = session_.reading->scale;
        for (int64_t i = 0; i < count; i++) {
            if (queries[i] == OwnQueries::kNone || !(queries_.norms[i] <= kLargestScaled)) {
                lists_.give_up(i);
                continue;
            }
            const auto limits = bound_.query(queries_.norms[i], queries_.residuals[i]);
            const double within = session_.within(queries[i]);
            const double proven =
                within < kInfinity ? bound_.score_at(limits, within * scale * scale) : kInfinity;
            const uint32_t self = session_.leaves_out() ? positions_of_[rows[i]] : kNoPosition;
            lists_.begin(i, limits, proven, self);
        }
    }

    // All queries of the chunk against the held rows from position `first` on.
    void scan_chunk(int64_t queries, int64_t first, int64_t count, bool last) {
        const std::vector<int64_t> items = items_of(queries);
        session_.team.run(static_cast<int64_t>(items.size()) - 1, [&](int64_t item, int thread) {
            const int64_t query = items[item], end = items[item + 1];
            // The bound may have grown with this chunk.
            for (int64_t q = query; q < end; q++) lists_.lower_cut(q);
            if (leaves_)
                search_leaves(query, end, thread);
            else if (guesses_)
                scan_guessing(query, end, thread);
            else
                scan_item(query, end, first, count, thread);
            if (last) finish(query, end, thread);
            session_.done += end - query;
        });
    }

    void search_leaves(int64_t query, int64_t end, int thread) {
        LeafScratch& room = session_.scratch[thread]->leaves;
        const int64_t tile = stage_.query_rows;
        LeafSearch search = leaves_->search(session_.question.k, session_.level, room);
        for (int64_t q = query; q < end; q++) {
            if (lists_.given_up(q)) continue;
            Context context{&lists_, q};
            search.query =
                static_cast<const float*>(queries_.values) + q / tile * tile * columns_ + q % tile;
            search.lists = lists_.from(context);
            session_.level.search_leaves(search);
        }
        session_.team.check(thread);
    }

    // All rows, and between them guesses.
    void scan_guessing(int64_t query, int64_t end, int thread) {
        const bool narrow = columns_ <= stage_.section;
        int64_t next = narrow ? kFirstGuess * stage_.support_rows : kept_rows();
        for (int64_t at = 0; at < rows_; next *= kNextGuess) {
            const int64_t seen = std::min(next, rows_);
            scan_item(query, end, at, seen - at, thread);
            at = seen;
            if (at < rows_) guess(query, end, at);
        }
    }

    void guess(int64_t query, int64_t end, int64_t seen) {
        const double share = static_cast<double>(seen) / static_cast<double>(rows_);
        for (int64_t q = query; q < end; q++) lists_.guess(q, share);
    }

    // own: the position of the chunk's first query, where the support's rows are queries of the chunk
    // too, others than these, and have lists to be filled.
    void scan_item(int64_t query, int64_t end, int64_t first, int64_t count, int thread,
                   const int64_t* own = nullptr) {
        Context context{&lists_, query}, others{&lists_, 0};
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
        item.lists = lists_.from(context);
        item.query_half_norms = queries_.half_norms + query;
        for (int64_t at = 0; at < count; at += step) {
            const Panel support = panel_at(first + at);
            item.support =
                static_cast<char*>(support.values) + (first + at - packed_) * row_bytes_;
            item.half_norms = support.half_norms;
            item.support_units = support.units;
            item.support_count = std::min(step, count - at);
            item.first_position = static_cast<uint32_t>(first + at);
            item.errors = lists_.row_errors(query, first + at);
            if (own) {
                others.first_query = first + at - *own;
                item.others = lists_.from(others);
                item.other_errors = lists_.row_errors(first + at - *own, *own + query);
                item.first_query_position = static_cast<uint32_t>(*own + query);
                stage_.scan_pairs(item);
            } else {
                stage_.scan(item);
            }
            session_.team.check(thread);
        }
    }

    void answer_best(int64_t q, float best, Scratch& s) {
        const float* const scores = lists_.scores(q);
        const uint32_t* const positions = lists_.positions(q);
        s.ballot.clear();
        for (int64_t i = 0; i < lists_.size(q); i++)
            if (scores[i] <= best) s.ballot.add(session_.question.codes[order_[positions[i]]]);
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
        if (lists_.given_up(q)) return;
        const float best = lists_.tighten(q);
        if (!lists_.complete(q)) return;
        const int64_t k = session_.question.k, query = numbers_[q], count = lists_.size(q);
        const uint32_t* const positions = lists_.positions(q);
        const auto take = [&](int64_t i) {
            const Interval score = lists_.bounds(q, i);
            s.candidates.push_back({score.lower, score.upper, order_[positions[i]]});
        };
        const ScoreOfDistance score_of =
            bound_.score_of_distance(lists_.limits(q), session_.reading->scale);
        s.candidates.clear();
        if (count >= k && !session_.answers.rows && lists_.has_gap(q, best)) {
            answer_best(q, best, s);
            if (!session_.answers.nearest_rows) return;
            lists_.each_near(q, session_.answers.nearest, take);
            return order_nearest(session_, query, score_of, s);
        }
        if (session_.answers.rows && !session_.answers.upper && few_more(count)) {
            s.lists.push_back({query, std::min(k, count), positions, count});
            return;
        }
        for (int64_t i = 0; i < count; i++) take(i);
        answer_from_candidates(session_, query, score_of, s);
    }

    Session& session_;
    const FilterStage& stage_;
    Bound bound_;
    const Leaves* leaves_;
    const std::vector<int64_t>& order_;
    const std::vector<uint32_t>& positions_of_;
    int64_t columns_, row_bytes_, starts_, rows_;
    int64_t held_ = 0;     // rows of the packed support at a time
    int64_t packed_ = -1;  // the first position of those that are packed
    CandidateLists<Bound> lists_;
    bool guesses_ = false;
    std::vector<int64_t> given_up_, missed_;
    Panel support_{}, queries_{};
    std::shared_ptr<KeptRows> kept_;  // the support's memory, where it outlives the call
    const int64_t* numbers_ = nullptr;  // of the chunk's queries in the call
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
