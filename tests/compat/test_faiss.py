"""pdepth.compat.faiss against faiss and faissknn, and against the definition in float64."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pdepth import definition
from pdepth.bench import common
from pdepth.bench.studies import compat as bench
from pdepth.compat import faiss as compat

from helpers.cases import KINDS, cast, largest_by_definition
from helpers.torch_or_skip import tensor_of, torch

faiss = pytest.importorskip("faiss")
RNG = np.random.default_rng(0)
SUPPORT, QUERIES = (RNG.standard_normal((rows, 24)).astype(np.float32) for rows in (400, 60))
LABELS = RNG.integers(0, 5, 400)
INDEXES = ["IndexFlatL2", "IndexFlatIP"]


def both(name: str) -> tuple[Any, Any]:
    """faiss' index and ours, of the same rows in two additions."""
    made = []
    for module in (faiss, compat):
        index = getattr(module, name)(24)
        index.add(SUPPORT[:150])
        index.add(SUPPORT[150:])
        made.append(index)
    return made[0], made[1]


@pytest.mark.parametrize("name", INDEXES)
@pytest.mark.parametrize("k", [1, 7, 30])
def test_an_index_finds_what_faiss_finds(name: str, k: int) -> None:
    theirs, ours = both(name)
    assert (ours.d, ours.ntotal, ours.is_trained) == (theirs.d, theirs.ntotal, theirs.is_trained)
    assert ours.metric_type == theirs.metric_type
    expected, result = theirs.search(QUERIES, k), ours.search(QUERIES, k)
    assert [each.dtype for each in result] == [each.dtype for each in expected]
    assert (result[1] == expected[1]).all()
    np.testing.assert_allclose(result[0], expected[0], rtol=1e-5, atol=1e-5)
    assert (ours.assign(QUERIES, 3) == theirs.assign(QUERIES, 3)).all()
    metric = getattr(faiss, "METRIC_L2" if name == "IndexFlatL2" else "METRIC_INNER_PRODUCT")
    for expected, result in zip(
        ours.search(QUERIES, k), compat.knn(QUERIES, SUPPORT, k, metric), strict=True
    ):
        assert (result == expected).all()


def test_distances_are_float64_sums_rounded_once() -> None:
    index = compat.IndexFlatL2(24)
    index.add(SUPPORT)
    squared, rows = definition.kneighbors(SUPPORT, QUERIES, k=9)
    result = index.search(QUERIES, 9)
    assert (result[0] == squared.astype(np.float32)).all()
    assert (result[1] == rows).all()
    products, rows = largest_by_definition(SUPPORT, QUERIES, 9)
    result = compat.knn(QUERIES, SUPPORT, 9, compat.METRIC_INNER_PRODUCT)
    assert (result[0] == products.astype(np.float32)).all()
    assert (result[1] == rows).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("k", [1, 6, 150])
def test_largest_products_are_those_of_float64(kind: Callable[..., Any], k: int) -> None:
    """Ties, copies, zeros and huge norms too."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        width = int(rng.integers(1, 40))
        values = cast(kind(rng, 170, width), "float32")
        support, queries = values[:150], values[150:].copy()
        queries[0] = 0
        expected = largest_by_definition(support, queries, k)
        result = compat.knn(queries, support, k, compat.METRIC_INNER_PRODUCT)
        with np.errstate(over="ignore"):
            assert (result[0] == expected[0].astype(np.float32)).all()
        assert (result[1] == expected[1]).all()


def test_digits() -> None:
    """Whole numbers: equal distances, and among them both take the first rows."""
    pixels = load_digits().data.astype(np.float32)
    for metric in (compat.METRIC_L2, compat.METRIC_INNER_PRODUCT):
        expected = faiss.knn(pixels[1200:], pixels[:1200], 10, metric)
        result = compat.knn(pixels[1200:], pixels[:1200], 10, metric)
        assert (result[0] == expected[0]).all()
        squared, rows = definition.kneighbors(pixels[:1200], pixels[1200:], k=10)
        if metric == compat.METRIC_L2:
            assert (result[1] == rows).all()
            assert (result[0] == squared).all()


def test_a_copy_is_at_zero() -> None:
    """Where faiss' float32 products give a row another distance from itself than 0."""
    rows = (10 + 1e-2 * RNG.standard_normal((500, 512))).astype(np.float32)
    result, expected = compat.knn(rows, rows, 3), faiss.knn(rows, rows, 3)
    assert (result[0][:, 0] == 0).all()
    assert (result[1] == definition.kneighbors(rows, rows, k=3)[1]).all()
    assert (expected[0][:, 0] > 0).any()
    assert (expected[1] != result[1]).any()


