"""faiss' functions that scripts call beside flat indexes."""

from __future__ import annotations

import copy
import re
import warnings
from typing import Any

import numpy as np

from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.arrays.rows import is_torch
from pdepth.compat.faiss.flat import THREADS, IndexFlat, IndexFlatIP, IndexFlatL2
from pdepth.compat.faiss.id_maps import IndexIDMap, IndexIDMap2
from pdepth.compat.faiss.rows import (
    METRIC_INNER_PRODUCT,
    METRIC_L2,
    answer,
    as_count,
    as_rows,
    check_metric,
    found_once,
    into,
)
from pdepth.compat.shared.pairwise import pair_sums, squared_differences
from pdepth.native import default_arithmetic, default_threads
from pdepth.optional import require

PAIRS = 1 << 20  # whose distances are computed at a time


def knn(xq: Any, xb: Any, k: int, metric: int = METRIC_L2, metric_arg: float = 0.0) -> Any:
    """Find the k nearest rows of xb, as faiss.knn: squared distances (N, k), rows (N, k) int64.

    With METRIC_INNER_PRODUCT, the largest products. Other metrics are passed on to faiss.

    Args:
        xq: (N, D), xb: (M, D); float16, bfloat16 and integers of 8 and 16 bits as they are, others
            as float32.

    Raises:
        AssertionError: as faiss does, widths differ or k is below 1.
        TypeError: k is no integer. ValueError: NaN.
    """
    if metric not in (METRIC_L2, METRIC_INNER_PRODUCT):
        require("faiss", f"knn with metric {metric}", "faiss")
        # Its own function, whatever faiss.knn has been replaced by.
        library = require("faiss.extra_wrappers", f"knn with metric {metric}", "faiss")
        return convert_like(library.knn(to_numpy(xq), to_numpy(xb), k, metric, metric_arg), xq)
    support = as_rows(xb, "xb", keep_narrow=True)
    queries = as_rows(xq, "xq", support.shape[1], keep_narrow=True)
    k = as_count(k)
    found, held = None, min(k, len(support))
    if held and len(queries):
        found = found_once(support, queries, held, metric, THREADS[0])
    return convert_like(answer(found, (len(queries), k), metric), xq)


def knn_gpu(
    res: Any, xq: Any, xb: Any, k: int, D: Any = None, I: Any = None, metric: int = METRIC_L2
) -> Any:
    """`knn`, which searches where the rows are; the resources `res` are not used."""
    distances, rows = knn(xq, xb, k, metric)
    return into(D, distances, "D"), into(I, rows, "I")


