// The candidates of a chunk's queries, and up to which score a row becomes one.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "candidates.hpp"
#include "session.hpp"

namespace pdepth {

// The rank among rows seen that a neighbour of rank k of all rows very likely does not exceed, where
// those seen are `share` of all, and any of them: how many of the k - 1 nearer ones are among them is
// a matter of chance, of a hypergeometric distribution. With three standard deviations and what is
// right for small numbers, at most one query in two hundred was guessed wrongly in trials.
inline int64_t likely_rank(int64_t k, double share) {
    const double mean = static_cast<double>(k) * share;
    return static_cast<int64_t>(std::ceil(mean + 3 * std::sqrt(mean * (1 - share)) + 1.5));
}

// A list is bounded: its cut falls as nearer rows come. The cut follows from what the k best prove,
// or from a guess that is checked at the end.
template <class Bound>
class CandidateLists {
public:
    // most_at_once: candidates that may come before room is asked for.
    CandidateLists(Session& session, const FilterStage& stage, Bound& bound, int64_t least_capacity,
                   int64_t rows, int64_t most_at_once)
        : session_(session), bound_(bound), by_row_(stage.row_errors), k_(session.question.k),
          most_at_once_(most_at_once) {
        soft_limit_ = std::max<int64_t>(128, k_ + k_ / 2 + 2 * most_at_once);
        capacity_ = std::min(std::max(least_capacity, 2 * soft_limit_),
                             round_up(rows, most_at_once) + 2 * most_at_once);
    }

    int64_t query_bytes() const { return capacity_ * int64_t(sizeof(float) + sizeof(uint32_t)); }

    // Room for the lists of so many queries.
    void hold(int64_t most) {
        scores_ = session_.buffers.scores.reserve(most * capacity_);
        positions_ = session_.buffers.positions.reserve(most * capacity_);
    }

    // Empty lists; `padded` - `count` of them take no candidates.
    void start(int64_t count, int64_t padded) {
        limits_.resize(count);
        proven_.assign(count, kInfinity);
        guessed_.assign(count, kInfinity);
        cut_.assign(padded, -kInfinity);
        size_.assign(padded, 0);
        limit_.assign(padded, static_cast<int32_t>(std::min(soft_limit_, capacity_)));
        self_.assign(padded, kNoPosition);
        state_.assign(count, State::open);
        drops_.assign(count, 0);
        dropped_.assign(count, kInfinity);
        of_norm_.assign(padded, 0);
        of_residual_.assign(padded, 0);
    }

    // What is known of a query from the start. self: its own position, which is left out.
    void begin(int64_t q, const typename Bound::Query& limits, double proven, uint32_t self) {
        set_limits(q, limits);
        proven_[q] = proven;
        self_[q] = self;
    }
    void set_limits(int64_t q, const typename Bound::Query& limits) {
        limits_[q] = limits;
        if constexpr (Bound::kByNorm) {
            const RowShares shares = bound_.row_shares(limits);
            of_norm_[q] = shares.of_norm;
            of_residual_[q] = shares.of_residual;
        }
    }
    const typename Bound::Query& limits(int64_t q) const { return limits_[q]; }

    // What a scan takes off the scores of the rows from one position on, for the queries from one on.
    RowErrors row_errors(int64_t query, int64_t position) const {
        return {norms_ + position, residuals_ + position, of_norm_.data() + query,
                of_residual_.data() + query};
    }

    // Norms and residuals of rows by their positions, with which the error grows.
    void set_rows(const float* norms, const float* residuals) {
        norms_ = norms;
        residuals_ = residuals;
    }

    struct Context {
        CandidateLists* lists;
        int64_t first_query;
    };

    Lists from(Context& context) {
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
                    in->lists->make_room(in->first_query + q);
                },
                &context};
    }

    const float* scores(int64_t q) const { return scores_ + q * capacity_; }
    const uint32_t* positions(int64_t q) const { return positions_ + q * capacity_; }
    int64_t size(int64_t q) const { return size_[q]; }
    // Of the true score of the list's candidate number i.
    Interval bounds(int64_t q, int64_t i) const {
        const uint32_t at = positions(q)[i];
        return bound_.bounds(limits_[q], scores(q)[i], norms_[at], residuals_[at]);
    }

    // Another stage has to answer it.
    bool given_up(int64_t q) const { return state_[q] == State::given_up; }
    void give_up(int64_t q) { close(q, State::given_up); }
    // The guess was wrong.
    bool missed(int64_t q) const { return state_[q] == State::missed; }

    void lower_cut(int64_t q) {
        const double score = std::min(proven_[q], guessed_[q]);
        cut_[q] = state_[q] == State::open ? cut_at(q, score) : -kInfinity;
    }

    // Lowers the cut to what the k best candidates prove, and drops the candidates above it. Returns
    // a score that k of them do not exceed, and more only where they tie.
    float tighten(int64_t q) {
        if (size_[q] < k_) return kInfinity;
        const Best best = best_of(q, k_);
        proven_[q] = std::min(proven_[q], best.upper);
        lower_cut(q);
        drop(q);
        return best.score;
    }

    // Lowers the cut to where `share` of all rows, which have been seen, let expect the k-th best.
    void guess(int64_t q, double share) {
        const int64_t rank = likely_rank(k_, share);
        if (state_[q] != State::open || rank >= k_ || size_[q] <= rank) return;
        guessed_[q] = std::min(guessed_[q], best_of(q, rank).upper);
        lower_cut(q);
        drop(q);
    }

    // Whether the list, tightened, holds the k best, or all that are near enough: if not, it has been
    // closed.
    bool complete(int64_t q) {
        if (dropped_[q] < cut_[q])
            close(q, State::given_up);
        else if (guessed_[q] < proven_[q])
            close(q, State::missed);
        // Else the bound would be wrong: then slowly rather than wrongly.
        else if (size_[q] < k_ && !(proven_[q] < kInfinity))
            close(q, State::given_up);
        return state_[q] == State::open;
    }

    // Whether exactly k candidates score no more than `best`, and all others surely more: whichever
    // has the largest norm and residual, with which the error grows.
    bool has_gap(int64_t q, float best) const {
        const Gap gap = gap_after(scores(q), size_[q], best);
        if (gap.near != k_ || gap.next == kInfinity) return gap.near == k_;
        const auto [norm, residual] = largest(q, kInfinity);
        return bound_.bounds(limits_[q], gap.last, norm, residual).upper <
               bound_.bounds(limits_[q], gap.next, norm, residual).lower;
    }

    // Calls take(i) for the candidates of number i that may be among the `count` best.
    template <class Take>
    void each_near(int64_t q, int64_t count, Take take) const {
        const float cut = cut_at(q, best_of(q, count).upper);
        for (int64_t i = 0; i < size_[q]; i++)
            if (less_errors(q, scores(q)[i], positions(q)[i]) < cut) take(i);
    }

