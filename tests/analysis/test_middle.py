"""Middle probes, wrong labels, purity and hubs: against plain loops over the definition."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.datasets import load_digits

import pdepth
from pdepth import definition
from pdepth.analysis import middle, neighbourhood
from pdepth.analysis.middle import MiddleProbeClassifier, mislabelled, precision_recall

from helpers.torch_or_skip import tensor_of, torch

SIZES = (400, 90, 80)  # support, held out, queries


def of_digits() -> tuple[list[NDArray[Any]], NDArray[Any], NDArray[Any]]:
    """Pixels and two layers of a random network; labels, a third of them wrong; and the truth."""
    rng = np.random.default_rng(0)
    digits = load_digits()
    subset = rng.permutation(len(digits.data))[: sum(SIZES)]
    probes = [rng.standard_normal((len(subset), 6)).astype(np.float32)]  # one that knows nothing
    probes.append(digits.data[subset].astype(np.float32))
    for width in (32, 10):
        weights = rng.standard_normal((probes[-1].shape[1], width)).astype(np.float32)
        probes.append(np.maximum(probes[-1] @ weights, 0.01))
    truth = digits.target[subset]
    labels = np.where(rng.random(len(truth)) < 0.33, rng.integers(0, 10, len(truth)), truth)
    return probes, 7 * labels - 20, 7 * truth - 20


def chunks(values: NDArray[Any]) -> list[NDArray[Any]]:
    return np.split(values, np.cumsum(SIZES)[:2])


PROBES, LABELS, TRUTH = of_digits()
OWN, HELD, ASKED = ([chunks(item)[i] for item in PROBES] for i in range(3))
K = 7


def ballots(queries: list[NDArray[Any]], subset: range) -> list[Counter[int]]:
    """Each query's neighbours by label, over some probes."""
    own = chunks(LABELS)[0]
    rows = [definition.kneighbors(OWN[i], queries[i], k=K)[1] for i in subset]
    return [
        Counter(int(own[row]) for layer in rows for row in layer[query])
        for query in range(len(queries[0]))
    ]


def winner(ballot: Counter[int]) -> int:
    return min(ballot, key=lambda item: (-ballot[item], item))


@pytest.mark.parametrize("mode", ["best", "mix"])
@pytest.mark.parametrize("kind", [np.asarray, tensor_of])
def test_the_probes_that_held_out_votes_choose(mode: str, kind: Any) -> None:
    held_labels = chunks(LABELS)[1]
    runs = [range(i, j + 1) for i in range(4) for j in range(i, 4)]
    right = {
        run: sum(winner(b) == y for b, y in zip(ballots(HELD, run), held_labels, strict=True))
        for run in runs
    }
    allowed = [run for run in runs if mode == "mix" or len(run) == 1]
    expected = min(allowed, key=lambda run: (-right[run], len(run), run.start))
    own, held_rows, query_rows = ([kind(item) for item in chunk] for chunk in (OWN, HELD, ASKED))
    actual = MiddleProbeClassifier(K, mode=mode)
    assert actual.fit(own, kind(chunks(LABELS)[0]), held_rows, kind(held_labels)) is actual
    assert actual.probes_ == expected
    assert len(expected) == 1 or mode == "mix"
    for run, count in right.items():
        assert actual.held_out_accuracy_[run.start, run.stop - 1] == count / SIZES[1]
    assert np.isnan(actual.held_out_accuracy_[2, 1])
    counters = ballots(ASKED, expected)
    predicted = actual.predict(query_rows)
    assert isinstance(predicted, type(query_rows[0]))
    assert np.asarray(predicted).tolist() == [winner(item) for item in counters]
    shares = np.asarray(actual.predict_proba(query_rows))
    classes = np.asarray(actual.classes_).tolist()
    assert shares.tolist() == [[b[c] / (K * len(expected)) for c in classes] for b in counters]
    truth = chunks(TRUTH)[2]
    assert actual.score(query_rows, kind(truth)) == (np.asarray(predicted) == truth).mean()


