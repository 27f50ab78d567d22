#include "directions.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace pdepth {
namespace {

constexpr int kSteps = 3;             // of the iteration: more of them leave no fewer rows
constexpr double kLeastPivot = 1e-5;  // of a row's square: what is less lies within the rows before
constexpr double kMostDeparture = 0x1p-8;
constexpr double kReduced = 0x1p-60;  // of scaled rows here: sums of squares stay far from the ends
constexpr int64_t kTogether = 48;     // rows: a multiple of those of any register tile

constexpr int64_t kBlock = 32;        // of a table turned round, so that it stays in the first cache

// Dense rows, with memory to the end of a register tile.
class Table {
public:
    Table(int64_t rows, int64_t columns)
        : rows_(rows), columns_(columns),
          values_(memory_.reserve(round_up(rows, kTogether) * columns)) {
        std::fill_n(values_, round_up(rows, kTogether) * columns, 0.0f);
    }

    int64_t rows() const { return rows_; }
    int64_t columns() const { return columns_; }
    float* row(int64_t i) const { return values_ + i * columns_; }
    Table transposed() const {
        Table other(columns_, rows_);
        for (int64_t first = 0; first < rows_; first += kBlock)
            for (int64_t begin = 0; begin < columns_; begin += kBlock)
                for (int64_t i = first; i < std::min(rows_, first + kBlock); i++)
                    for (int64_t j = begin; j < std::min(columns_, begin + kBlock); j++)
                        other.row(j)[i] = row(i)[j];
        return other;
    }

private:
    int64_t rows_, columns_;
    Buffer<float> memory_;
    float* values_;
};

// Rows in the order of tiles: [tile][column][row], padded with zeros.
void arranged(const float* rows, int64_t count, int64_t columns, int64_t tile, float* panel) {
    for (int64_t first = 0; first < count; first += tile, panel += tile * columns)
        for (int64_t begin = 0; begin < columns; begin += kBlock)
            for (int64_t r = 0; r < tile; r++)
                for (int64_t c = begin; c < std::min(columns, begin + kBlock); c++)
                    panel[c * tile + r] = first + r < count ? rows[(first + r) * columns + c] : 0;
}

// a times b transposed. Of the products of rows with themselves half are computed.
Table product(const Table& a, const Table& b, const Level& level, Team& team) {
    const int64_t tile = level.directions.support_rows, padded = round_up(b.rows(), tile);
    Buffer<float> panel;
    arranged(b.row(0), b.rows(), b.columns(), tile, panel.reserve(padded * b.columns()));
    Table wide(a.rows(), padded);
    team.run(ceil_div(a.rows(), kTogether), [&](int64_t i, int) {
        const int64_t first = i * kTogether, skipped = &a == &b ? first / tile * tile : 0;
        level.project(a.row(first), std::min(kTogether, a.rows() - first),
                      panel.get() + skipped * b.columns(), a.columns(), (padded - skipped) / tile,
                      wide.row(first) + skipped, padded);
    });
    for (int64_t i = 0; &a == &b && i < a.rows(); i++)
        for (int64_t j = 0; j < i; j++) wide.row(i)[j] = wide.row(j)[i];
    if (padded == b.rows()) return wide;
    Table result(a.rows(), b.rows());
    for (int64_t i = 0; i < a.rows(); i++) std::copy_n(wide.row(i), b.rows(), result.row(i));
    return result;
}

// What makes rows orthonormal, from their products: the inverse of Cholesky's factor. Of rows that
// lie within those before them there is none.
std::vector<std::vector<double>> inverse_factor(const Table& products) {
    const int64_t count = products.rows();
    std::vector<std::vector<double>> factor, inverse;
    std::vector<int64_t> kept;
    for (int64_t i = 0; i < count; i++) {
        const double square = products.row(i)[i];
        double pivot = square;
        std::vector<double> own;
        for (std::size_t j = 0; j < kept.size(); j++) {
            double sum = products.row(i)[kept[j]];
            for (std::size_t l = 0; l < j; l++) sum -= own[l] * factor[j][l];
            own.push_back(sum / factor[j][j]);
            pivot -= own[j] * own[j];
        }
        if (!(pivot > kLeastPivot * square)) continue;
        own.push_back(std::sqrt(pivot));
        std::vector<double> line(count, 0.0);
        for (std::size_t j = 0; j < kept.size(); j++) {
            const double share = own[j] / own.back();
            for (int64_t l = 0; l <= kept[j]; l++) line[l] -= share * inverse[j][l];
        }
        line[i] = 1 / own.back();
        factor.push_back(std::move(own));
        inverse.push_back(std::move(line));
        kept.push_back(i);
    }
    return inverse;
}

// Orthonormal rows of the same span, up to the roundings of float32.
Table orthonormal(const Table& rows, const Level& level, Team& team) {
    const auto inverse = inverse_factor(product(rows, rows, level, team));
    Table change(static_cast<int64_t>(inverse.size()), rows.rows());
    for (int64_t i = 0; i < change.rows(); i++)
        std::copy(inverse[i].begin(), inverse[i].end(), change.row(i));
    return product(rows.transposed(), change, level, team).transposed();
}

double square_of(const float* row, int64_t columns) {
    double square = 0;
    for (int64_t c = 0; c < columns; c++) square += static_cast<double>(row[c]) * row[c];
    return square;
}

// In how many directions rows vary, as a share of the rows: of eigenvalues of their products, the square
// of the sum by the sum of squares.
double spread_of(const Table& products) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < products.rows(); i++) {
        sum += products.row(i)[i];
        squares += square_of(products.row(i), products.columns());
    }
    return squares > 0 ? sum * sum / squares / static_cast<double>(products.rows()) : 0;
}

