// Uninitialised memory, aligned for any vector and kept while it is large enough.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#elif defined(_WIN32)
#include <malloc.h>
#endif

namespace pdepth {

template <class T>
class Buffer {
public:
    Buffer() = default;
    ~Buffer() { release(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    void swap(Buffer& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(capacity_, other.capacity_);
    }

    // Room for `count` elements; what it held is lost where it has to grow.
    T* reserve(int64_t count) {
        if (count <= capacity_) return data_;
        constexpr std::size_t kHugePage = std::size_t(1) << 21;
        std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
        const std::size_t alignment = bytes >= kHugePage ? kHugePage : 64;
        bytes = (bytes + alignment - 1) / alignment * alignment;
        release(data_);
        capacity_ = 0;
        data_ = static_cast<T*>(allocated(alignment, bytes));
        if (!data_) throw std::bad_alloc();
        capacity_ = count;
#if defined(__linux__)
        if (alignment == kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
        return data_;
    }

    T* get() const { return data_; }
    int64_t nbytes() const { return capacity_ * static_cast<int64_t>(sizeof(T)); }

private:
#if defined(_WIN32)  // which has no std::aligned_alloc, as it frees by another function
    static void* allocated(std::size_t alignment, std::size_t bytes) {
        return _aligned_malloc(bytes, alignment);
    }
    static void release(void* data) { _aligned_free(data); }
#else
    static void* allocated(std::size_t alignment, std::size_t bytes) {
        return std::aligned_alloc(alignment, bytes);
    }
    static void release(void* data) { std::free(data); }
#endif

    T* data_ = nullptr;
    int64_t capacity_ = 0;
};

}  // namespace pdepth
