#include "call.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "filter.hpp"
#include "images.hpp"
#include "settle.hpp"
#include "stages.hpp"

namespace pdepth {
namespace {

// Multiply-adds for which it pays to start another thread.
constexpr double kWorkOfThread = 1 << 24;

// No more threads than the work is worth, or than can share it: a small call begins none.
int threads_for(const std::vector<Layer>& layers, int64_t queries, const Level& level, int most) {
    double work = 0;
    int64_t items = 1;
    for (const Layer& layer : layers) {
        const Matrix& rows = layer.support->rows;
        const FilterStage& stage = level.products_count ? level.products[0] : level.differences;
        const int64_t padded = round_up(queries, stage.query_rows);
        const bool packs = !layer.support->kept_bytes || !layer.support->present();
        work += static_cast<double>(rows.rows) * static_cast<double>(rows.width) *
                (static_cast<double>(padded) + (packs ? kToPack : 0));
        items = std::max(items, packs ? most : padded / stage.query_rows);
    }
    return static_cast<int>(std::min({static_cast<double>(most), static_cast<double>(items),
                                      1 + work / kWorkOfThread}));
}

// The stages in turn, each with the queries that the one before could not serve.
void answer_layer(Session& session, const Layer& layer, int64_t index,
                  const std::vector<int64_t>& queries) {
    session.begin_layer(layer, index);
    session.leaves = leaves_for(session, queries);
    const Reading& reading = *session.reading;
    const int64_t width = session.support->width;
    const double scaled = reading.largest_norm * reading.scale;
    std::vector<int64_t> remaining = queries;
    for (const FilterStage* stage : stages_of(session, static_cast<int64_t>(queries.size()))) {
        const auto count = static_cast<int64_t>(remaining.size());
        if (remaining.empty() || (count < session.question.queries && too_few(session, *stage, count)))
            break;
        const FilterStage& differences = session.level.differences;
        if (stage->images) {
            remaining = filter_images(session, remaining);
        } else if (stage == &differences || stage == &session.level.leaves) {
            const Leaves* const leaves = stage == &differences ? nullptr : session.leaves.get();
            const DifferencesBound bound(differences, width, reading.exact ? 0 : scaled);
            if (leaves) remaining = near_together(*leaves, session, remaining);
            remaining = filter(session, differences, bound, remaining, leaves);
        } else if (session.inner_products()) {
            const InnerProductsBound bound(*stage, width, scaled,
                                           reading.centre_norm * reading.scale);
            remaining = filter(session, *stage, bound, remaining);
        } else {
            remaining = filter(session, *stage, ProductsBound(*stage, width, scaled), remaining);
        }
    }
    settle_completely(session, remaining);
}

}  // namespace

double answer_layers(const std::vector<Layer>& layers, const Question& question,
                     const Answers& answers, const Level& level, int threads,
                     const Progress& progress) {
    Session session(question, answers, level,
                    threads_for(layers, question.queries, level, threads), progress);
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
    Team team(threads_to_read(matrix, threads), poll);
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
