// What Python calls, before it is registered: arguments become C++'s own types and are
// checked as far as memory depends on them. pdepth.backends.cpu checks what users see.
#pragma once

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support.hpp"

namespace pdepth::binding {

namespace py = pybind11;

// An array and its element type's name: NumPy has no bfloat16, whose bits come as uint16.
using Rows = std::pair<py::array, std::string>;

template <class T>
using Dense = py::array_t<T, py::array::c_style>;

// Of rows: (n, 2), a factor and a norm of each, see csrc/matrix.hpp.
using Norms = std::optional<Dense<double>>;

void check_signals();  // Python's handlers run; what they raise ends the call
void require(bool condition, const std::string& sentence);  // or std::invalid_argument
Matrix matrix_of(const Rows& rows);
Matrix matrix_of(const Rows& rows, const Norms& norms);  // which must outlive it
const Level& level_named(const std::string& name);

// A layer's support as Python holds it: the rows' memory lives as long as it does, and so does that
// of what was packed by another process.
struct HeldSupport {
    py::array array;
    Norms norms;
    std::shared_ptr<Support> support;
    std::vector<py::array> packed;
};

HeldSupport support_of(const Rows& rows, const std::string& metric, int64_t kept_bytes,
                       const Norms& norms);
// The rows of `before` and more after them.
HeldSupport support_after(const HeldSupport& before, const Rows& rows, const Norms& norms);
int64_t nbytes_of(const HeldSupport& held);
bool has_leaves(const HeldSupport& held);  // kept for later calls
// What a support has packed, views of its memory, for a file; None where it has packed nothing.
std::optional<py::dict> packing_of(const HeldSupport& held);
// A support with what `packing_of` returned of the same rows: the arrays are borrowed.
HeldSupport support_with(const Rows& rows, const std::string& metric, int64_t kept_bytes,
                         const py::dict& packing, const Norms& norms);

std::vector<std::pair<std::string, bool>> levels();
std::vector<py::dict> filter_stages(const std::string& level);
py::dict constants();
py::dict image_constants();
py::dict filter_scores(const Rows& support, const Rows& queries, const std::string& level,
                       const std::string& stage, std::optional<Dense<double>> centre,
                       double scale, bool inner_products);
// Scores of images under rows of `directions`, which depart so far from orthonormal ones, and the cut
// at each of `distances`.
py::dict image_scores(const Rows& support, const Rows& queries, const std::string& level,
                      const Dense<float>& directions, double departure, double floor, double scale,
                      const Dense<double>& distances);
py::dict leaf_scores(const Rows& support, const Rows& queries, const std::string& level);
// The calling thread's floating-point environment; the default one is set, or the one passed.
py::bytes arithmetic(const std::optional<std::string>& environment);
int64_t find_norms(const py::array& array, const std::string& type, Dense<double> norms,
                   const std::string& level, int threads);
int64_t first_not_finite(const py::array& array, const std::string& type, const std::string& level,
                         int threads);
void count_votes(const Dense<int32_t>& codes, int32_t classes, const Dense<int64_t>& rows,
                 const std::optional<Dense<double>>& weights, const std::vector<int64_t>& ks,
                 Dense<int32_t> votes, Dense<bool> tied, std::optional<py::array> counts,
                 double slack, int threads);
// A support, and queries with their norms; none for the support's own rows.
using LayerRows = std::tuple<const HeldSupport*, std::optional<Rows>, Norms>;
double run(const std::vector<LayerRows>& layers,
           const Dense<int32_t>& codes, int32_t classes, int64_t k, bool exclude_self,
           std::optional<Dense<int64_t>> query_rows, int64_t queries,
           std::optional<Dense<int32_t>> target, std::optional<Dense<int32_t>> votes,
           std::optional<Dense<bool>> tied, std::optional<Dense<int32_t>> counts,
           std::optional<Dense<double>> distances, std::optional<Dense<int64_t>> rows,
           std::optional<Dense<double>> upper, std::optional<Dense<double>> within,
           const std::string& level, const std::optional<std::string>& first_stage, int threads,
           int64_t held_bytes, std::optional<bool> pairs,
           std::optional<std::function<void(int64_t, double, int64_t)>> progress);
// See csrc/merge.hpp. begins, lower, upper, rows of lists.
using Lists = std::tuple<Dense<int64_t>, Dense<double>, Dense<double>, Dense<int64_t>>;
py::tuple merge_lists(const std::vector<Lists>& parts, int64_t k, int64_t width, int threads);
// The lists of open queries, and which of their distances are asked for.
py::tuple prove_votes(const Lists& lists, const Dense<int32_t>& codes, int32_t classes, int64_t k,
                      int64_t asked, Dense<int32_t> votes, Dense<bool> tied, Dense<bool> open,
                      int threads);
void settle_pairs(const Rows& support, const Norms& support_norms, const Rows& queries,
                  const Norms& query_norms, const Dense<int64_t>& query_rows,
                  const Dense<int64_t>& rows, Dense<double> distances, const std::string& level,
                  int threads);

}  // namespace pdepth::binding