// The leading directions of a sample of rows, by powers of the matrix of the rows' products; none of
// rows that vary in too many.
Table directions_of(const Table& sample, double most_spread, const Level& level, Team& team) {
    const Table products = product(sample, sample, level, team);
    if (spread_of(products) > most_spread) return Table(0, sample.columns());
    const int64_t count = std::min({kImageColumns - 1, sample.rows(), sample.columns()});
    Table weights(count, sample.rows());  // of the sample's rows in each direction
    for (int64_t i = 0; i < count; i++)
        std::copy_n(products.row(i * sample.rows() / count), sample.rows(), weights.row(i));
    for (int step = 0; step < kSteps; step++)
        weights = product(orthonormal(weights, level, team), products, level, team);
    const Table directions =
        product(sample.transposed(), orthonormal(weights, level, team), level, team).transposed();
    return orthonormal(orthonormal(directions, level, team), level, team);
}

// Rows of a reading after its transform.
Table transformed(const Matrix& rows, const Reading& reading, const std::vector<int64_t>& which,
                  int64_t first, int64_t count, Team& team) {
    Table result(count, rows.width);
    std::vector<std::vector<double>> wide(team.size(), std::vector<double>(rows.width));
    team.run(count, [&](int64_t i, int thread) {
        double* const row = wide[thread].data();
        reading.level->widen(rows, which[first + i], 0, rows.width, row);
        const double scale = reading.scale * kReduced;
        for (int64_t c = 0; c < rows.width; c++)
            result.row(i)[c] = static_cast<float>((row[c] - reading.centre[c]) * scale);
    });
    return result;
}

