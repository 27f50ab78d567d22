// Rows in the order of a stage's register tiles.
#pragma once

#include "support.hpp"

namespace pdepth {

// Packs the rows that `order` names, up to the first kNoRow of each tile.
void pack_rows(const Matrix& rows, const int64_t* order, int64_t count, const Transform& transform,
               const FilterStage& stage, const Panel& panel, Team& team);

// Packs `count` queries.
void pack_queries(const Matrix& queries, const int64_t* rows, int64_t count,
                  const Transform& transform, const FilterStage& stage, const Panel& panel,
                  Team& team);

// Packs `count` positions from `first` on: the panel begins there, and both at the beginning of a
// tile.
void pack_positions(const Matrix& rows, const Reading& reading, int64_t first, int64_t count,
                    const FilterStage& stage, const Panel& panel, Team& team);

// A stage's packed form of all rows, packed at the first call and kept.
PackedStage packed_whole(const Matrix& rows, Reading& reading, const FilterStage& stage,
                         Team& team);

}  // namespace pdepth
