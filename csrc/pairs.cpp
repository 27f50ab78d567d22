#include "pairs.hpp"

#include <algorithm>
#include <numeric>

namespace pdepth {
namespace {

// Sizes of the work. None of them changes a vote.
constexpr int64_t kBandRows = 1152;    // the ends of their lists stay in the second cache
constexpr int64_t kItemsOfThread = 4;  // of a round at least, so that threads end it together

// Where it pays. A product that serves both rows saves half of the multiplications and none of the
// comparisons and candidates, which are most of the work for narrow rows, few rows and many neighbours.
constexpr int64_t kLeastWidth = 48;
constexpr int64_t kLeastRows = 512;       // for each thread, which waits for the others at a round's end
constexpr int64_t kRowsOfNeighbour = 32;  // at least k times as many rows
constexpr double kLeastShare = 0.75;      // of the rows that are asked
constexpr int64_t kMostChunks = 3;        // rows of different chunks do not serve each other

}  // namespace

bool in_pairs(const Session& session, const FilterStage& stage, int64_t queries, int64_t held) {
    const auto rows = static_cast<int64_t>(session.reading->order.size());
    if (!session.layer->own_rows || !stage.scan_pairs || held == 0) return false;
    if (session.question.pairs) return *session.question.pairs;
    const int64_t least =
        std::max(kLeastRows * session.team.size(), kRowsOfNeighbour * session.question.k);
    return session.support->width >= kLeastWidth && rows >= least &&
           ceil_div(rows, held) <= kMostChunks &&
           static_cast<double>(queries) >= kLeastShare * static_cast<double>(rows);
}

OwnQueries own_queries(const Session& session, const std::vector<int64_t>& queries) {
    const Reading& reading = *session.reading;
    OwnQueries own;
    own.at.assign(reading.order.size(), OwnQueries::kNone);
    for (int64_t query : queries) {
        const uint32_t position = reading.positions[session.source_row(query)];
        if (position == kNoPosition || own.at[position] != OwnQueries::kNone)
            own.rest.push_back(query);
        else
            own.at[position] = query;
    }
    return own;
}

Rounds::Rounds(int64_t rows, const FilterStage& stage, int threads) : rows_(rows) {
    const int64_t least = 2 * kItemsOfThread * threads;
    const int64_t bands = round_up(ceil_div(rows, kBandRows), least);
    // Bands begin where an item of queries and a tile of the support do.
    const int64_t unit = std::lcm(stage.item_queries, stage.support_rows);
    size_ = round_up(ceil_div(rows, bands), unit);
    bands_ = ceil_div(rows, size_);
}

Rounds::Rows Rounds::band(int64_t number) const {
    return {number * size_, std::min(rows_, (number + 1) * size_)};
}

// The circle method: of an even number of players one keeps its seat and the others go round.
std::vector<Rounds::Pair> Rounds::round(int64_t number) const {
    std::vector<Pair> pairs;
    if (number == 0) {
        for (int64_t i = 0; i < bands_; i++) pairs.emplace_back(band(i), band(i));
        return pairs;
    }
    const int64_t others = count() - 1;
    for (int64_t i = 0; i <= others / 2; i++) {
        const int64_t first = (number + i) % others;
        const int64_t second = i == 0 ? others : (number - i + others) % others;
        if (std::max(first, second) >= bands_) continue;  // an odd band out rests
        pairs.emplace_back(band(std::min(first, second)), band(std::max(first, second)));
    }
    return pairs;
}

}  // namespace pdepth
