// AVX-512 with VNNI: the tiles of AVX-512, and 16-bit products two a lane in one instruction.
#include <immintrin.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "level.hpp"

namespace {

#include "avx512.inc"

struct Simd : Avx512 {
    static constexpr bool kSaturates = false;
    static constexpr int kByteChunk = kByteSection;

    static Whole add_pairs(Whole sum, Whole x, Whole y) { return _mm512_dpwssd_epi32(sum, x, y); }
    static Whole add_bytes(Whole sum, Whole x, Whole y) { return _mm512_dpbusd_epi32(sum, y, x); }
    static Whole add_chunk(Whole sum, Whole chunk) { return _mm512_add_epi32(sum, chunk); }
};

#include "tile.inc"

#include "directions.inc"

}  // namespace

namespace pdepth {
constexpr Level avx512vnni_level{"avx512vnni", widen, finite, summarise, squared_distance, inner_product, kth_score,
                                 search_leaves, score_boxes,
                                 kDifferences, kLeaves, kLeafRows, 3, {kByteProducts, kIntegerProducts, kFloatProducts},
                                 kDirections, project, near_distance};
}
