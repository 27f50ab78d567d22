"""Suspect labels: one rule behind both public functions, to the bit of what each has to give."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import pdepth
from pdepth.analysis import export, middle, suspect_labels
from pdepth.result import DepthResult, Votes

from helpers.torch_or_skip import torch

pytest.importorskip("pandas")
pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")

LAYERS, ROWS, K = 5, 200, 7
RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 4, ROWS) * 3 - 2
SUPPORT = [
    RNG.standard_normal((ROWS, 2)) + LABELS[:, None] * share for share in (0, 0.2, 0.5, 1, 2)
]
VOTES = pdepth.probe_votes(SUPPORT, LABELS, k=K, return_counts=True)


def result_of(votes: Votes) -> DepthResult:
    depth, undefined = pdepth.depth_from_votes(votes.votes, LABELS)
    names = tuple("abcde")
    known = np.ones((LAYERS, ROWS), bool)
    return DepthResult(depth, undefined, votes.votes, known, LABELS, LABELS, names, K)


def test_both_documented_names_are_one_implementation() -> None:
    assert export.label_issues is suspect_labels.label_issues
    assert middle.mislabelled is suspect_labels.mislabelled
    assert middle.Suspicion is suspect_labels.Suspicion


def test_both_rank_by_the_same_depth() -> None:
    suspicion = middle.mislabelled(VOTES, LABELS)
    issues = export.label_issues(result_of(VOTES))
    assert len(set(suspicion.depth)) > 3
    assert issues["depth"].tolist() == suspicion.depth.tolist()
    assert issues["label_quality"].tolist() == [1 - depth / LAYERS for depth in suspicion.depth]


def test_scores_are_quotients_rounded_once() -> None:
    suspicion = middle.mislabelled(VOTES, LABELS)
    for row, label in enumerate(LABELS):
        depth = LAYERS
        while depth and VOTES.votes[depth - 1, row] == label:
            depth -= 1
        own = int(VOTES.counts[:, row, np.flatnonzero(VOTES.classes == label)[0]].sum())
        against = Fraction(LAYERS * K - own, LAYERS * K)
        assert suspicion.depth[row] == depth
        assert suspicion.against[row] == float(against)
        assert suspicion.both[row] == float((against + Fraction(depth, LAYERS)) / 2)


def test_tensors_come_back_as_tensors() -> None:
    votes = pdepth.probe_votes(
        [torch.from_numpy(array) for array in SUPPORT],
        torch.from_numpy(LABELS),
        k=K,
        return_counts=True,
    )
    suspicion, expected = middle.mislabelled(votes, LABELS), middle.mislabelled(VOTES, LABELS)
    for name in ("against", "depth", "both"):
        values = getattr(suspicion, name)
        assert isinstance(values, torch.Tensor)
        np.testing.assert_array_equal(values.numpy(), getattr(expected, name))


def test_counts_of_one_array_are_refused() -> None:
    votes = pdepth.probe_votes(SUPPORT[0], LABELS, k=K, return_counts=True)
    with pytest.raises(ValueError, match=r"votes: expected counts \(L, M, C\) of several probes"):
        middle.mislabelled(votes, LABELS)


def test_both_say_what_to_use_in_their_place() -> None:
    with pytest.warns(DeprecationWarning, match=r"mislabelled is deprecated; use pdepth.label_iss"):
        middle.mislabelled(VOTES, LABELS)
    with pytest.warns(DeprecationWarning, match=r"use pdepth.label_issues\(result\).to_cleanlab"):
        export.label_issues(result_of(VOTES))
