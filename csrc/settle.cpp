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

void widen_query(const Session& session, int64_t query, double* wide) {
    const Matrix& queries = session.layer->queries;
    session.level.widen(queries, session.source_row(query), 0, queries.width, wide);
}

Neighbour neighbour(const Session& session, const double* query, int64_t row, Scratch& s) {
    const Level& level = session.level;
    const auto between = session.inner_products() ? level.inner_product : level.squared_distance;
    const double value = between(query, *session.support, row, s.distance.data());
    return {session.inner_products() ? -value : value, row};
}

constexpr int64_t kMostAhead = 1024;  // bytes of a row; the processor fetches what follows

// The `open` nearest of s.neighbours, whose distances are known, join those of the ballot.
void add_nearest(const Session& session, int64_t query, int64_t open, Scratch& s) {
    s.nearest_first.keep(s.neighbours, open);
    const Question& question = session.question;
    const Answers& out = session.answers;
    const int64_t at = (session.index * question.queries + query) * out.width;
    for (int64_t j = 0; out.rows && j < open; j++) {
        out.distances[at + j] = s.neighbours[j].distance;
        out.rows[at + j] = s.neighbours[j].row;
        if (out.upper) out.upper[at + j] = s.neighbours[j].distance;
    }
    if (out.upper && open < out.width) out.rows[at + open] = kEnd;
    if (!out.votes && !out.tied && !out.counts) return;
    for (const Neighbour& n : s.neighbours) s.ballot.add(question.codes[n.row]);
    answer(session, query, s.ballot);
}

// Lists whose queries' rows stay in the second cache, and how many support rows do so beside them.
constexpr int64_t kGroupBytes = int64_t(1) << 17;
constexpr int64_t kBlockBytes = int64_t(1) << 18;
constexpr int64_t kTimesShared = 3;  // how often a row is named for blocks to pay

// Settles some lists, `block` positions at a time.
void settle_group(const Session& session, CandidateList* begin, CandidateList* end, int64_t block,
                  Scratch& s) {
    const auto start = Clock::now();
    const Matrix& support = *session.support;
    const std::vector<int64_t>& order = *session.order;
    s.queries.resize((end - begin) * support.width);
    int64_t named = 0;
    for (CandidateList* list = begin; list < end; list++) named += list->count;
    s.distances.resize(named);
    double *query = s.queries.data(), *distances = s.distances.data();
    for (CandidateList* list = begin; list < end; list++) {
        widen_query(session, list->query, query);
        list->distances = distances;
        query += support.width;
        distances += list->count;
    }
    const auto positions = static_cast<int64_t>(order.size());
    for (int64_t first = 0; first < positions; first += block) {
        query = s.queries.data();
        for (CandidateList* list = begin; list < end; list++, query += support.width)
            for (int64_t& i = list->known; i < list->count && list->positions[i] < first + block; i++) {
                if (i + SettledQuery::kAhead < list->count)
                    prefetch(support, order[list->positions[i + SettledQuery::kAhead]]);
                list->distances[i] = neighbour(session, query, order[list->positions[i]], s).distance;
            }
    }
    s.settling += Clock::now() - start;
    for (CandidateList* list = begin; list < end; list++) {
        s.ballot.clear();
        s.neighbours.resize(list->count);
        for (int64_t i = 0; i < list->count; i++)
            s.neighbours[i] = {list->distances[i], order[list->positions[i]]};
        add_nearest(session, list->query, list->open, s);
    }
}

}  // namespace

void prefetch(const Matrix& support, int64_t row) {
    const char* const begin = static_cast<const char*>(support.row(row));
    const int64_t bytes = std::min(kMostAhead, support.width * support.item_size);
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(begin + at);
}

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

void write_nearest(const Session& session, int64_t query, const Scratch& s) {
    const Answers& out = session.answers;
    if (!out.nearest_rows) return;
    const int64_t at = (session.index * session.question.queries + query) * out.nearest;
    for (int64_t j = 0; j < out.nearest; j++) {
        out.nearest_distances[at + j] = s.neighbours[j].distance;
        out.nearest_rows[at + j] = s.neighbours[j].row;
    }
}

SettledQuery::SettledQuery(const Session& session, int64_t query, Scratch& s)
    : session_(session), query_(query), s_(s), start_(Clock::now()) {
    widen_query(session, query, s.query.data());
}

SettledQuery::~SettledQuery() { s_.settling += Clock::now() - start_; }

double SettledQuery::value(int64_t row) const {
    return neighbour(session_, s_.query.data(), row, s_).distance;
}

void SettledQuery::prefetch(int64_t row) const { pdepth::prefetch(*session_.support, row); }

void SettledQuery::add_nearest(int64_t open) { pdepth::add_nearest(session_, query_, open, s_); }

void settle_lists(const Session& session, Scratch& s) {
    const auto lists = static_cast<int64_t>(s.lists.size());
    const auto rows = static_cast<int64_t>(session.order->size());
    const Matrix& support = *session.support;
    int64_t named = 0;
    for (const CandidateList& list : s.lists) named += list.count;
    int64_t group = std::min(lists, kGroupBytes / (support.width * int64_t(sizeof(double))));
    int64_t block = std::max<int64_t>(1, kBlockBytes / (support.width * support.item_size));
    if (group * named <= kTimesShared * rows * lists) group = 1, block = rows;
    CandidateList* const all = s.lists.data();
    for (int64_t begin = 0; begin < lists; begin += group)
        settle_group(session, all + begin, all + std::min(lists, begin + group), block, s);
    s.lists.clear();
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
        widen_query(session, query, s.query.data());
        const auto k = static_cast<std::size_t>(session.question.k);
        std::vector<Neighbour>& nearest = s.neighbours;  // a heap, the farthest in front
        nearest.clear();
        for (int64_t row : session.reading->order) {
            if (row == own || row == Reading::kNoRow) continue;
            const Neighbour next = neighbour(session, s.query.data(), row, s);
            if (nearest.size() == k) {
                if (!(next < nearest.front())) continue;
                std::pop_heap(nearest.begin(), nearest.end());
                nearest.back() = next;
            } else {
                nearest.push_back(next);
            }
            std::push_heap(nearest.begin(), nearest.end());
        }
        s.settling += Clock::now() - start;
        add_nearest(session, query, session.question.k, s);
        write_nearest(session, query, s);
        session.done++;
    });
}

}  // namespace pdepth
