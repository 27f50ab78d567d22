"""Groups of hard examples by two depths: in the support, where the label is given, and held out.

Source: Baldock, Maennel and Neyshabur, arXiv 2106.09647, who place examples on two axes:

                          held out: shallow               held out: deep
    support: shallow      easy                            ambiguous unless its label is given
    support: deep         looks like another class        ambiguous

An example that looks like another class is quickly given that class where its label is unknown, and
needs many layers to be given its own label where that is known. An example that is ambiguous unless
its label is given needs many layers where the label is unknown, and few where it is known.

The paper shows the corners of this plane; where a corner begins is an option here: quantiles of
each depth, or explicit limits. An example outside the corners is in no group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pdepth.analysis.ensemble import Ensemble

__all__ = ["CORNERS", "Groups", "groups", "groups_or_reason"]

CORNERS = {  # title of each group
    "easy": "Easy",
    "like_another": "Looks like another class",
    "needs_label": "Ambiguous unless its label is given",
    "ambiguous": "Ambiguous",
}
DEEP = {  # whether a group is deep: in the support, held out
    "easy": (False, False),
    "like_another": (True, False),
    "needs_label": (False, True),
    "ambiguous": (True, True),
}
Limits = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of each of N examples, by the corners of the plane of both depths.

    Attributes:
        depths: (2, N) float64, in the support and held out.
        limits: for both depths, the largest shallow and the smallest deep depth.
        corners: rows of each group, by its name, the outermost example first; see `CORNERS`.
        unknown: number of examples that lack one of the depths and so are in no group.
    """

    depths: NDArray[np.float64]
    limits: tuple[Limits, Limits]
    corners: dict[str, NDArray[np.int64]]
    unknown: int

    def names(self) -> NDArray[np.str_]:
        """Name of each example's group (N,); empty for an example in none."""
        names = np.full(self.depths.shape[1], "", f"<U{max(map(len, CORNERS))}")
        for name, rows in self.corners.items():
            names[rows] = name
        return names


def groups(
    support: Any,
    held_out: Any,
    *,
    quantile: float = 0.25,
    support_limits: Limits | None = None,
    held_out_limits: Limits | None = None,
) -> Groups:
    """Sort examples into groups by two depths.

    Args:
        support, held_out: (N,) depths, NaN where missing: mean depths, as in
            `Ensemble.mean_depth()`, or depths under two networks, of which one was trained on the
            rows and the other was not.
        quantile: an example is shallow up to this quantile of all depths of its kind, and deep from
            the quantile 1 - `quantile` on.
        support_limits, held_out_limits: the largest shallow and the smallest deep depth, in place
            of quantiles.

    Raises:
        ValueError: different lengths, no example with both depths, or limits that do not separate
            shallow from deep, as where nearly all depths are equal.
    """
    depths = [np.asarray(values, np.float64) for values in (support, held_out)]
    if depths[0].ndim != 1 or depths[0].shape != depths[1].shape:
        raise ValueError(
            f"support, held_out: expected shape (N,) for both, got {depths[0].shape} and "
            f"{depths[1].shape}."
        )
    if not 0 < quantile < 0.5:
        raise ValueError(f"quantile: expected a number between 0 and 0.5, got {quantile}.")
    known = ~np.isnan(depths).any(axis=0)
    if not known.any():
        raise ValueError(
            "support, held_out: expected at least one example with both depths, got none."
        )
    limits, shallow, deep = [], [], []
    for name, values, explicit in zip(
        ("support", "held_out"), depths, (support_limits, held_out_limits), strict=True
    ):
        quantiles = np.quantile(values[known], (quantile, 1 - quantile), method="inverted_cdf")
        low, high = map(float, quantiles if explicit is None else explicit)
        if not low < high:
            raise ValueError(
                f"{name}: expected a shallow limit below the deep limit, got {low:g} and {high:g}; "
                f"pass another quantile or {name}_limits."
            )
        limits.append((low, high))
        shallow.append(known & (values <= low))
        deep.append(known & (values >= high))
    corners = {}
    for name, (support_deep, held_out_deep) in DEEP.items():
        inside = (deep if support_deep else shallow)[0] & (deep if held_out_deep else shallow)[1]
        rows = np.flatnonzero(inside)
        signs = np.where([support_deep, held_out_deep], 1.0, -1.0)
        outward = signs[0] * depths[0][rows] + signs[1] * depths[1][rows]
        corners[name] = rows[np.argsort(-outward, kind="stable")]
    return Groups(np.stack(depths), (limits[0], limits[1]), corners, int((~known).sum()))


def groups_or_reason(ensemble: Ensemble) -> tuple[Groups | None, str]:
    """The groups of an ensemble by quantiles of its mean depths, or why there are none.

    Returns:
        The groups and ""; or None and a sentence, where the depths are too alike to separate
        shallow from deep, or no example has both.
    """
    try:
        return groups(*ensemble.mean_depth()), ""
    except ValueError as error:
        return None, str(error)
