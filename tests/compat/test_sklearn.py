"""pdepth.compat.sklearn against scikit-learn itself, and against the definition in float64."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pytest
import sklearn
from numpy.typing import NDArray
from scipy import sparse
from sklearn import datasets, neighbors
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pdepth
from pdepth import definition, optional
from pdepth.compat import sklearn as compat

from helpers.torch_or_skip import torch

RNG = np.random.default_rng(0)
SUPPORT, QUERIES = RNG.standard_normal((300, 20)), RNG.standard_normal((70, 20))
LABELS = RNG.choice([-7, 3, 4, 900], 300)
NAMES = np.array(["ant", "bee", "crab"])[RNG.integers(0, 3, 300)]
METRICS: list[dict[str, Any]] = [
    {},
    {"metric": "minkowski", "p": 2},
    {"metric": "euclidean"},
    {"metric": "l2"},
    {"metric": "sqeuclidean"},
    {"metric": "cosine"},
]
LABELLINGS = {
    "integers": LABELS,
    "strings": NAMES,
    "two outputs": np.stack([LABELS, LABELS % 3], axis=1),
    "column": NAMES[:, None],
}
WEIGHTS = ["uniform", "distance", None, lambda distances: 1 / (1 + distances)]
BRUTE = {"algorithm": "brute"}


@pytest.fixture(scope="module")
def digits() -> Any:
    return datasets.load_digits()


@pytest.fixture
def refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """pdepth must not be called."""

    def wrong(*_: Any, **__: Any) -> None:
        raise AssertionError("pdepth was called")

    monkeypatch.setattr(pdepth.Index, "kneighbors", wrong)
    monkeypatch.setattr(pdepth.Index, "votes", wrong)


def both(name: str, *given: Any, **options: Any) -> tuple[Any, Any]:
    """Their estimator and ours, fitted."""
    return tuple(getattr(module, name)(**options).fit(*given) for module in (neighbors, compat))  # type: ignore[return-value]


def root_of(squared: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    return {"cosine": squared / 2, "sqeuclidean": squared}.get(metric, np.sqrt(squared))


@parametrize_with_checks(
    [
        compat.KNeighborsClassifier(),
        compat.KNeighborsClassifier(**BRUTE),
        compat.KNeighborsClassifier(**BRUTE, weights="distance"),
        compat.KNeighborsClassifier(metric="cosine"),
        compat.NearestNeighbors(),
        compat.NearestNeighbors(**BRUTE),
        compat.KNeighborsRegressor(**BRUTE, weights="distance"),
    ]
)
def test_scikit_learns_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.parametrize("way", METRICS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8"])
def test_random_rows_are_answered_as_scikit_learn_does(way: dict[str, Any], dtype: str) -> None:
    scale = 1 if dtype.startswith("float") else 40
    support, queries = ((64 + scale * rows).astype(dtype) for rows in (SUPPORT, QUERIES))
    theirs, ours = both("NearestNeighbors", support, **way)
    for X in (queries, None):
        expected, result = theirs.kneighbors(X, 9), ours.kneighbors(X, 9)
        metric = way.get("metric", "euclidean")
        oracle = definition.kneighbors(
            support, X, k=9, metric="cosine" if metric == "cosine" else "sqeuclidean"
        )
        assert result[0].dtype == expected[0].dtype
        assert result[1].dtype == expected[1].dtype
        assert (result[1] == oracle[1]).all()
        assert (result[0] == root_of(oracle[0], metric).astype(result[0].dtype)).all()
        np.testing.assert_allclose(result[0], expected[0], rtol=1e-5, atol=1e-6)
        if dtype == "float64":
            assert (result[1] == expected[1]).all()
        assert (result[1] == ours.kneighbors(X, 9, return_distance=False)).all()


@pytest.mark.slow_if(way=[{"metric": "cosine"}])
@pytest.mark.parametrize("weights", WEIGHTS, ids=["uniform", "distance", "None", "callable"])
@pytest.mark.parametrize("way", [{}, {"metric": "cosine"}], ids=str)
@pytest.mark.parametrize("kind", LABELLINGS)
@pytest.mark.filterwarnings("ignore:A column-vector")
def test_classes_are_those_of_scikit_learn(weights: Any, way: dict[str, Any], kind: str) -> None:
    labels = LABELLINGS[kind]
    theirs, ours = both("KNeighborsClassifier", SUPPORT, labels, weights=weights, **way)
    assert isinstance(ours, neighbors.KNeighborsClassifier)
    for queries in (QUERIES, None, pandas.DataFrame(QUERIES), QUERIES.tolist()):
        expected, result = theirs.predict(queries), ours.predict(queries)
        assert result.dtype == expected.dtype
        assert (result == expected).all()
        expected, result = theirs.predict_proba(queries), ours.predict_proba(queries)
        assert type(result) is type(expected)
        np.testing.assert_allclose(np.hstack(result), np.hstack(expected), rtol=1e-12)
    if labels.ndim == 1:
        truth = labels[: len(QUERIES)]
        assert ours.score(QUERIES, truth) == theirs.score(QUERIES, truth)
        assert ours.score(None, labels) == theirs.score(None, labels)


def test_uniform_shares_are_equal_to_the_last_bit() -> None:
    theirs, ours = both("KNeighborsClassifier", SUPPORT, NAMES, n_neighbors=7)
    assert (ours.predict_proba(QUERIES) == theirs.predict_proba(QUERIES)).all()


@pytest.mark.slow
def test_digits_tie_by_row(digits: Any) -> None:
    """Pixels are whole numbers: among equally near images the first count, here and by definition.

    scikit-learn's distances are the same, since its sums of whole numbers are exact; which of the
    tied rows it takes follows from its blocks.
    """
    support, labels, queries = digits.data[:1200], digits.target[:1200], digits.data[1200:]
    theirs, ours = both("KNeighborsClassifier", support, labels, n_neighbors=7)
    for X in (queries, None):
        squared, rows = definition.kneighbors(support, X, k=7)
        expected, result = theirs.kneighbors(X), ours.kneighbors(X)
        assert (result[0] == expected[0]).all()
        assert (result[0] == np.sqrt(squared)).all()
        assert (result[1] == rows).all()
        assert (result[1] != expected[1]).any()
        unlike = ours.predict(X) != theirs.predict(X)
        oracle = definition.probe_votes(support, labels, X, k=7)
        assert (ours.predict(X) == oracle.votes).all()
        tied = squared[:, -1] == definition.kneighbors(support, X, k=8)[0][:, -1]
        assert not unlike[~tied].any()


def test_near_rows_are_ordered_by_float64_and_a_copy_is_at_zero() -> None:
    """Where scikit-learn's squares from products are not enough: rows far from the origin."""
    support = (1e4 + 1e-3 * RNG.standard_normal((200, 16))).astype(np.float64)
    theirs, ours = both("NearestNeighbors", support)
    squared, rows = definition.kneighbors(support, support, k=5)
    result, expected = ours.kneighbors(support), theirs.kneighbors(support)
    assert (result[0] == np.sqrt(squared)).all()
    assert (result[1] == rows).all()
    assert (result[0][:, 0] == 0).all()
    assert (expected[1] != rows).any()


