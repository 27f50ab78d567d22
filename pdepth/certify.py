"""How far a filter's score may lie from the truth, and what that proves.

A filter scores every query x against every support row y in narrow numbers. It may decide only
what its error bound proves; this module derives the bound, and `csrc/bound.hpp` computes the same
in C++ (the tests compare the two bit by bit, and try to break them with rows made for it).

**Notation.** x and y are the rows after the layer's transform (a centre subtracted, a common
scale; by cosine the rows are first divided by their norms, to the definition's bits); x^ and y^
what was packed of them, in float32, bfloat16 or 16-bit or 8-bit integers times a unit of the row's
own; u = 2^-24 is float32's unit roundoff. |x| and the residual |x - x^| are not estimated but
measured in float64 while a row is packed, and rounded up, |x| by less than ROUNDED_UP of itself. S
is the true score, s the computed one.

**Products**, S = |y|^2 / 2 - x.y, which is half the squared distance less |x|^2 / 2.

1. *Rounding of the inputs.* x.y - x^.y^ = (x - x^).y + x^.(y - y^), so by Cauchy-Schwarz it is at
   most |x - x^| |y| + |x^| |y - y^|, with |x^| <= |x| + |x - x^|. Where numbers are split in two,
   x^ = h + l, the three products h.h + l.h + h.l leave out l.l, at most |l_x| |l_y|. Either low
   part is at most 2^-8 of its row (bfloat16 has eight significant bits), so that is at most 2^-9
   (|l_x| |y| + |x| |l_y|): 2^-9 |l| is counted to the residual of each row. Of a candidate, the
   residual is that which was measured; of a row that is not known, r |y| + NEGLIGIBLE, with r the
   largest share among the rows of the support; rows shorter than NEGLIGIBLE may be packed as zero.

   8-bit rows are first turned: signs are changed and a Hadamard matrix of up to 1,024 columns,
   divided by its root, is applied to columns that are drawn from all over the row. As a rotation it
   keeps all norms and products, and x^ is measured against the turned x. It is computed in float32:
   one rounding of each element before it, and one in each of its ten stages, whose output is, but
   for a factor, as long as their input; so the turned row is off by at most (1 + u)^11 - 1 of |x|.
   What is lost is subtracted in float32, two more roundings of at most u |x| together each.
   TURNING |x|, 16 u, covers them all. The squares of what is lost are summed in float32, at most
   128 of them in a lane: SUMMED, a share of the residual, covers that.
2. *Order and length of the summation.* A sum whose terms pass through at most n roundings each is
   off by at most n u / (1 - n u) times the sum of the terms' magnitudes, whatever the order
   (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, sections 3.1 and
   4.2), and that sum is at most |x^| |y^|, or 1.02 times that for split numbers.
   `FilterStage.roundings` counts n: one chain of multiply-adds a section of columns, then one
   addition a section. 16-bit integers are multiplied and summed in 32 bits without any rounding:
   their units are chosen so that no section's sum can exceed 2^31. 8-bit integers likewise, where
   the processor sums four products in 32 bits, and in tiles for rows as a whole; else products of
   two columns are summed in 16 bits first, which their units and a limit on pairs make possible
   (csrc/bytes.inc): the pair is below 2^15 in magnitude, and so is what remains of the sum of
   eight pairs, by Cauchy-Schwarz, when the 128 that were added to each byte of one side have been
   taken off modulo 2^16. The bfloat16 tiles take 32 columns an instruction: sixteen fused
   multiply-adds in each of two chains, the chains'
   sum, and its addition to the tile (TDPBF16PS in Intel's Architectures Software Developer's
   Manual, vol. 2). A GPU's matrix units take 16 products and the sum so far in one step: aligned
   to the largest of them and cut off there, as the new sum is, each of the 18 is off by at most
   one unit in the last place of float32, two roundings (Fasi, Higham, Mikaitis, Pranesh, Numerical
   behavior of NVIDIA tensor cores, PeerJ Computer Science 7:e330, 2021, who find more bits kept,
   not fewer): `FilterStage.rate` counts 36 for 16 columns. Subnormal float16 is aligned as if its
   exponent were the least normal one, which costs less than the share of `negligible` for widths
   up to 2^32.
3. *Rounding of the norm.* |y|^2 / 2 is rounded once, and once more when the product is
   subtracted; where the sum begins with it (`norms_first`) it passes through all n.
4. *Denormals.* A product or sum below 2^-126 may be flushed to zero, as the tiles do: at most
   LOST each, and there are no more than three times as many as columns. Packed numbers below it
   are zeroed, and so counted among the residuals.
5. *The last word* is `pdepth.definition`'s distance in float64, of rows that were centred in
   float64: their own roundings are below SETTLEMENT (|x|^2 + |y|^2).

Everything is enlarged by MARGIN, which covers n u / (1 - n u) against n u as long as n u < 1 /
32, the second-order terms that were left out, and the roundings of the bound's own computation.

**Inner products**, S = -(m.y) - x.y with x and y centred on m and m the scaled centre: the
uncentred rows' product, its sign turned, less what all rows of a query have in common, m.x + m.m.
The largest products have the least scores. Points 1, 2 and 4 hold as they are; -(m.y) takes the
place of |y|^2 / 2 in point 3, summed in float64 and at most |m| |y|, so that two roundings are
2 u |m| |y|; and the definition's product in float64 is of uncentred rows, at most |x| + |m| and
|y| + |m| long.

**Differences**, S = |x - y|^2. Each rounding is relative to a term of the sum, so the computed
score is within n u of |x^ - y^|^2, and | |x - y| - |x^ - y^| | <= |x - x^| + |y - y^|. Support
rows that float32 holds as they are have no residual; else it is at most u times the largest norm.

**Images.** P has some 95 orthonormal rows, and A(x) = (P x, max(|x - P'P x|, f)) for a constant f,
the floor. Neither projecting nor the length of the rest nor the maximum moves two rows apart, so
|A(x) - A(y)| <= |x - y|: rows that are near have images that are. What is computed departs from A:

6. *Directions.* The rows V that are there are orthonormal but for E = |V V' - I|, the Frobenius
   norm, measured in float64. With P = (V V')^(-1/2) V, whose rows are orthonormal,
   |V x - P x| <= E |x|.
7. *Projection.* x is rounded to float32, multiplied by V in sections, and the sections are added:
   n roundings for a term, so that V x is off by at most n u |V_i| |x| in row i (point 2), and by
   sqrt(96) n u |x| in all. With point 6, the computed image a departs from P x by `projected`, p.
8. *Rest.* Its square, |x|^2 - |a|^2 in float64, is off by at most p (2 |x| + p), and so the last
   column, which is no less than f, by p (|x| + p) / f; it is rounded to float32. With f far below
   the norms this would be much: f is some part of them.

The stage then scores images as products (points 1-4, of images), and a row at a distance r from x
has its image at most r + departure(|x|) + departure(|x| + r) from that of x, since its norm is at
most |x| + r: `Images.cut`. An image's norm is no less than its row's. Rows below that cut have
their distances computed, in float32 as differences or in float64, until k of them prove the cut to
be no higher than the next score.

**Rescoring.** On a GPU, rows of a wide layer whose scores lie around the border between the k
nearest and the rest have their squared distances summed again, of the rows as they are: differences
rounded to float32, squares in it, sections of eight of these likewise, and the sections' sums in
float64, as differences are of values that float32 does not hold; float64's roundings are fewer than
one of float32's. That is the bound of differences, without residuals. Such a distance bounds its
row's score by |x|. The query's stored norm stands for |x|, so that all rescored rows are off by the
same, half of what its square is above |x|^2, which is at most ROUNDED_UP of the square: so much is
taken off the lower bounds of rows that have nothing but a score.

**Leaves.** Rows are grouped into leaves; a leaf's box is the least and the largest packed value of
its rows in each column, exactly. The score of the box is the sum over columns of max(least - x^,
x^ - largest, 0)^2, computed as differences are: the same operations on the same columns in the same
order. Rounding is monotone, a <= b makes round(a) <= round(b), and so each computed difference,
square and sum of the box is no more than that of any row in it. A leaf whose box is not below the
cut therefore has no row that differences would have listed: it needs no bound of its own.

**What a bound proves.** With lower <= S <= upper for every candidate: the k-th smallest upper
bound is no less than the k-th neighbour's score, so a row whose lower bound exceeds it is no
neighbour; a row whose upper bound is below the (k+1)-th smallest lower bound is one
(`neighbors`). If the winner is the same whichever of the rest complete the k, the vote stands;
else float64 distances of the rest settle it. No row outside the list can matter: the list takes
every score below `Products.cut`, which is at least the computed score of any row whose true score
is no more than what k rows prove. Where neighbours beyond some
distance are of no use, its score (`Products.score_at`) is proven from the start.

That cut allows for the largest norm that such a row may have, and for the largest share that any
row lost. With 8 bits this is several times what most rows need, so the scan takes point 1's two
terms off each row's own score, MARGIN |x - x^| |y| and MARGIN |x^| |y - y^|, and `row_cut` allows
for the rest. It does so in float32, where each of at most four roundings is below u times
|proven| and the terms: ROW_ROUNDINGS is twice as many.

A cut may be guessed before it is proven: from the score whose rank among the rows seen so far is
such that the k-th of all rows is very likely no farther. If k rows of the list then prove a score
no higher than the guess, the list is as complete as it would have been with that score from the
start; if not, the query is searched again without guesses.

Distances are computed one after the other, those first whose bounds lie around the border between
the k nearest and the rest, until the rest of the bounds prove the vote. A distance d bounds its
row's score by |x|, which is known to within ROUNDED_UP (`ScoreOfDistance`); that is wider than d
itself, but the same for all rows of a query, and narrow beside what a filter leaves open.

**Parts of a support**, on several machines say, have a centre and a scale each, and so scores that
cannot be compared; squared distances d can. With S = f d - o, to within slack + DOUBLE f d, bounds
of S are bounds of d (`ScoreOfDistance.distances`): d (1 + DOUBLE) is at least (lower + o - slack) /
f, and d (1 - DOUBLE) at most (upper + o + slack) / f. The sums are off by some 2^-53 of their
terms, the division by as much of itself; DOUBLE of the terms, and DOUBLE of the quotient beside the
first, cover that. A distance that was computed is its own lower and upper bound, the only case in
which the two are equal.

The k nearest rows of all parts, in the order (distance, row), are each among the k nearest of their
part. So a part may drop what it proves not to be among its own k, by bounds or by distances, and
the lists of all parts together hold the k nearest: what was said of one list holds for their union,
with d in place of S. The k-th smallest upper bound of a union is no greater than that of any part,
so that more is dropped as lists merge. A vote that stands whichever of the uncertain rows complete
the k is proven; if it does not, distances of those around the border are computed by whoever has
the rows, and take the place of their bounds. When all of them are known, their order decides. A
list that is too long to be sent is replaced by a mark, which proves nothing, and the query is
searched for its k nearest rows themselves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT = 2.0**-24
LOST = 2.0**-126
MARGIN = 1.0625
ROUNDED_UP = 2.0**-18
SETTLEMENT = 2.0**-45
DOUBLE = 2.0**-50
NEGLIGIBLE = 2.0**-40
IMAGE_COLUMNS = 96
PROJECTED_SECTION = 64  # columns of a row that are summed before their sum joins those of others
TURNING = 2.0**-20
SUMMED = 2.0**-16
ROW_ROUNDINGS = 8

Float = NDArray[np.float64]


@dataclass(frozen=True)
class FilterStage:
    """How a filter stage packs and sums; `pdepth._native.filter_stages` lists those of a level."""

    name: str
    multiple: int  # a packed row has this many times the width, after the width is
    step: int  # rounded up to a multiple of this
    section: int  # packed columns summed before the sum joins those of other sections
    chain: int  # roundings of such a sum
    norms_first: bool  # the sections are added to |y|^2 / 2, not subtracted from it at the end
    rate: float = 1.0  # roundings that a packed column adds to its section's sum, `chain` at most

    def columns(self, width: int) -> int:
        """How many numbers are packed of a row."""
        return self.multiple * -(-width // self.step) * self.step

    def roundings(self, width: int) -> int:
        """n, the most roundings that one term of a score passes through."""
        columns = self.columns(width)
        return min(math.ceil(self.rate * columns), self.chain) + -(-columns // self.section) + 6


@dataclass(frozen=True)
class ScoreOfDistance:
    """What a float64 distance says of its row's true score: factor * distance - offset, nearly."""

    factor: float
    offset: float
    slack: float

    def at(self, distance: float) -> tuple[float, float]:
        """Lower and upper bounds of the true score."""
        score = self.factor * distance
        most = self.slack + DOUBLE * score
        return score - self.offset - most, score - self.offset + most

    def distances(self, lower: float, upper: float) -> tuple[float, float]:
        """Lower and upper bounds of the distance, never equal, of those of the true score."""
        beside, above = (
            self.slack + DOUBLE * (abs(score) + self.offset + self.slack)
            for score in (lower, upper)
        )
        least = (lower + self.offset - beside) / self.factor * (1 - 2 * DOUBLE)
        most = (upper + self.offset + above) / self.factor * (1 + 2 * DOUBLE)
        return (
            math.nextafter(max(0.0, least), -math.inf),
            math.nextafter(max(0.0, most), math.inf),
        )