def pairwise_distances(xq: Any, xb: Any, metric: int = METRIC_L2, metric_arg: float = 0.0) -> Any:
    """Compute all squared distances, or products, (N, M) float32 of xq (N, D) and xb (M, D).

    float64 sums, rounded once, some queries at a time. Other metrics are passed on to faiss.
    """
    if metric not in (METRIC_L2, METRIC_INNER_PRODUCT):
        library = require("faiss", f"pairwise_distances with metric {metric}", "faiss")
        found = library.pairwise_distances(to_numpy(xq), to_numpy(xb), metric, metric_arg)
        return convert_like(found, xq)
    support = to_numpy(as_rows(xb, "xb"))
    queries = to_numpy(as_rows(xq, "xq", support.shape[1]))
    terms = squared_differences if metric == METRIC_L2 else np.multiply
    distances = np.empty((len(queries), len(support)), np.float32)
    step = max(1, PAIRS // max(1, len(support)))
    for begin in range(0, len(queries), step):
        asked = np.arange(begin, min(begin + step, len(queries)))
        near = np.tile(np.arange(len(support)), len(asked))
        pairs = near, np.repeat(asked, len(support))
        sums = pair_sums(terms, support, queries, *pairs, omp_get_max_threads())
        with default_arithmetic(), np.errstate(over="ignore"):  # beyond float32: infinite
            distances[asked] = sums.reshape(len(asked), -1)
    return convert_like(distances, xq)


@default_arithmetic()
def normalize_L2(x: Any) -> None:
    """Divide the rows of x (N, D), floats, by their norms, in place; rows of zeros stay.

    Norms are roots of float64 sums, and quotients are rounded once.
    """
    kind = str(x.dtype).removeprefix("torch.")
    if x.ndim != 2 or not kind.startswith(("float", "bfloat")):
        raise TypeError(f"x: expected floats of shape (N, D), got {kind} of {tuple(x.shape)}.")
    rows = x.detach().double() if is_torch(x) else x.astype(np.float64)
    norms = (rows * rows).sum(1)[:, None] ** 0.5
    x[:] = rows / (norms + (norms == 0))


def omp_set_num_threads(num_threads: int) -> None:
    """Set the threads of searches."""
    if num_threads < 1:
        raise ValueError(f"num_threads: expected an integer >= 1, got {num_threads}.")
    THREADS[0] = int(num_threads)


def omp_get_max_threads() -> int:
    """Return the threads of searches."""
    return THREADS[0] or default_threads()


def index_factory(d: int, description: str, metric: int = METRIC_L2) -> Any:
    """Make an index of "Flat", "IDMap,Flat", "IDMap2,Flat", "Flat,IDMap" or "Flat,IDMap2"."""
    check_metric(metric)
    flat = IndexFlatL2(d) if metric == METRIC_L2 else IndexFlatIP(d)
    if description == "Flat":
        return flat
    maps = {"IDMap": IndexIDMap, "IDMap2": IndexIDMap2}
    found = re.fullmatch(r"(IDMap2?),Flat|Flat,(IDMap2?)", description)
    if not found:
        raise RuntimeError(
            "description: expected Flat, alone or with IDMap or IDMap2 before or behind it, got "
            f"{description!r}; other indexes are not exact: use faiss itself."
        )
    return maps[found[1] or found[2]](flat)


def clone_index(index: Any) -> Any:
    """Copy an index."""
    return copy.deepcopy(index)


def downcast_index(index: Any) -> Any:
    """Return the index, which is of its own class."""
    return index


def vector_to_array(vector: Any) -> Any:
    """Return `id_map` as an array."""
    return np.asarray(vector)


class StandardGpuResources:
    """Accepted where faiss takes its resources; a search takes what it needs."""

    def setTempMemory(self, size: int) -> None:
        """Do nothing: no memory is set aside."""

    def noTempMemory(self) -> None:
        """Do nothing: no memory is set aside."""


def get_num_gpus() -> int:
    """Return how many CUDA devices torch sees."""
    try:
        import torch
    except ModuleNotFoundError:
        return 0
    return int(torch.cuda.device_count())


def index_cpu_to_gpu(res: Any, device: int, index: Any, options: Any = None) -> Any:
    """Copy an index to a CUDA device; `res` and `options` are not used.

    Raises RuntimeError where there is no such device.
    """
    count = get_num_gpus()
    if not 0 <= device < count:
        raise RuntimeError(
            f"device: expected one of {count} CUDA devices, got {device}; an index on the CPU "
            "needs no such call."
        )
    return _moved(index, f"cuda:{device}")


def index_cpu_to_all_gpus(index: Any, co: Any = None, ngpu: int = -1) -> Any:
    """Copy an index to the first CUDA device, which searches alone: of several a warning says so.

    Raises RuntimeError where there is none.
    """
    if (count := get_num_gpus() if ngpu < 0 else ngpu) > 1:
        warnings.warn(f"index_cpu_to_all_gpus: of {count} GPUs one is used, cuda:0.", stacklevel=2)
    return index_cpu_to_gpu(None, 0, index)


def index_gpu_to_cpu(index: Any) -> Any:
    """Copy an index into NumPy's memory."""
    return _moved(index, None)


def _moved(index: Any, device: str | None) -> Any:
    """Copy an index, with its rows in NumPy's memory or on a device."""
    if isinstance(index, IndexIDMap):
        moved = copy.copy(index)
        moved.index, moved.id_map = _moved(index.index, device), index.id_map.copy()
        return moved
    rows = to_numpy(index.rows)
    if device is not None:
        import torch

        rows = torch.from_numpy(rows).to(device)
    flat: IndexFlat = copy.copy(index)
    flat._held = None
    flat.add(rows)
    return flat
