"""Wrong input to the functions over arrays: one sentence that names it, before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import native

from helpers.torch_or_skip import torch

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
        ({"support": spoiled(np.nan, 17)}, ValueError, "support (probe 0): expected finite values, got NaN or infinity in row 17."),
        ({"support": [SUPPORT, spoiled(np.inf, 4)]}, ValueError, "support (probe 1): expected finite values, got NaN or infinity in row 4."),
        ({"support": {"input": SUPPORT, "softmax": spoiled(-np.inf, 49).astype(np.float16)}}, ValueError, "support (softmax): expected finite values, got NaN or infinity in row 49."),
        ({"queries": spoiled(np.nan, 2)}, ValueError, "queries (probe 0): expected finite values, got NaN or infinity in row 2."),
        ({"queries": QUERIES[:, :5]}, ValueError, "queries (probe 0): expected width 6 as in support, got 5."),
        ({"support": [SUPPORT, SUPPORT[:40]]}, ValueError, "support (probe 1): expected 50 rows as at probe 0, got 40."),
        ({"support": [SUPPORT] * 2, "queries": [QUERIES, QUERIES[:3]]}, ValueError, "queries (probe 1): expected 8 rows as at probe 0, got 3."),
        ({"support": [SUPPORT] * 2, "queries": [QUERIES]}, ValueError, "queries: expected as many probes as in support, got 1."),
        ({"support": iter([SUPPORT] * 2), "queries": iter([QUERIES])}, ValueError, "queries: expected as many probes as in support, got 1."),
        ({"support": iter([SUPPORT]), "queries": iter([QUERIES] * 2)}, ValueError, "queries: expected 1 probes as in support, got more."),
        ({"support": [SUPPORT] * 2, "queries": [None, QUERIES]}, TypeError, "queries (probe 0): expected an array, got None."),
        ({"support": [SUPPORT] * 2, "queries": [QUERIES, None]}, TypeError, "queries (probe 1): expected an array, got None."),
        ({"support": iter([SUPPORT] * 2), "queries": iter([QUERIES, QUERIES[:3]])}, ValueError, "queries (probe 1): expected 8 rows as at probe 0, got 3."),
        ({"support": iter([SUPPORT, spoiled(np.nan, 5)])}, ValueError, "support (probe 1): expected finite values, got NaN or infinity in row 5."),
        ({"support": iter([SUPPORT]), "queries": QUERIES}, TypeError, "queries: expected one array a probe as in support, got a ndarray."),
        ({"support": iter([SUPPORT]), "queries": {"a": QUERIES}}, TypeError, "queries: expected one array a probe as in support, got a dict."),
        ({"support": np.ma.masked_greater(SUPPORT, 0.5)}, TypeError, "support (probe 0): expected a NumPy array or torch tensor, got a MaskedArray."),
        ({"support": [SUPPORT], "queries": QUERIES}, TypeError, "queries: expected one array a probe as in support, got a ndarray."),
        ({"queries": [QUERIES]}, TypeError, "queries: expected one array as in support, got a list."),
        ({"support": {"a": SUPPORT}, "queries": {"b": QUERIES}}, ValueError, "queries: expected the probes ['a'] as in support, got ['b']."),
        ({"k": 0}, ValueError, "k: expected an integer >= 1, got 0."),
        ({"k": -3}, ValueError, "k: expected an integer >= 1, got -3."),
        ({"k": 50}, ValueError, "k: expected at most 49 (support has 50 rows, less the row that is left out), got 50."),
        ({"k": 51, "queries": QUERIES}, ValueError, "k: expected at most 50 (support has 50 rows), got 51."),
        ({"k": 3.0}, TypeError, "k: expected an integer, got 3.0."),
        ({"k": True}, TypeError, "k: expected an integer, got True."),
        ({"labels": LABELS[:49]}, ValueError, "labels: expected 50 entries, got 49."),
        ({"labels": LABELS.astype(float)}, TypeError, "labels: expected integers, got elements of type float64."),
        ({"labels": LABELS[:, None]}, ValueError, "labels: expected shape (50,), got (50, 1)."),
        ({"support": SUPPORT[:0], "labels": LABELS[:0]}, ValueError, "support (probe 0): expected at least one row and column, got shape (0, 6)."),
        ({"support": SUPPORT[:, :0]}, ValueError, "support (probe 0): expected at least one row and column, got shape (50, 0)."),
        ({"queries": QUERIES[:0]}, ValueError, "queries (probe 0): expected at least one row and column, got shape (0, 6)."),
        ({"support": []}, ValueError, "support: expected at least one probe, got none."),
        ({"support": iter([])}, ValueError, "support: expected at least one probe, got none."),
        ({"support": 3}, TypeError, "support: expected an array, or a sequence, mapping or iterator of arrays, got a int."),
        ({"support": [[1.0, 2.0]]}, TypeError, "support (probe 0): expected a NumPy array or torch tensor, got a list."),
        ({"support": np.array(3.0)}, ValueError, "support (probe 0): expected shape (rows, width), got ()."),
        ({"support": SUPPORT.astype(complex)}, TypeError, "support (probe 0): expected integers or floats of 16 to 64 bits, got elements of type complex128."),
        ({"support": SUPPORT.astype(str)}, TypeError, "support (probe 0): expected integers or floats of 16 to 64 bits, got elements of type str"),
        ({"support": SUPPORT[0], "labels": LABELS[:6]}, ValueError, "support (probe 0): expected shape (rows, width), got (6,)."),
        ({"support": SUPPORT.tolist(), "queries": QUERIES.tolist()}, TypeError, "support (probe 0): expected a NumPy array or torch tensor, got a list."),
        ({"support": [], "queries": QUERIES}, ValueError, "support: expected at least one probe, got none."),
        ({"query_rows": [0, 50]}, ValueError, "query_rows: expected rows from 0 to 49, got 50."),
        ({"query_rows": [-1]}, ValueError, "query_rows: expected rows from 0 to 49, got -1."),
        ({"query_rows": []}, ValueError, "query_rows: expected at least one row, got none."),
        ({"query_rows": [1.5]}, TypeError, "query_rows: expected integers, got elements of type float64."),
        ({"query_rows": np.ones(50, dtype=bool)}, TypeError, "query_rows: expected integers, got elements of type bool."),
        ({"labels": np.full(50, 2**63, dtype=np.uint64)}, ValueError, "labels: expected integers below 2^63, got 9223372036854775808."),
        ({"num_threads": 2**40}, ValueError, "num_threads: expected at most 1024, got 1099511627776."),
        ({"query_rows": [1], "queries": QUERIES}, ValueError, "query_rows: expected None beside queries, since it picks rows of the support."),
        ({"metric": "l1"}, ValueError, "metric: expected one of sqeuclidean, cosine, inner_product, got 'l1'."),
        ({"metric": "cosine", "support": np.vstack([SUPPORT[:49], 0 * SUPPORT[:1]])}, ValueError, "support (probe 0): expected rows with a norm for metric='cosine', got row 49, whose norm is zero."),
        ({"backend": "gpu"}, ValueError, "backend: expected one of auto, cpu, triton, reference, got 'gpu'."),
        ({"num_threads": 0}, ValueError, "num_threads: expected an integer >= 1, got 0."),
        ({"num_threads": "two"}, TypeError, "num_threads: expected an integer, got 'two'."),
        ({"k": []}, ValueError, "k: expected at least one integer, got an empty sequence."),
        ({"k": [5, 0]}, ValueError, "k: expected an integer >= 1, got 0."),
        ({"k": [5, 3, 5]}, ValueError, "k: expected distinct integers, got 5 twice."),
        ({"k": [5, 2.5]}, TypeError, "k: expected an integer, got 2.5."),
        ({"k": "5"}, TypeError, "k: expected an integer, got '5'."),
        ({"k": [5, 50]}, ValueError, "k: expected at most 49 (support has 50 rows, less the row that is left out), got 50."),
        ({"weights": "nearest"}, ValueError, "weights: expected one of uniform, distance, exp, got 'nearest'."),
        ({"weights": len}, ValueError, "weights: expected one of uniform, distance, exp, got <built-in function len>."),
        ({"temperature": 0.1}, ValueError, "temperature: expected None unless weights='exp', got 0.1."),
        ({"weights": "exp", "temperature": 0}, ValueError, "temperature: expected a positive finite number, got 0."),
        ({"weights": "exp", "temperature": np.inf}, ValueError, "temperature: expected a positive finite number, got inf."),
        ({"weights": "exp", "temperature": np.nan}, ValueError, "temperature: expected a positive finite number, got nan."),
        ({"weights": "exp", "temperature": "hot"}, TypeError, "temperature: expected a number, got 'hot'."),
    ],
)  # fmt: skip
def test_votes(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        votes(**arguments)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: {"support": torch.from_numpy(spoiled(np.nan, 0)).bfloat16()}, ValueError, "NaN or infinity in row 0"),
        (lambda: {"support": torch.from_numpy(SUPPORT).to(torch.float8_e5m2)}, TypeError, "support (probe 0): expected integers or floats of 16 to 64 bits, got elements of type float8_e5m2."),
        (lambda: {"support": torch.from_numpy(SUPPORT).to_sparse()}, TypeError, "support (probe 0): expected a dense tensor, got a sparse_coo one; pass its .to_dense()."),
        (lambda: {"labels": torch.zeros(50, dtype=torch.bfloat16)}, TypeError, "labels: expected integers, got elements of type bfloat16."),
    ],
)  # fmt: skip
def test_votes_of_tensors(
    make: Callable[[], dict[str, Any]], error: type[Exception], sentence: str
) -> None:
    test_votes(make(), error, sentence)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"predictions": LABELS[:9]}, ValueError, "predictions: expected 50 entries, got 9."),
        ({"predictions": SUPPORT[:, 0]}, TypeError, "predictions: expected integers, got elements of type float32."),
        ({"probes": ["a", "b"]}, ValueError, "probes: expected 1 names, got 2."),
        ({"query_labels": LABELS[:3]}, ValueError, "query_labels: expected 50 entries, got 3."),
        ({"predictions": None}, TypeError, "predictions: expected integers unless support is a store, got None."),
        ({"reference": "labels"}, ValueError, "reference: expected one of prediction, label, last_probe or an array of integers, got 'labels'."),
        ({"reference": None}, ValueError, "reference: expected one of prediction, label, last_probe or an array of integers, got None."),
        ({"reference": LABELS[:4]}, ValueError, "reference: expected 50 entries, got 4."),
        ({"reference": SUPPORT[:, 0]}, TypeError, "reference: expected integers, got elements of type float32."),
        ({"reference": "label", "queries": [QUERIES], "predictions": LABELS[:8]}, ValueError, "query_labels: expected (N,) integers for reference='label', got None."),
    ],
)  # fmt: skip
def test_depth(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        pdepth.depth_from_embeddings(
            [SUPPORT], LABELS, **{"predictions": LABELS, "k": 5, **arguments}
        )
    assert sentence in str(caught.value)


def test_neighbours_are_of_one_array() -> None:
    with pytest.raises(TypeError, match="support: expected one array, got a list."):
        pdepth.kneighbors([SUPPORT], k=5)


@pytest.mark.parametrize(
    ("votes", "reference", "error", "sentence"),
    [
        (LABELS, LABELS, ValueError, "votes: expected shape (L, N) with L >= 1, got (50,)."),
        (LABELS[None, :], LABELS[:4], ValueError, "reference: expected 50 entries, got 4."),
        (SUPPORT, LABELS[:6], TypeError, "votes: expected integers, got elements of type float32."),
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
    with pytest.raises(ValueError, match="PDEPTH_SIMD: expected one of bf16, portable.*, got sse9"):
        votes()


def test_a_level_that_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native._native, "levels", lambda: [("portable", True), ("far", False)])
    monkeypatch.setenv(native.SIMD, "far")
    with pytest.raises(
        ValueError, match="PDEPTH_SIMD: expected one of port.* on this machine, got"
    ):
        votes()
