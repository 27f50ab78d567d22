"""Deep k-NN against its rules in plain loops, on the definition's neighbours."""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import pdepth
from pdepth import definition
from pdepth.analysis import deep_knn
from pdepth.analysis.deep_knn import Conformity, DeepKNN, conformity, nonconformity, p_values

from helpers.torch_or_skip import tensor_of, torch

RNG = np.random.default_rng(0)
SIZES = (300, 80, 60)  # support, held out, queries


def of_normals() -> tuple[list[NDArray[Any]], NDArray[Any]]:
    labels = 3 * RNG.integers(0, 4, sum(SIZES)) - 2
    centres = RNG.standard_normal((5, 20))
    spread = (1, 2, 0.2)
    return [
        (centres[labels % 5] + item * RNG.standard_normal((len(labels), 20))).astype(np.float32)
        for item in spread
    ], labels


def of_digits() -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """Pixels, and two layers of a random network over them."""
    digits = load_digits()
    chosen = RNG.permutation(len(digits.data))[: sum(SIZES)]
    probes = [digits.data[chosen].astype(np.float32)]
    for width in (32, 10):
        weights = RNG.standard_normal((probes[-1].shape[1], width)).astype(np.float32)
        probes.append(np.maximum(probes[-1] @ weights, 0.01))
    return probes, digits.target[chosen]


def chunks(values: NDArray[Any]) -> list[NDArray[Any]]:
    return np.split(values, np.cumsum(SIZES)[:2])


def by_rule(
    probes: list[NDArray[Any]], labels: NDArray[Any], k: int, trim: bool
) -> dict[str, NDArray[Any]]:
    """What the paper says, one query, class and neighbour at a time, in fractions."""
    own, held_labels, _ = chunks(labels)
    classes = sorted(set(own.tolist()))

    def strange(subset: int) -> list[list[int]]:
        rows = [
            definition.kneighbors(chunks(item)[0], chunks(item)[subset], k=k, metric="cosine")[1]
            for item in probes
        ]
        return [
            [sum(own[row] != item for layer in rows for row in layer[i]) for item in classes]
            for i in range(SIZES[subset])
        ]

    scores = [
        item[classes.index(label)]
        for item, label in zip(strange(1), held_labels.tolist(), strict=True)
    ]
    scores = sorted(item for item in scores if item or not trim)
    query_rows = strange(2)
    p = [
        [Fraction(len(scores) - bisect_left(scores, s), len(scores)) for s in x] for x in query_rows
    ]
    return {
        "prediction": np.array([classes[item.index(max(item))] for item in p]),
        "credibility": np.array([float(max(item)) for item in p]),
        "confidence": np.array([float(1 - sorted(item)[-2]) for item in p]),
        "p_values": np.array([[float(value) for value in item] for item in p]),
        "nonconformity": np.array(query_rows),
        "classes": np.array(classes),
    }


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("data", [of_normals, of_digits])
def test_as_the_paper_says(data: Any, trim: bool) -> None:
    probes, labels = data()
    expected = by_rule(probes, labels, 9, trim)
    for kind in (np.asarray, tensor_of):
        own, held_rows, query_rows = ([kind(chunks(item)[i]) for item in probes] for i in range(3))
        own_labels, held_labels, _ = map(kind, chunks(labels))
        deep = DeepKNN(k=9, trim_zeros=trim).fit(own, own_labels).calibrate(held_rows, held_labels)
        actual = deep.score(query_rows)
        for name, values in expected.items():
            arrays = getattr(actual, name)
            assert isinstance(arrays, type(kind(values)))
            assert (np.asarray(arrays) == values).all(), name
    # Neither all alike nor all certain: the loops above compare something.
    assert len(set(expected["credibility"])) > 3
    assert expected["confidence"].min() > 0 or len(set(expected["confidence"])) > 3


def test_trimming_is_what_changes() -> None:
    probes, labels = of_normals()
    full, trimmed = (by_rule(probes, labels, 9, trim)["p_values"] for trim in (False, True))
    between = (full > 0) & (full < 1)
    assert (trimmed[between] > full[between]).all()
    assert (trimmed[~between] == full[~between]).all()
    assert between.any()


def test_cleverhans_numbers_are_these_in_float32() -> None:
    """It divides in float64, rounds p to float32, and takes 1 less the second in float32."""
    scores, calibration = RNG.integers(0, 50, (40, 6)), np.sort(RNG.integers(1, 50, 37))
    votes = pdepth.Votes(None, np.arange(6), None, 50 - scores)
    # Counts of one probe, whose rows add up to what makes these scores.
    actual = conformity(votes, calibration)
    own = nonconformity(votes.counts)
    for i in range(40):
        p = np.zeros(6, np.float32)
        for item in range(6):
            p[item] = (37.0 - bisect_left(calibration, own[i, item])) / 37.0
        assert (p == actual.p_values[i].astype(np.float32)).all()
        assert actual.prediction[i] == p.argmax()
        assert actual.credibility[i].astype(np.float32) == p.max()
        rounding = np.finfo(np.float32).eps
        assert abs(actual.confidence[i] - (1.0 - np.sort(p)[-2])) <= rounding


