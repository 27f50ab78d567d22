"""pdepth.compat.torchdr against TorchDR, and against the definition in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import pdepth
from pdepth import definition
from pdepth.compat import torchdr as compat

from helpers.cases import largest_by_definition

RNG = np.random.default_rng(0)
X, Y = (torch.from_numpy(RNG.standard_normal((rows, 20))) for rows in (70, 300))
METRICS = ["euclidean", "sqeuclidean", "angular"]
OURS = {"k": 9, "return_indices": True}


def theirs(*given: Any, **options: Any) -> Any:
    distance = pytest.importorskip("torchdr.distance")
    return distance.pairwise_distances(*given, **options)


def by_definition(x: Any, y: Any, metric: str, k: int, leave_out: bool) -> tuple[Any, Any]:
    if metric != "angular":
        squared, rows = definition.kneighbors(y, None if leave_out else x, k=k)
        return np.sqrt(squared) if metric == "euclidean" else squared, rows
    products, rows = largest_by_definition(y, x, k + leave_out)
    if leave_out:
        kept = [
            [place for place in range(k + 1) if own[place] != i][:k] for i, own in enumerate(rows)
        ]
        products, rows = (np.take_along_axis(each, np.array(kept), 1) for each in (products, rows))
    return -products, rows


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_neighbours_are_those_of_the_definition(metric: str, kind: torch.dtype) -> None:
    x, y = X.to(kind), Y.to(kind)
    for given, leave_out in (((x, y), False), ((y,), True), ((y,), False)):
        result = compat.pairwise_distances(*given, metric=metric, exclude_diag=leave_out, **OURS)
        values, rows = by_definition(given[0], y, metric, 9, leave_out)
        assert result[0].dtype == kind
        assert (result[1].numpy() == rows).all()
        assert torch.equal(result[0], torch.from_numpy(values).to(kind))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", [None, "faiss"])
def test_and_torchdrs(metric: str, backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_pass_on(monkeypatch)
    kind = torch.float64 if backend is None else torch.float32
    x, y = X.to(kind), Y.to(kind)
    for given in ((x, y), (x, None), (x, x)):
        for leave_out in (False, True):
            options = {"metric": metric, "backend": backend, "exclude_diag": leave_out, "k": 9}
            for more in ({"return_indices": True}, {"device": "cpu", "return_indices": True}):
                expected, result = (
                    f(*given, **options, **more) for f in (theirs, compat.pairwise_distances)
                )
                assert [each.dtype for each in result] == [each.dtype for each in expected]
                assert torch.equal(result[1], expected[1])
                # Theirs is a difference of products, of which a root is taken.
                tolerance = 1e-3 if backend else 1e-6
                np.testing.assert_allclose(result[0], expected[0], rtol=1e-5, atol=tolerance)
            values = compat.pairwise_distances(*given, **options)
            assert torch.equal(values, result[0])


def test_digits() -> None:
    """Whole numbers: the same distances, and rows that differ only where these tie."""
    pixels = torch.as_tensor(load_digits().data[:600], dtype=torch.float32)
    for metric in METRICS:
        options = {"metric": metric, "exclude_diag": True, **OURS}
        expected, result = (f(pixels, **options) for f in (theirs, compat.pairwise_distances))
        values, near = by_definition(pixels, pixels, metric, 9, True)
        assert torch.equal(result[0], torch.from_numpy(values).float())
        assert (result[1].numpy() == near).all()
        # torch's root in float32 may be rounded the other way.
        np.testing.assert_array_max_ulp(
            *map(np.asarray, (result[0], expected[0])), metric[0] == "e"
        )
        rows = pixels[expected[1].long()], pixels[result[1].long()]
        if metric == "angular":
            one, other = ((each * pixels[:, None]).sum(-1) for each in rows)
        else:
            one, other = ((each - pixels[:, None]).square().sum(-1) for each in rows)
        assert torch.equal(one, other)


def test_a_copy_is_at_zero() -> None:
    """TorchDR's difference of products gives a row another distance from itself."""
    rows = (10 + Y / 100).float()
    result, expected = (f(rows, **OURS) for f in (compat.pairwise_distances, theirs))
    assert (result[0][:, 0] == 0).all()
    assert (expected[0][:, 0] != 0).any()
    assert (result[1].numpy() == definition.kneighbors(rows, rows, k=9)[1]).all()


