// How far a filter's score may lie from the truth, and what that proves.
//
// Notation: u = 2^-24, the rounding of float32; x, y the exact rows after the layer's transform;
// x^, y^ their float32 images; S the true score; s the computed one. Accumulation bounds are those
// of Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1 (a sum of n
// products errs by at most n u / (1 - n u) times the sum of their magnitudes, whatever its order).
//
// Products, S = |y|^2 / 2 - x.y. With n the longest chain of roundings a product passes through
// (its own, one chunk, then the chunks' sums):
//     |x.y - x^.y^| <= 2 u |x| |y|                   images, each within u of its row
//     |fl(x^.y^) - x^.y^| <= n u |x| |y|             Cauchy-Schwarz on the magnitudes
//     |y|^2 / 2 and the subtraction: u |y|^2 + u |x| |y|
//     numbers below 2^-126, lost or flushed: at most 2^-126 a product, 2^-126 sqrt(D) a row
//     the centring, and the float64 settlement that has the last word: 2^-45 (|x|^2 + |y|^2)
// so |s - S| <= fixed + |y| (linear + quadratic |y|), with the coefficients of `ProductsBound`.
//
// Differences, S = |x - y|^2: every operation's rounding is relative to a term of the sum, so
//     |s - |x^ - y^|^2| <= n u |x^ - y^|^2 + lost, and | |x - y| - |x^ - y^| | <= r,
// with r the sum of the measured |x - x^| and a bound on |y - y^|: nought for float32 data, but for
// numbers below 2^-126.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "level.hpp"

namespace pdepth {

constexpr double kUnit = 0x1p-24;
constexpr double kLost = 0x1p-126;
// Every bound is enlarged by this: it covers (1 + u)^n against 1 + n u for n u < 1 / 64, and the
// float64 roundings of the bound's own computation.
constexpr double kMargin = 1.0625;
constexpr double kSettlement = 0x1p-45;

// The longest chain of roundings that one term of a scan's sum passes through.
inline double chain(const Level& level, int64_t width) {
    const int64_t chunks = (width + level.chunk - 1) / level.chunk;
    return static_cast<double>(std::min(width, level.chunk) + chunks + 6);
}

inline float float_above(double value) {
    const float rounded = static_cast<float>(value);
    if (static_cast<double>(rounded) > value) return rounded;
    return std::nextafterf(rounded, std::numeric_limits<float>::infinity());
}

struct ProductsBound {
    struct Query {
        double norm;
        double fixed;
        double linear;
    };

    ProductsBound(const Level& level, int64_t width, double largest_norm)
        : largest_norm_(largest_norm), lost_(kLost * (width + 8)),
          lost_row_(kLost * std::sqrt(static_cast<double>(width))) {
        relative_ = kMargin * kUnit * chain(level, width);
    }

    Query query(float norm, float /*residual*/) const {
        const double n = norm;
        return {n, lost_ + lost_row_ * n + kSettlement * n * n, relative_ * n + lost_row_};
    }

    double error(const Query& q, double norm) const {
        return q.fixed + norm * (q.linear + kQuadratic * norm);
    }
    double lower(const Query& q, float score, float norm) const { return score - error(q, norm); }
    double upper(const Query& q, float score, float norm) const { return score + error(q, norm); }

    // No row whose true score is at most `score` is computed at or above this. Such a row is within
    // sqrt(2 score + |x|^2) of x, which bounds its norm.
    float cut(const Query& q, double score) const {
        const double distance = std::sqrt(std::max(0.0, 2 * score + q.norm * q.norm));
        const double norm = std::min(largest_norm_, (q.norm + distance) * kMargin);
        return float_above(score + error(q, norm));
    }

private:
    static constexpr double kQuadratic = kMargin * (kUnit + kSettlement);
    double largest_norm_, lost_, lost_row_, relative_;
};

struct DifferencesBound {
    struct Query {
        double residual;
    };

    // `inexact_norm`: the largest norm of a support row that float32 does not hold as it is.
    DifferencesBound(const Level& level, int64_t width, double inexact_norm)
        : largest_residual_(kUnit * inexact_norm +
                            kLost * std::sqrt(static_cast<double>(width))),
          lost_(kMargin * kLost * (width + 8)),
          relative_(kMargin * kUnit * chain(level, width)) {}

    Query query(float /*norm*/, float residual) const {
        return {kMargin * (residual + largest_residual_)};
    }

    double lower(const Query& q, float score, float /*norm*/) const {
        const double least = std::max(0.0, (score - lost_) * (1 - relative_));
        const double distance = std::max(0.0, std::sqrt(least) - q.residual);
        return distance * distance * (1 - kSettlement);
    }
    double upper(const Query& q, float score, float /*norm*/) const {
        const double distance = std::sqrt((score + lost_) * (1 + relative_)) + q.residual;
        return distance * distance * (1 + kSettlement);
    }
    float cut(const Query& q, double score) const {
        const double distance = std::sqrt(score) + q.residual;
        return float_above(distance * distance * (1 + relative_) * (1 + kSettlement) + lost_);
    }

private:
    double largest_residual_, lost_, relative_;
};

}  // namespace pdepth
