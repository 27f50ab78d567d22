#include "count.hpp"

#include <algorithm>
#include <stdexcept>

#include "matrix.hpp"
#include "team.hpp"

namespace pdepth {
namespace {

constexpr int64_t kQueriesPerItem = 64;
constexpr int64_t kWorkPerThread = 1 << 18;  // votes and counts that take longer than a thread's start

int32_t class_at(const VoteLists& lists, int64_t row) {
    if (row < 0 || row >= lists.support)
        throw std::invalid_argument("rows: expected rows of the support.");
    const int32_t c = lists.codes[row];
    if (c < 0 || c >= lists.classes)
        throw std::invalid_argument("codes: expected values from 0 to classes - 1.");
    return c;
}

// What one query's neighbours have added up to so far. Only the classes that have voted are looked
// at, which of many classes are few.
template <class Sum>
class Sums {
public:
    explicit Sums(int32_t classes) : sums_(classes, 0), voted_(classes, 0), classes_(classes + 1) {}

    void clear() {
        for (int32_t i = 0; i < count_; i++) sums_[classes_[i]] = 0, voted_[classes_[i]] = 0;
        count_ = 0;
    }
    // The votes of neighbours from `begin` to `end` of a list, its rows and weights. Whether a class
    // has voted before is asked without a branch, which nobody could predict.
    void add(const VoteLists& lists, const int64_t* rows, const double* weights, int64_t begin,
             int64_t end) {
        Sum* const sums = sums_.data();
        uint8_t* const voted = voted_.data();
        int32_t* const classes = classes_.data();
        int32_t count = count_;
        for (int64_t i = begin; i < end; i++) {
            const int32_t c = class_at(lists, rows[i]);
            sums[c] += weights ? static_cast<Sum>(weights[i]) : Sum(1);
            classes[count] = c;
            count += !voted[c];
            voted[c] = 1;
        }
        count_ = count;
    }
    // As NumPy's maximum has it: a NaN is equal to none, and sums of zero are those of all classes.
    void decide(double slack, int32_t* vote, uint8_t* tied) const {
        Sum most = sums_[classes_[0]];
        bool ordered = true;
        for (int32_t i = 0; i < count_; i++) {
            const Sum sum = sums_[classes_[i]];
            most = sum > most ? sum : most;
            ordered &= sum == sum;
        }
        if (!ordered || most == 0) {
            *vote = 0;
            *tied = ordered && sums_.size() > 1;
            return;
        }
        const double least = static_cast<double>(most) * (1 - slack);
        int32_t best = static_cast<int32_t>(sums_.size()), near = 0;
        for (int32_t i = 0; i < count_; i++) {
            const int32_t c = classes_[i];
            best = sums_[c] == most && c < best ? c : best;
            near += static_cast<double>(sums_[c]) >= least;
        }
        *vote = best;
        *tied = near > 1;
    }
    void store(Sum* counts) const {
        for (int32_t i = 0; i < count_; i++) counts[classes_[i]] = sums_[classes_[i]];
    }

private:
    std::vector<Sum> sums_;
    std::vector<uint8_t> voted_;
    std::vector<int32_t> classes_;  // those that have voted, `count_` of them, and room for one
    int32_t count_ = 0;
};

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
            const double* const weights = lists.weights ? lists.weights + first : nullptr;
            sums.clear();
            int64_t counted = 0;
            for (const Tally<Sum>& tally : tallies) {
                sums.add(lists, lists.rows + first, weights, counted, tally.k);
                counted = tally.k;
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
