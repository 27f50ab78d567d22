"""ConFrag's neighbourhood agreement, against a plain statement of its rule."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pdepth.analysis.fragments import fragment_labels, neighbourhood_agreement

from helpers.torch_or_skip import torch


def plainly(embeddings, labels, fragments, k):
    """Counts and probabilities, an example and a fragment at a time."""
    distinct = sorted(set(labels.tolist()))
    size, extra = divmod(len(distinct), fragments)
    chunks, begin = [], 0
    for number in range(fragments):
        end = begin + size + (number < extra)
        chunks.append(distinct[begin:end])
        begin = end
    number = [next(j for j, chunk in enumerate(chunks) if y in chunk) for y in labels.tolist()]
    reach = distinct[-1] - distinct[0]
    counts = np.zeros((len(labels), fragments), int)
    share = []
    for row, y in enumerate(labels.tolist()):
        for j in range(fragments):
            pair = j % (fragments // 2), j % (fragments // 2) + fragments // 2
            values = np.asarray(embeddings[pair[0]], np.float64)
            values = values / np.linalg.norm(values, axis=1, keepdims=True)
            rest = [i for i in range(len(labels)) if i != row and number[i] in pair]
            away = [(((values[i] - values[row]) ** 2).sum(), i) for i in rest]
            counts[row, j] = sum(number[i] == j for _, i in sorted(away)[:k])
        agree = [count in (k, k - 1) for count in counts[row]]
        near = [reach / (abs(y - (chunk[0] + chunk[-1]) / 2) + 0.1) for chunk in chunks]
        total = math.fsum(math.exp(value - max(near)) for value in near)
        share.append(
            math.fsum(
                math.exp(near[j] - max(near)) / total
                for j in range(fragments)
                if agree[j] and any(agree[i] for i in (j - 1, j + 1) if 0 <= i < fragments)
            )
        )
    return counts, np.array(share)


@pytest.mark.parametrize(("fragments", "k"), [(2, 2), (4, 3), (6, 5)])
def test_it_is_the_rule(fragments, k):
    rng = np.random.default_rng(fragments)
    labels = rng.integers(0, 40, 90) / 4 if k == 3 else rng.normal(size=90)
    experts = [
        rng.standard_normal((90, 5 + t)).astype(np.float32) + labels[:, None].astype(np.float32)
        for t in range(fragments // 2)
    ]
    counts, share = plainly(experts, labels, fragments, k)
    actual = neighbourhood_agreement(experts, labels, fragments=fragments, k=k)
    np.testing.assert_array_equal(actual.counts, counts)
    np.testing.assert_array_equal(actual.agree, counts >= k - 1)
    np.testing.assert_allclose(actual.probability, share, rtol=1e-12, atol=0)
    tensors = [torch.from_numpy(value) for value in experts]
    again = neighbourhood_agreement(tensors, torch.from_numpy(labels), fragments=fragments, k=k)
    np.testing.assert_array_equal(again.counts, counts)


def test_one_embedding_serves_all_pairs():
    datasets = pytest.importorskip("sklearn.datasets")
    values, labels = datasets.load_diabetes(return_X_y=True)
    counts, share = plainly([values[:150]] * 2, labels[:150], 4, 3)
    actual = neighbourhood_agreement(values[:150], labels[:150])
    np.testing.assert_array_equal(actual.counts, counts)
    np.testing.assert_allclose(actual.probability, share, rtol=1e-12, atol=0)
    assert 0 < share.mean() < 1


def test_fragments_share_the_distinct_labels():
    chunks = fragment_labels([5, 1, 1, 9, 7, 3, 2], 4)
    assert chunks.number.tolist() == [1, 0, 0, 3, 2, 1, 0]  # 1 2 | 3 5 | 7 | 9
    assert chunks.middle.tolist() == [1.5, 4, 7, 9]


def test_wrong_labels_are_selected_less():
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 100, 1200)
    angle = true / 40
    seen = np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(size=(1200, 2)) / 20
    wrong = rng.random(1200) < 0.3
    actual = neighbourhood_agreement(seen, np.where(wrong, rng.permutation(true), true))
    assert actual.probability[wrong].mean() < 0.7 * actual.probability[~wrong].mean()


def test_selection_follows_the_probability():
    labels = np.arange(40)
    actual = neighbourhood_agreement(np.random.default_rng(0).normal(size=(40, 3)), labels, k=2)
    drawn = [actual.selected(seed) for seed in range(4000)]
    np.testing.assert_array_equal(drawn[7], actual.selected(7))
    error = np.sqrt(actual.probability * (1 - actual.probability) / 4000)
    assert (np.abs(np.mean(drawn, axis=0) - actual.probability) <= 5 * error).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fragments": 3}, "fragments: expected an even number, got 3"),
        (
            {"fragments": 12},
            "labels: expected at least 12 distinct values, one per fragment, got 10",
        ),
        ({"k": 1}, "k: expected an integer >= 2"),
        ({"k": 9}, r"k.*\b9\b"),
        ({"labels": [0.0] * 9 + [np.nan]}, "labels: expected numbers, got NaN in row 9"),
        (
            {"labels": [np.inf] + [0.0] * 9},
            "labels: expected finite numbers, got infinity in row 0",
        ),
        ({"labels": [[1.0]] * 10}, "labels: expected shape"),
        ({"labels": np.arange(9)}, r"embeddings\[0\]: expected 9 rows, one per label, got 10"),
        (
            {"embeddings": [np.ones((10, 2))] * 3},
            "embeddings: expected 2 arrays, one per pair, got 3",
        ),
    ],
)
def test_wrong_input(change, sentence):
    options = {"embeddings": np.random.default_rng(0).normal(size=(10, 2)), "labels": np.arange(10)}
    with pytest.raises(ValueError, match=sentence):
        neighbourhood_agreement(**options | change)


def test_agreement_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"agree: expected shape \(8, 4\), got \(3, 4\)"):
        fragment_labels(np.arange(8)).probability(np.ones((3, 4), bool))