private:
    static constexpr int32_t kMostDrops = 128;  // of one query's list, before it is given up

    enum class State : uint8_t { open, given_up, missed };

    void close(int64_t q, State state) {
        state_[q] = state;
        cut_[q] = -kInfinity;
        size_[q] = 0;
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

    // Keeps the candidates of a list for which stays(score, position) holds.
    template <class Stays>
    void keep(int64_t q, Stays stays) {
        float* const scores = scores_ + q * capacity_;
        uint32_t* const positions = positions_ + q * capacity_;
        int64_t size = 0;
        for (int64_t i = 0; i < size_[q]; i++) {
            const bool kept = stays(scores[i], positions[i]);
            scores[size] = scores[i];
            positions[size] = positions[i];
            size += kept;
        }
        size_[q] = static_cast<int32_t>(size);
    }

    float cut_at(int64_t q, double score) const {
        if constexpr (Bound::kByNorm)
            if (by_row_) return bound_.row_cut(limits_[q], score);
        return bound_.cut(limits_[q], score);
    }

    void drop(int64_t q) {
        if (by_row_)
            keep(q, [&](float score, uint32_t at) { return less_errors(q, score, at) < cut_[q]; });
        else
            keep(q, [cut = cut_[q]](float score, uint32_t) { return score < cut; });
    }

    // As a scan compares it.
    float less_errors(int64_t q, float score, uint32_t at) const {
        return by_row_ ? score - of_norm_[q] * norms_[at] - of_residual_[q] * residuals_[at] : score;
    }

    // Drops all but the better half of a full list and remembers the best score it dropped: far rows
    // that tie need not be kept, if only nearer ones are to come that bring the cut below them.
    void keep_best(int64_t q) {
        const int64_t stay = std::max(k_, capacity_ / 2);
        const float best = session_.level.kth_score(scores(q), size_[q], stay);
        int64_t ties = stay;  // room for those, after the better ones
        for (int64_t i = 0; i < size_[q]; i++) ties -= scores(q)[i] < best;
        keep(q, [&](float score, uint32_t at) {
            const bool kept = score < best || (score == best && ties-- > 0);
            if (!kept) dropped_[q] = std::min(dropped_[q], less_errors(q, score, at));
            return kept;
        });
    }

    struct Best {
        float score;
        double upper;  // what as many true scores do not exceed
    };

    Best best_of(int64_t q, int64_t rank) const {
        const float score = session_.level.kth_score(scores(q), size_[q], rank);
        // The bound grows with the norm, the residual and the score.
        const auto [norm, residual] = largest(q, score);
        return {score, bound_.bounds(limits_[q], score, norm, residual).upper};
    }

    // The largest norm and residual of the candidates whose score is at most `best`.
    std::pair<float, float> largest(int64_t q, float best) const {
        if (!Bound::kByNorm) return {0.0f, 0.0f};
        return {largest_of(norms_, scores(q), positions(q), size_[q], best),
                largest_of(residuals_, scores(q), positions(q), size_[q], best)};
    }

    Session& session_;
    Bound& bound_;
    bool by_row_;  // errors are taken off row by row
    int64_t k_, most_at_once_, soft_limit_, capacity_;
    float* scores_ = nullptr;
    uint32_t* positions_ = nullptr;
    const float *norms_ = nullptr, *residuals_ = nullptr;
    std::vector<typename Bound::Query> limits_;
    std::vector<double> proven_, guessed_;  // the k-th neighbour's true score is no more than this
    std::vector<float> cut_;
    std::vector<int32_t> size_, limit_;
    std::vector<uint32_t> self_;
    std::vector<State> state_;
    std::vector<int32_t> drops_;
    std::vector<float> dropped_;  // the best score that was dropped for want of room
    std::vector<float> of_norm_, of_residual_;
};

}  // namespace pdepth
