// Any processor: four floats at a time in plain C++, 4 queries x 8 support rows.
#include <cmath>
#include <cstring>

#include "level.hpp"

namespace {

struct Simd {
    struct Vector {
        float lane[4];
    };
    static constexpr int kLanes = 4;
    static constexpr int kQueryRows = 4;
    static constexpr int kSupportVectors = 2;
    struct Whole {
        int32_t lane[4];
    };
    static constexpr int kChunk = 320;
    static constexpr int kIntegerChunk = 640;
    static constexpr int kGroup = 16;

    template <class F>
    static Vector each(F f) {
        return {{f(0), f(1), f(2), f(3)}};
    }
    static Vector zero() { return broadcast(0); }
    static Vector load(const float* from) {
        return each([&](int i) { return from[i]; });
    }
    static void store(float* to, Vector v) {
        for (int i = 0; i < kLanes; i++) to[i] = v.lane[i];
    }
    static Vector broadcast(float value) {
        return each([&](int) { return value; });
    }
    static Vector add(Vector a, Vector b) {
        return each([&](int i) { return a.lane[i] + b.lane[i]; });
    }
    static Vector sub(Vector a, Vector b) {
        return each([&](int i) { return a.lane[i] - b.lane[i]; });
    }
    static Vector multiply_add(Vector a, Vector b, Vector c) {
        return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
    }
    static Vector multiply(Vector a, Vector b) {
        return each([&](int i) { return a.lane[i] * b.lane[i]; });
    }
    static Vector subtract_product(Vector a, Vector b, Vector c) {
        return each([&](int i) { return c.lane[i] - a.lane[i] * b.lane[i]; });
    }
    static uint64_t below(Vector v, Vector cut) {
        uint64_t mask = 0;
        for (int i = 0; i < kLanes; i++) mask |= uint64_t(v.lane[i] < cut.lane[i]) << i;
        return mask;
    }

    static Whole no_sum() { return {}; }
    static Whole load_pairs(const int16_t* from) {
        Whole pairs;
        memcpy(&pairs, from, sizeof pairs);
        return pairs;
    }
    static Whole broadcast_pair(const int16_t* from) {
        Whole pairs;
        for (int32_t& pair : pairs.lane) memcpy(&pair, from, sizeof pair);
        return pairs;
    }
    static Whole add_pairs(Whole sum, Whole x, Whole y) {
        for (int i = 0; i < kLanes; i++) {
            const int32_t low = int16_t(x.lane[i]) * int16_t(y.lane[i]);
            sum.lane[i] += low + (x.lane[i] >> 16) * (y.lane[i] >> 16);
        }
        return sum;
    }
    static Vector rounded(Whole sum) {
        return each([&](int i) { return static_cast<float>(sum.lane[i]); });
    }
};

#include "tile.inc"

}  // namespace

namespace pdepth {
constexpr Level portable_level{"portable", widen, squared_distance, near_kth, kDifferences,
                               2, {kIntegerProducts, kFloatProducts}};
}
