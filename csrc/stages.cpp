#include "stages.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "bound.hpp"
#include "images.hpp"
#include "leaves.hpp"
#include "pairs.hpp"
#include "pilot.hpp"

namespace pdepth {
namespace {

constexpr int64_t kDifferencesUpTo = 12;  // columns

// When leaves pay, in nanoseconds as measured on AVX2: to part and pack a row, by the doublings of
// their number and by columns; to score one by a scan, about one.
constexpr double kOfDoubling = 25, kOfColumn = 10;
// The scan has to cost some times as much as the leaves take to make, and a few milliseconds.
constexpr double kTimesMade = 2, kLeastScan = 8e6;
// Of the leaves, those that a query may visit: beside differences, or products of half the time.
constexpr double kMostVisited = 0.35, kMostBesideProducts = 0.1;
constexpr int64_t kWidest = 320;  // columns; pdepth/backends/cpu.py counts their memory

bool is_narrow(const Session& session) { return session.support->width <= kDifferencesUpTo; }

bool is_named(const FilterStage& stage, const char* name) {
    return stage.name && std::strcmp(stage.name, name) == 0;
}

constexpr int64_t kPilotedFrom = 64;  // columns: below, more time goes into lists than into products

constexpr double kLeastLeft = 2;  // candidates that a stage leaves, as a multiple of the neighbours

constexpr double kToSettle = 24;  // an element of a float64 distance, in multiply-adds

bool present(const Reading& reading, const FilterStage& stage) {
    return std::any_of(reading.stages.begin(), reading.stages.end(),
                       [&](const PackedStage& packed) { return packed.stage == &stage; });
}

// Whether a stage that is faster than the one after it leaves so few candidates that it pays. In pairs
// either saves half of the products, and none of what candidates cost.
bool pays(Session& session, const FilterStage& stage, bool pairs) {
    const auto rows = static_cast<double>(session.reading->order.size());
    const int64_t width = session.support->width;
    const auto columns = static_cast<double>(stage.columns(width));
    const double saved =
        rows * (static_cast<double>(width) - columns / stage.gain) * (pairs ? 0.5 : 1);
    const auto cost = [=](double candidates) {
        return candidates * stage.pace * cost_of_candidate(width);
    };
    if (saved < cost(kLeastLeft * static_cast<double>(session.question.k))) return false;
    const double left = candidates_left(session, stage);
    return left >= 0 && cost(left) < saved;
}

// As `pays`; found out once for each k, in pairs and not.
bool pays_remembered(Session& session, const FilterStage& stage, int64_t queries) {
    Reading& reading = *session.reading;
    const int64_t k = session.question.k;
    // The sample's packing is worth some queries' time.
    const bool lasting = session.layer->support->kept_bytes > 0;
    if (!lasting && (queries < kToPack / kPilotShare || queries < stage.least_queries)) return false;
    const bool pairs = in_pairs(session, stage, queries, static_cast<int64_t>(reading.order.size()));
    const std::lock_guard<ForkMutex> lock(reading.mutex);
    for (const Pilot& pilot : reading.pilots)
        if (pilot.stage == &stage && pilot.k == k && pilot.in_pairs == pairs) return pilot.pays;
    reading.pilots.push_back({&stage, k, pairs, pays(session, stage, pairs)});
    return reading.pilots.back().pays;
}

// Whether leaves are faster for these queries, and are made or have had enough queries to be.
bool leaves_pay(Session& session, const std::vector<int64_t>& queries) {
    Reading& reading = *session.reading;
    const auto rows = static_cast<double>(reading.order.size());
    const auto width = static_cast<double>(session.support->width);
    const double making = rows * (kOfDoubling * std::log2(rows) + kOfColumn * width);
    const bool enough = reading.asked * rows >= std::max(kTimesMade * making, kLeastScan);
    if (!reading.leaves && !enough) return false;
    double& visited = reading.visited[std::ilogb(static_cast<double>(session.question.k))];
    if (visited == 0) visited = visited_share(session, queries);
    return visited < (is_narrow(session) ? kMostVisited : kMostBesideProducts);
}

// Where the stages begin: with leaves, if there are any, with differences where rows are narrow, else
// with the first that pays.
const FilterStage& first_of(Session& session, const std::vector<const FilterStage*>& stages,
                            int64_t queries) {
    const int64_t width = session.support->width;
    if (session.leaves) return *stages.front();
    if (is_narrow(session) && !session.inner_products()) return *stages.back();
    for (const FilterStage* stage : stages)
        if (stage->gain == 0 ||
            (width >= kPilotedFrom && pays_remembered(session, *stage, queries)))
            return *stage;
    return *stages.back();
}

}  // namespace

std::vector<const FilterStage*> stages_of(Session& session, int64_t queries) {
    if (!session.reading->bounded()) return {};
    const Level& level = session.level;
    std::vector<const FilterStage*> stages;
    if (session.leaves) stages.push_back(&level.leaves);
    for (int i = 0; i < level.products_count && !(session.leaves && is_narrow(session)); i++)
        stages.push_back(&level.products[i]);
    if (!session.inner_products()) stages.push_back(&level.differences);
    if (stages.empty()) return {};

    const char* const forced = session.question.first_stage;
    const int64_t width = session.support->width;
    const bool directions = forced && is_named(level.directions, forced);
    const FilterStage* const first =
        forced && !directions ? nullptr : &first_of(session, stages, queries);
    stages.erase(stages.begin(),
                 std::find_if(stages.begin(), stages.end(), [&](const FilterStage* stage) {
                     return first ? stage == first : is_named(*stage, forced);
                 }));
    stages.erase(std::remove_if(stages.begin(), stages.end(),
                                [=](const FilterStage* stage) { return !bounded(*stage, width); }),
                 stages.end());
    if (images_serve(session) &&
        (directions || (!forced && !session.leaves && images_pay(session, *first))))
        stages.insert(stages.begin(), &level.directions);
    return stages;
}

bool too_few(const Session& session, const FilterStage& stage, int64_t queries) {
    Reading& reading = *session.reading;
    const std::lock_guard<ForkMutex> lock(reading.mutex);
    return static_cast<double>(queries) * kToSettle < kToPack && !present(reading, stage);
}

std::shared_ptr<const Leaves> leaves_for(Session& session, const std::vector<int64_t>& queries) {
    const char* const forced = session.question.first_stage;
    const Level& level = session.level;
    const int64_t width = session.support->width;
    Reading& reading = *session.reading;
    const bool wanted = forced && is_named(level.leaves, forced);
    if ((forced && !wanted) || session.inner_products() || !reading.bounded() ||
        width > std::min(level.differences.section, kWidest) ||
        leaves_nbytes(reading, width) > session.question.held_bytes)
        return nullptr;
    const bool kept = leaves_nbytes(reading, width) <= session.layer->support->kept_bytes;
    const std::lock_guard<ForkMutex> lock(reading.mutex);
    reading.asked += static_cast<double>(queries.size());
    if (!wanted && !leaves_pay(session, queries)) return nullptr;
    if (reading.leaves) return reading.leaves;
    try {
        const auto leaves = split(*session.support, reading, session.team);
        if (kept) reading.leaves = leaves;
        return leaves;
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

}  // namespace pdepth
