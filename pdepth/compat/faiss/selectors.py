"""faiss' selectors: which rows a search looks at, and which are removed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.convert import to_numpy

Ids = NDArray[np.int64]
Members = NDArray[np.bool_]


class IDSelector:
    """Selects ids. faiss' own, and any object with `is_member`, are taken too."""

    def members(self, ids: Ids) -> Members:
        """Tell for each of `ids` (n,) whether it is selected."""
        return np.fromiter((self.is_member(int(id)) for id in ids), np.bool_, len(ids))

    def is_member(self, id: int) -> bool:
        """Tell whether an id is selected."""
        return bool(self.members(np.array([id], np.int64))[0])


class IDSelectorAll(IDSelector):
    """All ids."""

    def members(self, ids: Ids) -> Members:
        return np.ones(len(ids), np.bool_)


class IDSelectorRange(IDSelector):
    """The ids imin <= id < imax."""

    imin: int
    imax: int

    def __init__(self, imin: int, imax: int, assume_sorted: bool = False) -> None:
        """assume_sorted: accepted; nothing depends on it."""
        self.imin, self.imax = int(imin), int(imax)

    def members(self, ids: Ids) -> Members:
        selected: Members = (ids >= self.imin) & (ids < self.imax)
        return selected


class IDSelectorBatch(IDSelector):
    """The ids in an array (n,), or the first `n` of one, as faiss' `IDSelectorArray(n, ids)`."""

    def __init__(self, *given: Any) -> None:
        ids = np.asarray(to_numpy(given[-1]), np.int64).ravel()
        self.ids: NDArray[np.int64] = ids[: int(given[0])] if len(given) > 1 else ids.copy()

    def members(self, ids: Ids) -> Members:
        return np.isin(ids, self.ids)


class IDSelectorArray(IDSelectorBatch):
    """As IDSelectorBatch."""


class IDSelectorBitmap(IDSelector):
    """The ids whose bit is set in an array of bytes, lowest bits first; none beyond its end."""

    def __init__(self, *given: Any) -> None:
        bitmap = np.asarray(to_numpy(given[-1]), np.uint8).ravel()
        self.bitmap: NDArray[np.uint8] = (
            bitmap[: int(given[0])] if len(given) > 1 else bitmap.copy()
        )

    def members(self, ids: Ids) -> Members:
        bits = np.unpackbits(self.bitmap, bitorder="little").astype(np.bool_)
        inside = (ids >= 0) & (ids < len(bits))
        selected = np.zeros(len(ids), np.bool_)
        selected[inside] = bits[ids[inside]]
        return selected


class IDSelectorNot(IDSelector):
    """The ids that another selector does not select."""

    def __init__(self, sel: Any) -> None:
        self.sel = sel

    def members(self, ids: Ids) -> Members:
        return ~members(self.sel, ids)


class _Pair(IDSelector):
    lhs: Any
    rhs: Any

    def __init__(self, lhs: Any, rhs: Any) -> None:
        self.lhs, self.rhs = lhs, rhs

    def _both(self, ids: Ids) -> tuple[Members, Members]:
        return members(self.lhs, ids), members(self.rhs, ids)


class IDSelectorAnd(_Pair):
    """The ids that both select."""

    def members(self, ids: Ids) -> Members:
        return np.logical_and(*self._both(ids))


class IDSelectorOr(_Pair):
    """The ids that either selects."""

    def members(self, ids: Ids) -> Members:
        return np.logical_or(*self._both(ids))


class IDSelectorXOr(_Pair):
    """The ids that one of both selects."""

    def members(self, ids: Ids) -> Members:
        return np.logical_xor(*self._both(ids))


class IDSelectorTranslated(IDSelector):
    """The rows whose ids, in a map's `id_map` or an array, another selector selects."""

    id_map: NDArray[np.int64]
    sel: Any

    def __init__(self, id_map: Any, sel: Any) -> None:
        self.id_map, self.sel = np.asarray(getattr(id_map, "id_map", id_map), np.int64), sel

    def members(self, ids: Ids) -> Members:
        return members(self.sel, self.id_map[ids])


class SearchParameters:
    """Parameters of one search: `sel`, the ids that it looks at, or None for all."""

    def __init__(self, sel: Any = None) -> None:
        self.sel = sel


def members(selector: Any, ids: Ids) -> Members:
    """Tell for each of `ids` (n,) whether a selector, ours or faiss' own, selects it."""
    if isinstance(selector, IDSelector):
        return selector.members(ids)
    if hasattr(selector, "is_member"):
        return IDSelector.members(selector, ids)
    if isinstance(selector, Iterable):
        return np.isin(ids, np.asarray(to_numpy(selector), np.int64))
    raise TypeError(
        f"sel: expected an IDSelector or an array of ids, got a {type(selector).__name__}."
    )


def selected_by(params: Any, ids: Ids) -> Members | None:
    """Tell which of `ids` (n,) a search looks at; None for all.

    Raises TypeError, as faiss does, for what are no parameters: a selector is one of them.
    """
    if params is None:
        return None
    if not hasattr(params, "sel") or isinstance(params, IDSelector) or hasattr(params, "is_member"):
        raise TypeError(
            f"params: expected SearchParameters, got a {type(params).__name__}; pass "
            "SearchParameters(sel=...)."
        )
    return None if params.sel is None else members(params.sel, ids)
