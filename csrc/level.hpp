// What an instruction set has to offer: a table of the inner loops, filled by one source each.
//
// Everything of a level's source but its table has internal linkage: a template instantiated there
// must never be the copy that the linker hands to code that runs on every machine.
#pragma once

#include <cstdint>

#include "matrix.hpp"

namespace pdepth {

constexpr uint32_t kNoPosition = 0xffffffffu;

// The candidates of an item's queries, support rows that may be neighbours: a score of the stage
// and a packed position each. `make_room` makes place in the list of query q for another `support_rows`
// of them and lowers its cut; a query whose list overflows gets a cut of -inf.
struct Lists {
    float* cut;            // a score below it survives
    int32_t* size;
    int32_t* limit;        // no more than this many before `make_room` is called
    uint32_t* self;        // the packed position that is the query itself, or kNoPosition
    float* scores;         // `capacity` for each query
    uint32_t* positions;   // likewise
    int64_t capacity;
    void (*make_room)(void* context, int64_t query);
    void* context;
};

// Rows in the order of the register tiles, in the numbers of a stage: tile after tile.
struct Panel {
    void* values;
    float* half_norms;     // |row|^2 / 2; for inner products, -(row . centre)
    float* norms;          // |row|, rounded up
    float* residuals;      // |row - what was packed of it|, rounded up
    float* units;          // what 1 stands for, where rows are packed as integers
    int32_t* starts = nullptr;  // of queries: what sums begin with, [tile][start][row]
};

// Rows whose norm, after the transform, is below this may be packed as zero.
constexpr double kNegligible = 0x1p-40;
constexpr float kLargestScaled = 0x1p62f;  // norm of a row that a stage can serve

// Columns of the image of a row: its products with a layer's leading directions, and in the last the
// length of what they leave.
constexpr int64_t kImageColumns = 96;
constexpr int64_t kProjectedSection = 64;  // of a row's columns, summed before their sum joins others

// See directions.hpp.
struct Directions {
    const float* panel = nullptr;  // [tile of support rows][column][direction]
    double floor = 0;              // the least length in the last column
};

// Of rows that are turned and packed as bytes, see pdepth/certify.py: float32's own error, as a share
// of the row's norm, and that of what was summed in it, as a share of the residual.
constexpr double kTurning = 0x1p-20;
constexpr double kSummed = 0x1p-16;

// What a row becomes before it is packed: (row - centre) * scale. centre may be null; zeros fill it
// up to a multiple of 8 columns.
struct Transform {
    const double* centre;
    double scale;
    bool inner_products = false;  // see Panel::half_norms
    Directions directions{};      // of a stage that packs images
};

// What scores may be off by, row by row: a row becomes a candidate if its score is below the cut when
// its norm times `of_norm` of the query, and what its packing lost times `of_residual`, are taken off.
struct RowErrors {
    const float *norms, *residuals;       // of rows
    const float *of_norm, *of_residual;   // of queries
};

// One item of work: some queries against some rows of the packed support.
struct ScanItem {
    const void* queries;
    const void* support;
    const float* half_norms;    // of the support
    const float* query_units;
    const int32_t* query_starts;
    int64_t starts;             // of a row
    const float* support_units;
    int64_t columns;       // of a packed row
    int64_t query_tiles;
    int64_t support_count; // rows, without the padding of the last tile
    uint32_t first_position;
    float* partial;        // query_tiles x kept_tiles tiles of partial sums
    Lists lists;           // of the item's first query
    RowErrors errors;      // likewise, where the stage has them
    // Where each pair of rows serves both, as their lists are filled from one product:
    Lists others;          // of the support's rows, which must not be the queries' own
    const float* query_half_norms;
    RowErrors other_errors;  // the item's queries are the rows
    uint32_t first_query_position;
};

// Boxes are scored so many at a time: [column][lowest, highest][kBoxes].
constexpr int64_t kBoxes = 16;

// Rows whose value in a column is less than another's are in the lower part. What a part is parted
// into has a number; that of a leaf is ~leaf.
struct Split {
    float value;
    int32_t column, lower, upper;
};

// One query against rows in leaves: some that lie near each other, with the box around them. Groups of
// kBoxes leaves have boxes too. See leaves.hpp.
struct LeafSearch {
    const float* query;          // its columns are query_rows apart, as the stage packs them
    const float* rows;           // packed support, leaf after leaf
    const float* boxes;          // of leaves
    const float* group_boxes;    // of groups
    const Split* splits;         // the first parts all; null for a single leaf
    const uint8_t* filled;       // rows of each leaf
    int64_t columns;             // no more than the stage's section
    int64_t leaves;              // whole groups
    int64_t seeds;               // rows that are scanned before any is skipped, if there are as many
    float* group_scores;         // room for the groups, to a multiple of kBoxes
    float* scores;               // room for the leaves, likewise
    uint32_t* numbers;           // likewise
    uint32_t* near;              // likewise
    Lists lists;                 // of this query
};

enum class Side { query, support };

// One way to score every query against every support row: the numbers that rows are packed into,
// and the loop that multiplies them and keeps what falls below the cut.
struct FilterStage {
    const char* name;
    int64_t query_rows;    // of a register tile
    int64_t support_rows;
    int64_t item_queries;  // of one item of work
    int64_t kept_tiles;    // of the support: their partial sums are kept from section to section
    int64_t item_size;     // bytes of a packed element
    int64_t multiple;      // a packed row has this many times the width, after the width is
    int64_t step;          // rounded up to a multiple of this
    int64_t section;       // packed columns summed before the sum joins those of other sections
    int64_t chain;         // float32 roundings of that sum
    bool norms_first;      // the sections are added to |y|^2 / 2, not subtracted from it at the end
    bool units;            // rows are packed as integers times units of their own

