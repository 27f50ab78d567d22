// The AMX level's arithmetic in plain C++, to the bit: slow, for tests on machines without AMX.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "level.hpp"

namespace {

#include "portable.inc"

struct Simd : Portable {
    static constexpr bool kSaturates = false;  // bytes go to the tiles
};

#include "tile.inc"

class Tiles {
public:
    void begin() {}
    void end() {}
    template <int kTile>
    void load(const void* from, int64_t stride) {
        for (int64_t r = 0; r < 16; r++)
            memcpy(tiles_[kTile] + 64 * r, static_cast<const char*>(from) + r * stride, 64);
    }
    template <int kTile>
    void stream(const void* from, int64_t stride) {
        load<kTile>(from, stride);
    }
    template <int kTile>
    void store(void* to, int64_t stride) {
        for (int64_t r = 0; r < 16; r++)
            memcpy(static_cast<char*>(to) + r * stride, tiles_[kTile] + 64 * r, 64);
    }
    // TDPBF16PS of Intel's manual. The product of two bfloat16 numbers is exact in float32, so a
    // multiplication and an addition are its fused ones; subnormal numbers are taken for zero.
    template <int kSum, int kX, int kY>
    void multiply_add() {
        for (int m = 0; m < 16; m++) {
            float chains[2][16] = {};
            for (int k = 0; k < 16; k++)
                for (int part = 0; part < 2; part++) {
                    const float x = element(kX, m, 2 * k + part);
                    for (int n = 0; n < 16; n++)
                        chains[part][n] = flushed(chains[part][n] +
                                                  flushed(x * element(kY, k, 2 * n + part)));
                }
            float sums[16];
            memcpy(sums, tiles_[kSum] + 64 * m, 64);
            for (int n = 0; n < 16; n++)
                sums[n] = flushed(flushed(sums[n]) + flushed(chains[0][n] + chains[1][n]));
            memcpy(tiles_[kSum] + 64 * m, sums, 64);
        }
    }

    // TDPBSSD, whose sums are exact here.
    template <int kSum, int kX, int kY>
    void multiply_add_bytes() {
        for (int m = 0; m < 16; m++) {
            int32_t sums[16];
            memcpy(sums, tiles_[kSum] + 64 * m, 64);
            for (int k = 0; k < 64; k++)
                for (int n = 0; n < 16; n++)
                    sums[n] += byte(kX, m, k) * byte(kY, k / 4, 4 * n + k % 4);
            memcpy(tiles_[kSum] + 64 * m, sums, 64);
        }
    }
    template <int kTile>
    void zero() {
        memset(tiles_[kTile], 0, sizeof tiles_[kTile]);
    }

private:
    int byte(int tile, int row, int column) const {
        return static_cast<signed char>(tiles_[tile][64 * row + column]);
    }
    static float flushed(float x) { return std::fabs(x) < 0x1p-126f ? 0.0f : x; }
    float element(int tile, int row, int column) const {
        uint16_t half;
        memcpy(&half, tiles_[tile] + 64 * row + 2 * column, 2);
        const uint32_t bits = uint32_t(half) << 16;
        float value;
        memcpy(&value, &bits, 4);
        return flushed(value);
    }

    alignas(64) char tiles_[8][16 * 64];
};

#include "bf16.inc"
#include "byte_tiles.inc"

}  // namespace

namespace pdepth {
constexpr Level bf16_level{"bf16", widen, finite, summarise, squared_distance, inner_product, kth_score,
                           search_leaves, score_boxes,
                           kDifferences, kLeaves, kLeafRows, 4, {kByteTiles, kBfloat16Products<1>, kBfloat16Products<3>, kFloatProducts}};
}
