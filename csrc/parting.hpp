// Which of a query's candidates are surely among its k nearest rows, which perhaps, and which are not.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "bound.hpp"
#include "session.hpp"

namespace pdepth {

class Parting {
public:
    Parting(Scratch& s, int64_t k) : s_(s), k_(k) {}

    // Drops what is surely farther than the k-th neighbour.
    void drop_farther() {
        std::vector<Candidate>& candidates = s_.candidates;
        // The k-th neighbour is at most this far; nothing that surely is farther can be one.
        farthest_ = kth_smallest(&Candidate::upper, k_ - 1);
        candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                        [&](const Candidate& c) { return c.lower > farthest_; }),
                         candidates.end());
    }

    // Has the certain neighbours vote; the others of those that are left, s.possible, may.
    // open: how many of them will. all_possible: none is taken to be certain.
    int64_t part(const int32_t* codes, bool all_possible) {
        drop_farther();
        // With k others surely or possibly nearer than this, one below it is surely among the k.
        nearest_other_ = kth_smallest(&Candidate::lower, k_);
        s_.ballot.clear();
        s_.possible.clear();
        auto open = std::min(k_, static_cast<int64_t>(s_.candidates.size()));
        for (Candidate& c : s_.candidates) {
            if (c.upper < nearest_other_ && !all_possible) {
                s_.ballot.add(codes[c.row]);
                open--;
            } else {
                s_.ballot.add_possible(codes[c.row]);
                s_.possible.push_back(&c);
            }
        }
        return open;
    }

    // Leaves, of s.possible, at most so many whose distances are not known: those that lie nearest to
    // where the k-th may be, since these alone keep others from being certain.
    void keep_nearest_to_border(int64_t most) {
        std::vector<Candidate*>& possible = s_.possible;
        possible.erase(std::remove_if(possible.begin(), possible.end(),
                                      [](const Candidate* c) { return c->known; }),
                       possible.end());
        if (static_cast<int64_t>(possible.size()) <= most) return;
        for (Candidate* c : possible) {
            const double gap = c->lower + c->upper - nearest_other_ - farthest_;
            c->gap = std::isfinite(gap) ? std::fabs(gap) : 0;
        }
        std::nth_element(possible.begin(), possible.begin() + most, possible.end(),
                         [](const Candidate* a, const Candidate* b) { return a->gap < b->gap; });
        possible.resize(most);
    }

private:
    double kth_smallest(double Candidate::*value, int64_t k) {
        if (k >= static_cast<int64_t>(s_.candidates.size())) return kEndless;
        s_.sorted.clear();
        for (const Candidate& c : s_.candidates) s_.sorted.push_back(c.*value);
        std::nth_element(s_.sorted.begin(), s_.sorted.begin() + k, s_.sorted.end());
        return s_.sorted[k];
    }

    Scratch& s_;
    int64_t k_;
    double farthest_ = kEndless, nearest_other_ = kEndless;
};

}  // namespace pdepth
