#include "stages.hpp"

#include <algorithm>
#include <cstring>

#include "bound.hpp"
#include "images.hpp"

namespace pdepth {
namespace {

constexpr int64_t kDifferencesUpTo = 12;  // columns

// Where the stages begin: the first one, or differences where rows are narrow.
const FilterStage& first_of(const Session& session, const std::vector<const FilterStage*>& stages) {
    const bool narrow = session.support->width <= kDifferencesUpTo;
    return narrow && !session.inner_products() ? *stages.back() : *stages.front();
}

}  // namespace

std::vector<const FilterStage*> stages_of(Session& session) {
    if (!session.reading->bounded()) return {};
    const Level& level = session.level;
    std::vector<const FilterStage*> stages;
    for (int i = 0; i < level.products_count; i++) stages.push_back(&level.products[i]);
    if (!session.inner_products()) stages.push_back(&level.differences);
    if (stages.empty()) return {};

    const char* const forced = session.question.first_stage;
    const bool asked =
        forced && level.directions.name && std::strcmp(level.directions.name, forced) == 0;
    if (images_serve(session) && (forced ? asked : images_pay(session)))
        stages.insert(stages.begin(), &level.directions);
    auto first = std::find_if(stages.begin(), stages.end(), [&](const FilterStage* stage) {
        return forced && !asked ? std::strcmp(stage->name, forced) == 0
                                : stage == &first_of(session, stages);
    });
    stages.erase(stages.begin(), first);
    const int64_t width = session.support->width;
    stages.erase(std::remove_if(stages.begin(), stages.end(),
                                [=](const FilterStage* stage) { return !bounded(*stage, width); }),
                 stages.end());
    return stages;
}

}  // namespace pdepth
