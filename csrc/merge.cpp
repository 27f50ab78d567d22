#include "merge.hpp"

#include <algorithm>
#include <memory>

#include "parting.hpp"
#include "settle.hpp"

namespace pdepth {
namespace {

constexpr int64_t kQueriesPerItem = 64, kPairsPerItem = 1024;
constexpr int64_t kAskedShare = 8;  // of candidates, in place of Election::asked where these are many

// What items write, one after the other in the end.
class Written {
public:
    explicit Written(int64_t queries) : queries_(queries), items_(ceil_div(queries, kQueriesPerItem)) {}

    // Calls each(query, scratch, list), which may add to the list and end it, if the query has one.
    template <class Each>
    OwnLists run(int32_t classes, int threads, const std::function<void()>& poll, Each each) {
        Team team(static_cast<int>(std::min<int64_t>(threads, std::max<int64_t>(1, items_.size()))),
                  poll);
        std::vector<std::unique_ptr<Scratch>> scratch;
        for (int t = 0; t < team.size(); t++) scratch.push_back(std::make_unique<Scratch>(classes));
        team.run(static_cast<int64_t>(items_.size()), [&](int64_t item, int thread) {
            const int64_t end = std::min(queries_, (item + 1) * kQueriesPerItem);
            for (int64_t query = item * kQueriesPerItem; query < end; query++)
                each(query, *scratch[thread], items_[item]);
        });
        OwnLists all;
        for (const OwnLists& item : items_) {
            const auto before = static_cast<int64_t>(all.rows.size());
            for (std::size_t i = 1; i < item.begins.size(); i++)
                all.begins.push_back(before + item.begins[i]);
            append(all.lower, item.lower);
            append(all.upper, item.upper);
            append(all.rows, item.rows);
            append(all.asked, item.asked);
        }
        return all;
    }

private:
    template <class T>
    static void append(std::vector<T>& all, const std::vector<T>& more) {
        all.insert(all.end(), more.begin(), more.end());
    }

