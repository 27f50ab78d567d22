// Registration only: arguments come checked from pdepth.backends.cpu.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "engine.hpp"

namespace py = pybind11;

namespace pdepth {
namespace {

// An array and its element type's name: NumPy has no bfloat16, whose bits come as uint16.
using Rows = std::pair<py::array, std::string>;

template <class T>
using Dense = py::array_t<T, py::array::c_style>;

Matrix matrix_of(const py::array& array, const std::string& type) {
    static const std::pair<const char*, DType> kTypes[] = {
        {"uint8", DType::u8},     {"int8", DType::i8},         {"uint16", DType::u16},
        {"int16", DType::i16},    {"uint32", DType::u32},      {"int32", DType::i32},
        {"uint64", DType::u64},   {"int64", DType::i64},       {"float16", DType::f16},
        {"bfloat16", DType::bf16}, {"float32", DType::f32},    {"float64", DType::f64},
    };
    for (const auto& [name, value] : kTypes) {
        if (type != name) continue;
        if (array.ndim() != 2 || (array.shape(1) > 1 && array.strides(1) != array.itemsize()))
            throw std::invalid_argument("rows must be two-dimensional, each row contiguous");
        return {static_cast<const char*>(array.data()), array.shape(0), array.shape(1),
                array.strides(0), array.itemsize(), value};
    }
    throw std::invalid_argument("unknown element type " + type);
}

const Level& level_named(const std::string& name) {
    int count;
    const Level* const* levels = compiled_levels(&count);
    for (int i = 0; i < count; i++)
        if (levels[i]->name == name && usable(*levels[i])) return *levels[i];
    throw std::invalid_argument("this machine or build lacks the level " + name);
}

template <class T>
T* data_or_null(std::optional<Dense<T>>& array) {
    return array ? array->mutable_data() : nullptr;
}

// Python's signal handlers have their say; what they raise ends the call.
void hear_signals() {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

void run(const std::vector<std::pair<Rows, std::optional<Rows>>>& layers, const Dense<int32_t>& codes,
         int32_t classes, int64_t k, bool exclude_self,
         std::optional<Dense<int64_t>> query_rows, int64_t queries,
         std::optional<Dense<int32_t>> wanted, std::optional<Dense<int32_t>> votes,
         std::optional<Dense<bool>> tied, std::optional<Dense<int32_t>> counts,
         std::optional<Dense<double>> distances, std::optional<Dense<int64_t>> rows,
         const std::string& level, int threads,
         std::optional<std::function<void(int64_t, double, int64_t)>> progress) {
    std::vector<Layer> walked;
    for (const auto& [support, asked] : layers) {
        const Matrix own = matrix_of(support.first, support.second);
        walked.push_back({own, asked ? matrix_of(asked->first, asked->second) : own, !asked});
    }
    for (const Layer& layer : walked)
        if (layer.queries.width != layer.support.width ||
            (!query_rows && layer.queries.rows != queries))
            throw std::invalid_argument("the layers' shapes do not fit together");
    const Question question{codes.data(), classes, k, exclude_self, data_or_null(query_rows),
                            queries, data_or_null(wanted)};
    Answers answers;
    answers.votes = data_or_null(votes);
    answers.tied = reinterpret_cast<uint8_t*>(data_or_null(tied));
    answers.counts = data_or_null(counts);
    answers.distances = data_or_null(distances);
    answers.rows = data_or_null(rows);
    const Progress report = [&](int64_t layer, double fraction, int64_t alive) {
        py::gil_scoped_acquire held;
        hear_signals();
        if (progress) (*progress)(layer, fraction, alive);
    };
    const Level& chosen = level_named(level);
    py::gil_scoped_release released;
    probe(walked, question, answers, chosen, threads, report);
}

int64_t find_not_finite(const py::array& array, const std::string& type, const std::string& level,
                        int threads) {
    const Matrix matrix = matrix_of(array, type);
    const Level& chosen = level_named(level);
    py::gil_scoped_release released;
    return first_not_finite(matrix, chosen, threads, [] {
        py::gil_scoped_acquire held;
        hear_signals();
    });
}

std::vector<std::pair<std::string, bool>> levels() {
    int count;
    const Level* const* compiled = compiled_levels(&count);
    std::vector<std::pair<std::string, bool>> found;
    for (int i = 0; i < count; i++) found.emplace_back(compiled[i]->name, usable(*compiled[i]));
    return found;
}

}  // namespace
}  // namespace pdepth

PYBIND11_MODULE(_native, m) {
    using namespace pdepth;
    m.doc() = "The compiled CPU engine; pdepth.backends.cpu calls it.";
    m.def("levels", &levels, "Compiled levels, best last, and whether this machine runs each.");
    m.def("first_not_finite", &find_not_finite, py::arg("array"), py::arg("type"),
          py::arg("level"), py::arg("threads"));
    m.def("run", &run, py::kw_only(), py::arg("layers"), py::arg("codes"), py::arg("classes"),
          py::arg("k"), py::arg("exclude_self"), py::arg("query_rows"), py::arg("queries"),
          py::arg("wanted"), py::arg("votes").noconvert(), py::arg("tied").noconvert(),
          py::arg("counts").noconvert(), py::arg("distances").noconvert(),
          py::arg("rows").noconvert(), py::arg("level"), py::arg("threads"), py::arg("progress"));
}
