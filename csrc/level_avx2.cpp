// AVX2 + FMA: 6 queries x 16 support rows. Registers: 12 sums, 2 of the support, 1 query, 1 spare.
// A step is 12 multiply-adds on 8 loads, so the two multipliers set the pace: 32 FLOP a cycle.
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "level.hpp"

namespace {

struct Simd {
    using Vector = __m256;
    static constexpr int kLanes = 8;
    static constexpr int kDoubles = 4;  // of a register
    static constexpr int kQueryRows = 6;
    static constexpr int kSupportVectors = 2;
    using Whole = __m256i;
    static constexpr int kSection = 320;  // a 16-row panel of it takes 20 KB of the first cache
    static constexpr int kIntegerSection = 640;  // likewise
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
    static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
    static Vector lesser(Vector a, Vector b) { return _mm256_min_ps(a, b); }
    static Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
    static Vector subtract_product(Vector a, Vector b, Vector c) {
        return _mm256_fnmadd_ps(a, b, c);
    }
    static uint64_t below(Vector v, Vector cut) {
        return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(v, cut, _CMP_LT_OQ)));
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
};

#include "tile.inc"

#include "directions.inc"

}  // namespace

namespace pdepth {
constexpr Level avx2_level{"avx2", widen, finite, summarise, squared_distance, inner_product, kth_score,
                           kDifferences, 2, {kIntegerProducts, kFloatProducts},
                           kDirections, project, near_distance};
}