def test_leaving_one_out_goes_by_row_number() -> None:
    ours = compat.NearestNeighbors(n_neighbors=1, **BRUTE).fit(np.ones((3, 1)))
    assert ours.kneighbors(return_distance=False).tolist() == [[1], [0], [0]]


@pytest.mark.parametrize("mode", ["connectivity", "distance"])
def test_graphs(mode: str) -> None:
    theirs, ours = both("NearestNeighbors", SUPPORT)
    for queries in (QUERIES, None):
        expected = theirs.kneighbors_graph(queries, 4, mode)
        result = ours.kneighbors_graph(queries, 4, mode)
        assert type(result) is type(expected)
        np.testing.assert_allclose(result.toarray(), expected.toarray(), rtol=1e-12)
    assert (
        ours.radius_neighbors_graph(QUERIES, 5.0) != theirs.radius_neighbors_graph(QUERIES, 5.0)
    ).nnz == 0


@pytest.mark.parametrize("weights", WEIGHTS, ids=["uniform", "distance", "None", "callable"])
def test_regressions_are_those_of_scikit_learn(weights: Any) -> None:
    for targets in (SUPPORT[:, 0], SUPPORT[:, :2]):
        theirs, ours = both("KNeighborsRegressor", SUPPORT, targets, weights=weights)
        tensors = compat.KNeighborsRegressor(weights=weights).fit(
            torch.from_numpy(SUPPORT), torch.from_numpy(targets)
        )
        for queries in (QUERIES, None):
            expected, result = theirs.predict(queries), ours.predict(queries)
            np.testing.assert_allclose(result, expected, rtol=1e-12)
            converted = tensors.predict(None if queries is None else torch.from_numpy(queries))
            assert isinstance(converted, torch.Tensor)
            assert (converted.numpy() == result).all()
        assert ours.score(QUERIES, targets[:70]) == pytest.approx(
            theirs.score(QUERIES, targets[:70])
        )