def test_of_equals_the_fewest_probes_then_the_first() -> None:
    accuracy = np.array([[0.5, 0.9, 0.9], [np.nan, 0.7, 0.8], [np.nan, np.nan, 0.7]])
    assert middle.choose_probes(accuracy, "mix") == range(0, 2)
    assert middle.choose_probes(accuracy, "best") == range(1, 2)
    accuracy[2, 2] = 0.9
    assert middle.choose_probes(accuracy, "mix") == range(2, 3)


@pytest.mark.filterwarnings("ignore:mislabelled is deprecated")
@pytest.mark.parametrize("kind", [np.asarray, tensor_of])
def test_what_speaks_against_a_label(kind: Any) -> None:
    own = chunks(LABELS)[0]
    votes = pdepth.probe_votes([kind(e) for e in OWN], kind(own), k=K, return_counts=True)
    actual = mislabelled(votes, kind(own))
    near = [definition.kneighbors(item, None, k=K)[1] for item in OWN]
    for row in range(SIZES[0]):
        ballot = [Counter(own[layer[row]].tolist()) for layer in near]
        strange = sum(K - item[own[row]] for item in ballot)
        agrees = [winner(item) == own[row] for item in ballot]
        depth = min((i for i in range(5) if all(agrees[i:])), default=4)
        assert actual.against[row] == strange / (4 * K)
        assert actual.depth[row] == depth
        assert actual.both[row] == float(Fraction(strange, 8 * K) + Fraction(depth, 8))
    assert isinstance(actual.both, type(votes.counts))
    wrong = own != chunks(TRUTH)[0]
    assert precision_recall(actual.against, wrong).average > 2 * wrong.mean()


def test_precision_and_recall() -> None:
    rng = np.random.default_rng(0)
    scores, meant = rng.integers(0, 12, 100), rng.random(100) < 0.3
    actual = precision_recall(scores, meant)
    assert actual.thresholds.tolist() == sorted(set(scores.tolist()), reverse=True)
    for threshold, precision, recall in zip(
        actual.thresholds, actual.precision, actual.recall, strict=True
    ):
        taken = scores >= threshold
        assert precision == (taken & meant).sum() / taken.sum()
        assert recall == (taken & meant).sum() / meant.sum()
    reference = metrics.average_precision_score(meant, scores)
    assert math.isclose(actual.average, reference, rel_tol=1e-12)
    assert precision_recall(torch.tensor([3.0, 1.0]), torch.tensor([True, False])).average == 1


@pytest.mark.parametrize("kind", [np.asarray, tensor_of])
def test_purity(kind: Any) -> None:
    own = chunks(LABELS)[0]
    votes = pdepth.probe_votes([kind(e) for e in OWN], kind(own), k=K, return_counts=True)
    actual = neighbourhood.purity(votes, kind(own))
    of_class = np.asarray(neighbourhood.class_purity(votes, kind(own)))
    assert isinstance(actual, type(votes.counts))
    for layer, item in enumerate(OWN):
        same = own[definition.kneighbors(item, None, k=K)[1]] == own[:, None]
        assert np.asarray(actual)[layer].tolist() == [row.sum() / K for row in same]
        for place, label in enumerate(np.unique(own)):
            mine = same[own == label]
            assert of_class[layer, place] == mine.sum() / mine.size
    first = pdepth.probe_votes(OWN[1], own, HELD[1], k=K, return_counts=True)
    subset = chunks(LABELS)[1]
    near = definition.kneighbors(OWN[1], HELD[1], k=K)[1]
    expected = (own[near] == subset[:, None]).mean(axis=1)
    np.testing.assert_allclose(neighbourhood.purity(first, subset), expected, rtol=1e-15)
    few = neighbourhood.class_purity(first, np.full(SIZES[1], -20))
    assert np.isnan(few[1:]).all()
    assert few[0] == (own[near] == -20).mean()