def refuse_to_pass_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> None:
        raise AssertionError("TorchDR was called")

    monkeypatch.setattr(compat, "_original", wrong)


PASSED_ON: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "a full matrix": ((X,), {}),
    "k of all rows": ((X, Y[:9]), OURS),
    "another metric": ((X, Y), {**OURS, "metric": "manhattan"}),
    "a gradient": ((X.clone().requires_grad_(), Y), OURS),
    "whole numbers": ((X.long(), Y.long()), {**OURS, "metric": "sqeuclidean"}),
}


@pytest.mark.parametrize("what", PASSED_ON)
def test_passed_on(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise AssertionError("pdepth was called")

    monkeypatch.setattr(pdepth, "kneighbors", wrong)
    given, options = PASSED_ON[what]
    expected, result = (f(*given, **options) for f in (theirs, compat.pairwise_distances))
    if not isinstance(expected, tuple):
        expected, result = (expected,), (result,)
    for one, other in zip(result, expected, strict=True):
        assert one is other is None or torch.equal(one, other)
    assert result[0].requires_grad == expected[0].requires_grad


def test_flat_configurations_are_answered_and_others_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distance = pytest.importorskip("torchdr.distance")
    pytest.importorskip("faiss")
    y = Y.float()
    expected = compat.pairwise_distances(y, backend="faiss", **OURS)
    ivf = distance.FaissConfig(index_type="IVF", nlist=4, nprobe=1)
    assert not torch.equal(compat.pairwise_distances(y, backend=ivf, **OURS)[1], expected[1])
    refuse_to_pass_on(monkeypatch)
    result = compat.pairwise_distances(y, backend=distance.FaissConfig(), **OURS)
    assert all(map(torch.equal, result, expected))


WRONG: dict[str, Callable[[Any], Any]] = {
    "widths": lambda f: f(X, Y[:, :5], k=3),
    "metric": lambda f: f(X, Y, metric="hamming", k=3),
    "types": lambda f: f(X, Y.float(), k=3),
    "a negative k": lambda f: f(X, Y, k=-1),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_same_mistakes_have_the_same_errors(what: str) -> None:
    types = []
    for function in (theirs, compat.pairwise_distances):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            WRONG[what](function)
        types.append(caught.type)
    assert types[1] is types[0]


def test_nan_is_an_error() -> None:
    with pytest.raises(ValueError, match="NaN or infinity in row 2\\b"):
        compat.pairwise_distances(torch.tensor([[0.0], [1], [np.nan]]), k=1)


def test_patch() -> None:
    torchdr = pytest.importorskip("torchdr")
    from torchdr.affinity import base
    from torchdr.distance import base as home

    before = torchdr.pairwise_distances
    rows = Y.float()
    expected = torchdr.EntropicAffinity(perplexity=5, sparsity=True)(rows)
    places = (torchdr, torchdr.distance, base, home)
    with compat.patch():
        compat.patch()
        assert all(place.pairwise_distances is compat.pairwise_distances for place in places)
        result = torchdr.EntropicAffinity(perplexity=5, sparsity=True)(rows)
        assert compat.pairwise_distances(X).shape == (70, 70)  # passed on, not round in a circle
    assert all(place.pairwise_distances is before for place in places)
    np.testing.assert_allclose(result[0], expected[0], rtol=1e-3, atol=1e-5)
    assert torch.equal(result[1], expected[1])


def test_torchdr_itself_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchdr"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchdr", None)
    assert compat.pairwise_distances(X, k=3).shape == (70, 3)
    with pytest.raises(ImportError, match="does not answer needs torchdr: pip install 'pdepth.tor"):
        compat.pairwise_distances(X)
