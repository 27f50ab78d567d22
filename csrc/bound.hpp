// How far a stage's score may lie from the truth, and what that proves. Derived, with the sources of
// its formulas, in pdepth/certify.py; the tests hold this file to that one, to the last bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "level.hpp"

namespace pdepth {

constexpr double kUnit = 0x1p-24;        // one rounding of float32
constexpr double kLost = 0x1p-126;       // of a product that is lost below float32's normal numbers
constexpr double kMargin = 1.0625;       // on every bound, for the roundings of the bound itself
constexpr double kRoundedUp = 0x1p-18;   // a measured norm is longer by less than this share of it
constexpr double kSettlement = 0x1p-45;  // of squared norms: centring, and float64's own sum
constexpr double kDouble = 0x1p-50;      // several roundings of float64
constexpr double kEndless = std::numeric_limits<double>::infinity();

// The most roundings that one term of a score passes through.
inline double roundings(const FilterStage& stage, int64_t width) {
    const int64_t columns = stage.columns(width);
    const int64_t sections = ceil_div(columns, stage.section);
    return static_cast<double>(std::min(columns, stage.chain) + sections + 6);
}

// The bounds hold up to here: widths of some ten million.
inline bool bounded(const FilterStage& stage, int64_t width) {
    return kUnit * roundings(stage, width) < 1.0 / 32;
}

inline float float_above(double value) {
    const float rounded = static_cast<float>(value);
    if (static_cast<double>(rounded) > value) return rounded;
    return std::nextafterf(rounded, std::numeric_limits<float>::infinity());
}

// Of a true score.
struct Interval {
    double lower, upper;
};

// Of the row at a distance that was computed in float64: within `slack` and float64's own roundings
// of factor * distance - offset. factor 0: a distance says nothing.
struct ScoreOfDistance {
    double factor = 0, offset = 0, slack = 0;

    Interval at(double distance) const {
        const double score = factor * distance, most = slack + kDouble * score;
        return {score - offset - most, score - offset + most};
    }
    // Of the distance of a row whose true score lies in an interval, and wider than that.
    Interval distances(const Interval& score) const {
        const double beside = slack + kDouble * (std::fabs(score.lower) + offset + slack);
        const double above = slack + kDouble * (std::fabs(score.upper) + offset + slack);
        const double least = (score.lower + offset - beside) / factor * (1 - 2 * kDouble);
        const double most = (score.upper + offset + above) / factor * (1 + 2 * kDouble);
        return {std::nextafter(std::max(0.0, least), -kEndless),
                std::nextafter(std::max(0.0, most), kEndless)};
    }
    // Whether there are such.
    bool tells_distances() const { return factor >= std::numeric_limits<double>::min(); }
};

// The largest residual of some rows, as a share of its row's norm.
inline double relative_of(const float* norms, const float* residuals, int64_t count) {
    double relative = 0;
    for (int64_t i = 0; i < count; i++)
        if (residuals[i] > kNegligible)
            relative = std::max(relative, static_cast<double>(residuals[i]) / norms[i]);
    return relative;
}

// The float32 roundings of a scan that takes two terms off a score, twice over.
constexpr double kRowRoundings = 8;

// What a row's norm, and what its packing lost, add to the error of its score.
struct RowShares {
    float of_norm, of_residual;
};

// What the scores by products of packed rows share.
class ByProducts {
public:
    static constexpr bool kByNorm = true;  // the error grows with a row's norm

    struct Query {
        double norm;
        double image;    // at least the norm of what was packed
        double residual;
    };

    // Takes note of support rows before they are scanned: their `relative_of`.
    void add_rows(double relative) { relative_ = std::max(relative_, relative); }

    Query query(float norm, float residual) const {
        return {norm, static_cast<double>(norm) + residual, residual};
    }
    RowShares row_shares(const Query& q) const {
        return {float_above(kMargin * q.residual), float_above(kMargin * q.image)};
    }

protected:
    ByProducts(const FilterStage& stage, int64_t width, double largest_norm)
        : largest_norm_(largest_norm), products_(kUnit * roundings(stage, width)),
          lost_(3 * kLost * (stage.columns(width) + 8)) {}