@pytest.mark.parametrize("kind", [np.asarray, tensor_of])
def test_hubs(kind: Any) -> None:
    stats = pytest.importorskip("scipy.stats")
    own = chunks(LABELS)[0]
    actual = neighbourhood.hubs(kind(OWN[2]), labels=kind(own), k=K)
    near = definition.kneighbors(OWN[2], None, k=K)[1]
    times, bad = np.zeros(SIZES[0], int), np.zeros(SIZES[0], int)
    for query, rows in enumerate(near):
        for row in rows:
            times[row] += 1
            bad[row] += own[row] != own[query]
    assert np.asarray(actual.occurrence).tolist() == times.tolist()
    assert np.asarray(actual.mislabelling).tolist() == bad.tolist()
    assert isinstance(actual.occurrence, type(kind(OWN[2])))
    assert math.isclose(actual.skewness, stats.skew(times), rel_tol=1e-9)
    query_rows = neighbourhood.hubs(OWN[2], ASKED[2], k=K)
    assert query_rows.mislabelling is None
    assert query_rows.occurrence.sum() == K * SIZES[2]
    assert np.isnan(neighbourhood.hubs(np.eye(3), k=2).skewness)


@pytest.mark.filterwarnings("ignore:mislabelled is deprecated")
@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda x, y: MiddleProbeClassifier(0), ValueError, "k: expected an integer >= 1, got 0."),
        (
            lambda x, y: MiddleProbeClassifier(mode="all"),
            ValueError,
            "mode: expected one of best, mix, got 'all'.",
        ),
        (
            lambda x, y: MiddleProbeClassifier().predict([x]),
            RuntimeError,
            "expected a fitted classifier; call fit first.",
        ),
        (
            lambda x, y: MiddleProbeClassifier(3).fit(x, y, x, y),
            TypeError,
            "support: expected a list with one array per probe, got one array.",
        ),
        (
            lambda x, y: MiddleProbeClassifier(3).fit(iter([x]), y, [x], y),
            TypeError,
            "got a list_iterator, which can be read only once.",
        ),
        (
            lambda x, y: MiddleProbeClassifier(3).fit([x], y, None, y),
            TypeError,
            "held_out: expected embeddings, one array per probe, got None.",
        ),
        (
            lambda x, y: MiddleProbeClassifier(3).fit([x], y, [x], y[1:]),
            ValueError,
            "held_out_labels: expected 20 entries, got 19.",
        ),
        (
            lambda x, y: MiddleProbeClassifier(3).fit([x], y, [x], y).predict([x, x]),
            ValueError,
            "queries: expected 1 probes as in support, got 2.",
        ),
        (
            lambda x, y: mislabelled(pdepth.probe_votes([x], y, k=3), y),
            ValueError,
            "votes: expected Votes with counts, got none; pass return_counts=True.",
        ),
        (
            lambda x, y: mislabelled(
                pdepth.probe_votes([x], y, k=3, weights="distance", return_counts=True), y
            ),
            ValueError,
            "votes: expected counts of neighbours, got weights; use weights='uniform'.",
        ),
        (
            lambda x, y: mislabelled(pdepth.probe_votes([x], y, k=3, return_counts=True), y + 9),
            ValueError,
            "labels: expected classes of the support, got 9.",
        ),
        (
            lambda x, y: precision_recall(x[:, 0], 0 * y),
            ValueError,
            "relevant: expected at least one true entry, got none.",
        ),
        (
            lambda x, y: precision_recall(x[:, 0] * np.nan, y),
            ValueError,
            "scores: expected numbers, got NaN in row 0.",
        ),
        (
            lambda x, y: neighbourhood.purity(pdepth.probe_votes(x, y, k=3), y),
            ValueError,
            "votes: expected Votes with counts, got none",
        ),
        (
            lambda x, y: neighbourhood.purity([x], y),
            TypeError,
            "votes: expected Votes, got list; see probe_votes.",
        ),
        (
            lambda x, y: neighbourhood.hubs(x, x, labels=y, k=3),
            ValueError,
            "labels: expected all rows of the support as queries, got other queries",
        ),
    ],
)
def test_mistakes(call: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        call(np.random.default_rng(0).standard_normal((20, 3)), np.arange(20) % 2)
    text = str(caught.value)
    assert sentence in text