def test_rules() -> None:
    counts = np.array([[[3, 0, 1], [2, 2, 0]], [[1, 2, 1], [0, 4, 0]]])  # 2 probes, 2 queries
    assert nonconformity(counts).tolist() == [[4, 6, 6], [6, 2, 8]]
    assert nonconformity(counts[0]).tolist() == [[1, 4, 3], [2, 2, 4]]
    assert isinstance(nonconformity(torch.from_numpy(counts)), torch.Tensor)
    # As great counts, and so do the scores of equals; beyond all it is 0.
    assert p_values(np.array([4, 5, 6, 7, 8]), [4, 6, 6]).tolist() == [1, 2 / 3, 2 / 3, 0, 0]
    assert p_values([[5]], np.array([6, 4, 6])).tolist() == [[2 / 3]]  # in any order
    actual = conformity(pdepth.Votes(None, np.array([5, 7, 9]), None, counts), [4, 6, 6])
    assert isinstance(actual, Conformity)
    assert actual.prediction.tolist() == [5, 7]
    assert actual.credibility.tolist() == [1, 1]
    assert actual.confidence.tolist() == [1 / 3, 1 / 3]
    # Of equal p-values, also of 0, the smallest label.
    none = conformity(pdepth.Votes(None, np.array([5, 7, 9]), None, counts), [0, 1])
    assert none.prediction.tolist() == [5, 5]
    assert none.credibility.tolist() == [0, 0]
    first = conformity(pdepth.Votes(None, np.array([5]), None, np.full((2, 1), 4)), [0])
    assert (first.prediction.tolist(), first.confidence.tolist()) == ([5, 5], [1, 1])


def test_far_is_strange() -> None:
    """The score of Sun et al., and of all rows without themselves."""
    support, queries, _ = chunks(of_normals()[0][0])
    for query_rows in (queries, None):
        expected = definition.kneighbors(support, query_rows, k=11, metric="cosine")[0][:, -1]
        assert (deep_knn.kth_distances(support, query_rows, k=11) == expected).all()
    plain = deep_knn.kth_distances(support, queries, k=11, metric="sqeuclidean")
    assert (plain == definition.kneighbors(support, queries, k=11)[0][:, -1]).all()


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda x, y: DeepKNN(k=0), ValueError, "k: expected an integer >= 1, got 0."),
        (
            lambda x, y: DeepKNN(metric="l1"),
            ValueError,
            "metric: expected one of sqeuclidean, cosine, got 'l1'.",
        ),
        (
            lambda x, y: DeepKNN().calibrate(x, y),
            RuntimeError,
            "expected a fitted DeepKNN; call fit first",
        ),
        (
            lambda x, y: DeepKNN().fit(x, y).score(x),
            RuntimeError,
            "expected a calibrated DeepKNN; call calibrate first",
        ),
        (lambda x, y: DeepKNN().fit(iter([x]), y), TypeError, "which can be read only once"),
        (
            lambda x, y: DeepKNN(5).fit(x, y).calibrate(None, y),
            TypeError,
            "queries: expected embeddings of rows outside the support, got None",
        ),
        (
            lambda x, y: DeepKNN(5).fit(x, y).calibrate(x, y + 1),
            ValueError,
            "labels: expected classes of the support, got 2.",
        ),
        (
            lambda x, y: DeepKNN(5).fit(x, y).calibrate(x, y[1:]),
            ValueError,
            "labels: expected 20 entries, got 19.",
        ),
        (
            lambda x, y: DeepKNN(5, trim_zeros=True).fit(x, 0 * y).calibrate(x, 0 * y),
            ValueError,
            "trim_zeros: expected at least one score above 0, got only zeros",
        ),
        (
            lambda x, y: DeepKNN(5).fit(x, y).calibrate([x], y),
            TypeError,
            "queries: expected one array as in support, got a list.",
        ),
        (
            lambda x, y: nonconformity(x.astype(float)),
            TypeError,
            "counts: expected integers, got elements of type float64",
        ),
        (
            lambda x, y: nonconformity(y),
            ValueError,
            r"counts: expected shape \(L, N, C\) or \(N, C\), got \(20,\)",
        ),
        (
            lambda x, y: p_values(y, []),
            ValueError,
            "calibration: expected at least one score, got none",
        ),
        (
            lambda x, y: conformity(pdepth.probe_votes(x, y, k=3), [1]),
            ValueError,
            "votes: expected Votes with counts, got none; pass return_counts=True",
        ),
    ],
)
def test_mistakes(call: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        call(np.random.default_rng(0).standard_normal((20, 3)), np.arange(20) % 2)