@pytest.mark.parametrize("name", INDEXES)
def test_too_few_rows_none_and_reset(name: str) -> None:
    theirs, ours = (getattr(module, name)(24) for module in (faiss, compat))
    for index in (theirs, ours):
        index.train(SUPPORT)
        index.add(SUPPORT[:0])
    for rows in (0, 1, 4):
        theirs.add(SUPPORT[:rows])
        ours.add(SUPPORT[:rows])
        for queries in (QUERIES, QUERIES[:0]):
            expected, result = theirs.search(queries, 6), ours.search(queries, 6)
            assert (result[1] == expected[1]).all()
            np.testing.assert_allclose(result[0], expected[0], rtol=1e-5, atol=1e-5)
            assert [each.shape for each in result] == [(len(queries), 6)] * 2
        assert ours.ntotal == theirs.ntotal
        theirs.reset()
        ours.reset()
        assert ours.ntotal == theirs.ntotal == 0


def test_rows_come_back_and_are_copies() -> None:
    given = SUPPORT.copy()
    index = compat.IndexFlatL2(24)
    index.add(given)
    given[:] = 0
    theirs, _ = both("IndexFlatL2")
    assert (index.reconstruct(7) == theirs.reconstruct(7)).all()
    assert (index.reconstruct_n(5, 3) == theirs.reconstruct_n(5, 3)).all()
    assert (index.reconstruct_n() == SUPPORT).all()
    index.reconstruct(7)[:] = 0
    assert (index.reconstruct(7) == SUPPORT[7]).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64])
def test_other_types_are_taken_as_float32(dtype: type) -> None:
    rows = (8 * SUPPORT).astype(dtype)
    expected, result = faiss.knn(rows, rows, 4), compat.knn(rows, rows, 4)
    assert result[0].dtype == expected[0].dtype == np.float32
    np.testing.assert_allclose(result[0][:, 1:], expected[0][:, 1:], rtol=1e-4)
    own = rows.astype(np.float32)
    assert (result[1] == definition.kneighbors(own, own, k=4)[1]).all()


def test_other_metrics_are_faiss_own() -> None:
    expected = faiss.knn(QUERIES, SUPPORT, 3, faiss.METRIC_L1)
    for queries in (QUERIES, torch.from_numpy(QUERIES)):
        result = compat.knn(queries, SUPPORT, 3, faiss.METRIC_L1)
        assert all((np.asarray(a) == b).all() for a, b in zip(result, expected, strict=True))


@pytest.mark.parametrize("name", INDEXES)
def test_tensors_in_tensors_out(name: str) -> None:
    _, plain = both(name)
    index = getattr(compat, name)(24)
    index.add(torch.from_numpy(SUPPORT[:9]))
    index.add(SUPPORT[9:])
    expected, result = plain.search(QUERIES, 5), index.search(torch.from_numpy(QUERIES), 5)
    for one, other in zip(result, expected, strict=True):
        assert isinstance(one, torch.Tensor)
        assert (one.numpy() == other).all()
    assert isinstance(index.search(QUERIES, 5)[0], np.ndarray)
    assert isinstance(index.reconstruct(3), torch.Tensor)
    half = torch.from_numpy(SUPPORT).bfloat16()
    again = compat.knn(half, half, 3)
    assert again[0].dtype == torch.float32
    assert (again[1].numpy() == compat.knn(half.float().numpy(), half.float().numpy(), 3)[1]).all()


WRONG: dict[str, Callable[[Any], Any]] = {
    "width": lambda m: index_of(m).search(QUERIES[:, :5], 3),
    "width of rows": lambda m: index_of(m).add(QUERIES[:, :5]),
    "k of 0": lambda m: index_of(m).search(QUERIES, 0),
    "one dimension": lambda m: index_of(m).search(QUERIES[0], 3),
    "no such row": lambda m: index_of(m).reconstruct(400),
    "no such rows": lambda m: index_of(m).reconstruct_n(399, 2),
    "widths of knn": lambda m: m.knn(QUERIES, SUPPORT[:, :5], 3),
    "metric": lambda m: m.knn(QUERIES, SUPPORT, 3, 99),
}


def index_of(module: Any) -> Any:
    index = module.IndexFlatL2(24)
    index.add(SUPPORT)
    return index


@pytest.mark.parametrize("what", WRONG)
def test_the_same_mistakes_have_the_same_errors(what: str) -> None:
    types = []
    for module in (faiss, compat):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            WRONG[what](module)
        types.append(caught.type)
    assert types[1] is types[0]
    assert str(caught.value)


def test_nan_is_an_error() -> None:
    spoiled = SUPPORT.copy()
    spoiled[5, 1] = np.nan
    for metric in (compat.METRIC_L2, compat.METRIC_INNER_PRODUCT):
        with pytest.raises(ValueError, match="NaN or infinity in row 5\\b"):
            compat.knn(QUERIES, spoiled, 3, metric)
    with pytest.raises(
        ValueError, match="metric: expected METRIC_L2 .1. or METRIC_INNER_PRODUCT .0., got 2."
    ):
        compat.IndexFlat(24, 2)