    // At most that of a support row which was taken note of.
    double residual_of(double norm) const { return relative_ * norm + kNegligible; }

    // The error of a score whose other term is off by `offset`, and the last word by `settled`.
    double error(const Query& q, double norm, double residual, double offset,
                 double settled) const {
        return kMargin * (q.residual * norm + q.image * residual +
                          products_ * q.image * (norm + residual) + offset + settled) +
               lost_;
    }
    // What is left of it for a cut of scores that row_shares have been taken off from, of rows no
    // longer than that.
    double beside_rows(const Query& q, double score, double norm, double offset,
                       double settled) const {
        const double residual = residual_of(norm);
        const double rest =
            kMargin * (products_ * q.image * (norm + residual) + offset + settled) + lost_;
        const double taken = kMargin * (q.residual * norm + q.image * residual);
        return rest + kRowRoundings * kUnit * (std::fabs(score) + rest + taken);
    }

    double largest_norm_, products_;

private:
    double lost_;
    double relative_ = 0;  // the largest residual seen, as a share of its row's norm
};

struct ProductsBound : ByProducts {
    ProductsBound(const FilterStage& stage, int64_t width, double largest_norm)
        : ByProducts(stage, width, largest_norm), norms_(stage.norms_first ? products_ : kUnit) {}

    // Of a support row of that norm and residual.
    double error(const Query& q, double norm, double residual) const {
        return ByProducts::error(q, norm, residual, offset(norm), settled(q, norm));
    }
    // At least the true score of a row at that squared distance; norms were rounded up.
    double score_at(const Query& q, double distance) const {
        const double norm = q.norm * (1 - kRoundedUp);
        return 0.5 * (distance * (1 + kSettlement) - norm * norm);
    }
    // `factor` is that of the squared distance in a true score.
    ScoreOfDistance score_of_distance(const Query& q, double scale) const {
        const double square = 0.5 * q.norm * q.norm, half = kRoundedUp * square;
        return {0.5 * scale * scale, square - half, half + kNegligible * kNegligible};
    }
    Interval bounds(const Query& q, float score, float norm, float residual) const {
        const double most = error(q, norm, residual);
        return {score - most, score + most};
    }

    // No row whose true score is at most `score` is computed at or above this.
    float cut(const Query& q, double score) const {
        const double norm = largest_within(q, score);
        return float_above(score + error(q, norm, residual_of(norm)));
    }
    // Likewise when row_shares have been taken off.
    float row_cut(const Query& q, double score) const {
        const double norm = largest_within(q, score);
        return float_above(score + beside_rows(q, score, norm, offset(norm), settled(q, norm)));
    }

private:
    double offset(double norm) const { return norms_ * norm * norm; }
    double settled(const Query& q, double norm) const {
        return kSettlement * (q.norm * q.norm + norm * norm);
    }
    // Of a row whose true score is at most `score`: it is within sqrt(2 score + |x|^2) of x.
    double largest_within(const Query& q, double score) const {
        const double distance = std::sqrt(std::max(0.0, 2 * score + q.norm * q.norm));
        return std::min(largest_norm_, (q.norm + distance) * kMargin);
    }

    double norms_;
};

// Scores -(x . y) less what all rows of a query have in common: `Panel::half_norms` less the product
// of the centred rows.
struct InnerProductsBound : ByProducts {
    InnerProductsBound(const FilterStage& stage, int64_t width, double largest_norm,
                       double centre_norm)
        : ByProducts(stage, width, largest_norm), centre_norm_(centre_norm),
          offsets_(stage.norms_first ? products_ : 2 * kUnit) {}

    // Of a support row of that norm and residual.
    double error(const Query& q, double norm, double residual) const {
        return ByProducts::error(q, norm, residual, offset(norm), settled(q, norm));
    }
    Interval bounds(const Query& q, float score, float norm, float residual) const {
        const double most = error(q, norm, residual);
        return {score - most, score + most};
    }

