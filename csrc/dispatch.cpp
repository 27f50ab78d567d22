// Which levels this build has and which of them this machine can run.
#include "level.hpp"
#include "processor.hpp"

namespace pdepth {

// A further level adds a line here and its question below.
#if defined(__x86_64__)
static const Level* const kLevels[] = {&bf16_level,   &portable_level,   &avx2_level, &avxvnni_level,
                                       &avx512_level, &avx512vnni_level, &amx_level};

bool usable(const Level& level) {
    const Instructions& has = instructions();
    if (&level == &avx2_level) return has.avx2;
    if (&level == &avxvnni_level) return has.avx_vnni;
    if (&level == &avx512_level) return has.avx512;
    if (&level == &avx512vnni_level) return has.avx512_vnni;
    if (&level == &amx_level) return has.amx;
    return true;
}

bool enable(const Level& level) { return &level != &amx_level || enable_amx(); }
#elif defined(__aarch64__)
static const Level* const kLevels[] = {&bf16_level, &portable_level, &neon_level, &neondot_level};

bool usable(const Level& level) {
    return &level != &neondot_level || instructions().dot_products;
}
bool enable(const Level&) { return true; }
#else
static const Level* const kLevels[] = {&bf16_level, &portable_level};

bool usable(const Level&) { return true; }
bool enable(const Level&) { return true; }
#endif

const Level* const* compiled_levels(int* count) {
    *count = sizeof(kLevels) / sizeof(kLevels[0]);
    return kLevels;
}

}  // namespace pdepth
