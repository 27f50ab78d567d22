#include "certificate.hpp"

#include <algorithm>

#include "parting.hpp"
#include "settle.hpp"

namespace pdepth {
namespace {

// Distances are computed some at a time: to part the candidates anew costs about as much, for each,
// as the distance of a row of 32 elements, and is to take about a quarter of the time.
constexpr int64_t kElementsBetween = 128;
constexpr int64_t kLeastBetween = 2;

class Certificate {
public:
    Certificate(const Session& session, int64_t query, const ScoreOfDistance& score_of, Scratch& s)
        : session_(session), query_(query), score_of_(score_of), s_(s), candidates_(s.candidates),
          parting_(s, session.question.k) {}

    void answer() {
        if (session_.answers.upper) {
            parting_.drop_farther();
            if (bounded()) return;
        }
        decide();
        if (session_.answers.nearest_rows) order_nearest(session_, query_, score_of_, s_);
    }

private:
    void decide() {
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

    void part() { open_ = parting_.part(session_.question.codes, session_.answers.rows); }

    // Answers with bounds of distances, where that tells enough.
    bool bounded() {
        const Answers& out = session_.answers;
        const auto count = static_cast<int64_t>(candidates_.size());
        if (!out.upper || count > out.width || !score_of_.tells_distances()) return false;
        int64_t at = (session_.index * session_.question.queries + query_) * out.width;
        for (const Candidate& c : candidates_) {
            const Interval distance =
                c.known ? Interval{c.value, c.value} : score_of_.distances({c.lower, c.upper});
            out.distances[at] = distance.lower;
            out.upper[at] = distance.upper;
            out.rows[at++] = c.row;
        }
        if (count < out.width) out.rows[at] = kEnd;
        return true;
    }

    // Whether the certain neighbours decide the query, which is then answered.
    bool decided() {
        const auto total = static_cast<int64_t>(s_.possible.size());
        if (session_.answers.rows) return bounded();
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

    // Distances of some possible neighbours. False where all were known.
    bool compute_nearest_to_border(SettledQuery& settled) {
        if (std::all_of(s_.possible.begin(), s_.possible.end(),
                        [](const Candidate* c) { return c->known; }))
            return false;
        const auto count = static_cast<int64_t>(candidates_.size());
        const int64_t most =
            score_of_.factor == 0
                ? count
                : std::max(kLeastBetween, kElementsBetween * count / session_.support->width);
        parting_.keep_nearest_to_border(most);
        for (auto at = s_.possible.begin(); at != s_.possible.end(); ++at) {
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
    Parting parting_;
    int64_t open_ = 0;
};

}  // namespace

void answer_from_candidates(const Session& session, int64_t query, const ScoreOfDistance& score_of,
                            Scratch& s) {
    Certificate(session, query, score_of, s).answer();
}

void order_nearest(const Session& session, int64_t query, const ScoreOfDistance& score_of,
                   Scratch& s) {
    const int64_t count = session.answers.nearest;
    Parting(s, count).drop_farther();
    std::vector<Candidate>& candidates = s.candidates;
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.lower < b.lower; });
    const SettledQuery settled(session, query, s);
    s.neighbours.clear();
    std::vector<double>& farthest = s.sorted;  // a heap of the `count` least upper bounds
    farthest.clear();
    for (auto c = candidates.begin(); c != candidates.end(); ++c) {
        const bool enough = static_cast<int64_t>(farthest.size()) == count;
        if (enough && c->lower > farthest.front()) break;
        if (candidates.end() - c > SettledQuery::kAhead)
            settled.prefetch((c + SettledQuery::kAhead)->row);
        if (!c->known) c->value = settled.value(c->row);
        s.neighbours.push_back({c->value, c->row});
        if (score_of.factor == 0) continue;
        const double upper = std::min(c->upper, score_of.at(c->value).upper);
        if (enough) {
            if (!(upper < farthest.front())) continue;
            std::pop_heap(farthest.begin(), farthest.end());
            farthest.back() = upper;
        } else {
            farthest.push_back(upper);
        }
        std::push_heap(farthest.begin(), farthest.end());
    }
    s.nearest_first.keep(s.neighbours, count);
    write_nearest(session, query, s);
}

}  // namespace pdepth
