// The filter stage on images of rows under a layer's leading directions, see directions.hpp.
#pragma once

#include <cstdint>
#include <vector>

#include "session.hpp"

namespace pdepth {

// Whether the stage can serve the session's present layer.
bool images_serve(const Session& session);

// Whether it will serve it sooner than `other`, which is first without it: measured on some rows.
bool images_pay(Session& session, const FilterStage& other);

// Answers `queries` (numbers of the call) from images, and from distances in float32 of the few rows
// that those leave. Returns the queries that need another stage.
std::vector<int64_t> filter_images(Session& session, const std::vector<int64_t>& queries);

}  // namespace pdepth
