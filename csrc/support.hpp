// A layer's support: its rows, what one reading of them finds out, and their packed forms.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "fork_mutex.hpp"
#include "level.hpp"
#include "packed.hpp"
#include "team.hpp"

namespace pdepth {

struct LeadingDirections;

enum class Metric { squared_distance, inner_product };

// Norms are scaled to just below 2^60: their squares are far from float32's end, and the squares
// of values 2^-120 times as large are still above its beginning. Rows that join later may be longer.
constexpr int kScaledExponent = 60;

struct Leaves;

struct KeptRows : PackedRows {
    int64_t capacity = 0;          // rows
    std::atomic<int64_t> used{0};  // rows that some reading has packed
};

// All rows packed for one stage, kept from call to call.
struct PackedStage {
    const FilterStage* stage = nullptr;
    std::shared_ptr<KeptRows> memory;
    Panel panel{};
    int64_t packed = 0;    // positions, to the end of a tile
    double relative = 0;   // the largest residual, as a share of its row's norm
};

// Whether a stage pays in searches for k neighbours, as its pilot said.
struct Pilot {
    const FilterStage* stage;
    int64_t k;
    bool in_pairs;
    bool pays;
};

// What is known of the rows before anything is packed, and what has been packed since.
struct Reading {
    static constexpr int64_t kNoRow = -1;  // at a position that fills a tile

    const Level* level = nullptr;
    Metric metric = Metric::squared_distance;
    std::vector<int64_t> order;       // packed position -> support row
    std::vector<uint32_t> positions;  // support row -> packed position, or kNoPosition
    std::vector<double> centre;       // with zeros up to a multiple of 8 columns
    double centre_norm = 0;
    double largest_norm = 0;          // at least that of any row, with and without the centre
    double scale = 1;
    bool exact = true;                // float32 holds every value
    int64_t keep = 0;                 // of equal rows
    bool dropped = false;             // whether there were more
    int64_t rows = 0;                 // of the support
    int64_t first_rows = 0;           // those that the centre and the scale were made for

    ForkMutex mutex;                  // of what follows
    std::vector<PackedStage> stages;
    std::shared_ptr<const LeadingDirections> trial, directions;  // once they have been looked for
    std::vector<Pilot> pilots;
    std::shared_ptr<const Leaves> leaves;  // where it pays for later searches
    double asked = 0;                 // queries so far
    std::array<double, 64> visited{}; // by log2 of k: the predicted share of leaves, or 0

    bool bounded() const;  // whether the norms allow filter stages
    // How a stage takes rows. Those that float32 holds as they are need no centre where they are
    // subtracted from each other, which it would round.
    Transform transform(const FilterStage& stage) const;
};

class Support {
public:
    // kept_bytes: packed forms up to so many bytes are kept for later calls; larger ones, and all
    // for 0, are packed by each call, in chunks. rows must outlive it.
    Support(const Matrix& rows, Metric metric, int64_t kept_bytes)
        : rows(rows), metric(metric), kept_bytes(kept_bytes) {}

    // The rows of `before`, and more after them: what has been packed is packed no more, until the
    // rows have doubled.
    Support(std::shared_ptr<const Support> before, const Matrix& rows)
        : rows(rows), metric(before->metric), kept_bytes(before->kept_bytes.load()),
          before_(last_read(std::move(before))) {}

    // The reading that serves a search for k neighbours.
    //
    // Rows are put in a fixed scattered order, so that files sorted by class do not feed a query its
    // far rows first. Of rows that are equal only the first are kept, more than k: equal rows are
    // equally far from any query and come in the order of their numbers, so no later one can be
    // among the k nearest.
    std::shared_ptr<Reading> read(int64_t k, const Level& level, Team& team);

    // The last reading, or that of the rows before; null where there is none yet.
    std::shared_ptr<Reading> present() const;

    // Takes a reading of the same rows that was made earlier.
    void resume(std::shared_ptr<Reading> reading) { reading_ = std::move(reading); }

    // Bytes of what is kept beside the rows.
    int64_t nbytes() const;

    const Matrix rows;
    const Metric metric;
    std::atomic<int64_t> kept_bytes;

private:
    // The support, or one before it that has been read where it has not been: without it, supports
    // that nobody searches would make a chain of any length. Waits for no search.
    static std::shared_ptr<const Support> last_read(std::shared_ptr<const Support> support);

    // What a thread was about to change as this process was forked is made anew. The caller holds the
    // mutex.
    void forget_abandoned() const;

    mutable ForkMutex mutex_;  // of what follows
    mutable std::shared_ptr<Reading> reading_;
    mutable std::shared_ptr<const Support> before_;
};

}  // namespace pdepth
