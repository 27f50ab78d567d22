#include "certificate.hpp"

#include <algorithm>
#include <limits>

#include "settle.hpp"

namespace pdepth {
namespace {

constexpr double kEndless = std::numeric_limits<double>::infinity();

// Distances are computed some at a time: to part the candidates anew costs about as much, for each,
// as the distance of a row of 32 elements, and is to take about a quarter of the time.
constexpr int64_t kElementsBetween = 128;
constexpr int64_t kLeastBetween = 2;

class Certificate {
public:
    Certificate(const Session& session, int64_t query, const ScoreOfDistance& score_of, Scratch& s)
        : session_(session), query_(query), score_of_(score_of), s_(s), candidates_(s.candidates) {}

    void answer() {
        part();
        if (decided()) return;
        SettledQuery settled(session_, query_, s_);
        while (compute_nearest_to_border(settled)) {
            part();
            if (decided()) return;
        }
        s_.neighbours.clear();
        for (const Candidate* c : s_.possible) s_.neighbours.push_back({c->value, c->row});
        settled.add_nearest(open_);
    }

private:
    // Parts certain neighbours from possible ones, and drops the rest.
    void part() {
        const int64_t k = session_.question.k;
        // The k-th neighbour is at most this far; nothing that surely is farther can be one.
        farthest_ = kth_smallest(&Candidate::upper, k - 1);
        candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(),
                                         [&](const Candidate& c) { return c.lower > farthest_; }),
                          candidates_.end());
        // With k others surely or possibly nearer than this, one below it is surely among the k.
        nearest_other_ = kth_smallest(&Candidate::lower, k);
        s_.ballot.clear();
        s_.possible.clear();
        open_ = std::min(k, static_cast<int64_t>(candidates_.size()));
        for (Candidate& c : candidates_) {
            if (c.upper < nearest_other_ && !session_.answers.rows) {
                s_.ballot.add(session_.question.codes[c.row]);
                open_--;
            } else {
                s_.ballot.add_possible(session_.question.codes[c.row]);
                s_.possible.push_back(&c);
            }
        }
    }

    double kth_smallest(double Candidate::*value, int64_t k) {
        if (k >= static_cast<int64_t>(candidates_.size())) return kEndless;
        s_.sorted.clear();
        for (const Candidate& c : candidates_) s_.sorted.push_back(c.*value);
        std::nth_element(s_.sorted.begin(), s_.sorted.begin() + k, s_.sorted.end());
        return s_.sorted[k];
    }

    // Whether the certain neighbours decide the query, which is then answered.
    bool decided() {
        const auto total = static_cast<int64_t>(s_.possible.size());
        if (session_.answers.rows) return false;
        if (session_.question.target) {
            const int32_t target = session_.question.target[query_];
            const Ballot::Wins wins = s_.ballot.wins(target, open_, total);
            if (wins == Ballot::Wins::perhaps) return false;
            answer_winner(session_, query_, wins == Ballot::Wins::always ? target : kUnknown);
            return true;
        }
        if (s_.ballot.complete(open_, total)) {
            pdepth::answer(session_, query_, s_.ballot);
            return true;
        }
        const int32_t winner = s_.ballot.certain_winner(open_, total);
        if (winner < 0 || session_.answers.counts) return false;
        answer_winner(session_, query_, winner);
        return true;
    }

    // Distances of some possible neighbours, those that lie nearest to where the k-th may be: these
    // alone keep others from being certain. False where all were known.
    bool compute_nearest_to_border(SettledQuery& settled) {
        auto unknown = std::partition(s_.possible.begin(), s_.possible.end(),
                                      [](const Candidate* c) { return c->known; });
        if (unknown == s_.possible.end()) return false;
        const auto count = static_cast<int64_t>(candidates_.size());
        const int64_t most =
            score_of_.factor == 0
                ? count
                : std::max(kLeastBetween, kElementsBetween * count / session_.support->width);
        if (s_.possible.end() - unknown > most) {
            for (auto at = unknown; at != s_.possible.end(); ++at) {
                const double gap = (*at)->lower + (*at)->upper - nearest_other_ - farthest_;
                (*at)->gap = std::isfinite(gap) ? std::fabs(gap) : 0;
            }
            std::nth_element(unknown, unknown + most, s_.possible.end(),
                             [](const Candidate* a, const Candidate* b) { return a->gap < b->gap; });
            s_.possible.erase(unknown + most, s_.possible.end());
        }
        for (auto at = unknown; at != s_.possible.end(); ++at) {
            if (s_.possible.end() - at > SettledQuery::kAhead)
                settled.prefetch((*(at + SettledQuery::kAhead))->row);
            Candidate& c = **at;
            c.value = settled.value(c.row);
            c.known = true;
            if (score_of_.factor == 0) continue;
            const Interval score = score_of_.at(c.value);
            c.lower = std::max(c.lower, score.lower);
            c.upper = std::min(c.upper, score.upper);
        }
        return true;
    }

    const Session& session_;
    int64_t query_;
    const ScoreOfDistance& score_of_;
    Scratch& s_;
    std::vector<Candidate>& candidates_;
    double farthest_ = kEndless, nearest_other_ = kEndless;
    int64_t open_ = 0;
};

}  // namespace

void answer_from_candidates(const Session& session, int64_t query, const ScoreOfDistance& score_of,
                            Scratch& s) {
    Certificate(session, query, score_of, s).answer();
}

}  // namespace pdepth
