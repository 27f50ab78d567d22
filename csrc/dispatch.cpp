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

#if defined(__linux__)
// Of arch_prctl: which large registers the kernel knows, and leave for this process to use one.
constexpr int kSupported = 0x1021, kAskLeave = 0x1023;
constexpr unsigned long kTileData = 18;
#endif

bool has_tiles() {
#if defined(__linux__)
    constexpr unsigned kBfloat16 = 1u << 22, kTiles = 1u << 24;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    unsigned long supported = 0;
    return (d & kBfloat16) && (d & kTiles) &&
           syscall(SYS_arch_prctl, kSupported, &supported) == 0 && (supported >> kTileData & 1);
#else
    return false;
#endif
}

bool has_avx_vnni() {
    constexpr unsigned kAvxVnni = 1u << 4;
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kAvxVnni);
}

const Level* const kLevels[] = {&bf16_level,   &portable_level,   &avx2_level, &avxvnni_level,
                                &avx512_level, &avx512vnni_level, &amx_level};

}  // namespace

// A further level adds a line above and its question here.
bool usable(const Level& level) {
    if (&level == &amx_level) return usable(avx512_level) && has_tiles();
    if (&level == &avx512vnni_level)
        return usable(avx512_level) && __builtin_cpu_supports("avx512vnni");
    if (&level == &avx512_level)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               usable(avx2_level);
    if (&level == &avxvnni_level) return usable(avx2_level) && has_avx_vnni();
    if (&level == &avx2_level)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return true;
}

bool enable([[maybe_unused]] const Level& level) {
#if defined(__linux__)
    if (&level == &amx_level) return syscall(SYS_arch_prctl, kAskLeave, kTileData) == 0;
#endif
    return true;
}
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
