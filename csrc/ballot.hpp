// The majority of one query's neighbours, some of them perhaps not known yet.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace pdepth {

class Ballot {
public:
    explicit Ballot(int32_t classes) : votes_(classes, 0), possible_(classes, 0) {}

    void clear() {
        for (int32_t c : classes_) votes_[c] = possible_[c] = 0;
        classes_.clear();
    }
    void add(int32_t c) { note(c), votes_[c]++; }
    void add_possible(int32_t c) { note(c), possible_[c]++; }

    // `open` more neighbours come out of the `total` possible ones. Where those are of one class,
    // or all of them come, the counts are known: they are completed, and the answer is true.
    bool complete(int64_t open, int64_t total) {
        if (open == 0) return true;
        for (int32_t c : classes_)
            if (open == total || possible_[c] == total) {
                votes_[c] += static_cast<int32_t>(std::min<int64_t>(open, possible_[c]));
                possible_[c] = 0;
                if (open != total) return true;
            }
        return open == total;
    }

    // The class that wins alone however the open votes fall, or -1.
    int32_t certain_winner(int64_t open, int64_t total) const {
        int32_t best = -1;
        for (int32_t c : classes_)
            if (best < 0 || least(c, open, total) > least(best, open, total)) best = c;
        for (int32_t c : classes_)
            if (c != best && most(c, open) >= least(best, open, total)) return -1;
        return best;
    }

    enum class Wins { never, perhaps, always };

    // Whether class c wins, ties and all, however the open votes fall.
    Wins wins(int32_t c, int64_t open, int64_t total) const {
        if (c < 0) return Wins::never;  // no class of the support
        bool always = true;
        for (int32_t other : classes_) {
            if (other == c) continue;
            // Of equal counts the smaller class is ahead.
            if (least(other, open, total) + (other < c) > most(c, open)) return Wins::never;
            always &= least(c, open, total) + (c < other) > most(other, open);
        }
        return always ? Wins::always : Wins::perhaps;
    }

    // Of complete counts: most votes, of equals the smallest class.
    int32_t winner() const {
        int32_t best = classes_[0];
        for (int32_t c : classes_)
            if (votes_[c] > votes_[best] || (votes_[c] == votes_[best] && c < best)) best = c;
        return best;
    }
    bool tied() const {
        const int32_t most = votes_[winner()];
        return std::count_if(classes_.begin(), classes_.end(),
                             [&](int32_t c) { return votes_[c] == most; }) > 1;
    }
    const std::vector<int32_t>& counts() const { return votes_; }

private:
    int64_t least(int32_t c, int64_t open, int64_t total) const {
        return votes_[c] + std::max<int64_t>(0, open - (total - possible_[c]));
    }
    int64_t most(int32_t c, int64_t open) const {
        return votes_[c] + std::min<int64_t>(open, possible_[c]);
    }
    void note(int32_t c) {
        if (votes_[c] + possible_[c] == 0) classes_.push_back(c);
    }

    std::vector<int32_t> votes_, possible_, classes_;
};

}  // namespace pdepth