class ByProducts(ABC):
    """A bound on scores by products: the error is the same either way."""

    @abstractmethod
    def error(
        self,
        query_norm: Float,
        query_residual: Float,
        norm: Float,
        residual: Float | None = None,
    ) -> Float:
        """The most by which a score may be off; arguments broadcast."""

    def bounds(
        self,
        scores: Float,
        query_norm: Float,
        query_residual: Float,
        norm: Float,
        residual: Float | None = None,
    ) -> tuple[Float, Float]:
        """Lower and upper bounds of the true scores; residual: as measured, or at most so much."""
        error = self.error(query_norm, query_residual, norm, residual)
        return scores - error, scores + error


@dataclass(frozen=True)
class Products(ByProducts):
    """The bound on scores |y|^2 / 2 - x.y of one layer."""

    stage: FilterStage
    width: int
    relative: float  # the largest |y - y^| / |y| of rows with a residual above `negligible`
    negligible: float = NEGLIGIBLE

    @classmethod
    def of(cls, stage: FilterStage, width: int, norms: Float, residuals: Float) -> Products:
        """From the support's measured norms and residuals, (M,) each."""
        shares = [r / n for n, r in zip(norms, residuals, strict=True) if r > NEGLIGIBLE]
        return cls(stage, width, max(shares, default=0.0))

    def error(
        self,
        query_norm: Float,
        query_residual: Float,
        norm: Float,
        residual: Float | None = None,
    ) -> Float:
        """The most by which a score may be off; arguments broadcast."""
        beside = self._beside(query_norm, norm)
        return self.error_beside(query_norm, query_residual, norm, residual, *beside)

    def error_beside(
        self,
        query_norm: Float,
        query_residual: Float,
        norm: Float,
        residual: Float | None,
        offset: Float,
        settled: Float,
    ) -> Float:
        """Of a score whose other term is off by `offset`, and the last word by `settled`."""
        if residual is None:
            residual = self.relative * norm + self.negligible
        products = UNIT * self.stage.roundings(self.width)
        image = query_norm + query_residual
        error = MARGIN * (
            query_residual * norm
            + image * residual
            + products * image * (norm + residual)
            + offset
            + settled
        )
        return error + 3 * LOST * (self.stage.columns(self.width) + 8)

    def cut_beside_rows(
        self,
        query_norm: float,
        query_residual: float,
        proven: float,
        norm: float,
        offset: float,
        settled: float,
    ) -> float:
        """The cut of scores less each row's own share, of rows up to a norm; see `error_beside`."""
        residual = self.relative * norm + self.negligible
        products = UNIT * self.stage.roundings(self.width)
        image = query_norm + query_residual
        lost = 3 * LOST * (self.stage.columns(self.width) + 8)
        rest = MARGIN * (products * image * (norm + residual) + offset + settled) + lost
        taken = MARGIN * (query_residual * norm + image * residual)
        return proven + (rest + ROW_ROUNDINGS * UNIT * (abs(proven) + rest + taken))

    def score_at(self, query_norm: float, distance: float) -> float:
        """At least the true score of a row at that squared distance; norms were rounded up."""
        norm = query_norm * (1 - ROUNDED_UP)
        return 0.5 * (distance * (1 + SETTLEMENT) - norm * norm)

    def score_of_distance(self, query_norm: float, scale: float) -> ScoreOfDistance:
        """|x| lies between 1 - ROUNDED_UP and 1 times `query_norm`; rows were scaled by `scale`."""
        square = 0.5 * query_norm * query_norm
        half = ROUNDED_UP * square
        return ScoreOfDistance(0.5 * scale * scale, square - half, half + NEGLIGIBLE * NEGLIGIBLE)

    def cut(self, query_norm: float, query_residual: float, proven: float, largest: float) -> float:
        """No row whose true score is at most `proven` is computed above this.

        `largest` is the largest norm of the support.
        """
        norm = np.float64(self._largest_within(query_norm, proven, largest))
        return proven + float(self.error(np.float64(query_norm), np.float64(query_residual), norm))

    def row_cut(
        self, query_norm: float, query_residual: float, proven: float, largest: float
    ) -> float:
        """Likewise, when each row's share has been taken off its score."""
        norm = self._largest_within(query_norm, proven, largest)
        beside = self._beside(query_norm, norm)
        return self.cut_beside_rows(query_norm, query_residual, proven, norm, *beside)

    def _beside(self, query_norm: Any, norm: Any) -> tuple[Any, Any]:
        """What |y|^2 / 2 is off by, and the last word."""
        norms = UNIT * (self.stage.roundings(self.width) if self.stage.norms_first else 1)
        return norms * norm * norm, SETTLEMENT * (query_norm * query_norm + norm * norm)

    def _largest_within(self, query_norm: float, proven: float, largest: float) -> float:
        """Of a row of that true score at most: it is within sqrt(2 proven + |x|^2) of x."""
        distance = math.sqrt(max(0.0, 2 * proven + query_norm * query_norm))
        return min(largest, (query_norm + distance) * MARGIN)


