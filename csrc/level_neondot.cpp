// NEON with dot products of bytes (ARMv8.2 and later; Neoverse N1, Apple M1): four products a lane and
// instruction, four times as many as of 16-bit integers. Its speed is unmeasured.
#include <arm_neon.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "level.hpp"

namespace {

#include "neon.inc"

struct Simd : Neon {
    using ByteSum = int32x4_t;
    using ByteTotal = int32x4_t;
    static constexpr bool kSaturates = false;
    static constexpr int kByteChunk = kByteSection;
    static constexpr double kByteGain = 3;

    static ByteSum begin_bytes(const int32_t* /*start*/) { return vdupq_n_s32(0); }
    // In assembler: the intrinsic takes a flag of the compiler's, which older ones lack.
    static ByteSum add_bytes(ByteSum sum, Whole x, Whole y) {
        asm(".arch_extension dotprod\n\tsdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(y));
        return sum;
    }
    static ByteTotal add_chunk(ByteTotal sum, ByteSum chunk) { return vaddq_s32(sum, chunk); }
    using Neon::rounded;
    static Vector rounded(int32x4_t sum) { return vcvtq_f32_s32(sum); }
};

#include "tile.inc"

#include "directions.inc"

}  // namespace

namespace pdepth {
constexpr Level neondot_level{"neondot", widen, finite, summarise, squared_distance, inner_product, kth_score,
                              search_leaves, score_boxes,
                              kDifferences, kLeaves, kLeafRows, 3, {kByteProducts, kIntegerProducts, kFloatProducts},
                              kDirections, project, near_distance};
}
