"""pdepth.compat.lightly against lightly's knn_predict, and against its rule in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pdepth.compat import lightly as compat

from helpers.cases import KINDS, cast, scores_by_definition, unit_rows

RNG = np.random.default_rng(0)
BANK, ASKED = (unit_rows(RNG.standard_normal((rows, 24))) for rows in (500, 80))
LABELS = RNG.integers(0, 7, 500)
ROUNDING = 1e-4  # relative, of a score in float32: (k + 2 D / T) epsilon, and exp's own


def ranks_by_definition(
    bank: Any, labels: Any, queries: Any, classes: int, k: int, t: float
) -> NDArray[np.int64]:
    (scores,) = scores_by_definition(bank, labels, queries, [k], t, classes)
    return np.array([sorted(range(classes), key=lambda c: (-own[c], c)) for own in scores])


def assert_near_ties_only(
    result: NDArray[np.int64], expected: NDArray[np.int64], scores: NDArray[np.float64]
) -> None:
    """Where two rankings put different classes, the scores of these are equal but for rounding."""
    one, other = (np.take_along_axis(scores, each, axis=1) for each in (result, expected))
    np.testing.assert_allclose(one, other, rtol=ROUNDING, atol=0)


def ask(
    function: Callable[..., Any], bank: Any, labels: Any, queries: Any, *rest: Any
) -> NDArray[np.int64]:
    tensors = (torch.as_tensor(each) for each in (queries, np.ascontiguousarray(bank.T), labels))
    result = function(*tensors, *rest)
    assert result.dtype == torch.int64
    ranks: NDArray[np.int64] = result.numpy()
    return ranks


def lightlys() -> Callable[..., Any]:
    module = pytest.importorskip("lightly.utils.benchmarking.knn")
    function: Callable[..., Any] = module.knn_predict
    return function


@pytest.mark.parametrize(("k", "t"), [(1, 0.1), (20, 0.1), (200, 0.07), (500, 1.0)])
def test_ranks_are_those_of_float64(k: int, t: float) -> None:
    expected = ranks_by_definition(BANK, LABELS, ASKED, 9, k, t)
    assert (ask(compat.knn_predict, BANK, LABELS, ASKED, 9, k, t) == expected).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_ties_copies_and_huge_norms(kind: Callable[..., Any]) -> None:
    """What the first scores do not decide is computed by the rule, term by term."""
    for seed, dtype in enumerate(("float32", "float32", "float64", "float16")):
        rng = np.random.default_rng(seed)
        values = cast(kind(rng, 150, int(rng.integers(1, 30))), dtype)
        bank, queries = values[:120], values[120:].copy()
        labels, k = rng.integers(0, 4, 120), int(rng.choice([1, 5, 60, 120]))
        largest = min(1e150, float(np.abs(np.asarray(values, "f8")).max()))
        if largest == 1e150:
            continue  # its products are beyond float64
        wide = max(largest**2 * values.shape[1], 1e-3)
        for t in (wide, wide / 1000):  # weights of one size, and of many
            expected = ranks_by_definition(bank, labels, queries, 5, k, t)
            result = ask(compat.knn_predict, bank, labels, queries, 5, k, t)
            assert (result == expected).all(), (seed, dtype, k, t)


@pytest.mark.parametrize(("k", "t"), [(1, 0.1), (20, 0.1), (200, 0.1), (500, 1.0)])
def test_lightly_ranks_so_too(k: int, t: float) -> None:
    theirs = ask(lightlys(), BANK, LABELS, ASKED, 9, k, t)
    ours = ask(compat.knn_predict, BANK, LABELS, ASKED, 9, k, t)
    assert (ours == theirs).all()


def test_digits() -> None:
    digits = load_digits()
    rows = unit_rows(digits.data)
    bank, labels, queries = rows[:1200], digits.target[:1200], rows[1200:]
    ours = ask(compat.knn_predict, bank, labels, queries, 10)
    some = slice(0, None, 7)
    assert (ours[some] == ranks_by_definition(bank, labels, queries[some], 10, 200, 0.1)).all()
    theirs = ask(lightlys(), bank, labels, queries, 10)
    (scores,) = scores_by_definition(bank, labels, queries, [200], 0.1, 10)
    assert_near_ties_only(theirs, ours, scores)
    assert (theirs == ours).mean() > 0.999
    assert (theirs[:, 0] == digits.target[1200:]).mean() > 0.9  # it is a classifier


def test_lightly_swaps_what_is_nearer_than_its_rounding() -> None:
    """Two classes whose only neighbours' products differ in the last place of float64."""
    bank = np.zeros((2, 3), dtype=np.float32)
    bank[0, 0] = bank[1, 0] = 1
    bank[1, 1] = 2.0**-40
    queries = np.ones((1, 3), dtype=np.float32)
    assert ask(compat.knn_predict, bank, [0, 1], queries, 2, 2, 0.1).tolist() == [[1, 0]]
    assert ask(lightlys(), bank, [0, 1], queries, 2, 2, 0.1).tolist() == [[0, 1]]


