#include "settle.hpp"

#include <algorithm>

namespace pdepth {
namespace {

using Clock = std::chrono::steady_clock;

// With a target, no vote names another class, whether or not it came to light.
int32_t vote_of(const Session& session, int64_t query, int32_t winner) {
    const int32_t* const target = session.question.target;
    return !target || winner == target[query] ? winner : kUnknown;
}

void widen_query(const Session& session, int64_t query, Scratch& s) {
    const Matrix& queries = session.layer->queries;
    s.neighbours.clear();
    session.level.widen(queries.row(session.source_row(query)), queries.type, 0, queries.width,
                        s.query.data());
}

Neighbour neighbour(const Session& session, int64_t row, Scratch& s) {
    const Matrix& support = *session.support;
    const Level& level = session.level;
    const auto between = session.inner_products() ? level.inner_product : level.squared_distance;
    const double value = between(s.query.data(), support.row(row), support.type, support.width,
                                 s.distance.data());
    return {session.inner_products() ? -value : value, row};
}

// Rows lie anywhere in memory: some way ahead of the one at hand they are on their way.
constexpr int64_t kAhead = 8;
constexpr int64_t kMostAhead = 1024;  // bytes of a row; the processor fetches what follows

void prefetch(const Matrix& support, int64_t row) {
    const char* const begin = static_cast<const char*>(support.row(row));
    const int64_t bytes = std::min(kMostAhead, support.width * support.item_size);
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(begin + at);
}

// The `open` nearest of s.neighbours, whose distances are known, join those of the ballot.
void add_nearest(const Session& session, int64_t query, int64_t open, Clock::time_point start,
                 Scratch& s) {
    s.settling += Clock::now() - start;
    std::sort(s.neighbours.begin(), s.neighbours.end());
    s.neighbours.resize(open);
    for (const Neighbour& n : s.neighbours) s.ballot.add(session.question.codes[n.row]);
    const Question& question = session.question;
    const int64_t at = (session.index * question.queries + query) * question.k;
    for (int64_t j = 0; session.answers.rows && j < open; j++) {
        session.answers.distances[at + j] = s.neighbours[j].distance;
        session.answers.rows[at + j] = s.neighbours[j].row;
    }
    answer(session, query, s.ballot);
}

}  // namespace

void answer(const Session& session, int64_t query, const Ballot& ballot) {
    const Answers& out = session.answers;
    const int64_t at = session.index * session.question.queries + query;
    if (out.votes) out.votes[at] = vote_of(session, query, ballot.winner());
    if (out.tied) out.tied[at] = ballot.tied();
    if (out.counts)
        std::copy(ballot.counts().begin(), ballot.counts().end(),
                  out.counts + at * session.question.classes);
}

void answer_winner(const Session& session, int64_t query, int32_t winner) {
    const Answers& out = session.answers;
    const int64_t at = session.index * session.question.queries + query;
    if (out.votes) out.votes[at] = vote_of(session, query, winner);
    if (out.tied) out.tied[at] = 0;
}

void settle(const Session& session, int64_t query, int64_t open, Scratch& s) {
    const auto start = Clock::now();
    widen_query(session, query, s);
    const Matrix& support = *session.support;
    const auto count = static_cast<int64_t>(s.possible.size());
    for (int64_t i = 0; i < count; i++) {
        if (i + kAhead < count) prefetch(support, s.possible[i + kAhead]);
        s.neighbours.push_back(neighbour(session, s.possible[i], s));
    }
    add_nearest(session, query, open, start, s);
}

void settle_completely(Session& session, const std::vector<int64_t>& queries) {
    if (queries.empty()) return;
    session.begin_stage(static_cast<int64_t>(queries.size()));
    session.team.run(session.total, [&](int64_t item, int thread) {
        Scratch& s = *session.scratch[thread];
        const int64_t query = queries[item];
        const int64_t own = session.leaves_out() ? session.source_row(query) : -1;
        const auto start = Clock::now();
        s.ballot.clear();
        widen_query(session, query, s);
        const auto k = static_cast<std::size_t>(session.question.k);
        std::vector<Neighbour>& nearest = s.neighbours;  // a heap, the farthest in front
        for (int64_t row : session.reading->order) {
            if (row == own || row == Reading::kNoRow) continue;
            const Neighbour next = neighbour(session, row, s);
            if (nearest.size() == k) {
                if (!(next < nearest.front())) continue;
                std::pop_heap(nearest.begin(), nearest.end());
                nearest.back() = next;
            } else {
                nearest.push_back(next);
            }
            std::push_heap(nearest.begin(), nearest.end());
        }
        add_nearest(session, query, session.question.k, start, s);
        session.done++;
    });
}

}  // namespace pdepth
