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
    static constexpr double kByteGain = 2;
    static constexpr double kBytePace = 2.7;

    // Written out: gcc would copy the sums before they are added to, and spill.
    static Whole add_pairs(Whole sum, Whole x, Whole y) {
        asm("vpdpwssd %1, %2, %0" : "+v"(sum) : "v"(x), "v"(y));
        return sum;
    }
    static Whole add_bytes(Whole sum, Whole x, Whole y) {
        asm("vpdpbusd %1, %2, %0" : "+v"(sum) : "v"(x), "v"(y));
        return sum;
    }
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
