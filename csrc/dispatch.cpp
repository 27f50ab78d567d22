// Which levels this build has and which of them this machine can run.
#include "level.hpp"

namespace pdepth {

#if defined(__x86_64__) || defined(_M_X64)
static const Level* const kLevels[] = {&portable_level, &avx2_level, &avx512_level,
                                      &avx512vnni_level};

// A further level adds a line above and its question here.
bool usable(const Level& level) {
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
static const Level* const kLevels[] = {&portable_level};

bool usable(const Level&) { return true; }
#endif

const Level* const* compiled_levels(int* count) {
    *count = sizeof(kLevels) / sizeof(kLevels[0]);
    return kLevels;
}

}  // namespace pdepth
