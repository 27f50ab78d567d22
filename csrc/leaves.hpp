// Leaves: rows of a support grouped with those near them, and the box around each group.
//
// A query computes its score to every box (csrc/leaf.inc) and scans only leaves whose box may hold a
// neighbour. That pays where rows lie near a surface of few dimensions, as softmax outputs do or
// rows in clusters, and costs where they fill all columns: `leaves_for` decides by a sample.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "level.hpp"
#include "packed.hpp"
#include "support.hpp"
#include "team.hpp"

namespace pdepth {

// Room for the scores of one query's boxes.
struct LeafScratch {
    Buffer<float> group_scores, scores;
    Buffer<uint32_t> numbers, near;
};

struct Leaves {
    std::vector<int64_t> order;       // packed position -> support row, or kNoRow
    std::vector<uint32_t> positions;  // support row -> packed position, or kNoPosition
    PackedRows memory;
    Panel panel{};                    // of the level's differences
    std::vector<Split> splits;
    std::vector<uint8_t> filled;      // rows of each leaf
    Buffer<float> boxes, group_boxes;
    int64_t count = 0, columns = 0;   // of leaves, to a multiple of kBoxes: some are empty

    // Of k neighbours, by a query and lists that are still to be named.
    LeafSearch search(int64_t k, const Level& level, LeafScratch& room) const;
    int64_t nbytes() const;
};

// About what leaves of a reading take while they are made, and after.
int64_t leaves_nbytes(const Reading& reading, int64_t width);

// Splits the rows of a reading until a leaf's rows are left, and packs them.
std::shared_ptr<const Leaves> split(const Matrix& rows, const Reading& reading, Team& team);

class Session;

// The share of all leaves that a query would visit, predicted from two samples of the rows.
double visited_share(Session& session, const std::vector<int64_t>& queries);

// The queries in the order of the leaves that they lie in: those that visit the same follow each other.
std::vector<int64_t> near_together(const Leaves& leaves, Session& session,
                                   const std::vector<int64_t>& queries);

}  // namespace pdepth