@dataclass(frozen=True)
class InnerProducts(ByProducts):
    """The bound on scores -(m.y) - x.y of one layer; centre_norm: |m|, scaled."""

    products: Products
    centre_norm: float

    def error(
        self,
        query_norm: Float,
        query_residual: Float,
        norm: Float,
        residual: Float | None = None,
    ) -> Float:
        """The most by which a score may be off; arguments broadcast."""
        beside = self._beside(query_norm, norm)
        return self.products.error_beside(query_norm, query_residual, norm, residual, *beside)

    def cut(self, query_norm: float, query_residual: float, proven: float, largest: float) -> float:
        """No row whose true score is at most `proven` is computed above this."""
        arguments = (np.float64(value) for value in (query_norm, query_residual, largest))
        return proven + float(self.error(*arguments))

    def row_cut(
        self, query_norm: float, query_residual: float, proven: float, largest: float
    ) -> float:
        """Likewise, when each row's share has been taken off its score."""
        beside = self._beside(query_norm, largest)
        return self.products.cut_beside_rows(query_norm, query_residual, proven, largest, *beside)

    def _beside(self, query_norm: Any, norm: Any) -> tuple[Any, Any]:
        """What -(m.y) is off by, and the last word."""
        stage, width, centre = self.products.stage, self.products.width, self.centre_norm
        offsets = UNIT * (stage.roundings(width) if stage.norms_first else 2)
        return offsets * centre * norm, SETTLEMENT * (query_norm + centre) * (norm + centre)