    // Packs rows[0..count) into tile number `index` of a panel.
    void (*pack)(const Matrix& source, const int64_t* rows, int64_t count, Transform transform,
                 const Panel& panel, Side side, int64_t index);
    void (*scan)(const ScanItem& item);
    // Fills the support rows' lists, too, where they are asked as well; null where a stage cannot.
    void (*scan_pairs)(const ScanItem& item);

    int64_t start = 0;     // packed columns that a start value is for; 0: sums begin at nought
    double gain = 0;       // how many times as fast as the next stage; 0: never tried on a sample
    double pace = 1;       // how many times as fast the next stage is as AVX2's 16-bit integers
    bool row_errors = false;  // scans take errors off row by row
    bool images = false;   // images of rows are packed, whatever their width
    int64_t least_queries = 0;  // for whose sake a support that does not last is packed

    int64_t columns(int64_t width) const {
        return multiple * round_up(images ? kImageColumns : width, step);
    }
    int64_t starts(int64_t width) const { return start ? ceil_div(columns(width), start) : 0; }
};

struct RowSummary {
    double norm;    // rounded up
    bool exact;     // float32 holds every value
    uint64_t hash;  // the same of equal rows
};

// Products score |y|^2 / 2 - x.y: half the squared distance less |x|^2 / 2. Differences score
// |x - y|^2: twice the work, and an error relative to the distance itself.
struct Level {
    const char* name;

    // `columns` elements of a row, from `begin`, as float64; divided where rows have norms.
    void (*widen)(const Matrix& rows, int64_t row, int64_t begin, int64_t columns, double* out);
    // Whether the row holds neither NaN nor infinity.
    bool (*finite)(const void* row, DType type, int64_t width);
    RowSummary (*summarise)(const Matrix& rows, int64_t row);
    // Squared distance in float64, summed in the order of pdepth.definition: the last half is added
    // to the first until one term is left. `scratch` holds twice the rows' width.
    double (*squared_distance)(const double* query, const Matrix& rows, int64_t row, double* scratch);
    // The inner product in float64, summed likewise.
    double (*inner_product)(const double* query, const Matrix& rows, int64_t row, double* scratch);
    // A value that k of the scores do not exceed, and more only where they tie.
    float (*kth_score)(const float* scores, int64_t count, int64_t k);

    // Takes as candidates the rows of near leaves. A leaf whose box has no score below the cut has no
    // row with one.
    void (*search_leaves)(const LeafSearch& search);
    // Scores of one group of boxes, no more than that of any row in them.
    void (*score_boxes)(const LeafSearch& search, const float* boxes, int64_t group, float* scores);

    FilterStage differences;
    FilterStage leaves;  // the same of near leaves alone
    int64_t leaf_rows;
    // From the fastest to the finest; a query whose candidates overflow goes on to the next.
    int products_count;
    FilterStage products[4];
    // The fastest of them on images of rows; no name where a level has none.
    FilterStage directions{};
    // The products of up to 48 dense rows with directions, which lie as in Directions::panel. Those of
    // `out` have memory to the end of a register tile.
    void (*project)(const float* rows, int64_t count, const float* panel, int64_t columns,
                    int64_t tiles, float* out, int64_t out_stride) = nullptr;
    // |query - row|^2 times scale squared, in float32, whose roundings are at most those of `differences`.
    // Brings the row at `next` nearer.
    float (*near_distance)(const float* query, const void* row, int64_t width, float scale,
                           const void* next) = nullptr;
};

// Levels compiled in, best last; usable() asks the processor and the system. enable() must have said
// yes before a level's functions run: a process asks for the tile registers before it uses them.
const Level* const* compiled_levels(int* count);
bool usable(const Level& level);
bool enable(const Level& level);

extern const Level bf16_level;
extern const Level portable_level;
#if defined(__x86_64__)
extern const Level avx2_level;
extern const Level avxvnni_level;
extern const Level avx512_level;
extern const Level avx512vnni_level;
extern const Level amx_level;
#elif defined(__aarch64__)
extern const Level neon_level;
extern const Level neondot_level;
#endif

}  // namespace pdepth
