"""The neighbours of a result by the names that another library has for rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pdepth.result import DepthResult


def neighbor_ids(
    result: DepthResult, support_ids: Sequence[str], probe: str | None = None
) -> list[list[str]]:
    """The ids of each example's nearest support rows (N, K) at a probe, nearest first.

    Args:
        result: with neighbours.
        support_ids: (M,) the support's ids, in its order.
        probe: None for the last, where every example was searched; at another, an example that was
            not has none.

    Raises:
        ValueError: a result without neighbours, an unknown probe, another number of ids.
    """
    kept = result.neighbors
    if kept is None:
        raise ValueError(
            "neighbors: expected a result with neighbours, got none; pass return_neighbors=8."
        )
    name = kept.probes[-1] if probe is None else probe
    if name not in kept.probes:
        raise ValueError(f"probe: expected one of {', '.join(kept.probes)}, got {name!r}.")
    if len(support_ids) != len(kept.codes):
        raise ValueError(
            f"support_ids: expected {len(kept.codes)}, one for each row of the support, got "
            f"{len(support_ids)}."
        )
    rows = np.asarray(kept.rows[kept.probes.index(name)])
    return [[support_ids[row] for row in nearest if row >= 0] for nearest in rows.tolist()]
