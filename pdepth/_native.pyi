from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

_Rows = tuple[NDArray[Any], str]
_Norms = NDArray[Any] | None
_Lists = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]

class Watch:
    def __init__(self, ranges: list[tuple[int, int]]) -> None: ...
    @property
    def cut(self) -> int: ...
    def close(self) -> None: ...

class Support:
    def __init__(
        self, rows: _Rows, *, metric: str, kept_bytes: int, norms: _Norms = None
    ) -> None: ...
    def keep(self, bytes: int) -> None: ...
    @staticmethod
    def restored(
        rows: _Rows,
        *,
        metric: str,
        kept_bytes: int,
        packing: dict[str, Any],
        norms: _Norms = None,
    ) -> Support: ...
    def packing(self) -> dict[str, Any] | None: ...
    @property
    def packed(self) -> list[NDArray[Any]]: ...
    def followed_by(self, rows: _Rows, norms: _Norms = None) -> Support: ...
    @property
    def array(self) -> NDArray[Any]: ...
    @property
    def has_leaves(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...

def levels() -> list[tuple[str, bool]]: ...
def filter_stages(level: str) -> list[dict[str, Any]]: ...
def constants() -> dict[str, float]: ...
def image_constants() -> dict[str, int]: ...
def filter_scores(
    support: _Rows,
    queries: _Rows,
    level: str,
    stage: str,
    centre: NDArray[Any] | None = None,
    scale: float = 1.0,
    inner_products: bool = False,
) -> dict[str, NDArray[Any]]: ...
def image_scores(
    support: _Rows,
    queries: _Rows,
    level: str,
    directions: NDArray[Any],
    *,
    departure: float,
    floor: float,
    scale: float,
    distances: NDArray[Any],
) -> dict[str, NDArray[Any]]: ...
def leaf_scores(support: _Rows, queries: _Rows, level: str) -> dict[str, NDArray[Any]]: ...
def arithmetic(environment: bytes | None = None) -> bytes: ...
def find_norms(
    array: NDArray[Any], type: str, norms: NDArray[Any], level: str, threads: int
) -> int: ...
def first_not_finite(array: NDArray[Any], type: str, level: str, threads: int) -> int: ...
def count_votes(
    *,
    codes: NDArray[Any],
    classes: int,
    rows: NDArray[Any],
    weights: NDArray[Any] | None,
    ks: Sequence[int],
    votes: NDArray[Any],
    tied: NDArray[Any],
    counts: NDArray[Any] | None,
    slack: float,
    threads: int,
) -> None: ...
def merge_lists(parts: list[_Lists], *, k: int, width: int, threads: int) -> _Lists: ...
def prove_votes(
    lists: _Lists,
    *,
    codes: NDArray[Any],
    classes: int,
    k: int,
    asked: int,
    votes: NDArray[Any],
    tied: NDArray[Any],
    open: NDArray[Any],
    threads: int,
) -> tuple[_Lists, NDArray[Any]]: ...
def settle_pairs(
    support: _Rows,
    support_norms: _Norms,
    queries: _Rows,
    query_norms: _Norms,
    *,
    query_rows: NDArray[Any],
    rows: NDArray[Any],
    distances: NDArray[Any],
    level: str,
    threads: int,
) -> None: ...
def run(
    *,
    layers: list[tuple[Support, _Rows | None, _Norms]],
    codes: NDArray[Any],
    classes: int,
    k: int,
    exclude_self: bool,
    query_rows: NDArray[Any] | None,
    queries: int,
    target: NDArray[Any] | None,
    votes: NDArray[Any] | None,
    tied: NDArray[Any] | None,
    counts: NDArray[Any] | None,
    distances: NDArray[Any] | None,
    rows: NDArray[Any] | None,
    upper: NDArray[Any] | None,
    within: NDArray[Any] | None,
    level: str,
    first_stage: str | None,
    threads: int,
    held_bytes: int,
    pairs: bool | None,
    progress: Callable[[int, float, int], None] | None,
) -> float: ...
