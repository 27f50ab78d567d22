// CPUID and XGETBV: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapters
// 13.2 (what the system keeps), 14.3, 15.2, 18.3; a flag of the processor's alone may be set where
// the system loses the registers.
#include "processor.hpp"

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <windows.h>
#endif
#endif

namespace pdepth {
namespace {

#if defined(__x86_64__)

struct Registers {
    unsigned a = 0, b = 0, c = 0, d = 0;
};

// Zeros where the processor knows no such leaf.
Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers out;
    if (!__get_cpuid_count(leaf, subleaf, &out.a, &out.b, &out.c, &out.d)) return {};
    return out;
}

constexpr bool has_all(uint64_t set, uint64_t bits) { return (set & bits) == bits; }
constexpr uint64_t bit(int number) { return uint64_t(1) << number; }

// Registers that the system keeps. In assembler: the intrinsic takes a flag of the compiler's.
uint64_t kept_registers() {
    uint32_t low, high;
    asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t(high) << 32 | low;
}

constexpr uint64_t kYmm = bit(1) | bit(2);
constexpr uint64_t kZmm = kYmm | bit(5) | bit(6) | bit(7);
constexpr uint64_t kTiles = bit(17) | bit(18);

#if defined(__APPLE__)
constexpr bool kZmmOnDemand = true;  // macOS keeps them from their first use on, and says so only then
#else
constexpr bool kZmmOnDemand = false;
#endif

#if defined(__linux__)
// Of arch_prctl: which large registers the kernel knows, and leave for this process to use one.
constexpr int kSupported = 0x1021, kAskLeave = 0x1023;
constexpr unsigned long kTileData = 18;
#endif

bool gives_tiles() {
#if defined(__linux__)
    unsigned long supported = 0;
    return syscall(SYS_arch_prctl, kSupported, &supported) == 0 && (supported >> kTileData & 1);
#else
    return false;
#endif
}

Instructions ask() {
    Instructions has;
    const Registers first = cpuid(1, 0), seventh = cpuid(7, 0), more = cpuid(7, 1);
    constexpr uint64_t kFma = bit(12), kXgetbv = bit(27), kAvx = bit(28);
    if (!has_all(first.c, kXgetbv | kAvx)) return has;
    const uint64_t kept = kept_registers();
    constexpr uint64_t kAvx2 = bit(5), kAvxVnni = bit(4);
    has.avx2 = has_all(kept, kYmm) && has_all(first.c, kFma) && has_all(seventh.b, kAvx2);
    has.avx_vnni = has.avx2 && has_all(more.a, kAvxVnni);
    constexpr uint64_t kF = bit(16), kDq = bit(17), kBw = bit(30), kVl = bit(31), kVnni = bit(11);
    has.avx512 = has.avx2 && (kZmmOnDemand || has_all(kept, kZmm)) &&
                 has_all(seventh.b, kF | kDq | kBw | kVl);
    has.avx512_vnni = has.avx512 && has_all(seventh.c, kVnni);
    constexpr uint64_t kBfloat16 = bit(22), kTile = bit(24), kInt8 = bit(25);
    has.amx = has.avx512 && has_all(kept, kTiles) &&
              has_all(seventh.d, kBfloat16 | kTile | kInt8) && gives_tiles();
    return has;
}

#elif defined(__aarch64__)

Instructions ask() {
    Instructions has;
#if defined(__linux__)
    constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP
    has.dot_products = getauxval(AT_HWCAP) & kDotProducts;
#elif defined(__APPLE__)
    int value = 0;
    std::size_t size = sizeof value;
    has.dot_products =
        sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value;
#elif defined(_WIN32)
    constexpr unsigned long kDotProducts = 43;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
    has.dot_products = IsProcessorFeaturePresent(kDotProducts);
#endif
    return has;
}

#else

Instructions ask() { return {}; }

#endif

}  // namespace

const Instructions& instructions() {
    static const Instructions asked = ask();
    return asked;
}

bool enable_amx() {
#if defined(__x86_64__) && defined(__linux__)
    return syscall(SYS_arch_prctl, kAskLeave, kTileData) == 0;
#else
    return false;
#endif
}

}  // namespace pdepth
