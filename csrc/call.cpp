#include "call.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "filter.hpp"
#include "settle.hpp"

namespace pdepth {
namespace {

constexpr int64_t kDifferencesUpTo = 12;  // columns

// The stages in turn, each with the queries that the one before could not serve.
void answer_layer(Session& session, const Layer& layer, int64_t index,
                  const std::vector<int64_t>& queries) {
    session.begin_layer(layer, index);
    const Level& level = session.level;
    const int64_t width = layer.support.width;
    const Support support(layer.support, session.question.k + 1, session.leaves_out(), level,
                          session.team);
    session.support = &support;
    const double norm = support.largest_norm;
    std::vector<int64_t> remaining = queries;
    if (norm == 0 || (norm > 0x1p-400 && norm < 0x1p400)) {
        session.scale = norm == 0 ? 1 : std::ldexp(1.0, kScaledExponent - 1 - std::ilogb(norm));
        const double scaled = norm * session.scale;
        for (int i = 0; i < level.products_count && width > kDifferencesUpTo; i++) {
            const FilterStage& stage = level.products[i];
            if (remaining.empty() || !bounded(stage, width)) continue;
            remaining = filter(session, stage, ProductsBound(stage, width, scaled),
                               support.centre.data(), remaining);
        }
        if (!remaining.empty() && bounded(level.differences, width)) {
            // Rows that float32 holds as they are need no centre, which would round them.
            const DifferencesBound bound(level.differences, width, support.exact ? 0 : scaled);
            remaining = filter(session, level.differences, bound,
                               support.exact ? nullptr : support.centre.data(), remaining);
        }
    }
    settle_completely(session, remaining);
}

}  // namespace

double answer_layers(const std::vector<Layer>& layers, const Question& question,
                     const Answers& answers, const Level& level, int threads,
                     const Progress& progress) {
    Session session(question, answers, level, threads, progress);
    std::vector<int64_t> queries(question.queries);
    std::iota(queries.begin(), queries.end(), 0);
    const auto count = static_cast<int64_t>(queries.empty() ? 0 : layers.size());
    for (int64_t index = 0; index < count; index++)
        answer_layer(session, layers[index], index, queries);
    std::chrono::steady_clock::duration settling{};
    for (const auto& s : session.scratch) settling += s->settling;
    return std::chrono::duration<double>(settling).count();
}

int64_t first_not_finite(const Matrix& matrix, const Level& level, int threads,
                         const std::function<void()>& poll) {
    std::atomic<int64_t> first{matrix.rows};
    constexpr int64_t kRows = 64;
    Team team(threads, poll);
    team.run(ceil_div(matrix.rows, kRows), [&](int64_t item, int) {
        const int64_t end = std::min(matrix.rows, (item + 1) * kRows);
        for (int64_t row = item * kRows; row < end && row < first; row++) {
            if (level.finite(matrix.row(row), matrix.type, matrix.width)) continue;
            int64_t known = first;
            while (row < known && !first.compare_exchange_weak(known, row)) {}
            return;
        }
    });
    return first < matrix.rows ? first.load() : -1;
}

}  // namespace pdepth