@dataclass(frozen=True)
class Differences:
    """The bound on scores |x - y|^2 of one layer."""

    stage: FilterStage
    width: int
    inexact_norm: float  # the largest norm of a support row that float32 does not hold as it is

    def bounds(self, scores: Float, query_residual: Float) -> tuple[Float, Float]:
        """Lower and upper bounds of the true scores; arguments broadcast."""
        relative, residual, lost = self._terms(query_residual)
        least = np.sqrt(np.maximum(0.0, (scores - lost) * (1 - relative)))
        near = np.maximum(0.0, least - residual)
        far = np.sqrt((scores + lost) * (1 + relative)) + residual
        return near * near * (1 - SETTLEMENT), far * far * (1 + SETTLEMENT)

    def score_at(self, distance: float) -> float:
        """At least the true score of a row at that squared distance."""
        return distance * (1 + SETTLEMENT)

    def score_of_distance(self, scale: float) -> ScoreOfDistance:
        """The score is the scaled distance itself."""
        return ScoreOfDistance(scale * scale, 0.0, NEGLIGIBLE * NEGLIGIBLE)

    def cut(self, query_residual: float, proven: float) -> float:
        """No row whose true score is at most `proven` is computed above this."""
        relative, residual, lost = self._terms(query_residual)
        distance = math.sqrt(proven) + residual
        return float(distance * distance * (1 + relative) * (1 + SETTLEMENT) + lost)

    def _terms(self, query_residual: Any) -> tuple[float, Any, float]:
        """Relative error, distance of the rows from what was packed of them, and what is lost."""
        relative = MARGIN * UNIT * self.stage.roundings(self.width)
        largest = UNIT * self.inexact_norm + LOST * math.sqrt(self.width)
        return relative, MARGIN * (query_residual + largest), 3 * LOST * (self.width + 8)


