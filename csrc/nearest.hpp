// Neighbours, and the nearest of many of them in order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace pdepth {

struct Neighbour {
    double distance;  // squared; or the inner product, its sign turned
    int64_t row;

    // A product of which parts overflow either way is NaN, and behind all others.
    bool operator<(const Neighbour& other) const {
        if (distance < other.distance || other.distance < distance) return distance < other.distance;
        if (std::isnan(distance) != std::isnan(other.distance)) return std::isnan(other.distance);
        return row < other.row;
    }
};

// Sorts by equal parts of the range of distances, and then each part: two passes over thousands of
// neighbours in place of a dozen.
class NearestFirst {
public:
    // Leaves the first `count` of the neighbours, in order.
    void keep(std::vector<Neighbour>& neighbours, int64_t count) {
        if (!parted(neighbours)) {
            std::sort(neighbours.begin(), neighbours.end());
            neighbours.resize(count);
            return;
        }
        const auto parts = static_cast<int64_t>(ends_.size());
        for (int64_t part = 0, begin = 0; part < parts && begin < count; begin = ends_[part++])
            if (ends_[part] > begin + 1)
                std::sort(placed_.begin() + begin, placed_.begin() + ends_[part]);
        placed_.resize(count);
        neighbours.swap(placed_);
    }

private:
    static constexpr int64_t kFew = 256;  // for which one sort is as fast

    // Places all neighbours by the part that they fall into, as many parts as neighbours: a
    // rounded product does not fall where its factor grows. False where no parts can be made.
    bool parted(const std::vector<Neighbour>& neighbours) {
        const auto count = static_cast<int64_t>(neighbours.size());
        if (count < kFew) return false;
        double least = std::numeric_limits<double>::infinity(), most = -least;
        bool finite = true;
        for (const Neighbour& n : neighbours) {
            least = std::min(least, n.distance);
            most = std::max(most, n.distance);
            finite &= std::isfinite(n.distance);
        }
        const double scale = static_cast<double>(count) / (most - least);
        if (!finite || !(scale > 0) || !std::isfinite(scale)) return false;
        const auto part = [=](const Neighbour& n) {
            return std::min(count - 1, static_cast<int64_t>((n.distance - least) * scale));
        };
        ends_.assign(count, 0);
        for (const Neighbour& n : neighbours) ends_[part(n)]++;
        int64_t before = 0;
        for (int64_t& end : ends_) before += std::exchange(end, before);
        placed_.resize(count);
        for (const Neighbour& n : neighbours) placed_[ends_[part(n)]++] = n;
        return true;
    }

    std::vector<Neighbour> placed_;
    std::vector<int64_t> ends_;  // of the parts; first of all, their beginnings
};

}  // namespace pdepth
