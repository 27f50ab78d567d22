// What this machine's processor has, and its system keeps of it as it switches between threads.
#pragma once

namespace pdepth {

struct Instructions {
    bool avx2 = false;  // and FMA
    bool avx_vnni = false;
    bool avx512 = false;  // F, BW, DQ, VL
    bool avx512_vnni = false;
    bool amx = false;  // tiles of bfloat16 and of bytes
    bool dot_products = false;  // NEON's, of bytes
};

// Asked once. Not of the compiler's run-time library, which answers no to all of it where clang links
// statically.
const Instructions& instructions();

// Asks the system for the tile registers, which it gives to a process that asks.
bool enable_amx();

}  // namespace pdepth
