"""What a program has set in torch: another default device, and operations of a fixed order only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

import pdepth
from pdepth import definition
from pdepth.backends import triton as backend

from helpers.cases import first_difference

# Of those that torch refuses on CUDA where `torch.use_deterministic_algorithms(True)` was called.
UNORDERED = ("median", "kthvalue", "scatter_add_", "put_", "histc", "index_reduce_", "mode")


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """A default device that holds no values: what is made there by mistake is an error."""
    with torch.device("meta"):
        yield


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("does not have a deterministic implementation")

    for name in UNORDERED:
        monkeypatch.setattr(torch.Tensor, name, refuse)
        monkeypatch.setattr(torch, name, refuse, raising=False)


@pytest.mark.skipif(bool(backend.unavailable()), reason=str(backend.unavailable()))
@pytest.mark.parametrize("setting", ["elsewhere", "ordered"])
def test_every_answer_of_the_triton_backend(setting: str, request: pytest.FixtureRequest) -> None:
    rng = np.random.default_rng(0)
    support = [rng.standard_normal((12, width)).astype("f4") for width in (5, 40)]
    labels, predictions = rng.integers(0, 3, 12), rng.integers(0, 3, 12)
    expected = [definition.probe_votes(rows, labels, k=7) for rows in support]
    depth = pdepth.depth_from_embeddings(support, labels, predictions, k=7, backend="cpu").depth
    near = definition.kneighbors(support[1], k=7)
    request.getfixturevalue(setting)
    votes = pdepth.probe_votes(support, labels, k=7, backend="triton")
    counts = pdepth.probe_votes(support, labels, k=7, backend="triton", return_counts=True).counts
    for number, answer in enumerate(expected):
        assert first_difference(np.asarray(votes.votes)[number], answer.votes) is None
        assert counts is not None
        assert first_difference(np.asarray(counts)[number], answer.counts) is None
    found = pdepth.kneighbors(support[1], k=7, backend="triton")
    assert first_difference(np.asarray(found[1]), near[1]) is None
    early = pdepth.depth_from_embeddings(
        support, labels, predictions, k=7, backend="triton", early_exit=True
    )
    assert first_difference(early.depth, depth) is None
