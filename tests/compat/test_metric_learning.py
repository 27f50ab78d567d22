"""pdepth.compat.metric_learning against pytorch-metric-learning, and against the definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pdepth import definition
from pdepth.compat import faiss as indexes
from pdepth.compat import metric_learning as compat

RNG = np.random.default_rng(0)
REFERENCE = torch.from_numpy(RNG.standard_normal((300, 20)).astype(np.float32))
QUERY = torch.from_numpy(RNG.standard_normal((40, 20)).astype(np.float32))


def library() -> Any:
    pytest.importorskip("faiss")
    return pytest.importorskip("pytorch_metric_learning.utils.inference")


def assert_same(result: tuple[Any, Any], expected: tuple[Any, Any], exactly: bool = False) -> None:
    assert [each.dtype for each in result] == [each.dtype for each in expected]
    assert torch.equal(result[1], expected[1])
    if exactly:
        assert torch.equal(result[0], expected[0])
    np.testing.assert_allclose(result[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 9, 299])
def test_neighbours_are_those_of_the_definition(k: int) -> None:
    squared, rows = definition.kneighbors(REFERENCE, QUERY, k=k)
    result = compat.knn_func(QUERY, k, REFERENCE, False)
    assert (result[1].numpy() == rows).all()
    assert (result[0].numpy() == squared.astype(np.float32)).all()
    squared, rows = definition.kneighbors(REFERENCE, k=k, query_rows=np.arange(40))
    result = compat.knn_func(REFERENCE[:40], k, REFERENCE, True)
    assert (result[1].numpy() == rows).all()
    assert (result[0].numpy() == squared.astype(np.float32)).all()


@pytest.mark.parametrize("k", [1, 9, 299, 305])
def test_and_the_librarys(k: int) -> None:
    theirs = library().FaissKNN()
    for queries, included in ((QUERY, False), (REFERENCE[:40], True), (REFERENCE, True)):
        given = (queries, k, REFERENCE, included)
        assert_same(compat.knn_func(*given), theirs(*given))
        assert_same(compat.FaissKNN()(*given), theirs(*given))
    half = REFERENCE.half()
    assert_same(compat.knn_func(half, k, half, True), theirs(half, k, half, True))


def test_more_copies_than_neighbours() -> None:
    """Where a row is not among its own k + 1 nearest, the last of these is left out."""
    rows = REFERENCE[:5].repeat(12, 1)
    squared, near = definition.kneighbors(rows, k=4)
    result = compat.knn_func(rows, 4, rows, True)
    assert (result[1].numpy() == near).all()
    assert (result[0].numpy() == squared.astype(np.float32)).all()


def test_accuracies_of_digits() -> None:
    """Whole numbers: both find the same distances, to the bit, and so the same scores."""
    library()
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    digits = load_digits()
    pixels, labels = (torch.as_tensor(each[:900]) for each in (digits.data, digits.target))
    result, expected = (
        AccuracyCalculator(
            exclude=("NMI", "AMI"), k=20, device=torch.device("cpu"), knn_func=function
        )
        for function in (compat.knn_func, None)
    )
    for given in ((pixels, labels), (pixels[:300], labels[:300], pixels[300:], labels[300:])):
        scores = result.get_accuracy(*given)
        assert scores == expected.get_accuracy(*given)
        assert scores["precision_at_1"] > 0.8
    theirs = library().FaissKNN()(pixels.float(), 20, pixels.float(), True)
    ours = compat.knn_func(pixels.float(), 20, pixels.float(), True)
    assert torch.equal(ours[0], theirs[0])
    assert (ours[1].numpy() == definition.kneighbors(pixels, k=20)[1]).all()


def test_an_index_that_is_kept(tmp_path: Path) -> None:
    theirs, ours = (
        module.FaissKNN(reset_before=False, reset_after=False) for module in (library(), compat)
    )
    for each in (theirs, ours):
        with pytest.raises(ValueError, match="index is None"):
            each(QUERY, 3)
        each.train(REFERENCE[:100])
        each.add(REFERENCE[100:])
    assert_same(ours(QUERY, 7), theirs(QUERY, 7))
    assert_same(ours(QUERY, 7), theirs(QUERY, 7))
    for writer, reader in ((ours, theirs), (theirs, ours)):
        expected = reader(QUERY, 7)
        writer.save(str(tmp_path / "index"))
        reader.reset()
        assert reader.index is None
        reader.load(str(tmp_path / "index"))
        assert_same(reader(QUERY, 7), expected, exactly=True)


def test_inner_products() -> None:
    pytest.importorskip("faiss")
    import faiss

    theirs = library().FaissKNN(index_init_fn=faiss.IndexFlatIP)
    ours = compat.FaissKNN(index_init_fn=indexes.IndexFlatIP)
    assert_same(ours(QUERY, 7, REFERENCE), theirs(QUERY, 7, REFERENCE))


def test_an_inference_model() -> None:
    library()
    from pytorch_metric_learning.utils.inference import FaissKNN, InferenceModel

    result = []
    for kind in (compat.FaissKNN, FaissKNN):
        kept = kind(reset_before=False, reset_after=False)
        model = InferenceModel(torch.nn.Identity(), knn_func=kept, data_device=torch.device("cpu"))
        model.train_knn(REFERENCE)
        model.add_to_knn(QUERY)
        result.append(model.get_nearest_neighbors(QUERY[:9], 5))
    assert_same(*result)


WRONG: dict[str, Callable[[Any], Any]] = {
    "widths": lambda m: m.FaissKNN()(QUERY[:, :5], 3, REFERENCE),
    "k of 0": lambda m: m.FaissKNN()(QUERY, 0, REFERENCE),
    "gpus that are no list": lambda m: m.FaissKNN(gpus=1),
    "no gpus": lambda m: m.FaissKNN(gpus=[]),
    "no index": lambda m: m.FaissKNN(reset_before=False)(QUERY, 3, REFERENCE),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_same_mistakes_have_the_same_errors(what: str) -> None:
    types = []
    for module in (library(), compat):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            WRONG[what](module)
        types.append(caught.type)
    assert types[1] is types[0]
    assert "expected" in str(caught.value)
