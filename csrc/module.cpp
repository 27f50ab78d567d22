// Registration only: arguments come checked from pdepth.backends.cpu.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "bound.hpp"
#include "engine.hpp"
#include "inspect.hpp"

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
        if (levels[i]->name == name && usable(*levels[i]) && enable(*levels[i])) return *levels[i];
    throw std::invalid_argument("this machine or build lacks the level " + name);
}

const Pass& pass_named(const Level& level, const std::string& name) {
    if (level.differences.name == name) return level.differences;
    for (int i = 0; i < level.products_count; i++)
        if (level.products[i].name == name) return level.products[i];
    throw std::invalid_argument("the level has no pass " + name);
}

template <class T>
T* data_or_null(std::optional<Dense<T>>& array) {
    return array ? array->mutable_data() : nullptr;
}

// Python's signal handlers have their say; what they raise ends the call.
void hear_signals() {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

double run(const std::vector<std::pair<Rows, std::optional<Rows>>>& layers,
           const Dense<int32_t>& codes, int32_t classes, int64_t k, bool exclude_self,
           std::optional<Dense<int64_t>> query_rows, int64_t queries,
           std::optional<Dense<int32_t>> wanted, std::optional<Dense<int32_t>> votes,
           std::optional<Dense<bool>> tied, std::optional<Dense<int32_t>> counts,
           std::optional<Dense<double>> distances, std::optional<Dense<int64_t>> rows,
           std::optional<Dense<double>> within, const std::string& level, int threads,
           int64_t held_bytes,
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
    if (wanted && (!votes || tied || counts || rows))
        throw std::invalid_argument("depth only gives votes");
    if (within && (!rows || votes))
        throw std::invalid_argument("votes need every neighbour");
    if (within && within->size() != queries)
        throw std::invalid_argument("one distance a query is wanted");
    const Question question{codes.data(), classes, k, exclude_self, data_or_null(query_rows),
                            queries, data_or_null(wanted), held_bytes,
                            data_or_null(within)};
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
    return probe(walked, question, answers, chosen, threads, report);
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

py::dict facts_of(const Pass& pass) {
    using namespace py::literals;
    return py::dict("name"_a = pass.name, "multiple"_a = pass.multiple, "step"_a = pass.step,
                    "chunk"_a = pass.chunk, "chain"_a = pass.chain,
                    "norms_first"_a = pass.norms_first);
}

std::vector<py::dict> passes(const std::string& name) {
    const Level& level = level_named(name);
    std::vector<py::dict> found;
    for (int i = 0; i < level.products_count; i++) found.push_back(facts_of(level.products[i]));
    found.push_back(facts_of(level.differences));
    return found;
}

py::dict constants() {
    using namespace py::literals;
    return py::dict("UNIT"_a = kUnit, "LOST"_a = kLost, "MARGIN"_a = kMargin,
                    "SETTLEMENT"_a = kSettlement, "NEGLIGIBLE"_a = kNegligible);
}

py::dict lay_open(const Rows& support, const Rows& queries, const std::string& level_name,
                  const std::string& pass_name, std::optional<Dense<double>> centre, double scale) {
    using namespace py::literals;
    const Matrix y = matrix_of(support.first, support.second);
    const Matrix x = matrix_of(queries.first, queries.second);
    if (x.width != y.width || x.width < 1 || x.rows < 1 || y.rows < 1)
        throw std::invalid_argument("rows of one width are wanted");
    if (centre && centre->size() != round_up(x.width, 8))
        throw std::invalid_argument("a centre with zeros up to a multiple of 8 is wanted");
    const Level& level = level_named(level_name);
    const Pass& pass = pass_named(level, pass_name);
    Dense<float> scores({x.rows, y.rows}), cuts({x.rows, y.rows}), y_norms(y.rows),
        y_residuals(y.rows), x_norms(x.rows), x_residuals(x.rows);
    Dense<double> lower({x.rows, y.rows}), upper({x.rows, y.rows}), at({x.rows, y.rows});
    inspect(y, x, {data_or_null(centre), scale}, pass, &pass == &level.differences,
            {scores.mutable_data(), lower.mutable_data(), upper.mutable_data(), at.mutable_data(),
             cuts.mutable_data(), y_norms.mutable_data(), y_residuals.mutable_data(),
             x_norms.mutable_data(), x_residuals.mutable_data()});
    return py::dict("scores"_a = scores, "lower"_a = lower, "upper"_a = upper, "at"_a = at,
                    "cuts"_a = cuts, "support_norms"_a = y_norms, "support_residuals"_a = y_residuals,
                    "query_norms"_a = x_norms, "query_residuals"_a = x_residuals);
}

}  // namespace
}  // namespace pdepth

PYBIND11_MODULE(_native, m) {
    using namespace pdepth;
    m.doc() = "The compiled CPU engine; pdepth.backends.cpu calls it.";
    m.def("levels", &levels, "Compiled levels, best last, and whether this machine runs each.");
    m.def("passes", &passes, "A level's passes as the bound knows them, differences last.",
          py::arg("level"));
    m.def("constants", &constants, "Of the bound; those of pdepth.certify.");
    m.def("inspect", &lay_open, "Every score of one pass, and the bound on the true one.",
          py::arg("support"), py::arg("queries"), py::arg("level"), py::arg("pass_name"),
          py::arg("centre") = py::none(), py::arg("scale") = 1.0);
    m.def("first_not_finite", &find_not_finite, py::arg("array"), py::arg("type"),
          py::arg("level"), py::arg("threads"));
    m.def("run", &run, "Seconds of all threads for float64 distances.", py::kw_only(),
          py::arg("layers"), py::arg("codes"), py::arg("classes"),
          py::arg("k"), py::arg("exclude_self"), py::arg("query_rows"), py::arg("queries"),
          py::arg("wanted"), py::arg("votes").noconvert(), py::arg("tied").noconvert(),
          py::arg("counts").noconvert(), py::arg("distances").noconvert(),
          py::arg("rows").noconvert(), py::arg("within"), py::arg("level"), py::arg("threads"),
          py::arg("held_bytes"), py::arg("progress"));
}