HANDED_ON: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "manhattan": ({"metric": "manhattan"}, SUPPORT, QUERIES),
    "p": ({"p": 3}, SUPPORT, QUERIES),
    "callable": ({"metric": lambda x, y: abs(x - y).max()}, SUPPORT[:40], QUERIES[:3]),
    "metric_params": ({"metric_params": {"w": np.arange(1, 21)}}, SUPPORT, QUERIES),
    "tree": ({"algorithm": "kd_tree"}, SUPPORT, QUERIES),
    "sparse support": ({}, sparse.csr_matrix(SUPPORT), QUERIES),
    "sparse queries": (BRUTE, SUPPORT, sparse.csr_matrix(QUERIES)),
    "precomputed": ({"metric": "precomputed"}, abs(SUPPORT[:20]), abs(QUERIES[:5])),
    "longdouble": ({}, SUPPORT.astype(np.longdouble), QUERIES),
}


@pytest.mark.usefixtures("refuses")
@pytest.mark.parametrize("what", HANDED_ON)
def test_what_pdepth_does_not_answer_is_scikit_learns(what: str) -> None:
    options, support, queries = HANDED_ON[what]
    support = support[:20] if what == "precomputed" else support
    theirs, ours = both("NearestNeighbors", support, n_neighbors=3, **options)
    for expected, result in zip(theirs.kneighbors(queries), ours.kneighbors(queries), strict=True):
        assert (result == expected).all()
    labels = LABELS[: support.shape[0]]
    theirs, ours = both("KNeighborsClassifier", support, labels, n_neighbors=3, **options)
    assert (ours.predict(queries) == theirs.predict(queries)).all()
    assert (ours.predict_proba(queries) == theirs.predict_proba(queries)).all()


def test_cosine_with_a_row_of_zeros_is_scikit_learns() -> None:
    support = SUPPORT.copy()
    support[5] = 0
    for given, queries in ((support, QUERIES), (SUPPORT, np.zeros((1, 20)))):
        theirs, ours = both("KNeighborsClassifier", given, LABELS, metric="cosine")
        for expected, result in zip(
            theirs.kneighbors(queries), ours.kneighbors(queries), strict=True
        ):
            assert (result == expected).all()
        assert (ours.predict(queries) == theirs.predict(queries)).all()


def test_fitting_on_another_estimator() -> None:
    other = neighbors.NearestNeighbors(**BRUTE).fit(SUPPORT)
    theirs, ours = both("NearestNeighbors", other)
    assert (ours.kneighbors(QUERIES)[1] == theirs.kneighbors(QUERIES)[1]).all()