    int64_t queries_;
    std::vector<OwnLists> items_;
};

void add(OwnLists& list, double lower, double upper, int64_t row, bool asked) {
    list.lower.push_back(lower);
    list.upper.push_back(upper);
    list.rows.push_back(row);
    list.asked.push_back(asked);
}

void end_list(OwnLists& list) { list.begins.push_back(static_cast<int64_t>(list.rows.size())); }

// Has a query's candidates of one list join those that are there. False where they are lost.
bool gather(const BoundedLists& list, int64_t query, std::vector<Candidate>& candidates) {
    for (int64_t i = list.begins[query]; i < list.begins[query + 1] && list.rows[i] != kEnd; i++) {
        if (list.rows[i] == kTooMany) return false;
        const double lower = list.lower[i], upper = list.upper[i];
        if (list.rows[i] >= 0)
            candidates.push_back({lower, upper, list.rows[i], lower == upper, lower});
    }
    return true;
}

bool all_known(const std::vector<Candidate>& candidates) {
    return std::all_of(candidates.begin(), candidates.end(),
                       [](const Candidate& c) { return c.known; });
}

bool nearer(const Candidate& a, const Candidate& b) {
    return Neighbour{a.value, a.row} < Neighbour{b.value, b.row};
}

// Drops rows that are farther than the k nearest, of equally far ones the later rows.
void keep_near(Scratch& s, int64_t k) {
    Parting(s, k).drop_farther();
    std::vector<Candidate>& candidates = s.candidates;
    if (static_cast<int64_t>(candidates.size()) <= k || !all_known(candidates)) return;
    std::nth_element(candidates.begin(), candidates.begin() + k, candidates.end(), nearer);
    candidates.resize(k);
}

struct Verdict {
    bool proven = false, tied = false;
    int32_t winner = kUnknown;
};

// What a query's candidates say of its vote.
Verdict verdict_of(Scratch& s, Parting& parting, const Election& election) {
    const int64_t open = parting.part(election.codes, false);
    std::vector<Candidate*>& possible = s.possible;
    const auto total = static_cast<int64_t>(possible.size());
    if (s.ballot.complete(open, total)) return {true, s.ballot.tied(), s.ballot.winner()};
    const int32_t winner = s.ballot.certain_winner(open, total);
    if (winner >= 0) return {true, false, winner};
    if (!std::all_of(possible.begin(), possible.end(), [](const Candidate* c) { return c->known; }))
        return {};
    std::nth_element(possible.begin(), possible.begin() + open, possible.end(),
                     [](const Candidate* a, const Candidate* b) { return nearer(*a, *b); });
    for (int64_t i = 0; i < open; i++) s.ballot.add(election.codes[possible[i]->row]);
    return {true, s.ballot.tied(), s.ballot.winner()};
}

}  // namespace

OwnLists merge(const std::vector<BoundedLists>& parts, int64_t queries, int64_t k, int64_t width,
               int threads, const std::function<void()>& poll) {
    return Written(queries).run(0, threads, poll, [&](int64_t query, Scratch& s, OwnLists& list) {
        s.candidates.clear();
        bool there = true;
        for (const BoundedLists& part : parts) there = there && gather(part, query, s.candidates);
        if (there && parts.size() > 1) keep_near(s, k);
        if (!there || static_cast<int64_t>(s.candidates.size()) > width)
            add(list, -kEndless, kEndless, kTooMany, false);
        else
            for (const Candidate& c : s.candidates) add(list, c.lower, c.upper, c.row, false);
        end_list(list);
    });
}

OwnLists prove(const BoundedLists& lists, int64_t queries, const Election& election, int32_t* votes,
               uint8_t* tied, uint8_t* open, int threads, const std::function<void()>& poll) {
    const auto each = [&](int64_t query, Scratch& s, OwnLists& list) {
        s.candidates.clear();
        open[query] = true;
        if (!gather(lists, query, s.candidates) || s.candidates.empty()) {
            add(list, -kEndless, kEndless, kTooMany, false);
            return end_list(list);
        }
        keep_near(s, election.k);
        Parting parting(s, election.k);
        const Verdict found = verdict_of(s, parting, election);
        if (found.proven) {
            votes[query] = found.winner;
            tied[query] = found.tied;
            open[query] = false;
            return;
        }
        const auto count = static_cast<int64_t>(s.candidates.size());
        parting.keep_nearest_to_border(
            election.asked ? std::max(election.asked, count / kAskedShare) : count);
        for (Candidate& c : s.candidates) c.gap = 0;
        for (Candidate* c : s.possible) c->gap = 1;
        for (const Candidate& c : s.candidates) add(list, c.lower, c.upper, c.row, c.gap != 0);
        end_list(list);
    };
    return Written(queries).run(election.classes, threads, poll, each);
}

void settle_pairs(const Matrix& support, const Matrix& queries, const Pairs& pairs, double* distances,
                  const Level& level, int threads, const std::function<void()>& poll) {
    const int64_t items = ceil_div(pairs.count, kPairsPerItem);
    Team team(static_cast<int>(std::min<int64_t>(threads, std::max<int64_t>(1, items))), poll);
    team.run(items, [&](int64_t item, int) {
        std::vector<double> wide(queries.width), room(2 * queries.width);
        const int64_t end = std::min(pairs.count, (item + 1) * kPairsPerItem);
        int64_t widened = -1;
        for (int64_t i = item * kPairsPerItem; i < end; i++) {
            const int64_t ahead = i + SettledQuery::kAhead;
            if (ahead < end) prefetch(support, pairs.rows[ahead]);
            if (pairs.queries[i] != widened)
                level.widen(queries, widened = pairs.queries[i], 0, queries.width, wide.data());
            distances[i] = level.squared_distance(wide.data(), support, pairs.rows[i], room.data());
        }
    });
}

}  // namespace pdepth
