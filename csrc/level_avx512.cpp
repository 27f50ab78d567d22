// AVX-512: 8 queries x 48 support rows. Registers: 24 sums, 3 of the support, the query's element
// broadcast from memory. A step is 24 multiply-adds on 11 loads: 64 FLOP a cycle.
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "level.hpp"

namespace {

struct Simd {
    using Vector = __m512;
    static constexpr int kLanes = 16;
    static constexpr int kQueryRows = 8;
    static constexpr int kSupportVectors = 3;
    static constexpr int kChunk = 192;  // a 48-row panel of it takes 36 KB of the first cache
    static constexpr int kGroup = 8;

    static Vector zero() { return _mm512_setzero_ps(); }
    static Vector load(const float* from) { return _mm512_load_ps(from); }
    static void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
    static Vector broadcast(float value) { return _mm512_set1_ps(value); }
    static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
    static Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
    static uint64_t below(Vector v, Vector cut) {
        return _mm512_cmp_ps_mask(v, cut, _CMP_LT_OQ);
    }
};

#include "tile.inc"

}  // namespace

namespace pdepth {
constexpr Level avx512_level = make_level("avx512");
}
