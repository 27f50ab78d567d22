#include <algorithm>
#include <memory>

#include "binding.hpp"
#include "merge.hpp"

namespace pdepth::binding {
namespace {

BoundedLists lists_of(const Lists& lists, int64_t queries) {
    const auto& [begins, lower, upper, named] = lists;
    const int64_t* const at = begins.data();
    require(begins.size() == queries + 1 && at[0] == 0 && at[queries] == named.size() &&
                std::is_sorted(at, at + begins.size()) && lower.size() == named.size() &&
                upper.size() == named.size(),
            "lists: expected the candidates of each query, one behind the other.");
    return {at, lower.data(), upper.data(), named.data()};
}

// An array with the memory of a vector.
template <class T>
py::array_t<T> array_of(std::vector<T>&& values) {
    auto held = std::make_unique<std::vector<T>>(std::move(values));
    const auto size = static_cast<py::ssize_t>(held->size());
    T* const data = held->data();
    const py::capsule owner(held.release(),
                            [](void* kept) { delete static_cast<std::vector<T>*>(kept); });
    return py::array_t<T>(size, data, owner);
}

py::tuple arrays_of(OwnLists&& lists) {
    return py::make_tuple(array_of(std::move(lists.begins)), array_of(std::move(lists.lower)),
                          array_of(std::move(lists.upper)), array_of(std::move(lists.rows)));
}

void poll() {
    py::gil_scoped_acquire held;
    check_signals();
}

}  // namespace

py::tuple merge_lists(const std::vector<Lists>& parts, int64_t k, int64_t width, int threads) {
    require(!parts.empty() && k >= 1, "parts: expected at least one, and k >= 1.");
    const int64_t queries = std::get<0>(parts.front()).size() - 1;
    std::vector<BoundedLists> read;
    for (const Lists& part : parts)
        read.push_back(lists_of(part, queries));
    OwnLists merged;
    {
        py::gil_scoped_release released;
        merged = merge(read, queries, k, width, threads, poll);
    }
    return arrays_of(std::move(merged));
}

py::tuple prove_votes(const Lists& lists, const Dense<int32_t>& codes, int32_t classes, int64_t k,
                      int64_t asked, Dense<int32_t> votes, Dense<bool> tied, Dense<bool> open,
                      int threads) {
    const int64_t queries = votes.size();
    const BoundedLists read = lists_of(lists, queries);
    require(std::all_of(read.rows, read.rows + read.begins[queries],
                        [&](int64_t row) { return row < codes.size(); }),
            "lists: expected rows of the support.");
    require(tied.size() == queries && open.size() == queries && k >= 1,
            "votes, tied, open: expected room for each query.");
    require(std::all_of(codes.data(), codes.data() + codes.size(),
                        [classes](int32_t code) { return code >= 0 && code < classes; }),
            "codes: expected values from 0 to classes - 1.");
    int32_t* const into = votes.mutable_data();
    auto* const ties = reinterpret_cast<uint8_t*>(tied.mutable_data());
    auto* const left = reinterpret_cast<uint8_t*>(open.mutable_data());
    OwnLists rest;
    {
        py::gil_scoped_release released;
        rest = prove(read, queries, {codes.data(), classes, k, asked}, into, ties, left, threads, poll);
    }
    py::array_t<uint8_t> which = array_of(std::move(rest.asked));
    return py::make_tuple(arrays_of(std::move(rest)), which);
}

void settle_pairs(const Rows& support, const Norms& support_norms, const Rows& queries,
                  const Norms& query_norms, const Dense<int64_t>& query_rows,
                  const Dense<int64_t>& rows, Dense<double> distances, const std::string& level,
                  int threads) {
    const Matrix y = matrix_of(support, support_norms), x = matrix_of(queries, query_norms);
    const auto within = [](const Dense<int64_t>& numbers, int64_t end) {
        return std::all_of(numbers.data(), numbers.data() + numbers.size(),
                           [end](int64_t number) { return number >= 0 && number < end; });
    };
    require(x.width == y.width && query_rows.size() == rows.size() &&
                distances.size() == rows.size() && within(query_rows, x.rows) &&
                within(rows, y.rows),
            "settle_pairs: expected pairs of rows of one width.");
    const Pairs pairs{query_rows.data(), rows.data(), rows.size()};
    double* const into = distances.mutable_data();
    const Level& chosen = level_named(level);
    py::gil_scoped_release released;
    pdepth::settle_pairs(y, x, pairs, into, chosen, threads, poll);
}

}  // namespace pdepth::binding
