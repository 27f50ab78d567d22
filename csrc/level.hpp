// What an instruction set has to offer: a table of the inner loops, filled by one source each.
//
// Everything of a level's source but its table has internal linkage: a template instantiated there
// must never be the copy that the linker hands to code that runs on every machine.
#pragma once

#include <cstdint>

#include "matrix.hpp"

namespace pdepth {

constexpr uint32_t kNoPosition = 0xffffffffu;

// The candidates of a block's queries, support rows that may be neighbours: a score in the filter
// and a packed position each. `room` makes place in the list of query q for another `support_rows`
// of them and lowers its cut; a query whose list overflows gets a cut of -inf.
struct Lists {
    float* cut;            // a score below it survives
    int32_t* size;
    int32_t* limit;        // no more than this many before `room` is asked
    uint32_t* self;        // the packed position that is the query itself, or kNoPosition
    float* scores;         // `capacity` for each query
    uint32_t* positions;   // likewise
    int64_t capacity;
    void (*room)(void* context, int64_t query);
    void* context;
};

// Rows in the order of the register tiles: `tile` rows interleaved, width x tile floats each.
struct Panel {
    float* values;         // [tiles][width][tile]
    float* half_norms;     // |row|^2 / 2
    float* norms;          // |row|, rounded up
    float* residuals;      // |row - its float32 image|, rounded up
};

// What a row becomes before it is packed: (row - centre) * scale. centre may be null.
struct Transform {
    const double* centre;
    double scale;
};

// One block of queries against a stretch of the packed support.
struct Block {
    const float* queries;  // [query_tiles][width][query_rows]
    const float* support;  // [support_tiles][width][support_rows]
    const float* half_norms;
    int64_t width;
    int64_t query_tiles;
    int64_t support_count; // rows, without the padding of the last tile
    uint32_t first_position;
    float* partial;        // query_tiles x group tiles of partial sums
    Lists lists;           // of the block's first query
};

struct Level {
    const char* name;
    int64_t query_rows;    // of a register tile
    int64_t support_rows;
    int64_t chunk;         // columns summed in one chain of float32 additions
    int64_t group;         // support tiles whose partial sums are kept between two chunks

    // `columns` elements of a row, from `begin`, as float64.
    void (*widen)(const void* row, DType type, int64_t begin, int64_t columns, double* out);
    // Squared distance in float64, summed in the order of pdepth.definition: the last half is added
    // to the first until one term is left. `squares` is room for `width` values.
    double (*squared_distance)(const double* query, const void* row, DType type, int64_t width,
                               double* squares);
    // Packs rows[0..count) into tile number `index` of a panel of `tile` rows a tile.
    void (*pack)(const Matrix& source, const int64_t* rows, int64_t count, Transform transform,
                 const Panel& panel, int64_t tile, int64_t index);
    // A value that at least k of the scores do not exceed, and hardly more than k where they differ.
    float (*near_kth)(const float* scores, int64_t count, int64_t k);
    // score = |y|^2 / 2 - x.y: half the squared distance less |x|^2 / 2.
    void (*scan_products)(const Block& block);
    // score = |x - y|^2: twice the work, and an error relative to the distance itself.
    void (*scan_differences)(const Block& block);
};

// Levels compiled in, best last; usable() asks the processor.
const Level* const* compiled_levels(int* count);
bool usable(const Level& level);

extern const Level portable_level;
#if defined(__x86_64__) || defined(_M_X64)
extern const Level avx2_level;
extern const Level avx512_level;
#endif

}  // namespace pdepth