@dataclass(frozen=True)
class Images:
    """The bound on scores |A(y)|^2 / 2 - A(x).A(y) of the images of one layer's rows."""

    products: Products  # of images
    width: int  # of rows
    departure: float  # of the directions from orthonormal ones
    floor: float  # the least length in the last column

    def departure_of(self, norm: float) -> float:
        """Of the computed image of a row of at most that norm, from A."""
        roundings = min(self.width, PROJECTED_SECTION) + -(-self.width // PROJECTED_SECTION) + 4
        root = math.sqrt(IMAGE_COLUMNS)
        projected = (self.departure + UNIT * root * roundings) * norm + (
            3 * LOST * root * (self.width + 8)
        )
        return MARGIN * (
            projected + projected * (norm + projected) / self.floor + 2 * UNIT * (norm + self.floor)
        )

    def cut(self, query_norm: float, query_residual: float, distance: float) -> float:
        """No row whose true squared distance is at most `distance` is computed above this.

        query_norm, query_residual: of the image.
        """
        root = math.sqrt(distance)
        image = root + self.departure_of(query_norm) + self.departure_of(query_norm + root)
        proven = self.products.score_at(query_norm, image * image)
        return self.products.cut(query_norm, query_residual, proven, math.inf)


def neighbors(lower: Float, upper: Float, k: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows are among the k nearest for certain, and which others may be.

    Args:
        lower: (M,) at most each row's true score.
        upper: (M,) at least each row's true score.
        k: of the neighbours, 1 .. M.

    Returns:
        (M,) certain, and (M,) possible but not certain.
    """
    farthest = np.partition(upper, k - 1)[k - 1]
    other = np.partition(lower, k)[k] if k < len(lower) else np.inf
    certain = (lower <= farthest) & (upper < other)
    return certain, (lower <= farthest) & ~certain
