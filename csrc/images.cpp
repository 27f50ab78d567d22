#include "images.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "bound.hpp"
#include "certificate.hpp"
#include "directions.hpp"
#include "packing.hpp"
#include "pairs.hpp"
#include "pilot.hpp"

namespace pdepth {
namespace {

constexpr int64_t kLeastRank = 128, kMostRank = 1024;  // candidates that a list is cut down to
constexpr int64_t kMostColumns = 4096;  // wider layers, of convolutions, vary in too many directions
constexpr int64_t kMostNeighbours = 256;
constexpr int64_t kOfSample = 16;       // bytes of an element, while directions are sought
// What a layer costs, in multiply-adds of 16-bit integers: measured at AVX2 on layers of 256 to 2,048
// columns.
constexpr double kOfIntegers = 2;      // bytes of an element that is scanned at that cost
constexpr double kOfScan = 64;         // of an image, beside its columns: lists are longer
constexpr double kOfQuery = 150;       // to project a column of a query
constexpr double kOfSupport = 55;      // to project one of the support, beyond its ordinary packing
constexpr double kOfDistance = 25;     // of a column of a float32 distance
constexpr double kOfDirections = 9e5;  // of a column, to find the directions
constexpr double kLeastGain = 1.6;     // saved work, as a multiple of the work that is added
constexpr double kOfNeighbours = 1.9;  // rows that directions leave at best, of the neighbours
constexpr double kOfTrial = 0.8;       // rows left by the whole sample's directions, of the trial's
constexpr double kLeastWork = 4e6;     // pairs of rows: a trial is hardly seen
constexpr double kLastingQueries = 1000;  // that a lasting support will have had, at least

constexpr int64_t kProductsBetweenChecks = int64_t(1) << 31;  // of whether to go on

// Rows whose distances are computed in float32 as they are stored.
bool is_plain_float(const Matrix& rows) { return rows.type == DType::f32 && !rows.norms; }

// A query, and the score that no neighbour's reaches, where that is known.
struct Pending {
    int64_t query;
    float cut;
};

// What one thread works with.
struct Lists {
    PackedRows memory;
    Panel packed{};
    Buffer<float> scores, partial;
    Buffer<uint32_t> positions;
    std::vector<float> cut, row;
    std::vector<int32_t> size, limit;
    std::vector<uint32_t> self;
    std::vector<std::pair<float, uint32_t>> candidates;
    std::vector<double> farthest;      // a heap of the k least upper bounds
};

// One pass over the images for each query: its best candidates are kept, as many as a rank says, and
// their distances computed in the order of their scores until those prove the rest to be farther. A
// query whose list was cut below what is proven gets a second pass, which begins with that cut.
class ImagesFilter {
public:
    ImagesFilter(Session& session, const LeadingDirections& directions, const PackedStage& support)
        : session_(session), stage_(*support.stage), support_(support.panel),
          images_(stage_, session.support->width, directions.departure, directions.floor),
          distances_(session.level.differences, session.support->width, 0),
          k_(session.question.k), rows_(static_cast<int64_t>(session.reading->order.size())) {
        images_.add_rows(support.relative);
        const double left = directions.survivors * static_cast<double>(rows_) *
                            std::max(1.0, static_cast<double>(k_) / static_cast<double>(directions.k));
        rank_ = std::clamp(static_cast<int64_t>(1.5 * left), std::max(kLeastRank, 2 * k_), kMostRank);
        const double scale = session.reading->scale;
        narrow_ = is_plain_float(*session.support) && is_plain_float(session.layer->queries) &&
                  scale >= 0x1p-60 && scale <= 0x1p100;
    }

    std::vector<int64_t> run(const std::vector<int64_t>& queries) {
        std::vector<Pending> pending;
        for (int64_t query : queries) pending.push_back({query, kInfinity});
        session_.begin_stage(2 * static_cast<int64_t>(queries.size()));
        pending = pass(pending);
        rank_ = kMostRank;
        pending = pass(pending);
        std::vector<int64_t> remaining;
        for (const Pending& p : pending) remaining.push_back(p.query);
        return remaining;
    }

private:
    int64_t capacity() const { return 2 * rank_ + stage_.support_rows; }

