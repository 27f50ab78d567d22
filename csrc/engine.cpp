#include "engine.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>

#include "ballot.hpp"
#include "bound.hpp"
#include "buffer.hpp"
#include "packed.hpp"
#include "support.hpp"
#include "team.hpp"

namespace pdepth {
namespace {

// Sizes of the work. None of them changes a vote.
constexpr int64_t kSmallBlock = 24;                   // queries, towards the end of the work
constexpr int64_t kQueryBytes = int64_t(16) << 20;    // packed queries and lists held at once, where
constexpr int64_t kQueryFloor = 768;                  // all the support is: at least so many;
constexpr int64_t kLeastQueryBytes = int64_t(4) << 20;
constexpr int64_t kMostQueryBytes = int64_t(256) << 20;  // else, since each tile has it packed anew
constexpr int64_t kBreath = int64_t(1) << 31;  // products between two looks at whether to go on
constexpr int64_t kDifferencesUpTo = 12;              // columns
constexpr int32_t kMostDrops = 128;                   // of one query's list, before it is given up

// Norms are scaled to just below 2^60: their squares are far from float32's end, and the squares
// of values 2^-120 times as large are still above its beginning.
constexpr int kScaledExponent = 60;
constexpr float kLargestScaled = 0x1p62f;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Neighbour {
    double distance;
    int64_t row;

    bool operator<(const Neighbour& other) const {
        return distance != other.distance ? distance < other.distance : row < other.row;
    }
};

// What one thread works with.
struct Scratch {
    explicit Scratch(int32_t classes) : ballot(classes) {}

    Ballot ballot;
    Buffer<float> partial;
    std::vector<double> query;    // widened
    std::vector<double> room;  // of one distance
    std::vector<double> lower, upper, sorted;
    std::vector<int64_t> possible;
    std::vector<Neighbour> neighbours;
    std::chrono::steady_clock::time_point began;  // with a query's distances
    std::chrono::steady_clock::duration settling{};
};

// The layer at hand, how it may be scaled, and everything that answers a query once its possible
// neighbours are known.
class Call {
public:
    Call(const Question& question, const Answers& answers, const Level& level, int threads,
         const Progress& progress)
        : ask(question), out(answers), level(level), progress_(progress),
          team(threads, [this] { report(); }) {
        for (int t = 0; t < team.size(); t++)
            scratch.push_back(std::make_unique<Scratch>(question.classes));
    }

    void probe(const Layer& layer, int64_t index, const std::vector<int64_t>& who);

    // The next pass over `items`: what came before it counts as nine tenths of what was left.
    void begin_stage(int64_t items) {
        if (done) before_ += 0.9 * (1 - before_);
        done = 0;
        total = items;
    }

    int64_t source_row(int64_t query) const { return ask.query_rows ? ask.query_rows[query] : query; }
    // The squared distance beyond which a query's neighbours need not be told.
    double within(int64_t query) const {
        return ask.within && !std::isnan(ask.within[query]) ? ask.within[query] : kInfinity;
    }
    bool leaves_out() const { return layer->own_rows && ask.exclude_self; }

