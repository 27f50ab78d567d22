"""Label errors: the score against plain loops over its formula, and what it has to be free of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pdepth
from pdepth.analysis.label_errors import THRESHOLD, LabelIssues, find_issues
from pdepth.result import Votes

from helpers.torch_or_skip import torch

K, CLASSES, ROWS = 7, 4, 240
RNG = np.random.default_rng(3)
TRUTH = RNG.integers(0, CLASSES, ROWS) * 3 - 2
CLASSES_OF = np.unique(TRUTH)
LABELS = np.where(RNG.random(ROWS) < 0.15, (TRUTH + 5) % (3 * CLASSES) - 2, TRUTH)
CENTRES = RNG.standard_normal((3 * CLASSES, 6))
SUPPORT = [RNG.standard_normal((ROWS, 6)) + CENTRES[TRUTH] * share for share in (0, 0.7, 1.5, 2, 2)]
SUPPORT[-1] = SUPPORT[-1] + 5 * CENTRES[LABELS]  # has learnt the labels by heart


def votes_of(labels: Any = LABELS, rows: Any = slice(None), **options: Any) -> Votes:
    support = [probe[rows] for probe in SUPPORT]
    return pdepth.probe_votes(support, labels, k=K, return_counts=True, **options)


def score_by_loops(
    counts: NDArray[Any], classes: NDArray[Any], labels: NDArray[Any]
) -> tuple[list[float], list[int]]:
    """The module's formula, a number at a time."""
    names, layers = sorted(set(labels.tolist())), range(len(counts))
    profile, weight = {}, []
    for layer in layers:
        own = [
            counts[layer, row, c] / K
            for row, label in enumerate(labels)
            for c, name in enumerate(classes)
            if name == label
        ]
        mean = math.fsum(own) / len(labels)
        weight.append(mean * (1 - mean))
        for name in names:
            rows = np.flatnonzero(labels == name)
            for c in range(len(classes)):
                share = math.fsum(counts[layer, row, c] / K for row in rows) / len(rows)
                profile[layer, c, name] = (share + 1 / 32) / (1 + len(classes) / 32)
    scores, suggested = [], []
    for row, y in enumerate(labels.tolist()):
        ratios = {
            j: math.fsum(
                weight[layer] * counts[layer, row, c] / K
                * math.log(profile[layer, c, j] / profile[layer, c, y])
                for layer in layers
                for c in range(len(classes))
            ) / math.fsum(weight)
            for j in names
            if j != y
        }  # fmt: skip
        suggested.append(max(ratios, key=lambda j: ratios[j]))
        scores.append(ratios[suggested[-1]])
    return scores, suggested


def test_the_score_is_the_formula() -> None:
    votes = votes_of()
    found = pdepth.label_issues(votes, LABELS)
    scores, suggested = score_by_loops(votes.counts, votes.classes, LABELS)
    np.testing.assert_allclose(found.score, scores, rtol=0, atol=1e-7)
    assert found.suggested.tolist() == suggested
    assert found.is_issue.tolist() == [score >= THRESHOLD for score in found.score]
    assert (found.label == LABELS).all()
    assert (found.suggested != LABELS).all()


def test_wrong_labels_that_are_learnt_by_heart_are_found() -> None:
    votes, wrong = votes_of(), LABELS != TRUTH
    assert (votes.votes[-1] == LABELS).all()  # the last probe gives the wrong ones, too
    found = pdepth.label_issues(votes, LABELS)
    assert found.is_issue[wrong].mean() >= 0.8
    assert wrong[found.is_issue].mean() >= 0.6
    assert (found.suggested == TRUTH)[wrong & found.is_issue].mean() > 0.9
    assert wrong[found.ranked[:10]].all()


def test_few_right_labels_are_issues() -> None:
    found = pdepth.label_issues(votes_of(TRUTH), TRUTH)
    assert found.is_issue.mean() < 0.05


def test_the_order_of_rows_changes_no_bit() -> None:
    counts = votes_of().counts
    found = find_issues(counts, CLASSES_OF, LABELS)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(ROWS)
        again = find_issues(counts[:, order], CLASSES_OF, LABELS[order])
        assert again.score.tolist() == found.score[order].tolist()
        assert again.suggested.tolist() == found.suggested[order].tolist()


def test_every_backend_gives_the_same_bits() -> None:
    expected = pdepth.label_issues(votes_of(backend="reference"), LABELS)
    found = pdepth.label_issues(votes_of(backend="cpu"), LABELS)
    tensors = pdepth.probe_votes(
        [torch.from_numpy(p) for p in SUPPORT], torch.from_numpy(LABELS), k=K, return_counts=True
    )
    of_torch = pdepth.label_issues(tensors, torch.from_numpy(LABELS))
    assert expected.score.tolist() == found.score.tolist() == of_torch.score.tolist()