    // The queries that it leaves, with what it has proven of them.
    std::vector<Pending> pass(std::vector<Pending> pending) {
        const auto count = static_cast<int64_t>(pending.size());
        const int64_t tile = stage_.query_rows;
        const int64_t share = round_up(ceil_div(count, 2 * session_.team.size()), tile);
        const int64_t items = std::min(stage_.item_queries, share);
        std::vector<Lists> lists(session_.team.size());
        std::vector<uint8_t> answered(count, 0);
        session_.team.run(count ? ceil_div(count, items) : 0, [&](int64_t item, int thread) {
            const int64_t begin = item * items, end = std::min(count, begin + items);
            scan(pending.data() + begin, end - begin, lists[thread], thread);
            for (int64_t i = begin; i < end; i++)
                answered[i] = finish(pending[i], i - begin, lists[thread], thread);
            session_.done += end - begin;
        });
        std::vector<Pending> left;
        for (int64_t i = 0; i < count; i++)
            if (!answered[i]) left.push_back(pending[i]);
        return left;
    }

    void pack(const Pending* pending, int64_t count, Lists& lists) {
        const int64_t tile = stage_.query_rows, padded = round_up(count, tile);
        const int64_t row_bytes = stage_.columns(0) * stage_.item_size;
        lists.packed = lists.memory.reserve(padded, padded, row_bytes);
        std::vector<int64_t> rows(count);
        for (int64_t i = 0; i < count; i++) rows[i] = session_.source_row(pending[i].query);
        const Transform transform = session_.reading->transform(stage_);
        for (int64_t i = 0; i * tile < count; i++)
            stage_.pack(session_.layer->queries, rows.data() + i * tile,
                        std::min(tile, count - i * tile), transform, lists.packed, Side::query, i);
        lists.cut.assign(padded, -kInfinity);  // the padding takes no candidates
        lists.size.assign(padded, 0);
        lists.limit.assign(padded, static_cast<int32_t>(capacity()));
        lists.self.assign(padded, kNoPosition);
        for (int64_t i = 0; i < count; i++) {
            if (lists.packed.norms[i] <= kLargestScaled) lists.cut[i] = pending[i].cut;
            if (session_.leaves_out()) lists.self[i] = session_.reading->positions[rows[i]];
        }
    }

    void scan(const Pending* pending, int64_t count, Lists& lists, int thread) {
        pack(pending, count, lists);
        const int64_t padded = round_up(count, stage_.query_rows), columns = stage_.columns(0);
        const int64_t kept = stage_.kept_tiles * stage_.support_rows;
        const int64_t step = std::max(kept, kProductsBetweenChecks / (columns * count) / kept * kept);
        struct Context {
            const ImagesFilter* filter;
            Lists* lists;
        } context{this, &lists};
        ScanItem item;
        item.queries = lists.packed.values;
        item.query_units = lists.packed.units;
        item.columns = columns;
        item.query_tiles = padded / stage_.query_rows;
        item.partial = lists.partial.reserve(padded * kept);
        item.lists = {lists.cut.data(), lists.size.data(), lists.limit.data(), lists.self.data(),
                      lists.scores.reserve(padded * capacity()),
                      lists.positions.reserve(padded * capacity()), capacity(),
                      [](void* c, int64_t q) {
                          auto* in = static_cast<Context*>(c);
                          in->filter->make_room(*in->lists, q);
                      },
                      &context};
        for (int64_t at = 0; at < rows_; at += step) {
            item.support = static_cast<char*>(support_.values) + at * columns * stage_.item_size;
            item.half_norms = support_.half_norms + at;
            item.support_units = support_.units + at;
            item.support_count = std::min(step, rows_ - at);
            item.first_position = static_cast<uint32_t>(at);
            stage_.scan(item);
            session_.team.check(thread);
        }
    }