    void begin_distances(int64_t query, Scratch& s) const {
        s.began = std::chrono::steady_clock::now();
        s.neighbours.clear();
        level.widen(layer->queries.row(source_row(query)), layer->queries.type, 0,
                    layer->queries.width, s.query.data());
    }
    Neighbour neighbour(int64_t row, Scratch& s) const {
        return {level.squared_distance(s.query.data(), layer->support.row(row),
                                       layer->support.type, layer->support.width,
                                       s.room.data()),
                row};
    }
    // The `open` nearest of s.neighbours, whose distances are known, join those of the ballot.
    void settle(int64_t query, int64_t open, Scratch& s) const {
        s.settling += std::chrono::steady_clock::now() - s.began;
        std::sort(s.neighbours.begin(), s.neighbours.end());
        s.neighbours.resize(open);
        for (const Neighbour& n : s.neighbours) s.ballot.add(ask.codes[n.row]);
        const int64_t at = index * ask.queries + query;
        for (int64_t j = 0; out.rows && j < open; j++) {
            out.distances[at * ask.k + j] = s.neighbours[j].distance;
            out.rows[at * ask.k + j] = s.neighbours[j].row;
        }
        answer(query, s.ballot);
    }
    void answer(int64_t query, const Ballot& ballot) const {
        const int64_t at = index * ask.queries + query;
        if (out.votes) out.votes[at] = asked_of(query, ballot.winner());
        if (out.tied) out.tied[at] = ballot.tied();
        if (out.counts)
            std::copy(ballot.counts().begin(), ballot.counts().end(),
                      out.counts + at * ask.classes);
    }
    // One that wins alone, whatever the counts.
    void answer_winner(int64_t query, int32_t winner) const {
        const int64_t at = index * ask.queries + query;
        if (out.votes) out.votes[at] = asked_of(query, winner);
        if (out.tied) out.tied[at] = 0;
    }
    // For depth only, which other class wins is not asked, whether or not it came to light.
    int32_t asked_of(int64_t query, int32_t winner) const {
        return !ask.wanted || winner == ask.wanted[query] ? winner : kNotAsked;
    }

    const Question& ask;
    const Answers& out;
    const Level& level;
    const Layer* layer = nullptr;
    const Support* support = nullptr;
    double scale = 1;
    int64_t index = 0;
    std::atomic<int64_t> done{0};  // of `total`, in the present stage of the layer
    int64_t total = 1;
    std::vector<std::unique_ptr<Scratch>> scratch;
    PackedRows packed_support, packed_queries;
    Buffer<float> scores;
    Buffer<uint32_t> positions;

private:
    void settle_completely(const std::vector<int64_t>& who);
    void report();

    const Progress& progress_;
    int64_t asked_ = 0;
    double before_ = 0;  // the share of the layer's progress that earlier stages have filled

public:
    Team team;
};

// ---- the filter ----

// One pass over the support for many queries, with the bound that belongs to it.
template <class Bound>
class Filter {
public:
    Filter(Call& call, const Pass& pass, const Bound& bound, const double* centre)
        : call_(call), pass_(pass), bound_(bound), transform_{centre, call.scale},
          columns_(pass.columns(call.layer->support.width)), row_bytes_(columns_ * pass.item_size),
          rows_(static_cast<int64_t>(call.support->order.size())) {
        const int64_t k = call.ask.k, tile = pass.support_rows;
        soft_limit_ = std::max<int64_t>(128, k + k / 2 + 2 * tile);
        capacity_ = std::min(std::max<int64_t>(256, 2 * soft_limit_),
                             round_up(rows_, tile) + 2 * tile);
    }

