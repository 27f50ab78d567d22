"""Wrong input to the functions over arrays: one sentence that names it, before any work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import pdepth
from pdepth import native

RNG = np.random.default_rng(0)
SUPPORT = RNG.standard_normal((50, 6)).astype(np.float32)
LABELS = RNG.integers(0, 3, 50)
QUERIES = RNG.standard_normal((8, 6)).astype(np.float32)


def spoiled(value: float, row: int) -> np.ndarray:
    array = SUPPORT.copy()
    array[row, 3] = value
    return array


def votes(support: Any = SUPPORT, labels: Any = LABELS, queries: Any = None, **options: Any) -> Any:
    return pdepth.probe_votes(support, labels, queries, **{"k": 5, **options})


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"support": spoiled(np.nan, 17)}, ValueError, "support (probe 0) has NaN or infinity in row 17; finite values are wanted."),
        ({"support": [SUPPORT, spoiled(np.inf, 4)]}, ValueError, "support (probe 1) has NaN or infinity in row 4;"),
        ({"support": {"input": SUPPORT, "softmax": spoiled(-np.inf, 49).astype(np.float16)}}, ValueError, "support (softmax) has NaN or infinity in row 49;"),
        ({"support": torch.from_numpy(spoiled(np.nan, 0)).bfloat16()}, ValueError, "NaN or infinity in row 0"),
        ({"queries": spoiled(np.nan, 2)}, ValueError, "queries (probe 0) has NaN or infinity in row 2;"),
        ({"queries": QUERIES[:, :5]}, ValueError, "queries (probe 0) has width 5 and support 6; equal widths are wanted."),
        ({"support": [SUPPORT, SUPPORT[:40]]}, ValueError, "support has 50 rows at probe 0 and 40 at probe 1;"),
        ({"support": [SUPPORT] * 2, "queries": [QUERIES, QUERIES[:3]]}, ValueError, "queries has 8 rows at probe 0 and 3 at probe 1;"),
        ({"support": [SUPPORT] * 2, "queries": [QUERIES]}, ValueError, "queries has 1 probes and support more; as many are wanted."),
        ({"support": iter([SUPPORT] * 2), "queries": iter([QUERIES])}, ValueError, "queries has 1 probes and support more;"),
        ({"support": iter([SUPPORT]), "queries": iter([QUERIES] * 2)}, ValueError, "queries has more probes than support's 1;"),
        ({"support": [SUPPORT] * 2, "queries": [None, QUERIES]}, TypeError, "queries (probe 0) is None; one array a probe is wanted."),
        ({"support": [SUPPORT] * 2, "queries": [QUERIES, None]}, TypeError, "queries (probe 1) is None; one array a probe is wanted."),
        ({"support": iter([SUPPORT] * 2), "queries": iter([QUERIES, QUERIES[:3]])}, ValueError, "queries has 8 rows at probe 0 and 3 at probe 1;"),
        ({"support": iter([SUPPORT, spoiled(np.nan, 5)])}, ValueError, "support (probe 1) has NaN or infinity in row 5;"),
        ({"support": iter([SUPPORT]), "queries": QUERIES}, TypeError, "queries is a ndarray; one array a probe is wanted"),
        ({"support": iter([SUPPORT]), "queries": {"a": QUERIES}}, TypeError, "queries is a dict; one array a probe is wanted"),
        ({"support": np.ma.masked_greater(SUPPORT, 0.5)}, TypeError, "support (probe 0) is a MaskedArray;"),
        ({"support": torch.from_numpy(SUPPORT).to(torch.float8_e5m2)}, TypeError, "support (probe 0) has elements of type float8_e5m2;"),
        ({"support": torch.from_numpy(SUPPORT).to_sparse()}, TypeError, "support (probe 0) is a sparse_coo tensor; a dense one is wanted."),
        ({"support": [SUPPORT], "queries": QUERIES}, TypeError, "queries is a ndarray; one array a probe is wanted"),
        ({"queries": [QUERIES]}, TypeError, "queries is a list and support one array;"),
        ({"support": {"a": SUPPORT}, "queries": {"b": QUERIES}}, ValueError, "queries has the probes ['b'], support ['a'];"),
        ({"k": 0}, ValueError, "k is 0; at least 1 is wanted."),
        ({"k": -3}, ValueError, "k is -3; at least 1 is wanted."),
        ({"k": 50}, ValueError, "k is 50 and support has 50 rows, less the row left out; at most 49 is wanted."),
        ({"k": 51, "queries": QUERIES}, ValueError, "k is 51 and support has 50 rows; at most 50 is wanted."),
        ({"k": 3.0}, TypeError, "k is 3.0; an integer is wanted."),
        ({"k": True}, TypeError, "k is True; an integer is wanted."),
        ({"labels": LABELS[:49]}, ValueError, "labels has 49 entries; 50 are wanted."),
        ({"labels": LABELS.astype(float)}, TypeError, "labels has elements of type float64; integers are wanted."),
        ({"labels": LABELS[:, None]}, ValueError, "labels has shape (50, 1); one dimension is wanted."),
        ({"support": SUPPORT[:0], "labels": LABELS[:0]}, ValueError, "support (probe 0) is empty, with shape (0, 6)."),
        ({"support": SUPPORT[:, :0]}, ValueError, "support (probe 0) is empty, with shape (50, 0)."),
        ({"queries": QUERIES[:0]}, ValueError, "queries (probe 0) is empty, with shape (0, 6)."),
        ({"support": []}, ValueError, "support holds no probe."),
        ({"support": iter([])}, ValueError, "support holds no probe."),
        ({"support": 3}, TypeError, "support is a int; an array, or a sequence, mapping or iterator of arrays is wanted."),
        ({"support": [[1.0, 2.0]]}, TypeError, "support (probe 0) is a list; a NumPy array or torch tensor is wanted."),
        ({"support": np.array(3.0)}, ValueError, "support (probe 0) has shape (); (rows, width) is wanted."),
        ({"support": SUPPORT.astype(complex)}, TypeError, "support (probe 0) has elements of type complex128;"),
        ({"support": SUPPORT.astype(str)}, TypeError, "support (probe 0) has elements of type str"),
        ({"support": SUPPORT[0], "labels": LABELS[:6]}, ValueError, "support (probe 0) has shape (6,); (rows, width) is wanted."),
        ({"support": SUPPORT.tolist(), "queries": QUERIES.tolist()}, TypeError, "support (probe 0) is a list; a NumPy array or torch tensor is wanted."),
        ({"support": [], "queries": QUERIES}, ValueError, "support holds no probe."),
        ({"query_rows": [0, 50]}, ValueError, "query_rows holds 50; rows from 0 to 49 are wanted."),
        ({"query_rows": [-1]}, ValueError, "query_rows holds -1; rows from 0 to 49 are wanted."),
        ({"query_rows": []}, ValueError, "query_rows is empty."),
        ({"query_rows": [1.5]}, TypeError, "query_rows has elements of type float64; integers are wanted."),
        ({"query_rows": np.ones(50, dtype=bool)}, TypeError, "query_rows has elements of type bool; integers are wanted."),
        ({"labels": np.full(50, 2**63, dtype=np.uint64)}, ValueError, "labels holds 9223372036854775808; integers below 2^63 are wanted."),
        ({"labels": torch.zeros(50, dtype=torch.bfloat16)}, TypeError, "labels has elements of type bfloat16; integers are wanted."),
        ({"metric": "cosine", "support": SUPPORT.astype(float) * 1e-200}, ValueError, "has no direction in row 0"),
        ({"metric": "cosine", "support": SUPPORT.astype(float) * 1e200}, ValueError, "has no direction in row 0"),
        ({"num_threads": 2**40}, ValueError, "num_threads is 1099511627776; at most 1024 are wanted."),
        ({"query_rows": [1], "queries": QUERIES}, ValueError, "query_rows picks rows of the support and cannot go with queries."),
        ({"metric": "l1"}, ValueError, "metric is 'l1'; one of sqeuclidean, cosine is wanted."),
        ({"metric": "cosine", "support": np.vstack([SUPPORT[:49], 0 * SUPPORT[:1]])}, ValueError, "support (probe 0) has no direction in row 49: its norm is zero or beyond float64's range;"),
        ({"backend": "gpu"}, ValueError, "backend is 'gpu'; one of auto, cpu, triton, reference is wanted."),
        ({"num_threads": 0}, ValueError, "num_threads is 0; at least 1 is wanted."),
        ({"num_threads": "two"}, TypeError, "num_threads is 'two'; an integer is wanted."),
        ({"k": []}, ValueError, "k is empty; at least one number is wanted."),
        ({"k": [5, 0]}, ValueError, "k is 0; at least 1 is wanted."),
        ({"k": [5, 3, 5]}, ValueError, "k holds 5 twice; distinct numbers are wanted."),
        ({"k": [5, 2.5]}, TypeError, "k is 2.5; an integer is wanted."),
        ({"k": "5"}, TypeError, "k is '5'; an integer is wanted."),
        ({"k": [5, 50]}, ValueError, "k is 50 and support has 50 rows, less the row left out;"),
        ({"weights": "nearest"}, ValueError, "weights is 'nearest'; one of uniform, distance, exp is wanted."),
        ({"weights": len}, ValueError, "weights is <built-in function len>; one of uniform, distance, exp is wanted."),
        ({"temperature": 0.1}, ValueError, "temperature goes with weights='exp', and weights is 'uniform'."),
        ({"weights": "exp", "temperature": 0}, ValueError, "temperature is 0; a positive number is wanted."),
        ({"weights": "exp", "temperature": np.inf}, ValueError, "temperature is inf; a positive number is wanted."),
        ({"weights": "exp", "temperature": np.nan}, ValueError, "temperature is nan; a positive number is wanted."),
        ({"weights": "exp", "temperature": "hot"}, TypeError, "temperature is 'hot'; a number is wanted."),
    ],
)  # fmt: skip
def test_votes(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        votes(**arguments)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"predictions": LABELS[:9]}, ValueError, "predictions has 9 entries; 50 are wanted."),
        ({"predictions": SUPPORT[:, 0]}, TypeError, "predictions has elements of type float32; integers are wanted."),
        ({"probes": ["a", "b"]}, ValueError, "probes has 2 names; 1 are wanted."),
        ({"query_labels": LABELS[:3]}, ValueError, "query_labels has 3 entries; 50 are wanted."),
        ({"predictions": None}, TypeError, "predictions is None; integers are wanted, unless support is a store."),
        ({"reference": "labels"}, ValueError, "reference is 'labels'; one of prediction, label, last_probe or an array of integers is wanted."),
        ({"reference": None}, ValueError, "reference is None; one of prediction, label, last_probe or an array"),
        ({"reference": LABELS[:4]}, ValueError, "reference has 4 entries; 50 are wanted."),
        ({"reference": SUPPORT[:, 0]}, TypeError, "reference has elements of type float32; integers are wanted."),
        ({"reference": "label", "queries": [QUERIES], "predictions": LABELS[:8]}, ValueError, "reference is 'label' and query_labels is None; (N,) integers are wanted."),
    ],
)  # fmt: skip
def test_depth(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        pdepth.depth_from_embeddings(
            [SUPPORT], LABELS, **{"predictions": LABELS, "k": 5, **arguments}
        )
    assert sentence in str(caught.value)


def test_neighbours_want_one_array() -> None:
    with pytest.raises(TypeError, match="support is a list; one array is wanted."):
        pdepth.kneighbors([SUPPORT], k=5)


@pytest.mark.parametrize(
    ("votes", "reference", "error", "sentence"),
    [
        (LABELS, LABELS, ValueError, "votes has shape (50,); (probes, examples) is wanted."),
        (LABELS[None, :], LABELS[:4], ValueError, "reference has 4 entries; 50 are wanted."),
        (SUPPORT, LABELS[:6], TypeError, "votes has elements of type float32; integers are wanted."),
    ],
)  # fmt: skip
def test_depth_from_votes(
    votes: Any, reference: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as caught:
        pdepth.depth_from_votes(votes, reference)
    assert sentence in str(caught.value)


def test_a_level_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SIMD, "sse9")
    with pytest.raises(ValueError, match="PDEPTH_SIMD=sse9 names no level; there are bf16, p"):
        votes()


def test_a_level_that_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native._native, "levels", lambda: [("portable", True), ("far", False)])
    monkeypatch.setenv(native.SIMD, "far")
    with pytest.raises(ValueError, match="PDEPTH_SIMD=far: this machine lacks it and runs port"):
        votes()