double median_of(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

// Squares of rows, of their images' parts, and of what those leave.
struct Images {
    Table directed;
    std::vector<double> squares, rests;

    Images(const Table& rows, const Table& directions, const Level& level, Team& team)
        : directed(product(rows, directions, level, team)) {
        for (int64_t i = 0; i < rows.rows(); i++) {
            squares.push_back(square_of(rows.row(i), rows.columns()));
            const double part = square_of(directed.row(i), directed.columns());
            rests.push_back(std::max(0.0, squares.back() - part));
        }
    }
};

// Of rows that had no part in the directions: the floor of their last column, and how many of them
// are left to a query.
void judge(const Table& judging, const Table& judged, const Table& directions, int64_t rows,
           const Level& level, Team& team, LeadingDirections& found) {
    const Images x(judging, directions, level, team), y(judged, directions, level, team);
    // A floor far below the rows' norms would make much of the roundings.
    const double floor = std::max(median_of(y.rests) / 4, median_of(y.squares) / 256);
    found.floor = std::sqrt(floor) / kReduced;
    const Table whole = product(judged, judging, level, team);
    const Table part = product(y.directed, x.directed, level, team);
    const double share = static_cast<double>(found.k * judged.rows()) / static_cast<double>(rows);
    const auto rank = std::min(judged.rows() - 1, static_cast<int64_t>(share));
    double left = 0;
    std::vector<double> distances(judged.rows()), near(judged.rows());
    for (int64_t i = 0; i < judging.rows(); i++) {
        const double rest = std::sqrt(std::max(x.rests[i], floor));
        for (int64_t j = 0; j < judged.rows(); j++) {
            const double last = std::sqrt(std::max(y.rests[j], floor));
            const double squares = x.squares[i] + y.squares[j];
            distances[j] = squares - 2 * static_cast<double>(whole.row(j)[i]);
            near[j] = squares - x.rests[i] - y.rests[j] -
                      2 * static_cast<double>(part.row(j)[i]) + (rest - last) * (rest - last);
        }
        std::nth_element(distances.begin(), distances.begin() + rank, distances.end());
        left += static_cast<double>(std::count_if(
            near.begin(), near.end(), [&](double value) { return value <= distances[rank]; }));
    }
    // Of ranks below the first the count is in proportion.
    const auto pairs = static_cast<double>(judging.rows() * judged.rows());
    found.survivors = left / pairs * share / static_cast<double>(rank + 1);
}

// Of rows of `values`, those of zeros left out.
double departure_of(const float* values, int64_t count, int64_t width, const Level& level,
                    Team& team) {
    const int64_t stride = width * int64_t(sizeof(float));
    const Matrix rows{reinterpret_cast<const char*>(values), count, width, stride, 4, DType::f32};
    std::vector<double> squares(count);
    team.run(count, [&](int64_t i, int) {
        std::vector<double> row(width), scratch(2 * width);
        level.widen(rows, i, 0, width, row.data());
        for (int64_t j = 0; j <= i; j++) {
            const double product = level.inner_product(row.data(), rows, j, scratch.data());
            squares[i] += i == j ? (product - 1) * (product - 1) : 2 * product * product;
        }
    });
    double sum = 0;
    for (double square : squares) sum += square;
    return std::sqrt(sum);
}

}  // namespace

void LeadingDirections::arrange(const Level& level, int64_t width) {
    arranged(values.get(), kImageColumns, width, level.directions.support_rows,
             panel.reserve(kImageColumns * width));
}

std::shared_ptr<const LeadingDirections> leading_directions(const Matrix& rows,
                                                            const Reading& reading, int64_t k,
                                                            DirectionsSample sample, Team& team) {
    const Level& level = *reading.level;
    std::vector<int64_t> which;
    for (int64_t row : reading.order)
        if (row != Reading::kNoRow && static_cast<int64_t>(which.size()) < sample.rows())
            which.push_back(row);
    const auto part = [&](int64_t first, int64_t count) {
        return transformed(rows, reading, which, first, count, team);
    };
    auto found = std::make_shared<LeadingDirections>();
    found->k = k;
    const Table directions = directions_of(part(0, sample.made), sample.most_spread, level, team);
    if (directions.rows() == 0) return found;
    float* const values = found->values.reserve(kImageColumns * rows.width);
    std::fill_n(values, kImageColumns * rows.width, 0.0f);
    std::copy_n(directions.row(0), directions.rows() * rows.width, values);
    if (sample.used)
        found->departure = departure_of(values, directions.rows(), rows.width, level, team);
    judge(part(sample.made, sample.judging), part(sample.made + sample.judging, sample.judged),
          directions, static_cast<int64_t>(reading.order.size()), level, team, *found);
    if (!(found->departure < kMostDeparture)) found->floor = 0;
    found->arrange(level, rows.width);
    return found;
}

}  // namespace pdepth