    // Answers the queries of `who` and returns those whose candidates did not fit in their lists.
    std::vector<int64_t> run(const std::vector<int64_t>& who) {
        const auto asked = static_cast<int64_t>(who.size());
        const int64_t group = pass_.group * pass_.support_rows;
        int64_t held = call_.ask.held_bytes / row_bytes_;
        held = held < group ? round_up(std::max(held, kSmallBlock), pass_.support_rows)
                            : held / group * group;
        held = std::min(held, round_up(rows_, pass_.support_rows));
        const int64_t bytes = row_bytes_ + capacity_ * 8;
        // No more than is held of the support, so that one number bounds the memory of a call.
        const int64_t most =
            std::min(kMostQueryBytes, std::max(call_.ask.held_bytes, kLeastQueryBytes)) / bytes;
        const int64_t threads = call_.team.size();
        const int64_t wanted =
            held >= rows_ ? std::max({kQueryBytes / bytes, kQueryFloor, pass_.block * threads}) : most;
        const int64_t tiles =
            ceil_div(asked, std::max(std::min(wanted, most), pass_.query_rows * threads));
        const int64_t tile = round_up(ceil_div(asked, tiles), pass_.query_rows);
        support_ = call_.packed_support.reserve(held, round_up(rows_, pass_.support_rows),
                                                row_bytes_);
        queries_ = call_.packed_queries.reserve(tile, tile, row_bytes_);
        scores_ = call_.scores.reserve(tile * capacity_);
        positions_ = call_.positions.reserve(tile * capacity_);
        for (auto& s : call_.scratch) s->partial.reserve(pass_.block * group);
        call_.begin_stage(asked * ceil_div(rows_, held));

        std::vector<int64_t> overflowed;
        int64_t packed = -1;  // the first position of the support that is held
        for (int64_t begin = 0; begin < asked; begin += tile) {
            const int64_t count = std::min(tile, asked - begin);
            const std::vector<int64_t> blocks = blocks_of(count);
            start(who.data() + begin, count);
            for (int64_t first = 0; first < rows_; first += held) {
                const int64_t stretch = std::min(held, rows_ - first);
                const Panel support = panel_at(first);
                if (packed != first) {
                    pack(call_.layer->support, call_.support->order.data() + first, stretch,
                         support, Side::support, pass_.support_rows);
                    bound_.see(support.norms, support.residuals, stretch);
                    packed = first;
                }
                const auto items = static_cast<int64_t>(blocks.size()) - 1;
                call_.team.run(items, [&](int64_t item, int thread) {
                    const int64_t q = blocks[item], end = blocks[item + 1];
                    scan_block(q, end, first, stretch, thread);
                    if (first + stretch == rows_)
                        for (int64_t i = q; i < end; i++) finish(i, *call_.scratch[thread]);
                    call_.done += end - q;
                });
            }
            for (int64_t i = 0; i < count; i++)
                if (overflowed_[i]) overflowed.push_back(who[begin + i]);
        }
        return overflowed;
    }

private:
    // Where blocks of queries begin, and their end: large ones first, for reuse of the support in
    // the caches, and then smaller ones, so that threads end together.
    std::vector<int64_t> blocks_of(int64_t count) const {
        const int64_t tile = pass_.query_rows;
        std::vector<int64_t> begins{0};
        while (begins.back() < count) {
            const int64_t left = count - begins.back();
            const int64_t share = round_up(ceil_div(left, 2 * call_.team.size()), tile);
            const int64_t size = std::min(pass_.block, std::max(round_up(kSmallBlock, tile), share));
            begins.push_back(begins.back() + std::min(size, left));
        }
        return begins;
    }

    // The values of the held stretch, and what is known of each of its rows.
    Panel panel_at(int64_t first) const {
        return {support_.values, support_.half_norms + first, support_.norms + first,
                support_.residuals + first, support_.units + first};
    }

    void pack(const Matrix& source, const int64_t* rows, int64_t count, const Panel& panel,
              Side side, int64_t tile) {
        call_.team.run(ceil_div(count, tile), [&](int64_t i, int) {
            pass_.pack(source, rows + i * tile, std::min(tile, count - i * tile), transform_, panel,
                       side, i);
        });
    }

    void start(const int64_t* who, int64_t count) {
        const int64_t padded = round_up(count, pass_.query_rows);
        std::vector<int64_t> rows(count);
        for (int64_t i = 0; i < count; i++) rows[i] = call_.source_row(who[i]);
        pack(call_.layer->queries, rows.data(), count, queries_, Side::query, pass_.query_rows);

        who_ = who;
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
            if (call_.within(who[i]) < kInfinity)
                proven_[i] = bound_.at(limits_[i], call_.within(who[i]) * call_.scale * call_.scale);
            if (call_.leaves_out()) self_[i] = call_.support->positions[rows[i]];
            overflowed_[i] = !(queries_.norms[i] <= kLargestScaled);
        }
    }

