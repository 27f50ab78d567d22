#include "binding.hpp"

#include <algorithm>
#include <cfenv>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "bound.hpp"
#include "call.hpp"
#include "count.hpp"
#include "directions.hpp"
#include "norms.hpp"
#include "scores.hpp"

namespace pdepth::binding {

using namespace py::literals;

void require(bool condition, const std::string& sentence) {
    if (!condition) throw std::invalid_argument(sentence);
}

Matrix matrix_of(const Rows& rows) {
    static const std::pair<const char*, DType> kTypes[] = {
        {"uint8", DType::u8},     {"int8", DType::i8},         {"uint16", DType::u16},
        {"int16", DType::i16},    {"uint32", DType::u32},      {"int32", DType::i32},
        {"uint64", DType::u64},   {"int64", DType::i64},       {"float16", DType::f16},
        {"bfloat16", DType::bf16}, {"float32", DType::f32},    {"float64", DType::f64},
    };
    const auto& [array, type] = rows;
    for (const auto& [name, value] : kTypes) {
        if (type != name) continue;
        require(array.ndim() == 2 &&
                    (array.shape(1) <= 1 || array.strides(1) == array.itemsize()),
                "rows: expected a two-dimensional array, each row contiguous.");
        return {static_cast<const char*>(array.data()), array.shape(0), array.shape(1),
                array.strides(0), array.itemsize(), value};
    }
    throw std::invalid_argument("type: expected an element type, got " + type + ".");
}

Matrix matrix_of(const Rows& rows, const Norms& norms) {
    static_assert(sizeof(Norm) == 2 * sizeof(double), "an array of pairs");
    Matrix matrix = matrix_of(rows);
    if (!norms) return matrix;
    require(norms->size() == 2 * matrix.rows, "norms: expected a factor and a norm of each row.");
    matrix.norms = reinterpret_cast<const Norm*>(norms->data());
    return matrix;
}

const Level& level_named(const std::string& name) {
    int count;
    const Level* const* levels = compiled_levels(&count);
    for (int i = 0; i < count; i++)
        if (levels[i]->name == name && usable(*levels[i]) && enable(*levels[i])) return *levels[i];
    throw std::invalid_argument("level: expected one that this build and machine have, got " +
                                name + ".");
}

namespace {

const FilterStage& stage_named(const Level& level, const std::string& name) {
    for (const FilterStage* stage : {&level.differences, &level.leaves, &level.directions})
        if (stage->name && stage->name == name) return *stage;
    for (int i = 0; i < level.products_count; i++)
        if (level.products[i].name == name) return level.products[i];
    throw std::invalid_argument("stage: expected a filter stage of the level, got " + name + ".");
}

py::dict description_of(const FilterStage& stage) {
    return py::dict("name"_a = stage.name, "multiple"_a = stage.multiple, "step"_a = stage.step,
                    "section"_a = stage.section, "chain"_a = stage.chain,
                    "norms_first"_a = stage.norms_first);
}

template <class T>
T* data_or_null(std::optional<Dense<T>>& array) {
    return array ? array->mutable_data() : nullptr;
}

template <class T>
void require_size(const std::optional<Dense<T>>& array, int64_t size, const char* name) {
    require(!array || array->size() == size, std::string(name) + ": expected " +
                                                 std::to_string(size) + " values, got " +
                                                 std::to_string(array ? array->size() : 0) + ".");
}

template <class T>
bool all_below(const Dense<T>& values, int64_t end) {
    const T* const data = values.data();
    return std::all_of(data, data + values.size(),
                       [end](T value) { return value >= 0 && value < end; });
}

// Rows that the layers have, and one width a layer.
void check_layers(const std::vector<Layer>& layers, const Dense<int32_t>& codes, int32_t classes,
                  const std::optional<Dense<int64_t>>& query_rows, int64_t queries) {
    int64_t fewest = std::numeric_limits<int64_t>::max();
    for (const Layer& layer : layers) {
        const Matrix& support = layer.support->rows;
        require(support.width == layer.queries.width && support.rows == codes.size() &&
                    (query_rows || layer.queries.rows == queries),
                "layers: expected one width, a code for each support row and `queries` queries.");
        fewest = std::min(fewest, layer.queries.rows);
    }
    require(all_below(codes, classes), "codes: expected values from 0 to classes - 1.");
    require_size(query_rows, queries, "query_rows");
    require(!query_rows || all_below(*query_rows, fewest), "query_rows: expected rows of queries.");
}

template <class Sum>
void count_into(const VoteLists& lists, const std::vector<int64_t>& ks, int32_t* votes, bool* tied,
                std::optional<py::array>& counts, double slack, int threads) {
    Sum* into = nullptr;
    if (counts) {
        require(py::isinstance<Dense<Sum>>(*counts), "counts: expected int32, or float64 with weights.");
        into = static_cast<Sum*>(counts->mutable_data());
    }
    std::vector<Tally<Sum>> tallies;
    for (std::size_t i = 0; i < ks.size(); i++) {
        const int64_t at = static_cast<int64_t>(i) * lists.queries;
        tallies.push_back({ks[i], votes + at, reinterpret_cast<uint8_t*>(tied + at),
                           into ? into + at * lists.classes : nullptr});
    }
    py::gil_scoped_release released;
    pdepth::count_votes(lists, std::move(tallies), slack, threads, [] {
        py::gil_scoped_acquire held;
        check_signals();
    });
}

}  // namespace

void check_signals() {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

std::vector<std::pair<std::string, bool>> levels() {
    int count;
    const Level* const* compiled = compiled_levels(&count);
    std::vector<std::pair<std::string, bool>> result;
    for (int i = 0; i < count; i++) result.emplace_back(compiled[i]->name, usable(*compiled[i]));
    return result;
}

std::vector<py::dict> filter_stages(const std::string& name) {
    const Level& level = level_named(name);
    std::vector<py::dict> result;
    for (int i = 0; i < level.products_count; i++)
        result.push_back(description_of(level.products[i]));
    result.push_back(description_of(level.leaves));
    result.push_back(description_of(level.differences));
    return result;
}

py::dict constants() {
    return py::dict("UNIT"_a = kUnit, "LOST"_a = kLost, "MARGIN"_a = kMargin,
                    "SETTLEMENT"_a = kSettlement, "NEGLIGIBLE"_a = kNegligible,
                    "ROUNDED_UP"_a = kRoundedUp, "DOUBLE"_a = kDouble, "TURNING"_a = kTurning,
                    "SUMMED"_a = kSummed, "ROW_ROUNDINGS"_a = kRowRoundings);
}

py::dict image_constants() {
    return py::dict("IMAGE_COLUMNS"_a = kImageColumns, "PROJECTED_SECTION"_a = kProjectedSection);
}

py::dict filter_scores(const Rows& support, const Rows& queries, const std::string& level_name,
                       const std::string& stage_name, std::optional<Dense<double>> centre,
                       double scale, bool inner_products) {
    const Matrix y = matrix_of(support), x = matrix_of(queries);
    require(x.width == y.width && x.width >= 1 && x.rows >= 1 && y.rows >= 1,
            "support, queries: expected rows of one width.");
    require_size(centre, round_up(x.width, 8), "centre");
    require(!inner_products || centre, "centre: expected one for inner products.");
    const Level& level = level_named(level_name);
    const FilterStage& stage = stage_named(level, stage_name);
    Dense<float> scores({x.rows, y.rows}), cuts({x.rows, y.rows}), y_norms(y.rows),
        y_residuals(y.rows), x_norms(x.rows), x_residuals(x.rows);
    Dense<double> lower({x.rows, y.rows}), upper({x.rows, y.rows}), at_norm({x.rows, y.rows}),
        from_lower({x.rows, y.rows}), from_upper({x.rows, y.rows}), nearest({x.rows, y.rows}),
        farthest({x.rows, y.rows});
    const int64_t proven = stage.row_errors ? y.rows : 0;
    Dense<float> row_cuts({x.rows, proven});
    Dense<uint8_t> listed({x.rows, proven, y.rows});
    score_all(y, x, {data_or_null(centre), scale, inner_products}, stage,
              &stage == &level.differences || &stage == &level.leaves,
              {scores.mutable_data(), lower.mutable_data(), upper.mutable_data(),
               at_norm.mutable_data(), from_lower.mutable_data(), from_upper.mutable_data(),
               cuts.mutable_data(), y_norms.mutable_data(), y_residuals.mutable_data(), x_norms.mutable_data(), x_residuals.mutable_data(),
               row_cuts.mutable_data(), listed.mutable_data(), nearest.mutable_data(),
               farthest.mutable_data()});
    return py::dict("scores"_a = scores, "lower"_a = lower, "upper"_a = upper,
                    "at_norm"_a = at_norm, "from_lower"_a = from_lower,
                    "from_upper"_a = from_upper, "cuts"_a = cuts, "support_norms"_a = y_norms,
                    "support_residuals"_a = y_residuals, "query_norms"_a = x_norms,
                    "query_residuals"_a = x_residuals, "row_cuts"_a = row_cuts,
                    "listed"_a = listed, "nearest"_a = nearest, "farthest"_a = farthest);
}

py::dict leaf_scores(const Rows& support, const Rows& queries, const std::string& level_name) {
    const Matrix y = matrix_of(support), x = matrix_of(queries);
    const Level& level = level_named(level_name);
    require(x.width == y.width && x.width >= 1 && x.width <= level.differences.section &&
                x.rows >= 1 && y.rows >= 1,
            "support, queries: expected rows of one width, up to a section's columns.");
    const LeafScores found = score_leaves(y, x, level);
    Dense<int64_t> rows({found.leaves, found.leaf_rows});
    Dense<float> boxes({x.rows, found.leaves}), scores({x.rows, found.leaves, found.leaf_rows});
    std::copy(found.rows.begin(), found.rows.end(), rows.mutable_data());
    std::copy(found.boxes.begin(), found.boxes.end(), boxes.mutable_data());
    std::copy(found.scores.begin(), found.scores.end(), scores.mutable_data());
    return py::dict("rows"_a = rows, "boxes"_a = boxes, "scores"_a = scores);
}

py::dict image_scores(const Rows& support, const Rows& queries, const std::string& level_name,
                      const Dense<float>& directions, double departure, double floor, double scale,
                      const Dense<double>& distances) {
    const Matrix y = matrix_of(support), x = matrix_of(queries);
    const Level& level = level_named(level_name);
    require(level.directions.name, "level: expected one with directions, got " + level_name + ".");
    require(x.width == y.width && x.rows >= 1 && y.rows >= 1 &&
                directions.size() == kImageColumns * x.width && distances.size() == x.rows * y.rows,
            "image_scores: expected arrays of one width.");
    LeadingDirections found;
    std::copy_n(directions.data(), directions.size(), found.values.reserve(directions.size()));
    found.floor = floor;
    found.arrange(level, x.width);
    Dense<float> scores({x.rows, y.rows}), cuts({x.rows, y.rows}), y_norms(y.rows),
        y_residuals(y.rows), x_norms(x.rows), x_residuals(x.rows);
    score_images(y, x, {nullptr, scale, false, found.packed()}, level.directions, departure,
                 distances.data(),
                 {scores.mutable_data(), nullptr, nullptr, nullptr, nullptr, nullptr, cuts.mutable_data(),
                  y_norms.mutable_data(), y_residuals.mutable_data(), x_norms.mutable_data(),
                  x_residuals.mutable_data()});
    return py::dict("scores"_a = scores, "cuts"_a = cuts, "support_norms"_a = y_norms,
                    "support_residuals"_a = y_residuals, "query_norms"_a = x_norms,
                    "query_residuals"_a = x_residuals);
}

py::bytes arithmetic(const std::optional<std::string>& environment) {
    std::fenv_t before, after;
    std::fegetenv(&before);
    const py::bytes kept(reinterpret_cast<const char*>(&before), sizeof before);
    if (environment) {
        require(environment->size() == sizeof after, "environment: expected what this returned.");
        std::memcpy(&after, environment->data(), sizeof after);
    }
    std::fesetenv(environment ? &after : FE_DFL_ENV);
    return kept;
}

int64_t find_norms(const py::array& array, const std::string& type, Dense<double> norms,
                   const std::string& level, int threads) {
    const Matrix matrix = matrix_of({array, type});
    require(norms.size() == 2 * matrix.rows, "norms: expected room for two numbers of each row.");
    auto* const out = reinterpret_cast<Norm*>(norms.mutable_data());
    const Level& chosen = level_named(level);
    py::gil_scoped_release released;
    return pdepth::find_norms(matrix, out, chosen, threads, [] {
        py::gil_scoped_acquire held;
        check_signals();
    });
}

int64_t first_not_finite(const py::array& array, const std::string& type, const std::string& level,
                         int threads) {
    const Matrix matrix = matrix_of({array, type});
    const Level& chosen = level_named(level);
    py::gil_scoped_release released;
    return pdepth::first_not_finite(matrix, chosen, threads, [] {
        py::gil_scoped_acquire held;
        check_signals();
    });
}

void count_votes(const Dense<int32_t>& codes, int32_t classes, const Dense<int64_t>& rows,
                 const std::optional<Dense<double>>& weights, const std::vector<int64_t>& ks,
                 Dense<int32_t> votes, Dense<bool> tied, std::optional<py::array> counts,
                 double slack, int threads) {
    require(rows.ndim() == 2, "rows: expected a two-dimensional array.");
    const VoteLists lists{rows.data(),  weights ? weights->data() : nullptr, rows.shape(0),
                          rows.shape(1), codes.data(), codes.size(), classes};
    const int64_t answers = static_cast<int64_t>(ks.size()) * lists.queries;
    for (int64_t k : ks) require(k >= 1 && k <= lists.width, "ks: expected 1 to the lists' width.");
    require(!ks.empty() && (!weights || weights->size() == rows.size()) &&
                votes.size() == answers && tied.size() == answers &&
                (!counts || counts->size() == answers * classes),
            "count_votes: expected weights as rows, and answers for each of ks.");
    const auto into = weights ? count_into<double> : count_into<int32_t>;
    into(lists, ks, votes.mutable_data(), tied.mutable_data(), counts, slack, threads);
}

double run(const std::vector<LayerRows>& layers,
           const Dense<int32_t>& codes, int32_t classes, int64_t k, bool exclude_self,
           std::optional<Dense<int64_t>> query_rows, int64_t queries,
           std::optional<Dense<int32_t>> target, std::optional<Dense<int32_t>> votes,
           std::optional<Dense<bool>> tied, std::optional<Dense<int32_t>> counts,
           std::optional<Dense<double>> distances, std::optional<Dense<int64_t>> rows,
           std::optional<Dense<double>> upper, std::optional<Dense<double>> within,
           const std::string& level, const std::optional<std::string>& first_stage, int threads,
           int64_t held_bytes, std::optional<bool> pairs,
           std::optional<std::function<void(int64_t, double, int64_t)>> progress) {
    std::vector<Layer> read;
    for (const auto& [support, others, norms] : layers)
        read.push_back({support->support,
                        others ? matrix_of(*others, norms) : support->support->rows, !others});
    check_layers(read, codes, classes, query_rows, queries);
    const int64_t answers = static_cast<int64_t>(layers.size()) * queries;
    const bool nearest = votes && rows;
    require_size(target, queries, "target");
    require_size(within, queries, "within");
    require_size(votes, answers, "votes");
    require_size(tied, answers, "tied");
    require_size(counts, answers * classes, "counts");
    if (rows || distances) {
        require(rows && distances, "rows, distances: expected both or neither.");
        require_size(distances, rows->size(), "distances");
        require_size(upper, rows->size(), "upper");
        if (!upper && !nearest) require_size(rows, answers * k, "rows");
    }
    const int64_t width = (upper || nearest) && rows && answers ? rows->size() / answers : k;
    require(!upper || (rows && width >= k && rows->size() == answers * width && !votes && !within),
            "upper: expected with rows and distances alone, at least k of each query.");
    require(!nearest || (width >= 1 && width <= k && rows->size() == answers * width),
            "rows: expected 1 to k of each query beside votes.");
    require(!target || (votes && !tied && !counts), "target: expected with votes, and rows at most.");
    require(!within || (rows && !votes), "within: expected with rows and distances alone.");
    const Level& chosen = level_named(level);
    const Question question{codes.data(),          classes,    k,
                            exclude_self,          data_or_null(query_rows), queries,
                            data_or_null(target),  held_bytes, data_or_null(within),
                            first_stage ? stage_named(chosen, *first_stage).name : nullptr, pairs};
    Answers out;
    out.votes = data_or_null(votes);
    out.tied = reinterpret_cast<uint8_t*>(data_or_null(tied));
    out.counts = data_or_null(counts);
    (nearest ? out.nearest_distances : out.distances) = data_or_null(distances);
    (nearest ? out.nearest_rows : out.rows) = data_or_null(rows);
    out.upper = data_or_null(upper);
    (nearest ? out.nearest : out.width) = width;
    const Progress report = [&](int64_t layer, double fraction, int64_t count) {
        py::gil_scoped_acquire held;
        check_signals();
        if (progress) (*progress)(layer, fraction, count);
    };
    py::gil_scoped_release released;
    return answer_layers(read, question, out, chosen, threads, report);
}

}  // namespace pdepth::binding
