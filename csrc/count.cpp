#include "count.hpp"

#include <algorithm>
#include <stdexcept>

#include "matrix.hpp"
#include "team.hpp"

namespace pdepth {
namespace {

constexpr int64_t kQueriesPerItem = 64;
constexpr int64_t kWorkPerThread = 1 << 18;  // votes and counts that take longer than a thread's start

// What one query's neighbours have added up to so far. Only the classes that have voted are looked
// at, which of many classes are few.
template <class Sum>
class Sums {
public:
    explicit Sums(int32_t classes) : sums_(classes, 0), voted_(classes, 0) {}

    void clear() {
        for (int32_t c : classes_) sums_[c] = 0, voted_[c] = 0;
        classes_.clear();
    }
    void add(int32_t c, Sum votes) {
        sums_[c] += votes;
        if (voted_[c]) return;
        voted_[c] = 1;
        classes_.push_back(c);
    }
    // As NumPy's maximum has it: a NaN is equal to none, and sums of zero are those of all classes.
    void decide(double slack, int32_t* vote, uint8_t* tied) const {
        int32_t best = classes_.front();
        bool ordered = true;
        for (int32_t c : classes_) {
            if (sums_[c] > sums_[best] || (sums_[c] == sums_[best] && c < best)) best = c;
            ordered &= sums_[c] == sums_[c];
        }
        if (!ordered || sums_[best] == 0) {
            *vote = 0;
            *tied = ordered && sums_.size() > 1;
            return;
        }
        *vote = best;
        const double least = static_cast<double>(sums_[best]) * (1 - slack);
        *tied = std::count_if(classes_.begin(), classes_.end(), [&](int32_t c) {
                    return static_cast<double>(sums_[c]) >= least;
                }) > 1;
    }
    void store(Sum* counts) const {
        std::fill_n(counts, sums_.size(), Sum(0));
        for (int32_t c : classes_) counts[c] = sums_[c];
    }

private:
    std::vector<Sum> sums_;
    std::vector<uint8_t> voted_;
    std::vector<int32_t> classes_;
};

int32_t class_at(const VoteLists& lists, int64_t row) {
    if (row < 0 || row >= lists.support)
        throw std::invalid_argument("rows: expected rows of the support.");
    const int32_t c = lists.codes[row];
    if (c < 0 || c >= lists.classes)
        throw std::invalid_argument("codes: expected values from 0 to classes - 1.");
    return c;
}

}  // namespace

template <class Sum>
void count_votes(const VoteLists& lists, std::vector<Tally<Sum>> tallies, double slack, int threads,
                 const std::function<void()>& poll) {
    std::sort(tallies.begin(), tallies.end(),
              [](const Tally<Sum>& a, const Tally<Sum>& b) { return a.k < b.k; });
    int64_t work = lists.queries * tallies.back().k;
    for (const Tally<Sum>& tally : tallies) work += tally.counts ? lists.queries * lists.classes : 0;
    const auto useful = static_cast<int>(std::min<int64_t>(threads, work / kWorkPerThread));
    Team team(std::max(1, useful), poll);
    std::vector<Sums<Sum>> scratch(team.size(), Sums<Sum>(lists.classes));
    team.run(ceil_div(lists.queries, kQueriesPerItem), [&](int64_t item, int thread) {
        Sums<Sum>& sums = scratch[thread];
        const int64_t end = std::min(lists.queries, (item + 1) * kQueriesPerItem);
        for (int64_t query = item * kQueriesPerItem; query < end; query++) {
            const int64_t first = query * lists.width;
            sums.clear();
            int64_t counted = 0;
            for (const Tally<Sum>& tally : tallies) {
                for (; counted < tally.k; counted++)
                    sums.add(class_at(lists, lists.rows[first + counted]),
                             lists.weights ? static_cast<Sum>(lists.weights[first + counted]) : Sum(1));
                sums.decide(slack, tally.votes + query, tally.tied + query);
                if (tally.counts) sums.store(tally.counts + query * lists.classes);
            }
        }
    });
}

template void count_votes(const VoteLists&, std::vector<Tally<int32_t>>, double, int,
                          const std::function<void()>&);
template void count_votes(const VoteLists&, std::vector<Tally<double>>, double, int,
                          const std::function<void()>&);

}  // namespace pdepth