    // Cuts a list down to its best candidates.
    void make_room(Lists& lists, int64_t q) const {
        float* const scores = lists.scores.get() + q * capacity();
        uint32_t* const positions = lists.positions.get() + q * capacity();
        const float cut = session_.level.kth_score(scores, lists.size[q], rank_);
        int32_t size = 0;
        for (int32_t i = 0; i < lists.size[q]; i++) {
            const bool stays = scores[i] < cut;
            scores[size] = scores[i];
            positions[size] = positions[i];
            size += stays;
        }
        lists.size[q] = size;
        lists.cut[q] = cut;
    }

    // Answers a query, or says what its second pass begins with.
    bool finish(Pending& pending, int64_t q, Lists& lists, int thread) {
        const float* const scores = lists.scores.get() + q * capacity();
        const uint32_t* const positions = lists.positions.get() + q * capacity();
        auto& candidates = lists.candidates;
        candidates.clear();
        for (int32_t i = 0; i < lists.size[q]; i++)
            candidates.emplace_back(scores[i], positions[i]);
        const auto count = static_cast<int64_t>(candidates.size());
        if (count < k_) return false;
        Scratch& s = *session_.scratch[thread];
        begin_distances(pending.query, lists, s);
        const auto nearest = candidates.begin() + k_;
        std::nth_element(candidates.begin(), nearest - 1, candidates.end());
        for (auto c = candidates.begin(); c != nearest; ++c)
            add_distance(c->second, (c + 1 == nearest ? c : c + 1)->second, lists, s);
        lists.farthest.clear();
        for (const Candidate& c : s.candidates) lists.farthest.push_back(c.upper);
        std::make_heap(lists.farthest.begin(), lists.farthest.end());

        const ImagesBound::Query limits =
            images_.query(lists.packed.norms[q], lists.packed.residuals[q]);
        float cut = images_.cut(limits, lists.farthest.front());
        const auto near = std::partition(nearest, candidates.end(),
                                         [cut](const auto& c) { return c.first < cut; });
        std::sort(nearest, near);
        for (auto c = nearest; c != near && c->first < cut; ++c) {
            add_distance(c->second, (c + 1 == near ? c : c + 1)->second, lists, s);
            const double upper = s.candidates.back().upper;
            if (!(upper < lists.farthest.front())) continue;
            std::pop_heap(lists.farthest.begin(), lists.farthest.end());
            lists.farthest.back() = upper;
            std::push_heap(lists.farthest.begin(), lists.farthest.end());
            cut = images_.cut(limits, lists.farthest.front());
        }
        if (lists.cut[q] < cut) {
            pending.cut = cut;
            return false;
        }
        answer_from_candidates(
            session_, pending.query,
            distances_.score_of_distance(distances_.query(0, 0), session_.reading->scale), s);
        return true;
    }

    void begin_distances(int64_t query, Lists& lists, Scratch& s) const {
        const Matrix& queries = session_.layer->queries;
        const int64_t row = session_.source_row(query);
        s.candidates.clear();
        if (narrow_) {
            lists.row.resize(queries.width);
            std::memcpy(lists.row.data(), queries.row(row), queries.width * sizeof(float));
        } else {
            session_.level.widen(queries, row, 0, queries.width, s.query.data());
        }
    }

    // Bounds of the scaled squared distance of a support row; `next` is the one after it.
    void add_distance(uint32_t position, uint32_t next, Lists& lists, Scratch& s) const {
        const Matrix& support = *session_.support;
        const std::vector<int64_t>& order = session_.reading->order;
        const double scale = session_.reading->scale;
        Interval distance;
        if (narrow_) {
            const float near = session_.level.near_distance(
                lists.row.data(), support.row(order[position]), support.width,
                static_cast<float>(scale), support.row(order[next]));
            distance = distances_.bounds(distances_.query(0, 0), near, 0, 0);
        } else {
            const double near =
                session_.level.squared_distance(s.query.data(), support, order[position],
                                                s.distance.data()) *
                scale * scale;
            distance = {near * (1 - kSettlement), near * (1 + kSettlement)};
        }
        s.candidates.push_back({distance.lower, distance.upper, order[position]});
    }

