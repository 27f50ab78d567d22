// A borrowed view of rows in the caller's memory, of any of the element types that pdepth reads.
#pragma once

#include <cstdint>

namespace pdepth {

// static: also levels use them, which may share no code.
static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

enum class DType { u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64 };

// Of a row that counts by its direction alone: `factor` is a power of two, and `norm` that of the row
// times it, so that an element stands for x * factor / norm. The factor is 1 but for float64, which
// holds rows whose norm it does not. pdepth.definition.as_rows has the same bits.
struct Norm {
    double factor, norm;
};

struct Matrix {
    const char* data = nullptr;
    int64_t rows = 0;
    int64_t width = 0;
    int64_t stride = 0;  // bytes from one row to the next; the elements of a row are contiguous
    int64_t item_size = 0;
    DType type = DType::f32;
    const Norm* norms = nullptr;  // of each row, for the cosine metric; null: rows count as they are

    const void* row(int64_t i) const { return data + i * stride; }
};

// Threads that read all rows once, at most `most`: it does not pay to begin one for a megabyte.
static constexpr int threads_to_read(const Matrix& matrix, int most) {
    const int64_t megabytes = matrix.rows * matrix.width * matrix.item_size >> 20;
    return megabytes < most ? static_cast<int>(megabytes) + (megabytes < 1) : most;
}

}  // namespace pdepth
