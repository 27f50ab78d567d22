// Which levels this build has and which of them this machine can run.
#include "level.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pdepth {

#if defined(__x86_64__)
namespace {

// The processor has bfloat16 tiles, and the system lets this process use them.
bool may_use_tiles() {
#if defined(__linux__)
    constexpr unsigned kBfloat16 = 1u << 22, kTiles = 1u << 24;
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if (!(d & kBfloat16) || !(d & kTiles)) return false;
    static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return granted;
#else
    return false;
#endif
}

const Level* const kLevels[] = {&bf16_level,   &portable_level,   &avx2_level,
                                &avx512_level, &avx512vnni_level, &amx_level};

}  // namespace

// A further level adds a line above and its question here.
bool usable(const Level& level) {
    if (&level == &amx_level) return may_use_tiles() && usable(avx512_level);
    if (&level == &avx512vnni_level)
        return __builtin_cpu_supports("avx512vnni") && usable(avx512_level);
    if (&level == &avx512_level)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               usable(avx2_level);
    if (&level == &avx2_level)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return true;
}
#else
static const Level* const kLevels[] = {&bf16_level, &portable_level};

bool usable(const Level&) { return true; }
#endif

const Level* const* compiled_levels(int* count) {
    *count = sizeof(kLevels) / sizeof(kLevels[0]);
    return kLevels;
}

}  // namespace pdepth