    Session& session_;
    const FilterStage& stage_;
    const Panel support_;
    ImagesBound images_;
    const DifferencesBound distances_;
    const int64_t k_, rows_;
    int64_t rank_ = kLeastRank;
    bool narrow_ = false;  // distances in float32
};

// Whether a layer of which images leave that share of the rows is served sooner by them than by `other`.
bool pays(const Session& session, const FilterStage& other, double queries, double survivors,
          bool found) {
    const auto rows = static_cast<double>(session.reading->order.size());
    const auto width = static_cast<double>(session.support->width);
    // Each pair of a support's own rows is computed once.
    const bool pairs = in_pairs(session, other, session.question.queries, session.support->rows);
    const double speed = other.gain > 0 ? other.gain : kOfIntegers / other.item_size;
    const double scan = width / speed * (pairs ? 0.5 : 1);
    // Each neighbour at least is a candidate of bytes.
    const double candidates = other.gain > 0 ? static_cast<double>(session.question.k) : 0;
    const double saved = rows * (scan - kImageColumns - kOfScan) +
                         candidates * other.pace * cost_of_candidate(session.support->width) -
                         kOfQuery * width - kOfDistance * width * survivors * rows;
    const double added = kOfSupport * rows * width + (found ? 0 : kOfDirections * width);
    return queries * saved > kLeastGain * added;
}

const LeadingDirections& directions_of(Session& session, DirectionsSample sample,
                                       std::shared_ptr<const LeadingDirections>& known) {
    if (!known)
        known = leading_directions(*session.support, *session.reading, session.question.k, sample,
                                   session.team);
    return *known;
}

}  // namespace

bool images_serve(const Session& session) {
    const FilterStage& stage = session.level.directions;
    const Reading& reading = *session.reading;
    const int64_t width = session.support->width, held = session.question.held_bytes;
    const auto rows = static_cast<int64_t>(reading.order.size());
    return stage.name && !session.inner_products() && reading.bounded() && bounded(stage, width) &&
           width > kImageColumns && width <= kMostColumns && rows >= 2 * kWhole.rows() &&
           session.question.k <= kMostNeighbours &&
           rows * stage.columns(width) * stage.item_size <= held &&
           kWhole.rows() * width * kOfSample <= held;
}

bool images_pay(Session& session, const FilterStage& other) {
    Reading& reading = *session.reading;
    const bool lasting = session.layer->support->kept_bytes > 0;
    const auto rows = static_cast<double>(reading.order.size());
    const auto asked = static_cast<double>(session.question.queries);
    const double queries = lasting ? std::max(asked, kLastingQueries) : asked;
    const auto better = [&](double survivors, bool found) {
        return pays(session, other, queries, survivors, found);
    };
    if (!is_plain_float(*session.support) || (!lasting && rows * asked < kLeastWork) ||
        !better(kOfNeighbours * static_cast<double>(session.question.k) / rows, false))
        return false;
    const std::lock_guard<ForkMutex> lock(reading.mutex);
    if (!reading.directions) {
        const LeadingDirections& trial = directions_of(session, kTrial, reading.trial);
        if (!trial.found() || !better(kOfTrial * trial.survivors, false)) return false;
    }
    const LeadingDirections& found = directions_of(session, kWhole, reading.directions);
    return found.found() && better(found.survivors, true);
}

std::vector<int64_t> filter_images(Session& session, const std::vector<int64_t>& queries) {
    Reading& reading = *session.reading;
    try {
        {
            const std::lock_guard<ForkMutex> lock(reading.mutex);
            if (!directions_of(session, kWhole, reading.directions).found()) return queries;
        }
        const PackedStage support =
            packed_whole(*session.support, reading, session.level.directions, session.team);
        return ImagesFilter(session, *reading.directions, support).run(queries);
    } catch (const std::bad_alloc&) {  // another stage takes less
        return queries;
    }
}

}  // namespace pdepth