    double score_at(const Query&, double /*distance*/) const {  // says nothing about products
        return std::numeric_limits<double>::infinity();
    }
    ScoreOfDistance score_of_distance(const Query&, double /*scale*/) const { return {}; }

    // No row whose true score is at most `score` is computed at or above this.
    float cut(const Query& q, double score) const {
        return float_above(score + error(q, largest_norm_, residual_of(largest_norm_)));
    }
    // Likewise when row_shares have been taken off.
    float row_cut(const Query& q, double score) const {
        return float_above(score + beside_rows(q, score, largest_norm_, offset(largest_norm_),
                                               settled(q, largest_norm_)));
    }

private:
    double offset(double norm) const { return offsets_ * centre_norm_ * norm; }
    double settled(const Query& q, double norm) const {
        return kSettlement * (q.norm + centre_norm_) * (norm + centre_norm_);
    }

    double centre_norm_, offsets_;
};

// Scores |A(y)|^2 / 2 - A(x).A(y) of images.
struct ImagesBound {
    struct Query {
        ByProducts::Query image;
        double departure;
    };

    // departure: of the directions from orthonormal ones. floor: the least length of the last column.
    ImagesBound(const FilterStage& stage, int64_t width, double departure, double floor)
        : images_(stage, width, std::numeric_limits<double>::infinity()),
          projection_(departure +
                      kUnit * std::sqrt(static_cast<double>(kImageColumns)) *
                          static_cast<double>(std::min(width, kProjectedSection) +
                                              ceil_div(width, kProjectedSection) + 4)),
          lost_(3 * kLost * std::sqrt(static_cast<double>(kImageColumns)) *
                static_cast<double>(width + 8)),
          floor_(floor) {}

    void add_rows(double relative) { images_.add_rows(relative); }

    Query query(float norm, float residual) const {
        return {images_.query(norm, residual), departure(norm)};
    }

    // No row whose true squared distance is at most `distance` is computed at or above this. Its norm
    // is at most the query's and that distance together.
    float cut(const Query& q, double distance) const {
        const double root = std::sqrt(distance);
        const double image = root + q.departure + departure(q.image.norm + root);
        return images_.cut(q.image, images_.score_at(q.image, image * image));
    }

private:
    // Of the image of a row of at most that norm from what a contraction makes of the row.
    double departure(double norm) const {
        const double projected = projection_ * norm + lost_;
        return kMargin * (projected + projected * (norm + projected) / floor_ +
                          2 * kUnit * (norm + floor_));
    }

    ProductsBound images_;
    double projection_, lost_, floor_;
};

struct DifferencesBound {
    static constexpr bool kByNorm = false;

    struct Query {
        double residual;
    };

    // `inexact_norm`: the largest norm of a support row that float32 does not hold as it is.
    DifferencesBound(const FilterStage& stage, int64_t width, double inexact_norm)
        : largest_residual_(kUnit * inexact_norm +
                            kLost * std::sqrt(static_cast<double>(width))),
          lost_(3 * kLost * (width + 8)),
          relative_(kMargin * kUnit * roundings(stage, width)) {}

    void add_rows(double) {}

    Query query(float /*norm*/, float residual) const {
        return {kMargin * (residual + largest_residual_)};
    }

    double score_at(const Query&, double distance) const { return distance * (1 + kSettlement); }
    ScoreOfDistance score_of_distance(const Query&, double scale) const {
        return {scale * scale, 0, kNegligible * kNegligible};
    }
    Interval bounds(const Query& q, float score, float /*norm*/, float /*residual*/) const {
        const double least = std::max(0.0, (score - lost_) * (1 - relative_));
        const double near = std::max(0.0, std::sqrt(least) - q.residual);
        const double far = std::sqrt((score + lost_) * (1 + relative_)) + q.residual;
        return {near * near * (1 - kSettlement), far * far * (1 + kSettlement)};
    }
    float cut(const Query& q, double score) const {
        const double distance = std::sqrt(score) + q.residual;
        return float_above(distance * distance * (1 + relative_) * (1 + kSettlement) + lost_);
    }

private:
    double largest_residual_, lost_, relative_;
};

}  // namespace pdepth
