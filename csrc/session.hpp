// What the layers of one call share, and the layer at hand. filter.cpp and settle.cpp work on it.
#pragma once

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "ballot.hpp"
#include "buffer.hpp"
#include "call.hpp"
#include "leaves.hpp"
#include "nearest.hpp"
#include "packed.hpp"
#include "support.hpp"
#include "team.hpp"

namespace pdepth {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The candidates of a query, its `open` neighbours among them.
struct CandidateList {
    int64_t query, open;
    const uint32_t* positions;  // in any order; ascending ones share what they read
    int64_t count;
    double* distances = nullptr;  // of the first `known` of them
    int64_t known = 0;
};

// A row that may be a neighbour: bounds of its true score, and its distance once that is known.
struct Candidate {
    double lower, upper;
    int64_t row;
    bool known = false;
    double value = 0;  // as Neighbour::distance
    double gap = 0;    // from where the k-th neighbour may be
};

// What one thread works with.
struct Scratch {
    explicit Scratch(int32_t classes) : ballot(classes) {}

    Ballot ballot;
    Buffer<float> partial;
    LeafScratch leaves;
    std::vector<double> query;     // widened
    std::vector<double> distance;  // room for the sums of one distance
    std::vector<double> sorted;
    std::vector<Candidate> candidates;
    std::vector<Candidate*> possible;
    std::vector<Neighbour> neighbours;
    std::vector<CandidateList> lists;         // that are settled together;
    std::vector<double> queries, distances;   // of them, the queries widened
    NearestFirst nearest_first;
    std::chrono::steady_clock::duration settling{};
};

// Memory that a thread keeps from call to call, up to a limit: small calls then touch no new pages.
struct Buffers {
    PackedRows packed_support, packed_queries;
    Buffer<float> scores;
    Buffer<uint32_t> positions;

    int64_t nbytes() const {
        return packed_support.nbytes() + packed_queries.nbytes() + scores.nbytes() +
               positions.nbytes();
    }
    static Buffers take() { return std::move(kept()); }
    static void put_back(Buffers&& buffers) {
        if (buffers.nbytes() <= kMostKept) kept() = std::move(buffers);
    }

private:
    static constexpr int64_t kMostKept = int64_t(64) << 20;
    static Buffers& kept() {
        thread_local Buffers buffers;
        return buffers;
    }
};

// Queries are named by their number in the call, 0 .. N - 1.
class Session {
public:
    Session(const Question& question, const Answers& answers, const Level& level, int threads,
            const Progress& progress)
        : question(question), answers(answers), level(level), progress_(progress),
          team(threads, [this] { report(); }) {
        for (int t = 0; t < team.size(); t++)
            scratch.push_back(std::make_unique<Scratch>(question.classes));
    }

    ~Session() { Buffers::put_back(std::move(buffers)); }

    void begin_layer(const Layer& present, int64_t number) {
        layer = &present;
        support = &present.support->rows;
        reading = present.support->read(question.k, level, team);
        index = number;
        done = 0;
        before_ = 0;
        report();
        for (auto& s : scratch) {
            s->query.resize(support->width);
            s->distance.resize(2 * support->width);
        }
    }

    // The next stage, over `items`: those before it count as nine tenths of what remained.
    void begin_stage(int64_t items) {
        if (done) before_ += 0.9 * (1 - before_);
        done = 0;
        total = items;
    }

    int64_t source_row(int64_t query) const {
        return question.query_rows ? question.query_rows[query] : query;
    }
    bool inner_products() const { return layer->support->metric == Metric::inner_product; }
    // The squared distance beyond which a query's neighbours may be left out.
    double within(int64_t query) const {
        return question.within && !inner_products() && !std::isnan(question.within[query])
                   ? question.within[query]
                   : kInfinity;
    }
    bool leaves_out() const { return layer->own_rows && question.exclude_self; }

    const Question& question;
    const Answers& answers;
    const Level& level;
    const Layer* layer = nullptr;
    const Matrix* support = nullptr;
    std::shared_ptr<Reading> reading;
    std::shared_ptr<const Leaves> leaves;  // where the layer's rows are searched in them
    const std::vector<int64_t>* order = nullptr;  // of the present stage: position -> support row
    int64_t index = 0;
    std::atomic<int64_t> done{0};  // of `total`, in the present stage of the layer
    int64_t total = 1;
    std::vector<std::unique_ptr<Scratch>> scratch;
    Buffers buffers = Buffers::take();

private:
    // Stages fill nine tenths of what remains, since they may hand queries on.
    void report() {
        if (!progress_) return;
        const double share =
            static_cast<double>(done) / static_cast<double>(total > 1 ? total : 1);
        progress_(index, before_ + 0.9 * (1 - before_) * share, question.queries);
    }

    const Progress& progress_;
    double before_ = 0;  // the share of the layer's progress that earlier stages have filled

public:
    Team team;  // last: its threads poll what is above
};

}  // namespace pdepth