WRONG: dict[str, Callable[[Any], Any]] = {
    "not fitted": lambda m: m.KNeighborsClassifier().predict(QUERIES),
    "not fitted search": lambda m: m.NearestNeighbors().kneighbors(QUERIES),
    "NaN": lambda m: fitted(m).predict(np.full((2, 20), np.nan)),
    "NaN in fit": lambda m: m.NearestNeighbors().fit(np.full((2, 20), np.nan)),
    "width": lambda m: fitted(m).predict(QUERIES[:, :5]),
    "one dimension": lambda m: fitted(m).kneighbors(QUERIES[0]),
    "no rows": lambda m: fitted(m).kneighbors(QUERIES[:0]),
    "words": lambda m: fitted(m).kneighbors([["a"] * 20]),
    "complex": lambda m: fitted(m).kneighbors(QUERIES * 1j),
    "k of 0": lambda m: fitted(m).kneighbors(QUERIES, 0),
    "k of 1.5": lambda m: fitted(m).kneighbors(QUERIES, 1.5),
    "k of a word": lambda m: m.KNeighborsClassifier("3").fit(SUPPORT, LABELS),
    "k too large": lambda m: fitted(m).kneighbors(QUERIES, 301),
    "k too large, left out": lambda m: fitted(m).kneighbors(None, 300),
    "k too large, votes": lambda m: fitted(m, n_neighbors=301).predict(QUERIES),
    "weights": lambda m: m.KNeighborsClassifier(weights="far").fit(SUPPORT, LABELS),
    "no weight": lambda m: fitted(m, weights=np.zeros_like).predict(QUERIES),
    "metric": lambda m: m.NearestNeighbors(metric="taxi").fit(SUPPORT),
    "tree of cosine": lambda m: m.NearestNeighbors(metric="cosine", algorithm="kd_tree").fit(
        SUPPORT
    ),
    "labels": lambda m: m.KNeighborsClassifier().fit(SUPPORT, LABELS[:9]),
    "continuous labels": lambda m: m.KNeighborsClassifier().fit(SUPPORT, SUPPORT[:, 0]),
    "mode": lambda m: fitted(m).kneighbors_graph(QUERIES, mode="both"),
    "tensor's width": lambda m: fitted(m).predict(torch.from_numpy(QUERIES[:, :5])),
    "tensor's dimensions": lambda m: fitted(m).predict(torch.zeros(3, 4, 5)),
    "tensor's NaN": lambda m: fitted(m).predict(torch.full((2, 20), torch.nan)),
}


def fitted(module: Any, **options: Any) -> Any:
    return module.KNeighborsClassifier(**options).fit(SUPPORT, LABELS)


@pytest.mark.parametrize("what", WRONG)
def test_the_same_mistakes_have_the_same_errors(what: str) -> None:
    errors = []
    for module in (neighbors, compat):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            WRONG[what](module)
        errors.append(caught.value)
    assert type(errors[1]) is type(errors[0])
    if what != "tensor's NaN":  # which pdepth finds where the tensor is
        assert str(errors[1]) == str(errors[0])