def test_names_of_classes_are_only_names() -> None:
    found = pdepth.label_issues(votes_of(), LABELS)
    renamed = 100 + 10 * LABELS  # in the same order
    again = pdepth.label_issues(votes_of(renamed), renamed)
    assert again.score.tolist() == found.score.tolist()
    assert again.suggested.tolist() == (100 + 10 * found.suggested).tolist()


def test_held_out_rows_may_have_labels_that_the_support_lacks() -> None:
    own = slice(0, 200)
    queries = [probe[200:] for probe in SUPPORT]
    labels = LABELS[200:].copy()
    labels[3] = 77
    support = [probe[own] for probe in SUPPORT]
    votes = pdepth.probe_votes(support, LABELS[own], queries, k=K, return_counts=True)
    found = pdepth.label_issues(votes, labels)
    assert len(found) == 40
    assert set(found.suggested) <= set(labels)


def test_one_label_is_never_an_issue() -> None:
    found = find_issues([np.full((5, 1), K)] * 2, [9], np.full(5, 9))
    assert found.score.tolist() == [-np.inf] * 5
    assert found.suggested.tolist() == [9] * 5
    assert not found.is_issue.any()


def test_rows_whose_labels_have_all_votes_or_none_have_finite_scores() -> None:
    counts = K * np.eye(3, dtype=np.int64)[np.arange(30) % 3]
    found = find_issues([counts], range(3), np.arange(30) % 3)
    np.testing.assert_allclose(found.score, math.log(1 / 33), atol=1e-7)
    assert not find_issues([counts], range(3), np.arange(30) % 3 + 5).is_issue.all()


def test_many_rows_are_scored_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = votes_of().counts
    expected = find_issues(counts, CLASSES_OF, LABELS)
    monkeypatch.setattr("pdepth.analysis.label_errors.CHUNK", 37)
    assert find_issues(counts, CLASSES_OF, LABELS).score.tolist() == expected.score.tolist()


def test_tables() -> None:
    pandas = pytest.importorskip("pandas")
    found = LabelIssues(
        np.array([0.5, 2.0, -1.0, 2.0]), np.array([0, 1, 2, 1]), np.array([1, 2, 0, 0]), 1.0,
        np.array([10, 30, 20, 25]), ["a", "b", "c", "d"], ["cat", "dog"],
    )  # fmt: skip
    expected = pandas.DataFrame(
        {
            "row": [25, 30, 10, 20],
            "path": ["d", "b", "a", "c"],
            "label": [1, 1, 0, 2],
            "suggested_label": [0, 2, 1, 0],
            "score": [2.0, 2.0, 0.5, -1.0],
            "is_label_issue": [True, True, False, False],
            "label_name": ["dog", "dog", "cat", "2"],
            "suggested_name": ["cat", "2", "dog", "cat"],
        }
    )
    pandas.testing.assert_frame_equal(found.to_pandas(), expected)
    assert repr(found) == "LabelIssues(4 labels, 2 issues)"
    theirs = found.to_cleanlab()
    assert list(theirs) == ["is_label_issue", "label_quality", "given_label", "predicted_label"]
    assert theirs["label_quality"].tolist() == [1 / (1 + math.exp(s)) for s in found.score]
    assert theirs["is_label_issue"].tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda v: pdepth.label_issues(v),
            TypeError,
            "labels: expected (N,) integers beside Votes, got None.",
        ),
        (
            lambda v: pdepth.label_issues(v, LABELS[1:]),
            ValueError,
            "counts: expected shape (239, C) at a probe, got (240, 4).",
        ),
        (
            lambda v: pdepth.label_issues(v, LABELS, threshold=np.nan),
            ValueError,
            "threshold: expected a finite number, got nan.",
        ),
        (
            lambda v: pdepth.label_issues(v, LABELS, threshold="0.5"),
            TypeError,
            "threshold: expected a number, got '0.5'.",
        ),
        (
            lambda v: pdepth.label_issues(votes_of(weights="distance"), LABELS),
            ValueError,
            "counts: expected whole votes, got weights; use weights='uniform'.",
        ),
        (
            lambda v: pdepth.label_issues(v, LABELS, store="x"),
            TypeError,
            "store: expected None beside a Votes, got x.",
        ),
        (
            lambda v: pdepth.label_issues(LABELS),
            TypeError,
            "source: expected a run's folder, a store, a DepthResult or Votes, got ndarray.",
        ),
        (
            lambda v: find_issues([], CLASSES_OF, LABELS),
            ValueError,
            "counts: expected those of at least one probe, got none.",
        ),
        (
            lambda v: find_issues([np.arange(2 * ROWS).reshape(ROWS, 2)], [0, 1], LABELS),
            ValueError,
            "counts: expected as many votes in every row, got others.",
        ),
    ],
)
def test_mistakes(call: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as raised:
        call(votes_of())
    assert str(raised.value) == sentence