    void scan_block(int64_t query, int64_t end, int64_t first, int64_t count, int thread) {
        struct Context {
            Filter* filter;
            int64_t first_query;
        } context{this, query};
        // The bound may have grown with this stretch.
        for (int64_t q = query; q < end; q++) lower_cut(q);
        const int64_t group = pass_.group * pass_.support_rows;
        const int64_t step =
            std::max(group, kBreath / (columns_ * (end - query)) / group * group);
        Block block;
        block.queries = static_cast<char*>(queries_.values) + query * row_bytes_;
        block.query_units = queries_.units + query;
        block.columns = columns_;
        block.query_tiles = ceil_div(end - query, pass_.query_rows);
        block.partial = call_.scratch[thread]->partial.get();
        block.lists = {cut_.data() + query,  size_.data() + query,       limit_.data() + query,
                       self_.data() + query, scores_ + query * capacity_,
                       positions_ + query * capacity_, capacity_,
                       [](void* c, int64_t q) {
                           auto* in = static_cast<Context*>(c);
                           in->filter->make_room(in->first_query + q);
                       },
                       &context};
        for (int64_t at = 0; at < count; at += step) {
            const Panel support = panel_at(first + at);
            block.support = static_cast<char*>(support.values) + at * row_bytes_;
            block.half_norms = support.half_norms;
            block.support_units = support.units;
            block.support_count = std::min(step, count - at);
            block.first_position = static_cast<uint32_t>(first + at);
            pass_.scan(block);
            call_.team.breathe(thread);
        }
    }

    void lower_cut(int64_t q) {
        cut_[q] = overflowed_[q] ? -kInfinity : bound_.cut(limits_[q], proven_[q]);
    }

