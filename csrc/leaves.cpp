#include "leaves.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

#include "packing.hpp"
#include "session.hpp"

namespace pdepth {
namespace {

constexpr int64_t kSampleRows = 1024;  // that tell how many leaves a query visits, and half of them
constexpr int64_t kSampleQueries = 16;
constexpr int64_t kSampled = 128;  // rows that tell along which column others are split

// Rows as float32, transformed like those that are packed; their order is the split's.
struct Values {
    Buffer<float> memory;
    int64_t width;

    const float* row(int64_t i) const { return memory.get() + i * width; }
};

Values values_of(const Matrix& rows, const Reading& reading, const std::vector<int64_t>& order,
                 Team& team) {
    Values values;
    values.width = rows.width;
    float* const out = values.memory.reserve(static_cast<int64_t>(order.size()) * rows.width);
    const Transform transform = reading.transform(reading.level->differences);
    constexpr int64_t kRows = 256;
    const auto count = static_cast<int64_t>(order.size());
    team.run(ceil_div(count, kRows), [&](int64_t item, int) {
        std::vector<double> wide(rows.width);
        for (int64_t i = item * kRows; i < std::min(count, (item + 1) * kRows); i++) {
            reading.level->widen(rows, order[i], 0, rows.width, wide.data());
            for (int64_t c = 0; c < rows.width; c++) {
                const double centred = transform.centre ? wide[c] - transform.centre[c] : wide[c];
                out[i * rows.width + c] = static_cast<float>(centred * transform.scale);
            }
        }
    });
    return values;
}

// Where some of the rows are parted: the mean of the column along which they vary most, which lies
// between clusters where there are any.
Split widest(const Values& values, const uint32_t* rows, int64_t count) {
    const int64_t step = std::max<int64_t>(1, count / kSampled), width = values.width;
    std::vector<float> sums(width, 0.0f), squares(width, 0.0f);
    const float* const origin = values.row(rows[0]);
    for (int64_t i = 0; i < count; i += step) {
        const float* const row = values.row(rows[i]);
        for (int64_t c = 0; c < width; c++) {
            const float x = (row[c] - origin[c]) * 0x1p-40f;  // far from overflow
            sums[c] += x;
            squares[c] += x * x;
        }
    }
    const auto sampled = static_cast<float>(ceil_div(count, step));
    Split split{};
    float most = -1;
    for (int64_t c = 0; c < width; c++) {
        const float variance = squares[c] - sums[c] * sums[c] / sampled;
        if (variance <= most) continue;
        most = variance;
        split.column = static_cast<int32_t>(c);
        split.value = origin[c] + sums[c] / sampled * 0x1p40f;
    }
    return split;
}

// Rows begin .. end - 1 of the order so far; those of more than a leaf are parted.
struct Part {
    int64_t begin, end;
    int32_t depth;
    Split split;
    int32_t leaves;  // below it
};

// Parts rows at the split's value, or in halves where that leaves less than a leaf on one side.
// Returns where the upper part begins.
int64_t part(const Values& values, uint32_t* rows, int64_t count, int64_t leaf_rows, bool halve,
             Split& split) {
    struct Keyed {
        float key;
        uint32_t row;
    };
    std::vector<Keyed> keyed(count);
    int64_t lower = 0, upper = count;
    for (int64_t i = 0; i < count; i++) {
        const Keyed one{values.row(rows[i])[split.column], rows[i]};
        const bool less = one.key < split.value;
        keyed[less ? lower : upper - 1] = one;
        lower += less;
        upper -= !less;
    }
    if (halve || lower < leaf_rows || count - lower < leaf_rows) {
        lower = ceil_div(count, 2 * leaf_rows) * leaf_rows;
        if (lower >= count) lower = count / 2;
        std::nth_element(keyed.begin(), keyed.begin() + lower, keyed.end(),
                         [](const Keyed& a, const Keyed& b) { return a.key < b.key; });
        split.value = keyed[lower].key;
    }
    for (int64_t i = 0; i < count; i++) rows[i] = keyed[i].row;
    return lower;
}

// The tree of parts, each before those that it is parted into, and `rows` in its order.
std::vector<Part> parts_of(const Values& values, std::vector<uint32_t>& rows, int64_t leaf_rows,
                           Team& team) {
    const auto count = static_cast<int64_t>(rows.size());
    const int32_t deepest = 2 * std::ilogb(static_cast<double>(count)) + 8;  // halves from there on
    std::vector<Part> parts{{0, count, 0, {}, 0}};
    for (std::size_t begin = 0; begin < parts.size();) {
        const std::size_t end = parts.size();
        std::vector<int64_t> middles(end - begin);
        team.run(static_cast<int64_t>(end - begin), [&](int64_t i, int) {
            Part& one = parts[begin + i];
            const int64_t size = one.end - one.begin;
            if (size <= leaf_rows) return;
            uint32_t* const at = rows.data() + one.begin;
            one.split = widest(values, at, size);
            middles[i] = one.begin + part(values, at, size, leaf_rows, one.depth > deepest, one.split);
        });
        for (std::size_t i = begin; i < end; i++) {
            const Part one = parts[i];
            if (one.end - one.begin <= leaf_rows) continue;
            parts[i].split.lower = static_cast<int32_t>(parts.size());
            parts[i].split.upper = parts[i].split.lower + 1;
            const int64_t middle = middles[i - begin];
            parts.push_back({one.begin, middle, one.depth + 1, {}, 0});
            parts.push_back({middle, one.end, one.depth + 1, {}, 0});
        }
        begin = end;
    }
    for (std::size_t i = parts.size(); i-- > 0;) {
        Part& one = parts[i];
        const bool leaf = one.end - one.begin <= leaf_rows;
        one.leaves = leaf ? 1 : parts[one.split.lower].leaves + parts[one.split.upper].leaves;
    }
    return parts;
}

// Numbers the leaves: parts of no more than a group's stay in one. Calls leaf(number, part).
template <class Leaf>
void number_leaves(Leaves& leaves, const std::vector<Part>& parts, Leaf leaf) {
    std::vector<int32_t> numbers(parts.size());  // of a split, or ~leaf
    std::vector<int32_t> waiting{0};
    while (!waiting.empty()) {
        const int32_t at = waiting.back();
        const Part& one = parts[at];
        waiting.pop_back();
        const int64_t room = round_up(leaves.count, kBoxes) - leaves.count;
        if (one.leaves <= kBoxes && one.leaves > room) leaves.count += room;
        if (one.leaves == 1) {
            numbers[at] = ~static_cast<int32_t>(leaves.count);
            leaf(leaves.count++, one);
            continue;
        }
        numbers[at] = static_cast<int32_t>(leaves.splits.size());
        leaves.splits.push_back(one.split);
        waiting.push_back(one.split.upper);
        waiting.push_back(one.split.lower);
    }
    for (Split& split : leaves.splits) {
        split.lower = numbers[split.lower];
        split.upper = numbers[split.upper];
    }
    leaves.count = round_up(leaves.count, kBoxes);
}

float* box_at(float* boxes, int64_t number, int64_t width) {
    return boxes + number / kBoxes * width * 2 * kBoxes + number % kBoxes;
}

float* reserve_boxes(Buffer<float>& boxes, int64_t count, int64_t width) {
    float* const out = boxes.reserve(round_up(count, kBoxes) * width * 2);
    for (int64_t i = 0; i < round_up(count, kBoxes); i++) {
        float* const box = box_at(out, i, width);
        for (int64_t c = 0; c < width; c++) {
            box[2 * c * kBoxes] = std::numeric_limits<float>::infinity();
            box[(2 * c + 1) * kBoxes] = -std::numeric_limits<float>::infinity();
        }
    }
    return out;
}

// Boxes around what was packed of the rows, which is what is scored.
void find_boxes(Leaves& leaves, const Level& level, int64_t width, Team& team) {
    const auto* const values = static_cast<const float*>(leaves.panel.values);
    const int64_t tile = level.differences.support_rows, groups = leaves.count / kBoxes;
    float* const boxes = reserve_boxes(leaves.boxes, leaves.count, width);
    float* const group_boxes = reserve_boxes(leaves.group_boxes, groups, width);
    const int64_t rows = kBoxes * level.leaf_rows;
    team.run(groups, [&](int64_t group, int) {
        float* const outer = box_at(group_boxes, group, width);
        for (int64_t i = group * rows; i < (group + 1) * rows; i++) {
            if (leaves.order[i] == Reading::kNoRow) continue;
            float* const box = box_at(boxes, i / level.leaf_rows, width);
            for (int64_t c = 0; c < width; c++) {
                const float value = values[(i / tile * width + c) * tile + i % tile];
                for (float* lowest : {box + 2 * c * kBoxes, outer + 2 * c * kBoxes}) {
                    float& highest = lowest[kBoxes];
                    *lowest = std::min(*lowest, value);
                    highest = std::max(highest, value);
                }
            }
        }
    });
}

// `count` of `rows`, spread over all.
std::vector<int64_t> spread(const std::vector<int64_t>& rows, int64_t count) {
    const auto all = static_cast<int64_t>(rows.size());
    std::vector<int64_t> some;
    for (int64_t i = 0; i < count; i++) some.push_back(rows[i * all / count]);
    return some;
}

int32_t leaf_of(const Leaves& leaves, const float* query) {
    int32_t at = leaves.splits.empty() ? ~0 : 0;
    while (at >= 0) {
        const Split& split = leaves.splits[at];
        at = query[split.column] < split.value ? split.lower : split.upper;
    }
    return ~at;
}

std::vector<int64_t> present_rows(const Reading& reading) {
    std::vector<int64_t> present;
    std::copy_if(reading.order.begin(), reading.order.end(), std::back_inserter(present),
                 [](int64_t row) { return row != Reading::kNoRow; });
    return present;
}

float distance_to_box(const float* query, const float* lowest, const float* highest, int64_t width) {
    float sum = 0;
    for (int64_t c = 0; c < width; c++) {
        const float away = std::max({lowest[c] - query[c], query[c] - highest[c], 0.0f});
        sum += away * away;
    }
    return sum;
}

// The mean share of the leaves of the first `count` rows that hold one of the k nearest or may.
double share_of(const Values& values, int64_t count, const Values& queries, int64_t k,
                int64_t leaf_rows, Team& team) {
    const int64_t width = values.width;
    std::vector<uint32_t> rows(count);
    std::iota(rows.begin(), rows.end(), 0u);
    std::vector<float> boxes;  // lowest and highest of each leaf
    int64_t leaves = 0;
    for (const Part& part : parts_of(values, rows, leaf_rows, team)) {
        if (part.leaves > 1) continue;
        const std::vector<float> first(values.row(rows[part.begin]), values.row(rows[part.begin]) + width);
        for (int side = 0; side < 2; side++) boxes.insert(boxes.end(), first.begin(), first.end());
        float* const box = boxes.data() + 2 * width * leaves++;
        for (int64_t i = part.begin; i < part.end; i++)
            for (int64_t c = 0; c < width; c++) {
                box[c] = std::min(box[c], values.row(rows[i])[c]);
                box[width + c] = std::max(box[width + c], values.row(rows[i])[c]);
            }
    }
    int64_t visited = 0;
    std::vector<float> distances(count);
    for (int64_t q = 0; q < kSampleQueries; q++) {
        const float* const query = queries.row(q);
        for (int64_t i = 0; i < count; i++)
            distances[i] = distance_to_box(query, values.row(i), values.row(i), width);
        std::nth_element(distances.begin(), distances.begin() + k - 1, distances.end());
        for (int64_t leaf = 0; leaf < leaves; leaf++) {
            const float* const box = boxes.data() + 2 * width * leaf;
            visited += distance_to_box(query, box, box + width, width) <= distances[k - 1];
        }
    }
    return static_cast<double>(visited) / static_cast<double>(leaves * kSampleQueries);
}

}  // namespace

int64_t Leaves::nbytes() const {
    return memory.nbytes() + boxes.nbytes() + group_boxes.nbytes() +
           static_cast<int64_t>(order.size() * sizeof(int64_t) + positions.size() * sizeof(uint32_t));
}

LeafSearch Leaves::search(int64_t k, const Level& level, LeafScratch& room) const {
    LeafSearch search{};
    search.rows = static_cast<const float*>(panel.values);
    search.boxes = boxes.get();
    search.group_boxes = group_boxes.get();
    search.splits = splits.empty() ? nullptr : splits.data();
    search.columns = columns;
    search.leaves = count;
    search.filled = filled.data();
    search.seeds = k + 1;
    search.group_scores = room.group_scores.reserve(round_up(ceil_div(count, kBoxes), kBoxes));
    search.scores = room.scores.reserve(round_up(count, kBoxes));
    search.numbers = room.numbers.reserve(round_up(count, kBoxes));
    search.near = room.near.reserve(round_up(count, kBoxes));
    return search;
}

std::shared_ptr<const Leaves> split(const Matrix& rows, const Reading& reading, Team& team) {
    const std::vector<int64_t> present = present_rows(reading);
    const Level& level = *reading.level;
    const FilterStage& stage = level.differences;
    auto leaves = std::make_shared<Leaves>();
    leaves->columns = rows.width;
    leaves->positions.assign(rows.rows, kNoPosition);
    {
        const Values values = values_of(rows, reading, present, team);
        std::vector<uint32_t> numbers(present.size());
        std::iota(numbers.begin(), numbers.end(), 0u);
        const std::vector<Part> parts = parts_of(values, numbers, level.leaf_rows, team);
        number_leaves(*leaves, parts, [&](int64_t leaf, const Part& part) {
            int64_t position = leaf * level.leaf_rows;
            leaves->order.resize(position, Reading::kNoRow);
            leaves->filled.resize(leaf, 0);
            leaves->filled.push_back(static_cast<uint8_t>(part.end - part.begin));
            for (int64_t i = part.begin; i < part.end; i++, position++) {
                const int64_t row = present[numbers[i]];
                leaves->order.push_back(row);
                leaves->positions[row] = static_cast<uint32_t>(position);
            }
        });
    }
    const int64_t padded = leaves->count * level.leaf_rows;
    leaves->order.resize(padded, Reading::kNoRow);
    leaves->filled.resize(leaves->count, 0);
    leaves->panel = leaves->memory.reserve(padded, padded, stage.columns(rows.width) * stage.item_size);
    pack_rows(rows, leaves->order.data(), padded, reading.transform(stage), stage, leaves->panel, team);
    find_boxes(*leaves, level, rows.width, team);
    return leaves;
}

std::vector<int64_t> near_together(const Leaves& leaves, Session& session,
                                   const std::vector<int64_t>& queries) {
    constexpr int64_t kAtATime = 1 << 14;  // queries, whose values take memory
    std::vector<int64_t> result;
    for (std::size_t begin = 0; begin < queries.size(); begin += kAtATime) {
        const std::size_t end = std::min<std::size_t>(queries.size(), begin + kAtATime);
        std::vector<int64_t> rows(queries.begin() + begin, queries.begin() + end);
        for (int64_t& row : rows) row = session.source_row(row);
        const Values values =
            values_of(session.layer->queries, *session.reading, rows, session.team);
        std::vector<std::pair<int32_t, int64_t>> ordered;  // leaf and query
        for (std::size_t i = begin; i < end; i++)
            ordered.emplace_back(leaf_of(leaves, values.row(i - begin)), queries[i]);
        std::sort(ordered.begin(), ordered.end());
        for (const auto& [leaf, query] : ordered) result.push_back(query);
    }
    return result;
}

int64_t leaves_nbytes(const Reading& reading, int64_t width) {
    constexpr int64_t kOfRow = 32;  // numbers of rows and positions
    return 2 * static_cast<int64_t>(reading.order.size()) * (4 * width + kOfRow);
}

// Nearer rows of a larger sample make for a smaller share: by how much follows from one half as large.
double visited_share(Session& session, const std::vector<int64_t>& queries) {
    const Reading& reading = *session.reading;
    const std::vector<int64_t> present = present_rows(reading);
    const auto count = static_cast<int64_t>(present.size());
    if (count < 2 * kSampleRows) return 1;
    const Matrix& support = *session.support;
    Team& team = session.team;
    const Values rows = values_of(support, reading, spread(present, kSampleRows), team);
    const bool few = static_cast<int64_t>(queries.size()) < kSampleQueries;
    std::vector<int64_t> asked = spread(few ? present : queries, kSampleQueries);
    if (!few)
        for (int64_t& query : asked) query = session.source_row(query);
    const bool own = few || session.layer->own_rows;  // a row is its own nearest
    const Values x = values_of(few ? support : session.layer->queries, reading, asked, team);
    const auto share = [&](int64_t sample) {
        const int64_t k = 1 + session.question.k * sample / count + own;
        return share_of(rows, sample, x, std::min(k, sample), reading.level->leaf_rows, team);
    };
    const double halved = share(kSampleRows / 2), whole = share(kSampleRows);
    return whole * std::pow(std::min(1.0, whole / halved),
                            std::log2(static_cast<double>(count) / kSampleRows));
}

}  // namespace pdepth
