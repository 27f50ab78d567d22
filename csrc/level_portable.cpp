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
    static constexpr int kChunk = 320;
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
    static uint64_t below(Vector v, Vector cut) {
        uint64_t mask = 0;
        for (int i = 0; i < kLanes; i++) mask |= uint64_t(v.lane[i] < cut.lane[i]) << i;
        return mask;
    }
};

#include "tile.inc"

}  // namespace

namespace pdepth {
constexpr Level portable_level = make_level("portable");
}
