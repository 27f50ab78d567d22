"""TorchDR's k nearest neighbours, by pdepth's engine.

    from pdepth.compat.torchdr import pairwise_distances

or, for TorchDR's own affinities, estimators and scores, `pdepth.compat.torchdr.patch()`, and
`unpatch()`.

The engine answers where k neighbours are asked by "euclidean", "sqeuclidean" or "angular" (inner
products) of tensors that need no gradient, for `backend=None`, "faiss" and flat `FaissConfig`s.
Everything else is handed to TorchDR: full matrices, and k of as many as all rows; other metrics;
gradients; KeOps; approximate indexes and plans; DataLoaders; several processes.

What differs. Distances and products are float64 sums of the rows' values, rounded once to their
type; equally near rows come in the order of their numbers. TorchDR takes distances from products,
so that near ones swap, and a row is not quite at 0 from its own copy. `exclude_diag` leaves each
row out by its number. NaN is an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import pdepth
from pdepth.arrays.convert import convert_like, drop_self, to_numpy
from pdepth.compat.shared.patching import Patch
from pdepth.compat.shared.products import largest_products
from pdepth.optional import require_tested

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
    """TorchDR's `pairwise_distances`: (N, k) distances in the type of X, and rows if asked.

    Args:
        X: (N, D) tensor. Y: (M, D) tensor; None for X itself.
        exclude_diag: where Y is None or X, no row is its own neighbour.
        device: where X and Y are moved to, and the answers are; "auto" for where X is.

    Rows are int32, or int64 where the backend is faiss, as TorchDR's. Errors are TorchDR's, and
    ValueError for NaN. For what the engine does not answer, ImportError without TorchDR.
    """
    itself = Y is None or Y is X
    asked = (X,) if itself else (X, Y)
    flat = type(backend).__name__ == "FaissConfig" and backend.index_type == "Flat"
    ours = (
        metric in _METRICS
        and (backend is None or backend == "faiss" or flat)
        and not getattr(distributed_ctx, "is_initialized", False)
        and all(_plain(each) for each in asked)
        and len({(each.dtype, each.shape[1]) for each in asked}) == 1
        and _fits(k, len(asked[-1]))
    )
    if not ours:
        return _original()(
            X, Y, metric, backend, exclude_diag, k, return_indices, device, distributed_ctx
        )
    if device != "auto":
        asked = tuple(each.to(device) for each in asked)
    distances, rows = _nearest(asked, metric, int(k), itself and exclude_diag)
    values = convert_like(distances, asked[0]).to(X.dtype)
    if not return_indices:
        return values
    return values, convert_like(rows, asked[0]).to(torch.int32 if backend is None else torch.int64)


def _nearest(asked: Any, metric: str, k: int, leave_out: bool) -> tuple[Any, Any]:
    queries, support = asked[0].detach(), asked[-1].detach()
    if metric == "angular":
        if queries.dtype != torch.float64:
            queries, support = queries.float(), support.float()
        products, rows = largest_products(support, queries, k + leave_out)
        return drop_self(-products, rows) if leave_out else (-products, rows)
    found = pdepth.kneighbors(support, None if leave_out else queries, k=k)
    squared, rows = map(to_numpy, found)
    return (np.sqrt(squared) if metric == "euclidean" else squared), rows


def _plain(rows: Any) -> bool:
    """Whether it is a matrix that the engine reads, and no gradient is asked."""
    return (
        isinstance(rows, torch.Tensor)
        and rows.ndim == 2
        and rows.dtype in _TYPES
        and min(rows.shape) > 0
        and not (rows.requires_grad and torch.is_grad_enabled())
    )


def _fits(k: Any, rows: int) -> bool:
    """Whether k is a number of neighbours, and fewer than all rows."""
    whole = isinstance(k, int | np.integer) and not isinstance(k, bool)
    return whole and 0 < k < rows


_PATCH = Patch(lambda: [(_library().pairwise_distances, pairwise_distances)])
patch, unpatch = _PATCH.begin, _PATCH.end


def _original() -> Any:
    return _PATCH.theirs(pairwise_distances) or _library().pairwise_distances


def _library() -> Any:
    what = "what pdepth.compat.torchdr.pairwise_distances does not answer"
    return require_tested("torchdr.distance", what, "torchdr", "0.5", "0.6")