class Copied:
    """The class as it stands in many projects, in our own words."""

    def __init__(self, k: int = 5) -> None:
        self.k = k

    def fit(self, X: Any, y: Any) -> Copied:
        self.index, self.y = faiss.IndexFlatL2(X.shape[1]), y
        self.index.add(X.astype(np.float32))
        return self

    def predict(self, X: Any) -> Any:
        near = self.y[self.index.search(X.astype(np.float32), k=self.k)[1]]
        return np.array([np.bincount(each).argmax() for each in near])


def test_the_copied_classifier() -> None:
    digits = load_digits()
    for rows, labels, queries in (
        (SUPPORT, LABELS, QUERIES),
        (digits.data[:1200], digits.target[:1200], digits.data[1200:]),
    ):
        theirs, ours = (each(7).fit(rows, labels) for each in (Copied, compat.FaissKNeighbors))
        assert (ours.predict(queries) == theirs.predict(queries)).all()
        truth = theirs.predict(queries)
        assert ours.score(queries, truth) == 1
    names = np.array(["ant", "bee", "crab", "dog", "eel"])
    words = compat.FaissKNeighbors(7).fit(SUPPORT, names[LABELS])
    numbers = compat.FaissKNeighbors(7).fit(torch.from_numpy(SUPPORT), torch.from_numpy(LABELS))
    assert (words.predict(QUERIES) == names[numbers.predict(QUERIES)]).all()
    assert isinstance(numbers.predict(torch.from_numpy(QUERIES)), torch.Tensor)
    with pytest.raises(AttributeError, match="predict: expected a fitted classifier; call fit"):
        compat.FaissKNeighbors().predict(QUERIES)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_faissknn(metric: str) -> None:
    library = pytest.importorskip("faissknn")
    support = SUPPORT.copy()
    support[3] = 0
    several = RNG.integers(0, 2, (400, 3))
    for kind in (np.asarray, tensor_of):
        for name, labels in (
            ("FaissKNNClassifier", LABELS),
            ("FaissKNNMultilabelClassifier", several),
        ):
            theirs, ours = (
                getattr(module, name)(7, metric=metric).fit(kind(support), kind(labels))
                for module in (library, compat)
            )
            for method in ("predict", "predict_proba"):
                expected, result = (getattr(each, method)(kind(QUERIES)) for each in (theirs, ours))
                assert result.dtype == expected.dtype
                assert (result == expected).all()
    theirs, ours = (
        module.FaissKNNClassifier(5, n_classes=9, metric=metric).fit(support, LABELS)
        for module in (library, compat)
    )
    assert (ours.predict_proba(QUERIES) == theirs.predict_proba(QUERIES)).all()
    assert ours.predict_proba(QUERIES).shape == (60, 9)


def test_faissknn_names_its_mistakes() -> None:
    with pytest.raises(ValueError, match="^metric.*'l1'"):
        compat.FaissKNNClassifier(3, metric="l1")
    for labels in (LABELS + 3, LABELS - 1):
        with pytest.raises(IndexError, match="y: expected labels from 0 to 4, got"):
            compat.FaissKNNClassifier(3).fit(SUPPORT, labels)
    for kind in (compat.FaissKNNClassifier, compat.FaissKNNMultilabelClassifier):
        with pytest.raises(AttributeError, match="predict: expected a fitted classifier; call fit"):
            kind(3).predict(QUERIES)
    for kind in (compat.FaissKNeighbors, compat.FaissKNNClassifier):
        with pytest.raises(IndexError, match="y: expected 9 labels, one for each row of X, got 8."):
            kind(3).fit(SUPPORT[:9], LABELS[:8])
    few = compat.FaissKNNClassifier(9).fit(SUPPORT[:4], LABELS[:4] * 0)
    with pytest.raises(ValueError, match=r"^k\b(?=.*\b9\b).*\b4\b"):
        few.predict(QUERIES)


def test_the_page_tells_what_was_measured() -> None:
    if not common.CHECKOUT:
        pytest.skip("needs a checkout: an installed copy has no pages")
    stored = json.loads((common.HOME / common.RESULTS / "compat.json").read_text())
    page = (common.HOME / bench.PAGE).read_text()
    assert bench.table(stored) in page
    first = page.partition("<!--")[0]
    for result in stored["calls"]:
        theirs, ours = map(median, result["seconds"])
        assert f"{theirs / ours:.1f}" in first


def test_faiss_itself_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert compat.knn(QUERIES, SUPPORT, 3)[1].shape == (60, 3)
    with pytest.raises(ImportError, match="knn with metric 2 needs faiss: pip install 'pdepth"):
        compat.knn(QUERIES, SUPPORT, 3, 2)
