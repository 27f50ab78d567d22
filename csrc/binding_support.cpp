// Supports that Python holds, and their packed forms as arrays.
#include <algorithm>
#include <cstring>

#include "binding.hpp"
#include "directions.hpp"
#include "packing.hpp"

namespace pdepth::binding {

using namespace py::literals;

namespace {

Metric metric_named(const std::string& name) {
    const bool products = name == "inner_product";
    require(products || name == "sqeuclidean",
            "metric: expected sqeuclidean or inner_product, got " + name + ".");
    return products ? Metric::inner_product : Metric::squared_distance;
}

template <class T>
py::array_t<T> view_of(const T* data, int64_t size, const py::capsule& owner) {
    return py::array_t<T>(size, data, owner);
}

template <class T>
T* borrowed(const py::dict& values, const char* name, int64_t size, HeldSupport& held) {
    const auto array = py::cast<Dense<T>>(values[name]);
    require(array.size() == size, std::string("packing: ") + name + " has another size.");
    held.packed.push_back(array);
    return const_cast<T*>(array.data());  // panels that are full are only read
}

}  // namespace

HeldSupport support_of(const Rows& rows, const std::string& metric, int64_t kept_bytes,
                       const Norms& norms) {
    const Matrix matrix = matrix_of(rows, norms);
    require(!norms || metric_named(metric) == Metric::squared_distance,
            "norms: expected none beside inner products.");
    return {rows.first, norms,
            std::make_shared<Support>(matrix, metric_named(metric), kept_bytes), {}};
}

HeldSupport support_after(const HeldSupport& before, const Rows& rows, const Norms& norms) {
    const Matrix matrix = matrix_of(rows, norms), &earlier = before.support->rows;
    require(matrix.width == earlier.width && matrix.type == earlier.type &&
                !matrix.norms == !earlier.norms && matrix.rows >= earlier.rows,
            "rows: expected those of the support before, and more of their width and type.");
    return {rows.first, norms, std::make_shared<Support>(before.support, matrix), before.packed};
}

int64_t nbytes_of(const HeldSupport& held) {
    const std::shared_ptr<Support> support = held.support;
    py::gil_scoped_release released;  // a search that packs holds the lock, and may wait for this
    return support->nbytes();
}

bool has_leaves(const HeldSupport& held) {
    const std::shared_ptr<Support> support = held.support;
    py::gil_scoped_release released;
    const std::shared_ptr<Reading> reading = support->present();
    if (!reading) return false;
    const std::lock_guard<ForkMutex> lock(reading->mutex);
    return reading->leaves != nullptr;
}

std::optional<py::dict> packing_of(const HeldSupport& held) {
    std::shared_ptr<Reading> reading;
    std::vector<PackedStage> stages;
    std::shared_ptr<const LeadingDirections> directions;
    {
        py::gil_scoped_release released;
        reading = held.support->present();
        if (reading) {
            const std::lock_guard<ForkMutex> lock(reading->mutex);
            stages = reading->stages;
            directions = reading->directions;
        }
    }
    if (!reading || reading->rows != held.support->rows.rows) return std::nullopt;
    const py::capsule owner(new std::shared_ptr<Reading>(reading), [](void* kept) {
        delete static_cast<std::shared_ptr<Reading>*>(kept);
    });
    py::list packed;
    for (const PackedStage& stage : stages) {
        if (stage.packed < static_cast<int64_t>(reading->order.size())) continue;
        const int64_t bytes =
            stage.packed * stage.stage->columns(held.support->rows.width) * stage.stage->item_size;
        const py::capsule memory(new std::shared_ptr<KeptRows>(stage.memory), [](void* kept) {
            delete static_cast<std::shared_ptr<KeptRows>*>(kept);
        });
        const Panel& panel = stage.panel;
        packed.append(py::dict(
            "stage"_a = stage.stage->name, "packed"_a = stage.packed, "relative"_a = stage.relative,
            "values"_a = view_of(static_cast<const uint8_t*>(panel.values), bytes, memory),
            "half_norms"_a = view_of(panel.half_norms, stage.packed, memory),
            "norms"_a = view_of(panel.norms, stage.packed, memory),
            "residuals"_a = view_of(panel.residuals, stage.packed, memory),
            "units"_a = view_of(panel.units, stage.stage->units ? stage.packed : 0, memory)));
    }
    py::dict result(
        "level"_a = reading->level->name, "centre_norm"_a = reading->centre_norm,
        "largest_norm"_a = reading->largest_norm, "scale"_a = reading->scale,
        "exact"_a = reading->exact, "keep"_a = reading->keep, "dropped"_a = reading->dropped,
        "first_rows"_a = reading->first_rows,
        "order"_a = view_of(reading->order.data(), static_cast<int64_t>(reading->order.size()), owner),
        "centre"_a =
            view_of(reading->centre.data(), static_cast<int64_t>(reading->centre.size()), owner),
        "stages"_a = packed);
    if (directions && directions->found()) {
        const int64_t size = kImageColumns * held.support->rows.width;
        const py::capsule memory(
            new std::shared_ptr<const LeadingDirections>(directions),
            [](void* kept) { delete static_cast<std::shared_ptr<const LeadingDirections>*>(kept); });
        result["leading_directions"] =
            view_of(static_cast<const float*>(directions->values.get()), size, memory);
        result["departure"] = directions->departure;
        result["floor"] = directions->floor;
        result["survivors"] = directions->survivors;
        result["directions_k"] = directions->k;
    }
    return result;
}

// What `packing_of` kept of a layer's directions; null where there were none.
static std::shared_ptr<const LeadingDirections> directions_with(const py::dict& packing,
                                                                const Level& level, int64_t width) {
    if (!packing.contains("leading_directions")) return nullptr;
    const auto values = py::cast<Dense<float>>(packing["leading_directions"]);
    require(level.directions.name && values.size() == kImageColumns * width,
            "packing: leading_directions has another size.");
    auto found = std::make_shared<LeadingDirections>();
    std::copy_n(values.data(), values.size(), found->values.reserve(values.size()));
    found->departure = py::cast<double>(packing["departure"]);
    found->floor = py::cast<double>(packing["floor"]);
    found->survivors = py::cast<double>(packing["survivors"]);
    found->k = py::cast<int64_t>(packing["directions_k"]);
    found->arrange(level, width);
    return found;
}

template <class T>
static bool equal(const T* a, const T* b, int64_t count) {
    return std::memcmp(a, b, static_cast<std::size_t>(count) * sizeof(T)) == 0;
}

// Whether this build packs the first tile to the same bytes: else another packed the rows, by another
// rule, and bounds that hold for its own queries say nothing of them.
static bool packed_likewise(const Matrix& rows, const Reading& reading, const PackedStage& packed) {
    const FilterStage& stage = *packed.stage;
    const int64_t tile = stage.support_rows;
    const int64_t row_bytes = stage.columns(rows.width) * stage.item_size;
    if (static_cast<int64_t>(reading.order.size()) < tile) return false;  // padding has any bytes
    PackedRows memory;
    const Panel own = memory.reserve(tile, tile, row_bytes), &other = packed.panel;
    Team team(1, [] {});
    pack_positions(rows, reading, 0, tile, stage, own, team);
    return equal(static_cast<char*>(own.values), static_cast<char*>(other.values), tile * row_bytes) &&
           equal(own.half_norms, other.half_norms, tile) && equal(own.norms, other.norms, tile) &&
           equal(own.residuals, other.residuals, tile) &&
           (!stage.units || equal(own.units, other.units, tile));
}

HeldSupport support_with(const Rows& rows, const std::string& metric, int64_t kept_bytes,
                         const py::dict& packing, const Norms& norms) {
    HeldSupport held = support_of(rows, metric, kept_bytes, norms);
    const Matrix& matrix = held.support->rows;
    const Level& level = level_named(py::cast<std::string>(packing["level"]));
    auto reading = std::make_shared<Reading>();
    reading->level = &level;
    reading->metric = held.support->metric;
    reading->centre_norm = py::cast<double>(packing["centre_norm"]);
    reading->largest_norm = py::cast<double>(packing["largest_norm"]);
    reading->scale = py::cast<double>(packing["scale"]);
    reading->exact = py::cast<bool>(packing["exact"]);
    reading->keep = py::cast<int64_t>(packing["keep"]);
    reading->dropped = py::cast<bool>(packing["dropped"]);
    reading->first_rows = py::cast<int64_t>(packing["first_rows"]);
    reading->rows = matrix.rows;
    const auto order = py::cast<Dense<int64_t>>(packing["order"]);
    const auto centre = py::cast<Dense<double>>(packing["centre"]);
    require(centre.size() == round_up(matrix.width, 8), "packing: centre has another size.");
    reading->centre.assign(centre.data(), centre.data() + centre.size());
    reading->order.assign(order.data(), order.data() + order.size());
    reading->positions.assign(matrix.rows, kNoPosition);
    for (std::size_t i = 0; i < reading->order.size(); i++) {
        const int64_t row = reading->order[i];
        require(row >= Reading::kNoRow && row < matrix.rows, "packing: order names no row.");
        if (row != Reading::kNoRow) reading->positions[row] = static_cast<uint32_t>(i);
    }
    reading->directions = directions_with(packing, level, matrix.width);
    for (const py::handle& item : packing["stages"]) {
        const auto values = py::cast<py::dict>(item);
        const auto name = py::cast<std::string>(values["stage"]);
        PackedStage packed;
        for (int i = 0; i <= level.products_count; i++) {
            const FilterStage& stage = i ? level.products[i - 1] : level.differences;
            if (stage.name == name) packed.stage = &stage;
        }
        if (reading->directions && level.directions.name == name) packed.stage = &level.directions;
        packed.packed = py::cast<int64_t>(values["packed"]);
        require(packed.stage && packed.packed == round_up(order.size(), packed.stage->support_rows),
                "packing: expected a filter stage of the level, whole.");
        const int64_t count = packed.packed;
        const int64_t row_bytes = packed.stage->columns(matrix.width) * packed.stage->item_size;
        packed.relative = py::cast<double>(values["relative"]);
        packed.panel.values = borrowed<uint8_t>(values, "values", count * row_bytes, held);
        packed.panel.half_norms = borrowed<float>(values, "half_norms", count, held);
        packed.panel.norms = borrowed<float>(values, "norms", count, held);
        packed.panel.residuals = borrowed<float>(values, "residuals", count, held);
        packed.panel.units =
            borrowed<float>(values, "units", packed.stage->units ? count : 0, held);
        packed.memory = std::make_shared<KeptRows>();  // holds nothing, and has no room for more
        if (packed_likewise(matrix, *reading, packed)) reading->stages.push_back(packed);
    }
    held.support->resume(reading);
    return held;
}

}  // namespace pdepth::binding
