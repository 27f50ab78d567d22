"""pdepth.compat.dino against the rules of DINO's and DINOv2's evaluations, in our own words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pdepth.compat.dino import KnnModule, knn_classifier

from helpers.cases import scores_by_definition, unit_rows

RNG = np.random.default_rng(0)
TRAIN, TEST = (unit_rows(RNG.standard_normal((rows, 24))) for rows in (400, 130))
LABELS, TARGETS = RNG.integers(0, 12, 400), RNG.integers(0, 12, 130)
GIVEN = tuple(map(torch.as_tensor, (TRAIN, LABELS, TEST, TARGETS)))


def accuracies_by_definition(
    train: Any, labels: Any, test: Any, targets: Any, k: int, t: float, classes: int
) -> tuple[float, float]:
    """Shares, in percent, of rows whose target comes first, and among the first min(5, k)."""
    (scores,) = scores_by_definition(train, labels, test, [k], t, classes)
    places = []
    for own, target in zip(scores, targets, strict=True):
        order = sorted(range(classes), key=lambda c: (-own[c], c))
        places.append(order.index(target) if target in order else classes)
    counts = [sum(place < most for place in places) for most in (1, min(5, k))]
    return 100 * counts[0] / len(test), 100 * counts[1] / len(test)


def in_torch(
    train: Any, labels: Any, test: Any, targets: Any, k: int, t: float, classes: int
) -> tuple[float, float]:
    """The same in float32, of torch's own pieces, as the evaluation that people run.

    But for `stable`: without it torch's order of classes of no weight is any.
    """
    near = torch.topk(test @ train.T, k, dim=1)
    weights = torch.exp(near.values / t)
    scores = torch.zeros(len(test), classes).scatter_add_(1, labels[near.indices], weights)
    hits = scores.sort(dim=1, descending=True, stable=True).indices == targets[:, None]
    result = [100 * hits[:, :most].sum().item() / len(test) for most in (1, min(5, k))]
    return result[0], result[1]


@pytest.mark.parametrize("k", [1, 3, 20, 200])
@pytest.mark.parametrize("classes", [12, 1000])
def test_accuracies(k: int, classes: int) -> None:
    result = knn_classifier(*GIVEN, k, 0.07, classes)
    expected = accuracies_by_definition(TRAIN, LABELS, TEST, TARGETS, k, 0.07, classes)
    assert result == expected
    assert result == in_torch(*GIVEN, k, 0.07, classes)


def test_several_k_of_digits_from_one_search() -> None:
    digits = load_digits()
    rows, targets = unit_rows(digits.data), digits.target
    given = (rows[:900], targets[:900], rows[900:1300], targets[900:1300])
    tensors = tuple(map(torch.as_tensor, given))
    result = knn_classifier(*tensors, [20, 5], 0.07, 10)
    assert list(result) == [20, 5]
    for k, accuracies in result.items():
        assert accuracies == accuracies_by_definition(*given, k, 0.07, 10)
        assert accuracies == in_torch(*tensors, k, 0.07, 10)
        assert accuracies == knn_classifier(*tensors, k, 0.07, 10)
        assert accuracies == knn_classifier(*tensors, np.int64(k), 0.07, 10)
        assert accuracies[0] > 90
        assert accuracies[1] > 95


def test_classes_without_neighbours_come_in_their_order() -> None:
    """After class 7 of all neighbours, classes 0, 1, ... are next: a target of 1 is third."""
    train = torch.eye(3)
    labels = torch.tensor([7, 7, 7])
    targets = torch.tensor([7, 1, 2, 99])
    result = knn_classifier(train, labels, torch.ones(4, 3), targets, 3, 0.07, 9)
    assert result == (25, 50)  # 7 is first, 1 third; 2 is fourth, beyond min(5, 3); 99 is no class


def probabilities_by_definition(
    ks: list[int], t: float, classes: int, test: Any = TEST, train: Any = TRAIN
) -> list[NDArray[np.float64]]:
    scores = scores_by_definition(train, LABELS, test, [*ks, max(ks)], t, classes)
    whole = scores[-1].sum(axis=1, keepdims=True)
    return [score / whole for score in scores[:-1]]


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_probabilities_for_several_k(kind: str) -> None:
    train, test = (torch.as_tensor(each.astype(kind)) for each in (TRAIN, TEST))
    ks = [10, 200, 30]
    module = KnnModule(train, GIVEN[1], ks, 0.07, "cpu", 15)
    result = module(test)
    assert isinstance(module, torch.nn.Module)
    assert module.nb_knn == list(result) == ks
    for k, expected in zip(ks, probabilities_by_definition(ks, 0.07, 15), strict=True):
        assert result[k].dtype == getattr(torch, kind)
        assert (result[k].numpy() == expected.astype(kind)).all()
    similarities = torch.topk(test @ train.T, 200, dim=1)
    shares = torch.softmax(similarities.values / 0.07, 1)
    votes = torch.nn.functional.one_hot(GIVEN[1][similarities.indices], 15) * shares[..., None]
    for k in ks:
        np.testing.assert_allclose(result[k], votes[:, :k].sum(1), rtol=1e-4, atol=1e-7)


def test_what_was_rounded_in_doubt_is_computed_again() -> None:
    """Copies tie at the k-th place, and a tiny temperature leaves weights that vanish."""
    train = torch.as_tensor(TRAIN[:100]).repeat(4, 1)
    for t in (0.07, 1e-3):
        result = KnnModule(train, GIVEN[1], [2, 50], t, "cpu", 12)(GIVEN[2])
        expected = probabilities_by_definition([2, 50], t, 12, train=train.numpy())
        for k, each in zip([2, 50], expected, strict=True):
            assert (result[k].numpy() == each.astype(np.float32)).all()


def test_wrong_input_is_named() -> None:
    with pytest.raises(
        RuntimeError, match="k: expected an integer from 1 to 400, the rows of the bank, got 401."
    ):
        knn_classifier(*GIVEN, 401, 0.07)
    with pytest.raises(
        RuntimeError, match="k: expected at least one integer, got an empty sequence."
    ):
        knn_classifier(*GIVEN, [], 0.07)
    with pytest.raises(
        RuntimeError, match="num_classes: expected at least 5, so many are ranked, got 3."
    ):
        knn_classifier(GIVEN[0], GIVEN[1] % 3, *GIVEN[2:], 9, 0.07, 3)
    with pytest.raises(RuntimeError, match="labels: expected classes from 0 to 4, got"):
        knn_classifier(*GIVEN, 9, 0.07, 5)
    with pytest.raises(RuntimeError, match=r"test_labels: expected shape \(130,\), .* got \(400"):
        knn_classifier(*GIVEN[:3], GIVEN[1], 9, 0.07)
    with pytest.raises(RuntimeError, match=r"features: expected shape \(N, 24\) .* got \(130, 5"):
        KnnModule(*GIVEN[:2], [3], 0.07, "cpu")(GIVEN[2][:, :5])
    with pytest.raises(ValueError, match="temperature.* -1\\b"):
        knn_classifier(*GIVEN, 9, -1)