    void make_room(int64_t q) {
        tighten(q);
        const int64_t needed = size_[q] + pass_.support_rows;
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

    // Drops all but the k best candidates and remembers the best score it dropped: far rows that
    // tie need not be kept, if only nearer ones are to come that bring the cut below them.
    void keep_best(int64_t q) {
        float* const scores = scores_ + q * capacity_;
        uint32_t* const positions = positions_ + q * capacity_;
        const float best = call_.level.kth_score(scores, size_[q], call_.ask.k);
        int64_t ties = call_.ask.k;  // room for those, after the better ones
        for (int64_t i = 0; i < size_[q]; i++) ties -= scores[i] < best;
        int64_t size = 0;
        for (int64_t i = 0; i < size_[q]; i++) {
            const bool stays = scores[i] < best || (scores[i] == best && ties-- > 0);
            if (!stays) dropped_[q] = std::min(dropped_[q], scores[i]);
            scores[size] = scores[i];
            positions[size] = positions[i];
            size += stays;
        }
        size_[q] = static_cast<int32_t>(size);
    }

    // Lowers the cut to what the k best candidates prove, and drops the candidates above it.
    void tighten(int64_t q) {
        float* const scores = scores_ + q * capacity_;
        uint32_t* const positions = positions_ + q * capacity_;
        if (size_[q] < call_.ask.k) return;
        const float best = call_.level.kth_score(scores, size_[q], call_.ask.k);
        double proven = -std::numeric_limits<double>::infinity();
        for (int64_t i = 0; i < size_[q]; i++)
            if (scores[i] <= best)
                proven = std::max(proven,
                                  bound_.upper(limits_[q], scores[i], support_.norms[positions[i]]));
        proven_[q] = std::min(proven_[q], proven);
        lower_cut(q);
        const float cut = cut_[q];
        int64_t size = 0;
        for (int64_t i = 0; i < size_[q]; i++) {
            const bool stays = scores[i] < cut;
            scores[size] = scores[i];
            positions[size] = positions[i];
            size += stays;
        }
        size_[q] = static_cast<int32_t>(size);
    }

    // Parts the candidates into neighbours for certain, possible ones and others; asks for float64
    // distances only where the vote hangs on them.
    void finish(int64_t q, Scratch& s) {
        if (overflowed_[q]) return;
        tighten(q);
        // The list holds k, or all that are near enough; if not, the bound would be wrong: then
        // slowly rather than wrongly.
        const int64_t k = call_.ask.k, query = who_[q], count = size_[q];
        const bool few = count < k;
        if (dropped_[q] < cut_[q] || (few && !(call_.within(query) < kInfinity))) return give_up(q);
        const float* const scores = scores_ + q * capacity_;
        const uint32_t* const positions = positions_ + q * capacity_;
        s.lower.resize(count);
        s.upper.resize(count);
        for (int64_t i = 0; i < count; i++) {
            const float norm = support_.norms[positions[i]];
            s.lower[i] = bound_.lower(limits_[q], scores[i], norm);
            s.upper[i] = bound_.upper(limits_[q], scores[i], norm);
        }
        // The k-th neighbour is at most this far; nothing that surely is farther can be one.
        const double farthest = few ? kInfinity : kth_smallest(s.upper, k - 1, s.sorted);
        // With k others surely or possibly nearer than this, one below it is surely among the k.
        const double nearest_other =
            count > k ? kth_smallest(s.lower, k, s.sorted) : std::numeric_limits<double>::infinity();

        s.ballot.clear();
        s.possible.clear();
        int64_t open = std::min(k, count);
        for (int64_t i = 0; i < count; i++) {
            if (s.lower[i] > farthest) continue;
            const int64_t row = call_.support->order[positions[i]];
            if (s.upper[i] < nearest_other && !call_.out.rows) {
                s.ballot.add(call_.ask.codes[row]);
                open--;
            } else {
                s.ballot.add_possible(call_.ask.codes[row]);
                s.possible.push_back(row);
            }
        }
        const auto total = static_cast<int64_t>(s.possible.size());
        if (call_.ask.wanted) {
            const int32_t wanted = call_.ask.wanted[query];
            const Ballot::Wins wins = s.ballot.wins(wanted, open, total);
            if (wins == Ballot::Wins::always) return call_.answer_winner(query, wanted);
            if (wins == Ballot::Wins::never) return call_.answer_winner(query, kNotAsked);
        } else if (!call_.out.rows) {
            if (s.ballot.complete(open, total)) return call_.answer(query, s.ballot);
            const int32_t winner = s.ballot.certain_winner(open, total);
            if (winner >= 0 && !call_.out.counts) return call_.answer_winner(query, winner);
        }
        call_.begin_distances(query, s);
        for (int64_t row : s.possible) s.neighbours.push_back(call_.neighbour(row, s));
        call_.settle(query, open, s);
    }

    static double kth_smallest(const std::vector<double>& values, int64_t k,
                               std::vector<double>& room) {
        room = values;
        std::nth_element(room.begin(), room.begin() + k, room.end());
        return room[k];
    }

    Call& call_;
    const Pass& pass_;
    Bound bound_;
    Transform transform_;
    int64_t columns_, row_bytes_, rows_, soft_limit_, capacity_;
    Panel support_{}, queries_{};
    float* scores_ = nullptr;
    uint32_t* positions_ = nullptr;
    const int64_t* who_ = nullptr;
    std::vector<typename Bound::Query> limits_;
    std::vector<double> proven_;  // the k-th neighbour's true score is no more than this
    std::vector<float> cut_;
    std::vector<int32_t> size_, limit_;
    std::vector<uint32_t> self_;
    std::vector<uint8_t> overflowed_;
    std::vector<int32_t> drops_;
    std::vector<float> dropped_;  // the best score that was dropped for want of room
};

// ---- the call ----

void Call::probe(const Layer& present, int64_t number, const std::vector<int64_t>& who) {
    layer = &present;
    index = number;
    asked_ = static_cast<int64_t>(who.size());
    done = 0;
    before_ = 0;
    report();
    const int64_t width = present.support.width;
    for (auto& s : scratch) {
        s->query.resize(width);
        s->room.resize(2 * width);
    }

    const Support summary(present.support, ask.k + 1, leaves_out(), level, team);
    support = &summary;
    const double norm = summary.largest_norm;
    std::vector<int64_t> left = who;
    if (norm == 0 || (norm > 0x1p-400 && norm < 0x1p400)) {
        scale = norm == 0 ? 1 : std::ldexp(1.0, kScaledExponent - 1 - std::ilogb(norm));
        const double scaled = norm * scale;
        for (int i = 0; i < level.products_count && width > kDifferencesUpTo; i++) {
            const Pass& pass = level.products[i];
            if (left.empty() || !bounded(pass, width)) continue;
            left = Filter<ProductsBound>(*this, pass, {pass, width, scaled}, summary.centre.data())
                       .run(left);
        }
        if (!left.empty() && bounded(level.differences, width)) {
            // Rows that float32 holds as they are need no centre, which would round them.
            const DifferencesBound bound(level.differences, width, summary.exact ? 0 : scaled);
            left = Filter<DifferencesBound>(*this, level.differences, bound,
                                            summary.exact ? nullptr : summary.centre.data())
                       .run(left);
        }
    }
    settle_completely(left);
}

// Every distance in float64, for the queries that no filter can serve.
void Call::settle_completely(const std::vector<int64_t>& who) {
    if (who.empty()) return;
    begin_stage(static_cast<int64_t>(who.size()));
    team.run(total, [&](int64_t item, int thread) {
        Scratch& s = *scratch[thread];
        const int64_t query = who[item];
        const int64_t own = leaves_out() ? source_row(query) : -1;
        s.ballot.clear();
        begin_distances(query, s);
        const auto k = static_cast<std::size_t>(ask.k);
        std::vector<Neighbour>& nearest = s.neighbours;  // a heap, the farthest in front
        for (int64_t row : support->order) {
            if (row == own) continue;
            const Neighbour next = neighbour(row, s);
            if (nearest.size() == k) {
                if (!(next < nearest.front())) continue;
                std::pop_heap(nearest.begin(), nearest.end());
                nearest.back() = next;
            } else {
                nearest.push_back(next);
            }
            std::push_heap(nearest.begin(), nearest.end());
        }
        settle(query, ask.k, s);
        done++;
    });
}

// Filters fill nine tenths of what is left, since they may hand queries on.
void Call::report() {
    if (!progress_) return;
    const double share = static_cast<double>(done) / static_cast<double>(std::max<int64_t>(1, total));
    progress_(index, before_ + 0.9 * (1 - before_) * share, asked_);
}

}  // namespace

double probe(const std::vector<Layer>& layers, const Question& ask, const Answers& out,
             const Level& level, int threads, const Progress& progress) {
    Call call(ask, out, level, threads, progress);
    std::vector<int64_t> who(ask.queries);
    for (int64_t i = 0; i < ask.queries; i++) who[i] = i;
    const auto count = static_cast<int64_t>(layers.size());
    for (int64_t step = 0; step < count && !who.empty(); step++) {
        const int64_t index = ask.wanted ? count - 1 - step : step;
        call.probe(layers[index], index, who);
        if (!ask.wanted) continue;
        const int32_t* votes = out.votes + index * ask.queries;
        who.erase(std::remove_if(who.begin(), who.end(),
                                 [&](int64_t i) { return votes[i] != ask.wanted[i]; }),
                  who.end());
    }
    std::chrono::steady_clock::duration settling{};
    for (const auto& s : call.scratch) settling += s->settling;
    return std::chrono::duration<double>(settling).count();
}

int64_t first_not_finite(const Matrix& matrix, const Level& level, int threads,
                         const std::function<void()>& poll) {
    std::atomic<int64_t> first{matrix.rows};
    constexpr int64_t kRows = 64;
    Team team(threads, poll);
    team.run(ceil_div(matrix.rows, kRows), [&](int64_t item, int) {
        const int64_t end = std::min(matrix.rows, (item + 1) * kRows);
        for (int64_t row = item * kRows; row < end && row < first; row++) {
            if (level.finite(matrix.row(row), matrix.type, matrix.width)) continue;
            int64_t known = first;
            while (row < known && !first.compare_exchange_weak(known, row)) {}
            return;
        }
    });
    return first < matrix.rows ? first.load() : -1;
}

}  // namespace pdepth
