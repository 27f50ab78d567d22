// A layer's leading directions.
//
// The image of a row has its products with some 95 orthonormal directions and, as one more column, the
// length of what they leave of it. No two images are farther apart than their rows, and of layers
// whose rows vary in few directions, as a network's dense layers do, hardly nearer: 96 columns tell
// most rows from the neighbours, instead of thousands.
#pragma once

#include <cstdint>

#include "buffer.hpp"
#include "support.hpp"

namespace pdepth {

struct LeadingDirections {
    // (kImageColumns, width): orthonormal rows, and zeros after the last of them.
    Buffer<float> values;
    Buffer<float> panel;    // likewise, in the order of the register tiles
    double departure = 0;   // from orthonormal: Frobenius norm of the rows' products less the identity
    double floor = 0;       // see Directions
    double survivors = 0;   // an estimate of the share of the rows whose images are as near as the k-th
    int64_t k = 0;          // neighbour, for this k

    // Rows that do not vary have none, nor those that vary in too many.
    bool found() const { return floor > 0; }
    Directions packed() const { return {panel.get(), floor}; }
    int64_t nbytes() const { return values.nbytes() + panel.nbytes(); }
    void arrange(const Level& level, int64_t width);  // `panel`, from `values`
};

// How many rows directions are made from, and how many others judge them: the neighbours of
// `judging` rows among `judged` ones. Rows that vary in more directions than `most_spread`, a share of
// `made`, have none: dense layers have 0.04 of the trial's, independent values 0.4 and more.
struct DirectionsSample {
    int64_t made, judging, judged;
    double most_spread;
    bool used;  // whether images will be made under them

    int64_t rows() const { return made + judging + judged; }
};
// A part of the work; leaves a fourth more rows.
constexpr DirectionsSample kTrial{192, 32, 256, 0.25, false};
constexpr DirectionsSample kWhole{512, 64, 512, 2, true};

// The directions of a reading's rows, which are at least as many, for searches for k neighbours.
std::shared_ptr<const LeadingDirections> leading_directions(const Matrix& rows,
                                                            const Reading& reading, int64_t k,
                                                            DirectionsSample sample, Team& team);

}  // namespace pdepth
