// What is found out of a query's list of candidates in one pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

namespace pdepth {

// The largest of `values` of the candidates whose score is at most `best`. They are not negative,
// and so in the order of their bits; which ones count cannot be foreseen, so nothing branches.
inline float largest_of(const float* values, const float* scores, const uint32_t* positions,
                        int64_t count, float best) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        std::memcpy(&bits, values + positions[i], sizeof bits);
#if defined(__clang__)
        asm("" : "+r"(bits));  // else it reads, behind a branch, only those that count
#endif
        bits &= -static_cast<int32_t>(scores[i] <= best);
        largest = std::max(largest, bits);
    }
    float value;
    std::memcpy(&value, &largest, sizeof value);
    return value;
}

struct Gap {
    int64_t near;      // candidates whose score is at most some score
    float last, next;  // their largest score, and the least of the others; infinite without any
};

inline Gap gap_after(const float* scores, int64_t count, float best) {
    constexpr float kNone = std::numeric_limits<float>::infinity();
    Gap gap{0, -kNone, kNone};
    for (int64_t i = 0; i < count; i++) {
        const bool is_near = scores[i] <= best;
        gap.near += is_near;
        gap.last = std::max(gap.last, is_near ? scores[i] : -kNone);
        gap.next = std::min(gap.next, is_near ? kNone : scores[i]);
    }
    return gap;
}

}  // namespace pdepth