def test_large_products_do_not_overflow() -> None:
    bank, queries = 100 * BANK, 100 * ASKED
    expected = ranks_by_definition(bank, LABELS, queries, 7, 50, 0.1)
    assert (ask(compat.knn_predict, bank, LABELS, queries, 7, 50, 0.1) == expected).all()
    theirs = ask(lightlys(), bank, LABELS, queries, 7, 50, 0.1)
    assert (theirs != expected).any()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(kind: torch.dtype) -> None:
    bank, queries = (torch.from_numpy(each).to(kind) for each in (BANK, ASKED))
    result = compat.knn_predict(queries, bank.T, torch.from_numpy(LABELS), 7, 20)
    wide = [each.double().numpy() for each in (bank, queries)]
    expected = ranks_by_definition(wide[0], LABELS, wide[1], 7, 20, 0.1)
    assert (result.numpy() == expected).all()


def test_a_predictor_keeps_its_bank() -> None:
    bank, labels = torch.from_numpy(BANK.T.copy()), torch.from_numpy(LABELS.copy())
    expected = compat.knn_predict(torch.from_numpy(ASKED), bank, labels, 7)
    predictor = compat.KnnPredictor(bank, labels, 7)
    bank[:] = 0
    labels[:] = 0
    parts = [predictor(part) for part in torch.from_numpy(ASKED).split(33)]
    assert torch.equal(torch.cat(parts), expected)


WRONG: dict[str, Callable[[Any], Any]] = {
    "widths": lambda f: f(ASKED[:, :5], BANK.T, LABELS, 7, 9),
    "one dimension": lambda f: f(ASKED[0], BANK.T, LABELS, 7, 9),
    "a flat bank": lambda f: f(ASKED, BANK[0], LABELS, 7, 9),
    "types": lambda f: f(ASKED.astype("f8"), BANK.T, LABELS, 7, 9),
    "k beyond the bank": lambda f: f(ASKED, BANK.T, LABELS, 7, 501),
    "a negative k": lambda f: f(ASKED, BANK.T, LABELS, 7, -1),
    "no such class": lambda f: f(ASKED, BANK.T, LABELS, 6, 500),
    "a negative label": lambda f: f(ASKED, BANK.T, LABELS - 1, 7, 500),
    "a transposed bank": lambda f: f(ASKED, BANK, LABELS, 7, 9),
    "too few labels": lambda f: f(ASKED, BANK.T, LABELS[:9], 7, 500),
    "labels that are no integers": lambda f: f(ASKED, BANK.T, LABELS.astype("f4"), 7, 9),
    "no rows": lambda f: f(ASKED[:0], BANK.T, LABELS, 7, 9),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_same_mistakes_have_the_same_errors(what: str) -> None:
    def with_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: function(*(torch.as_tensor(each) for each in given[:3]), *given[3:])

    with pytest.raises(RuntimeError, match="expected"):
        WRONG[what](with_tensors(compat.knn_predict))
    with pytest.raises(RuntimeError):
        WRONG[what](with_tensors(lightlys()))


def test_errors_of_our_own() -> None:
    spoiled = BANK.copy()
    spoiled[3, 1] = np.nan
    with pytest.raises(ValueError, match="^bank: .*NaN or infinity in row 3\\b"):
        ask(compat.knn_predict, spoiled, LABELS, ASKED, 7)
    with pytest.raises(ValueError, match=r"^temperature\b.* 0\b"):
        ask(compat.knn_predict, BANK, LABELS, ASKED, 7, 9, 0)
    with pytest.raises(RuntimeError, match=r"labels: expected shape \(500,\), .* got \(501,\)"):
        ask(compat.knn_predict, BANK, [*LABELS, 0], ASKED, 7)
    transposed = (
        rf"^feature_bank: expected shape \(D, 500\), .* got \(500, {BANK.shape[1]}\); pass its tr"
    )
    with pytest.raises(RuntimeError, match=transposed):
        compat.knn_predict(ASKED, BANK, LABELS, 7)
    with pytest.raises(RuntimeError, match=transposed):
        compat.KnnPredictor(torch.from_numpy(BANK), torch.from_numpy(LABELS), 7)
    square, labels = BANK[: BANK.shape[1]], LABELS[: BANK.shape[1]]  # which may be either
    assert compat.knn_predict(ASKED, square, labels, 7, 9).shape == (len(ASKED), 7)


def test_patch() -> None:
    theirs = lightlys()
    from lightly.utils import benchmarking
    from lightly.utils.benchmarking import benchmark_module, knn, knn_classifier

    places = (benchmarking, benchmark_module, knn, knn_classifier)
    with compat.patch():
        compat.patch()
        assert all(place.knn_predict is compat.knn_predict for place in places)
        loader = [(torch.from_numpy(BANK), torch.from_numpy(LABELS), None)]
        module = benchmark_module.BenchmarkModule(loader, 7, 20)
        module.backbone = torch.nn.Identity()
        module.on_validation_epoch_start()
        module.validation_step((torch.from_numpy(ASKED), torch.zeros(80), []), 0)
        (result,) = module._val_predicted_labels
        assert (result.numpy() == ranks_by_definition(BANK, LABELS, ASKED, 7, 20, 0.1)).all()
    assert all(place.knn_predict is theirs for place in places)
    assert compat.knn_predict is not theirs
    compat.unpatch()
    assert knn.knn_predict is theirs


def test_lightly_itself_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "lightly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightly", None)
    assert ask(compat.knn_predict, BANK, LABELS, ASKED, 7).shape == (80, 7)
    with pytest.raises(ImportError, match="patch needs lightly: pip install 'pdepth.lightly.'."):
        compat.patch()
