// AVX2 + FMA: 6 queries x 16 support rows. Registers: 12 sums, 2 of the support, 1 query, 1 spare.
// A step is 12 multiply-adds on 8 loads, so the two multipliers set the pace: 32 FLOP a cycle.
#include <immintrin.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "level.hpp"

namespace {

// The lanes that each mask names, a byte each.
struct LanesOf {
    int64_t of[256] = {};

    constexpr LanesOf() {
        for (int mask = 0; mask < 256; mask++)
            for (int64_t lane = 0, count = 0; lane < 8; lane++)
                if (mask >> lane & 1) of[mask] |= lane << 8 * count++;
    }
};
constexpr LanesOf kLanesOf;

struct Simd {
    using Vector = __m256;
    static constexpr int kLanes = 8;
    static constexpr int kDoubles = 4;  // of a register
    static constexpr int kQueryRows = 6;
    static constexpr int kSupportVectors = 2;
    using Whole = __m256i;
    static constexpr int kSection = 320;  // a 16-row panel of it takes 20 KB of the first cache
    static constexpr int kIntegerSection = 640;  // likewise
    static constexpr int kLeafTiles = 2;
    static constexpr int kKeptTiles = 16;

    // Written out: gcc 12 widens the halves apart and joins them.
    static __m256d widened(const void* from) {
        return _mm256_cvtps_pd(_mm_loadu_ps(static_cast<const float*>(from)));
    }

    static Vector zero() { return _mm256_setzero_ps(); }
    static Vector load(const float* from) { return _mm256_load_ps(from); }
    static void store(float* to, Vector v) { _mm256_storeu_ps(to, v); }
    static Vector broadcast(float value) { return _mm256_set1_ps(value); }
    static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
    static Vector sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
    static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
    static __m256d multiply_add(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
    static Vector lesser(Vector a, Vector b) { return _mm256_min_ps(a, b); }
    static Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
    static Vector subtract_product(Vector a, Vector b, Vector c) {
        return _mm256_fnmadd_ps(a, b, c);
    }
    static uint64_t below(Vector v, Vector cut) {
        return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(v, cut, _CMP_LT_OQ)));
    }

    // The lanes that a mask names go to `to`, and their numbers, from `first` on, to `numbers`; what
    // lies behind them in a register's length is overwritten.
    static int compress(Vector v, uint64_t mask, uint32_t first, float* to, uint32_t* numbers) {
        const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(kLanesOf.of[mask]));
        _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(v, lanes));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers),
                            _mm256_add_epi32(lanes, _mm256_set1_epi32(static_cast<int>(first))));
        return __builtin_popcountll(mask);
    }

    static Whole no_sum() { return _mm256_setzero_si256(); }
    static Whole load_pairs(const int16_t* from) {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
    }
    static Whole broadcast_pair(const int16_t* from) {
        int32_t pair;
        memcpy(&pair, from, sizeof pair);
        return _mm256_set1_epi32(pair);
    }
    static Whole add_pairs(Whole sum, Whole x, Whole y) {
        // Written out: gcc would take all products of a step before it adds them, and spill.
        asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(x, y)));
        return sum;
    }
    static Vector rounded(Whole sum) { return _mm256_cvtepi32_ps(sum); }

    // Bytes, see bytes.inc: two products a 16-bit sum, four a lane.
    static constexpr bool kSaturates = true;
    static constexpr int kByteSection = 1280;  // likewise
    static constexpr int kByteChunk = 32;
    static constexpr double kByteGain = 1.8;
    static Whole load_bytes(const int8_t* from) {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
    }
    static Whole broadcast_four(const void* from) {
        int32_t four;
        memcpy(&four, from, sizeof four);
        return _mm256_set1_epi32(four);
    }
    static Whole add_bytes(Whole sum, Whole x, Whole y) {
        asm("vpaddw %1, %0, %0" : "+x"(sum) : "x"(_mm256_maddubs_epi16(y, x)));
        return sum;
    }
    static Whole add_chunk(Whole sum, Whole chunk) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(chunk, _mm256_set1_epi16(1)));
    }
};

#include "tile.inc"

#include "directions.inc"

}  // namespace

namespace pdepth {
constexpr Level avx2_level{"avx2", widen, finite, summarise, squared_distance, inner_product, kth_score,
                           search_leaves, score_boxes,
                           kDifferences, kLeaves, kLeafRows, 3, {kByteProducts, kIntegerProducts, kFloatProducts},
                                 kDirections, project, near_distance};
}