@pytest.mark.slow
def test_clones_pickles_pipelines_and_searches(digits: Any) -> None:
    ours = compat.KNeighborsClassifier(3, weights="distance", n_jobs=1)
    assert type(clone(ours)) is compat.KNeighborsClassifier
    assert clone(ours).get_params() == ours.get_params()
    assert repr(ours) == "KNeighborsClassifier(n_jobs=1, n_neighbors=3, weights='distance')"
    ours.fit(SUPPORT, NAMES)
    again = pickle.loads(pickle.dumps(ours))
    assert (again.predict(QUERIES) == ours.predict(QUERIES)).all()
    result = [
        GridSearchCV(
            make_pipeline(StandardScaler(), module.KNeighborsClassifier(**BRUTE)),
            {"kneighborsclassifier__n_neighbors": [1, 3, 8]},
            cv=3,
        ).fit(digits.data[:400], digits.target[:400])
        for module in (neighbors, compat)
    ]
    assert result[1].best_params_ == result[0].best_params_
    keys = "mean_test_score", "std_test_score"
    assert all((result[1].cv_results_[key] == result[0].cv_results_[key]).all() for key in keys)
    scores = cross_val_score(compat.KNeighborsClassifier(), SUPPORT, NAMES, n_jobs=2)
    assert (scores == cross_val_score(neighbors.KNeighborsClassifier(), SUPPORT, NAMES)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_tensors_in_tensors_out(dtype: str) -> None:
    kind = getattr(torch, dtype)
    support, queries = (torch.from_numpy(rows).to(kind) for rows in (SUPPORT, QUERIES))
    labels = torch.from_numpy(LABELS)
    ours = compat.KNeighborsClassifier(7).fit(support, labels)
    plain = compat.KNeighborsClassifier(7).fit(support.double().numpy(), LABELS)
    for X in (queries.requires_grad_(), None):
        rows = None if X is None else X.detach().double().numpy()
        for name in ("predict", "predict_proba", "kneighbors"):
            result, expected = getattr(ours, name)(X), getattr(plain, name)(rows)
            pairs = (
                zip(result, expected, strict=True) if name == "kneighbors" else [(result, expected)]
            )
            for one, other in pairs:
                assert isinstance(one, torch.Tensor)
                assert not one.requires_grad
                assert (one.numpy() == other).all()
        graph = ours.kneighbors_graph(X, mode="distance")
        assert (graph != plain.kneighbors_graph(rows, mode="distance")).nnz == 0
        truth = labels if X is None else labels[: len(queries)]
        assert ours.score(X, truth) == plain.score(rows, truth.numpy())
    assert isinstance(ours.predict(QUERIES), np.ndarray)
    assert isinstance(plain.predict(queries), torch.Tensor)
    names = compat.KNeighborsClassifier(weights="distance").fit(support, NAMES)
    assert isinstance(names.predict(queries), np.ndarray)
    assert isinstance(names.predict_proba(None), torch.Tensor)
    both_ways = compat.KNeighborsClassifier().fit(support, np.stack([LABELS, LABELS % 2], 1))
    assert both_ways.predict(queries).shape == (70, 2)
    assert all(isinstance(each, torch.Tensor) for each in both_ways.predict_proba(queries))
    search = compat.NearestNeighbors(metric="manhattan").fit(support)
    assert isinstance(search.kneighbors(queries)[0], torch.Tensor)
    assert isinstance(search.radius_neighbors(queries, 3.0)[0], np.ndarray)


def test_threads_are_those_of_n_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watch(*args: Any, num_threads: int, **options: Any) -> Any:
        seen.append(num_threads)
        return kneighbors(*args, num_threads=num_threads, **options)

    kneighbors = pdepth.Index.kneighbors
    monkeypatch.setattr(pdepth.Index, "kneighbors", watch)
    monkeypatch.setattr(compat, "default_threads", lambda: 3)
    monkeypatch.setattr(compat, "_openmp_effective_n_threads", lambda: 2)
    for n_jobs in (None, 1, 5, 10**6):
        compat.NearestNeighbors(n_jobs=n_jobs).fit(SUPPORT).kneighbors(QUERIES)
    assert seen == [2, 1, 5, 1024]


def test_another_version_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.5.2", "1.10rc1"):
        monkeypatch.setattr(sklearn, "__version__", version)
        expected = f"tested with sklearn from 1.6 to below 1.10, and {version}"
        with pytest.warns(UserWarning, match=expected):
            optional.require_tested("sklearn", "pdepth.compat.sklearn", "sklearn", "1.6", "1.10")
    code = "import sys; sys.modules['sklearn'] = None; import pdepth.compat.sklearn"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = "ImportError: pdepth.compat.sklearn needs sklearn: pip install 'pdepth[sklearn]'."
    assert expected in run.stderr


def test_not_fitted_is_scikit_learns_error() -> None:
    with pytest.raises(NotFittedError):
        compat.NearestNeighbors().kneighbors()
