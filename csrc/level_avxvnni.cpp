// AVX2 with AVX-VNNI, of processors that have no AVX-512: the tiles of AVX2, in which integers are
// multiplied and added in one instruction. 64 products of bytes a cycle, 32 of 16-bit integers.
#include <immintrin.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "level.hpp"

namespace {

#include "avx2.inc"

// In assembler, as in Avx2: and no flag of the compiler's is needed, which older ones lack.
struct Simd : Avx2 {
    static constexpr bool kSaturates = false;
    static constexpr int kByteChunk = kByteSection;
    static constexpr double kByteGain = 2;
    static constexpr double kBytePace = 1.3;

    static Whole add_pairs(Whole sum, Whole x, Whole y) {
        asm("%{vex%} vpdpwssd %1, %2, %0" : "+x"(sum) : "x"(x), "x"(y));
        return sum;
    }
    static Whole add_bytes(Whole sum, Whole x, Whole y) {
        asm("%{vex%} vpdpbusd %1, %2, %0" : "+x"(sum) : "x"(x), "x"(y));
        return sum;
    }
    static Whole add_chunk(Whole sum, Whole chunk) { return _mm256_add_epi32(sum, chunk); }
};

#include "tile.inc"

#include "directions.inc"

}  // namespace

namespace pdepth {
constexpr Level avxvnni_level{"avxvnni", widen, finite, summarise, squared_distance, inner_product, kth_score,
                              search_leaves, score_boxes,
                              kDifferences, kLeaves, kLeafRows, 3, {kByteProducts, kIntegerProducts, kFloatProducts},
                              kDirections, project, near_distance};
}
