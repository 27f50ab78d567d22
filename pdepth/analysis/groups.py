"""Hard examples by their two depths: in the support, where the label is given, and held out.

Source: Baldock, Maennel and Neyshabur, arXiv 2106.09647, on example difficulty with two axes:

                          held out: shallow               held out: deep
    support: shallow      easy                            ambiguous unless its label is given
    support: deep         looks like another class        ambiguous

What looks like another class is quickly given that class where its own label is unknown, and where
it is known the network needs its depth to give the label nonetheless. What is ambiguous unless its
label is given has a label that fits once it is known, and needs depth to be guessed.

The paper shows the corners of the plane; where a corner begins is the reader's choice: quantiles
of each depth, or limits of one's own. What lies in no corner is in no group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pdepth.analysis.ensemble import Ensemble

__all__ = ["CORNERS", "Groups", "groups", "groups_or_reason"]

CORNERS = {
    "easy": "Easy",
    "like_another": "Looks like another class",
    "needs_label": "Ambiguous unless its label is given",
    "ambiguous": "Ambiguous",
}
DEEP = {  # in the support, held out
    "easy": (False, False),
    "like_another": (True, False),
    "needs_label": (False, True),
    "ambiguous": (True, True),
}
Limits = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Groups:
    """Which corner of the two depths each of N examples is in.

    Attributes:
        depths: (2, N) float64, in the support and held out.
        limits: for both, the depth up to which an example is shallow, and from which on deep.
        corners: by name, the rows in it, the outermost first; see `CORNERS`.
        unknown: how many examples lack one of the depths, and so are in no corner.
    """

    depths: NDArray[np.float64]
    limits: tuple[Limits, Limits]
    corners: dict[str, NDArray[np.int64]]
    unknown: int

    def names(self) -> NDArray[np.str_]:
        """(N,) each example's corner; empty for none."""
        found = np.full(self.depths.shape[1], "", f"<U{max(map(len, CORNERS))}")
        for name, rows in self.corners.items():
            found[rows] = name
        return found


def groups(
    support: Any,
    held_out: Any,
    *,
    quantile: float = 0.25,
    support_limits: Limits | None = None,
    held_out_limits: Limits | None = None,
) -> Groups:
    """The corners of the plane of both depths.

    Args:
        support, held_out: (N,) mean depths, NaN where there is none, as in
            `Ensemble.mean_depth()`; one network's depths, of rows it was trained on and of the same
            rows under another, do too.
        quantile: an example is shallow up to this quantile of all depths of its kind, and deep from
            the same share from above on.
        support_limits, held_out_limits: (shallow up to, deep from) instead.

    Raises:
        ValueError: other lengths, no example with both depths, or limits that do not part shallow
            from deep, as where nearly all depths are equal.
    """
    depths = [np.asarray(each, np.float64) for each in (support, held_out)]
    if depths[0].ndim != 1 or depths[0].shape != depths[1].shape:
        raise ValueError(
            f"support has shape {depths[0].shape} and held_out {depths[1].shape}; one depth an "
            "example is wanted of both."
        )
    if not 0 < quantile < 0.5:
        raise ValueError(f"quantile is {quantile}; a number between 0 and 0.5 is wanted.")
    known = ~np.isnan(depths).any(axis=0)
    if not known.any():
        raise ValueError("no example has both depths; at least one is wanted.")
    limits, low, high = [], [], []
    for name, each, given in zip(
        ("support", "held_out"), depths, (support_limits, held_out_limits), strict=True
    ):
        ends = (
            np.quantile(each[known], (quantile, 1 - quantile), method="inverted_cdf")
            if given is None
            else given
        )
        shallow, deep = map(float, ends)
        if not shallow < deep:
            raise ValueError(
                f"{name} depths are shallow up to {shallow:g} and deep from {deep:g}; wanted: the "
                f"one below the other (another quantile, or {name}_limits)."
            )
        limits.append((shallow, deep))
        low.append(known & (each <= shallow))
        high.append(known & (each >= deep))
    corners = {}
    for name, deep_in in DEEP.items():
        rows = np.flatnonzero((high if deep_in[0] else low)[0] & (high if deep_in[1] else low)[1])
        outward = sum(
            depth[rows] if deep else -depth[rows]
            for depth, deep in zip(depths, deep_in, strict=True)
        )
        corners[name] = rows[np.argsort(-np.asarray(outward), kind="stable")]
    return Groups(np.stack(depths), (limits[0], limits[1]), corners, int((~known).sum()))


def groups_or_reason(ensemble: Ensemble) -> tuple[Groups | None, str]:
    """The groups of an ensemble by quantiles of its mean depths.

    Returns:
        The groups and ""; or, where the depths are too alike to separate shallow from deep or no
        example has both, None and the reason as a sentence.
    """
    try:
        return groups(*ensemble.mean_depth()), ""
    except ValueError as error:
        return None, str(error)
