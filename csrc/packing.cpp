#include "packing.hpp"

#include <algorithm>
#include <cstring>

#include "bound.hpp"

namespace pdepth {
namespace {

// The panel from position `first` on, the beginning of a tile.
Panel part_of(const Panel& panel, int64_t first, int64_t row_bytes) {
    return {static_cast<char*>(panel.values) + first * row_bytes, panel.half_norms + first,
            panel.norms + first, panel.residuals + first, panel.units + first, nullptr};
}

template <class T>
void copy(const T* from, T* to, int64_t count) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T));
}

// Room for `rows` positions, in which those that were packed stay.
void grow(PackedStage& packed, int64_t rows, int64_t row_bytes) {
    const Panel before = packed.panel;
    const std::shared_ptr<KeptRows> earlier = packed.memory;  // until it has been copied
    packed.memory = std::make_shared<KeptRows>();
    packed.panel = packed.memory->reserve(rows, rows, row_bytes);
    packed.memory->capacity = rows;
    const int64_t count = packed.packed;
    if (!count) return;
    copy(static_cast<const char*>(before.values), static_cast<char*>(packed.panel.values),
         count * row_bytes);
    copy(before.half_norms, packed.panel.half_norms, count);
    copy(before.norms, packed.panel.norms, count);
    copy(before.residuals, packed.panel.residuals, count);
    if (packed.stage->units) copy(before.units, packed.panel.units, count);
}

}  // namespace

void pack_rows(const Matrix& rows, const int64_t* order, int64_t count, const Transform& transform,
               const FilterStage& stage, const Panel& panel, Team& team) {
    const int64_t tile = stage.support_rows;
    team.run(ceil_div(count, tile), [&](int64_t i, int) {
        const int64_t* const begin = order + i * tile;
        const int64_t* const end = order + std::min(count, (i + 1) * tile);
        const int64_t real = std::find(begin, end, Reading::kNoRow) - begin;
        stage.pack(rows, begin, real, transform, panel, Side::support, i);
    });
}

void pack_queries(const Matrix& queries, const int64_t* rows, int64_t count,
                  const Transform& transform, const FilterStage& stage, const Panel& panel,
                  Team& team) {
    const int64_t tile = stage.query_rows;
    team.run(ceil_div(count, tile), [&](int64_t i, int) {
        stage.pack(queries, rows + i * tile, std::min(tile, count - i * tile), transform, panel,
                   Side::query, i);
    });
}

void pack_positions(const Matrix& rows, const Reading& reading, int64_t first, int64_t count,
                    const FilterStage& stage, const Panel& panel, Team& team) {
    pack_rows(rows, reading.order.data() + first, count, reading.transform(stage), stage, panel, team);
}

PackedStage packed_whole(const Matrix& rows, Reading& reading, const FilterStage& stage,
                         Team& team) {
    const std::lock_guard<ForkMutex> lock(reading.mutex);
    auto known = std::find_if(reading.stages.begin(), reading.stages.end(),
                              [&](const PackedStage& packed) { return packed.stage == &stage; });
    PackedStage packed = known == reading.stages.end() ? PackedStage{} : *known;
    const auto count = static_cast<int64_t>(reading.order.size());
    const int64_t all = round_up(count, stage.support_rows);
    if (packed.packed == all) return packed;
    packed.stage = &stage;
    const int64_t row_bytes = stage.columns(rows.width) * stage.item_size;
    int64_t used = packed.packed;
    // What a reading packed beyond its own rows is another's, which was extended from the same one.
    if (!packed.memory || packed.memory->capacity < all ||
        !packed.memory->used.compare_exchange_strong(used, all)) {
        grow(packed, packed.packed ? all + all / 2 : all, row_bytes);
        packed.memory->used = all;
    }
    const int64_t first = packed.packed;
    const Panel rest = part_of(packed.panel, first, row_bytes);
    pack_positions(rows, reading, first, count - first, stage, rest, team);
    packed.relative = std::max(packed.relative, relative_of(rest.norms, rest.residuals, all - first));
    packed.packed = all;
    if (known == reading.stages.end())
        reading.stages.push_back(packed);
    else
        *known = packed;
    return packed;
}

}  // namespace pdepth
