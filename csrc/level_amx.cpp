// AMX: bfloat16 tiles as a first filter, 32 times as many products a cycle as AVX2's; three products
// of split numbers where that leaves too much open; then the stages of AVX-512.
#include <immintrin.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "level.hpp"

namespace {

#include "avx512.inc"

struct Simd : Avx512 {
    static constexpr bool kSaturates = false;  // bytes go to the tiles
};

#include "tile.inc"

// The tile registers, in assembler: gcc's own intrinsics do not say what memory they touch.
struct Tiles {
    struct Configuration {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    };

    void begin() {
        alignas(64) Configuration all{};
        all.palette = 1;
        for (int i = 0; i < 8; i++) all.rows[i] = 16, all.row_bytes[i] = 64;
        asm volatile("ldtilecfg %0" ::"m"(all));
    }
    void end() { asm volatile("tilerelease"); }

    template <int kTile>
    void load(const void* from, int64_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile)
                     : "memory");
    }
    // Of what is read once and should not push other things out of the first cache.
    template <int kTile>
    void stream(const void* from, int64_t stride) {
        asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile)
                     : "memory");
    }
    template <int kTile>
    void store(void* to, int64_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile)
                     : "memory");
    }
    template <int kSum, int kX, int kY>
    void multiply_add() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kX), "i"(kY));
    }
    template <int kSum, int kX, int kY>
    void multiply_add_bytes() {
        asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kX), "i"(kY));
    }
    template <int kTile>
    void zero() {
        asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
    }
};

#include "bf16.inc"
#include "byte_tiles.inc"

}  // namespace

namespace pdepth {
constexpr Level amx_level{"amx", widen, finite, summarise, squared_distance, inner_product, kth_score,
                          search_leaves, score_boxes,
                           kDifferences, kLeaves, kLeafRows, 4, {kByteTiles, kBfloat16Products<1>, kBfloat16Products<3>, kFloatProducts}};
}
