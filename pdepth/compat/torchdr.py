"""TorchDR's k nearest neighbours, with pdepth's search.

    from pdepth.compat.torchdr import pairwise_distances

or, for TorchDR's own affinities, estimators and scores, `pdepth.compat.torchdr.patch()`, and
`unpatch()`.

pdepth answers where k neighbours are sought by "euclidean", "sqeuclidean" or "angular" (inner
products) among tensors that need no gradient, for `backend=None`, "faiss" and flat `FaissConfig`s.
Everything else is passed on to TorchDR: full matrices, and k of as many as all rows; other metrics;
gradients; KeOps; approximate indexes and plans; DataLoaders; several processes.

What differs. Distances and products are float64 sums of the rows' values, rounded once to their
type; equally near rows come in the order of their numbers. TorchDR takes distances from products,
so that near ones swap, and a row is not quite at 0 from its own copy. `exclude_diag` leaves each
row out by its number. NaN is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

import pdepth
from pdepth.arrays.convert import convert_like, drop_self, to_numpy
from pdepth.compat.shared.packing import packing_memory
from pdepth.compat.shared.patching import Patch
from pdepth.native import default_arithmetic
from pdepth.optional import require, require_tested

require("torch", "pdepth.compat.torchdr", "torchdr")

import torch

__all__ = ["pairwise_distances", "patch", "unpatch"]

_METRICS = ("euclidean", "sqeuclidean", "angular")
_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def pairwise_distances(
    X: Any,
    Y: Any = None,
    metric: str = "euclidean",
    backend: Any = None,
    exclude_diag: bool = False,
    k: Any = None,
    return_indices: bool = False,
    device: str = "auto",
    distributed_ctx: Any = None,
) -> Any:
    """Find the k nearest rows: TorchDR's `pairwise_distances`.

    Args:
        X: (N, D) tensor. Y: (M, D) tensor; None for X itself.
        exclude_diag: where Y is None or X, no row is its own neighbour.
        return_indices: return the rows, too.
        device: where X and Y are moved to, and the results are; "auto" for where X is.

    Returns:
        Distances (N, k) in the type of X, and rows (N, k) int32, or int64 where the backend is
        faiss, as TorchDR's.

    Raises:
        ValueError: NaN.
        ImportError: TorchDR is not installed, and the call has to be passed on to it.

    Other errors are TorchDR's.
    """
    own = Y is None or Y is X
    arrays = (X,) if own else (X, Y)
    flat = type(backend).__name__ == "FaissConfig" and backend.index_type == "Flat"
    supported = (
        metric in _METRICS
        and (backend is None or backend == "faiss" or flat)
        and not getattr(distributed_ctx, "is_initialized", False)
        and all(_is_supported(rows) for rows in arrays)
        and len({(rows.dtype, rows.shape[1]) for rows in arrays}) == 1
        and _is_valid_k(k, len(arrays[-1]))
    )
    if not supported:
        return _original()(
            X, Y, metric, backend, exclude_diag, k, return_indices, device, distributed_ctx
        )
    if device != "auto":
        arrays = tuple(rows.to(device) for rows in arrays)
    queries, support = arrays[0].detach(), arrays[-1].detach()
    distances, rows = _neighbors(queries, support, metric, int(k), own and exclude_diag)
    values = convert_like(distances, queries).to(X.dtype)
    if not return_indices:
        return values
    return values, convert_like(rows, queries).to(torch.int32 if backend is None else torch.int64)


@default_arithmetic()
def _neighbors(
    queries: Any, support: Any, metric: str, k: int, exclude_self: bool
) -> tuple[Any, Any]:
    """Find distances and rows (N, k), NumPy's; of queries that are the support, without itself."""
    if metric == "angular":
        if queries.dtype != torch.float64:
            queries, support = queries.float(), support.float()
        found = pdepth.kneighbors(
            support, queries, k=k + exclude_self, metric="inner_product",
            memory=packing_memory(support),
        )  # fmt: skip
        products, rows = map(to_numpy, found)
        return drop_self(-products, rows) if exclude_self else (-products, rows)
    result = pdepth.kneighbors(support, None if exclude_self else queries, k=k)
    squared, rows = map(to_numpy, result)
    return (np.sqrt(squared) if metric == "euclidean" else squared), rows


def _is_supported(rows: Any) -> bool:
    """Tell whether it is a matrix that pdepth reads, and needs no gradient."""
    return (
        isinstance(rows, torch.Tensor)
        and rows.ndim == 2
        and rows.dtype in _TYPES
        and min(rows.shape) > 0
        and not (rows.requires_grad and torch.is_grad_enabled())
    )


def _is_valid_k(k: Any, rows: int) -> bool:
    """Tell whether k is a number of neighbours, and fewer than all rows."""
    integer = isinstance(k, int | np.integer) and not isinstance(k, bool)
    return integer and 0 < k < rows


_PATCH = Patch(lambda: [(_library().pairwise_distances, pairwise_distances)])
patch: Callable[[], ExitStack] = _PATCH.apply
unpatch: Callable[[], None] = _PATCH.undo


def _original() -> Any:
    return _PATCH.original(pairwise_distances) or _library().pairwise_distances


def _library() -> Any:
    what = "what pdepth.compat.torchdr.pairwise_distances does not answer"
    return require_tested("torchdr.distance", what, "torchdr", "0.5", "0.6")
