"""pdepth.compat.cleanlab against cleanlab itself, and against its rules in plain NumPy."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn import datasets, neighbors

import pdepth
from pdepth import definition
from pdepth.compat import cleanlab as compat
from pdepth.compat.shared.fitted import FittedRows

from helpers.torch_or_skip import torch

RNG = np.random.default_rng(0)
ROWS, QUERIES = RNG.standard_normal((300, 20)), RNG.standard_normal((40, 20))
LABELS = RNG.choice([-7, 3, 4, 900], 300)
COPIES = ROWS[RNG.integers(0, 60, 300)]
ZEROS = ROWS.copy()
ZEROS[::50] *= 0.0  # some of them of -0.0
KINDS = {
    "rows": ROWS,
    "float32": ROWS.astype(np.float32),
    "copies": COPIES,
    "multiples": np.concatenate([COPIES[:150], 2 * COPIES[:150]]),
    "zeros": ZEROS,
    "constant": np.ones((30, 5)),
    "close": np.eye(20)[0] + 1e-4 * ROWS,
    "three columns": ROWS[:, :3],
    "few": ROWS[:40, :3],
}


@pytest.fixture(scope="module")
def digits() -> Any:
    return datasets.load_digits()


@pytest.fixture(scope="module")
def theirs() -> Any:
    """cleanlab's own graphs."""
    pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    return importlib.import_module("cleanlab.internal.neighbor.knn_graph")


@pytest.fixture
def patched(theirs: Any) -> Iterator[None]:
    with compat.patch():
        yield


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The metric of each of pdepth's searches."""
    result: list[str] = []
    kneighbors = FittedRows.kneighbors

    def wrapper(self: FittedRows, *args: Any, **options: Any) -> Any:
        result.append(self.metric)
        return kneighbors(self, *args, **options)

    monkeypatch.setattr(FittedRows, "kneighbors", wrapper)
    return result


def table(graph: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """A graph's distances (N, k) and rows (N, k)."""
    return graph.data.reshape(graph.shape[0], -1), graph.indices.reshape(graph.shape[0], -1)


def by_the_rule(rows: NDArray[Any], k: int, metric: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Distances and rows of the k nearest others, equal rows first by number."""
    named = {"euclidean": "sqeuclidean"}.get(metric, metric)
    squared, near = definition.kneighbors(rows, k=len(rows) - 1, metric=named)
    far = np.sqrt(squared) if metric == "euclidean" else squared / 2
    for own, row, distances in zip(near, rows, far, strict=True):
        other = (rows[own] != row).any(axis=1)
        order = np.lexsort((np.arange(len(own)), np.where(other, 0, own), other))
        own[:], distances[:] = own[order], np.where(other, distances, 0)[order]
    return far[:, :k], near[:, :k]


@pytest.mark.parametrize("metric", [None, "cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["rows", "float32", "copies", "multiples", "constant"])
def test_a_graph_has_the_rows_of_the_definition(kind: str, metric: str | None) -> None:
    rows = KINDS[kind]
    graph = compat.knn_graph(rows, 7, metric)
    distances, near = table(graph)
    expected = by_the_rule(rows, 7, metric or "cosine")
    single = kind == "float32" and metric != "euclidean"
    assert isinstance(graph, sparse.csr_matrix)
    assert graph.shape == (len(rows), len(rows))
    assert graph.dtype == np.float32 if single else np.float64
    assert (graph.indptr == np.arange(len(rows) + 1) * 7).all()
    assert (near == expected[1]).all()
    assert (distances == expected[0].astype(graph.dtype)).all()
    assert (near != np.arange(len(rows))[:, None]).all()
    assert (np.diff(distances) >= 0).all()


@pytest.mark.parametrize(("metric", "k"), [(None, None), (None, 1), ("euclidean", 16), ("l1", 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_is_that_of_cleanlab(
    kind: str, metric: str | None, k: int | None, theirs: Any
) -> None:
    """But for rows that are equally far: copies of one row, whose order follows from rounding."""
    rows = KINDS[kind]
    expected, index = theirs.create_knn_graph_and_index(rows, n_neighbors=k, metric=metric)
    result, ours = compat.create_knn_graph_and_index(rows, n_neighbors=k, metric=metric)
    assert (result != compat.knn_graph(rows, k, metric)).nnz == 0
    assert (ours.metric, ours.n_neighbors) == (index.metric, index.n_neighbors)
    for name in ("data", "indices", "indptr"):
        assert getattr(result, name).dtype == getattr(expected, name).dtype
        assert getattr(result, name).shape == getattr(expected, name).shape
    near, their_near = table(result)[1], table(expected)[1]
    if kind == "multiples" and metric is None:
        near, their_near = near % 150, their_near % 150  # all at distance 0, by rounding apart
    _, same = np.unique(rows, axis=0, return_inverse=True)
    assert (same[near] == same[their_near]).all()
    np.testing.assert_allclose(result.data, expected.data, rtol=1e-5, atol=5e-7)
    if kind not in ("copies", "multiples", "zeros"):
        assert (near == their_near).all()


def test_many_neighbours_stay_sorted_beside_copies(theirs: Any) -> None:
    """cleanlab orders what is no copy by an unstable sort, which from 17 neighbours on shows."""
    expected = theirs.create_knn_graph_and_index(COPIES, n_neighbors=40)[0]
    result = compat.knn_graph(COPIES, 40)
    assert (np.diff(table(result)[0]) >= 0).all()
    assert (np.diff(table(expected)[0]) < -1e-3).any()
    assert (table(result)[1] == by_the_rule(COPIES, 40, "cosine")[1]).all()
    plain = [
        each.create_knn_graph_and_index(COPIES, n_neighbors=40, correct_exact_duplicates=False)[0]
        for each in (theirs, compat)
    ]
    np.testing.assert_allclose(plain[1].data, plain[0].data, atol=1e-15)


def test_digits_have_cleanlabs_graph(digits: Any, theirs: Any) -> None:
    rows = digits.data[:600]
    expected, result = (
        each.create_knn_graph_and_index(rows, n_neighbors=10)[0] for each in (theirs, compat)
    )
    assert (result.indices == expected.indices).all()
    np.testing.assert_allclose(result.data, expected.data, atol=1e-15)
    expected, result = (
        each.create_knn_graph_and_index(rows, n_neighbors=10, metric="euclidean")[0]
        for each in (theirs, compat)
    )
    # Distances of whole numbers are exact; equally near images come by their numbers.
    assert (result.data == expected.data).all()
    assert (table(result)[1] == by_the_rule(rows, 10, "euclidean")[1]).all()
    assert (result.indices != expected.indices).any()


@pytest.mark.parametrize("kind", ["tensor", "bfloat16", "frame", "list"])
def test_kinds_of_features(kind: str) -> None:
    forms: dict[str, Callable[[], Any]] = {
        "tensor": lambda: (torch.from_numpy(ROWS.astype("f4")), ROWS.astype("f4")),
        "bfloat16": lambda: (half := torch.from_numpy(ROWS).bfloat16(), half.double().numpy()),
        "frame": lambda: (pandas.DataFrame(ROWS), ROWS),
        "list": lambda: (ROWS.tolist(), ROWS),
    }
    given, held = forms[kind]()
    assert (compat.knn_graph(given, 5) != compat.knn_graph(held, 5)).nnz == 0
    scores = compat.outlier_scores(given, queries=given[:5])
    assert isinstance(scores, np.ndarray)
    assert (scores == compat.outlier_scores(held, queries=held[:5])).all()


@pytest.mark.parametrize("kind", ["copies", "rows"])
@pytest.mark.parametrize("metric", [None, "euclidean"])
@pytest.mark.filterwarnings("ignore")
def test_datalab_finds_the_same_issues(kind: str, metric: str | None, theirs: Any) -> None:
    pytest.importorskip("datasets", reason="Datalab needs datasets, which is not installed")
    from cleanlab import Datalab

    features = 3 + KINDS[kind]
    features[:5] *= -1
    their_graph, _ = theirs.create_knn_graph_and_index(features, n_neighbors=10, metric=metric)
    result = []
    for given in (
        {"knn_graph": compat.knn_graph(features, 10, metric)},
        {"knn_graph": their_graph},
        {"features": features},
    ):
        lab = Datalab({"y": LABELS}, label_name="y", verbosity=0)
        every = ["outlier", "near_duplicate", "non_iid", "data_valuation"]
        lab.find_issues(**given, issue_types={name: {} for name in every})
        result.append(lab.get_issues())
    ours, by_graph, by_features = result
    distant = ["is_outlier_issue", "is_near_duplicate_issue"]
    # Of copies of one row, all as far, other ones may be neighbours: only what reads distances.
    same = list(ours) if kind == "rows" else distant
    pandas.testing.assert_frame_equal(ours[same], by_graph[same], rtol=1e-12)
    if metric is None:
        pandas.testing.assert_frame_equal(ours[same], by_features[same], rtol=1e-12)
    assert ours["is_outlier_issue"][:5].all()
    assert ours["is_near_duplicate_issue"].any() == (kind == "copies")


@pytest.mark.usefixtures("patched")
@pytest.mark.filterwarnings("ignore")
def test_a_patched_datalab_searches_by_pdepth(metrics: list[str]) -> None:
    pytest.importorskip("datasets", reason="Datalab needs datasets, which is not installed")
    from cleanlab import Datalab

    lab = Datalab({"y": LABELS}, label_name="y", verbosity=0)
    lab.find_issues(features=ROWS, issue_types={"outlier": {"k": 12}, "near_duplicate": {"k": 12}})
    assert metrics == ["cosine"]
    graph = lab.get_info("statistics")["weighted_knn_graph"]
    assert (graph != compat.knn_graph(ROWS, 12)).nnz == 0


OUTLIERS: list[dict[str, Any]] = [{}, {"k": 3, "t": 2}]


@pytest.mark.parametrize("options", OUTLIERS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_outlier_scores_follow_from_the_distances(kind: str, options: dict[str, Any]) -> None:
    rows = KINDS[kind]
    k, t = options.get("k", 10), options.get("t", 1)
    index = compat.create_knn_graph_and_index(rows, n_neighbors=k)[1]
    mean = table(compat.knn_graph(rows, k))[0].mean(axis=1)
    scale = max(np.median(mean), 1e-6)
    result = compat.outlier_scores(rows, **options)
    assert result.dtype == mean.dtype
    np.testing.assert_allclose(result, np.exp(-t * mean / scale), rtol=1e-6)
    assert (result[mean == 0] == 1).all()
    mean = index.kneighbors(rows[:9] + 0.5)[0].mean(axis=1)
    result = compat.outlier_scores(rows, queries=rows[:9] + 0.5, **options)
    np.testing.assert_allclose(result, np.exp(-t * mean / scale), rtol=1e-6)


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("options", OUTLIERS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_outlier_scores_are_cleanlabs_on_the_same_distances(
    kind: str, options: dict[str, Any]
) -> None:
    from cleanlab.outlier import OutOfDistribution

    rows = KINDS[kind]
    theirs = OutOfDistribution(dict(options))
    expected = theirs.fit_score(features=rows, verbose=False)
    assert expected.dtype == compat.outlier_scores(rows, **options).dtype
    assert (expected == compat.outlier_scores(rows, **options)).all()
    new_rows = rows[:9] + 0.5
    expected = theirs.score(features=new_rows)
    assert (expected == compat.outlier_scores(rows, queries=new_rows, **options)).all()
    compat.unpatch()
    expected = OutOfDistribution(dict(options)).fit_score(features=rows, verbose=False)
    np.testing.assert_allclose(compat.outlier_scores(rows, **options), expected, rtol=1e-5)


BOUNDS: list[dict[str, Any]] = [
    {"metric": "cosine"},
    {"metric": "euclidean"},
    {"metric": "minkowski", "p": 2},
    {"metric": "minkowski", "p": 1},
    {"metric": "manhattan"},
]


@pytest.mark.parametrize("way", BOUNDS, ids=str)
def test_rows_apart_by_rounding_are_no_outliers(way: dict[str, Any]) -> None:
    """Below the metric's bound a score is 1, though exp(-d / 1e-6) is not."""
    one = np.eye(20)[0]
    step = {"cosine": 1e-8, "euclidean": 1e-9}.get(
        way["metric"], 1e-16 if way.get("p") == 1 else 1e-9
    )
    rows = (one if way["metric"] == "cosine" else 0) + step * ROWS
    mean = table(compat.knn_graph(rows, 4, **way))[0].mean(axis=1)
    scores = compat.outlier_scores(rows, 4, **way)
    assert (mean > 0).all()
    assert (np.exp(-mean / 1e-6) < 1).all()
    assert (scores == 1).all() == (way["metric"] != "manhattan")
    assert (compat.outlier_scores(ROWS, 4, **way) < 1).all()


@pytest.mark.parametrize("way", BOUNDS, ids=str)
def test_the_bounds_are_cleanlabs(way: dict[str, Any], theirs: Any) -> None:
    from cleanlab.internal.outlier import correct_precision_errors

    bound = compat._rounding(compat.construct_knn(4, **way))
    about = np.array([np.nextafter(bound, -1), bound])
    result = correct_precision_errors(np.zeros(2), about, way["metric"], p=way.get("p"))
    assert result.tolist() == [float(way["metric"] != "manhattan"), 0]


def test_a_search_of_ours_serves_cleanlab(digits: Any, theirs: Any) -> None:
    from cleanlab.outlier import OutOfDistribution

    support, queries = digits.data[:1200], digits.data[1200:]
    with pytest.warns(UserWarning, match="A KNN estimator has previously"):
        expected, result = (
            OutOfDistribution(
                {"knn": kind(n_neighbors=6, metric="euclidean").fit(support)}
            ).fit_score(features=queries, verbose=False)
            for kind in (neighbors.NearestNeighbors, compat.construct_knn)
        )
    assert (result == expected).all()


def test_patching(theirs: Any) -> None:
    search = importlib.import_module("cleanlab.internal.neighbor.search")
    valuation = importlib.import_module("cleanlab.data_valuation")
    plain = search.construct_knn, theirs.create_knn_graph_and_index
    compat.patch()
    with compat.patch():  # not the first: does not end it
        pass
    assert search.construct_knn is theirs.construct_knn is compat.construct_knn
    assert type(theirs.features_to_knn(ROWS)) is compat.NearestNeighbors
    assert theirs.create_knn_graph_and_index is compat.create_knn_graph_and_index
    assert valuation.create_knn_graph_and_index is compat.create_knn_graph_and_index
    for _ in range(2):
        compat.unpatch()
        assert (search.construct_knn, theirs.create_knn_graph_and_index) == plain
        assert theirs.construct_knn is plain[0]
        assert valuation.create_knn_graph_and_index is plain[1]
        assert compat.construct_knn is not plain[0]
    with compat.patch():
        assert search.construct_knn is compat.construct_knn
    assert search.construct_knn is plain[0]


def test_another_version_or_none(theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cleanlab.__version__", "2.6.6")
    with (
        pytest.warns(UserWarning, match="tested with cleanlab from 2.7 to below 2.10, and 2.6.6"),
        compat.patch(),
    ):
        pass


def test_without_cleanlab_all_but_patch_works() -> None:
    code = (
        "import sys; sys.modules['cleanlab'] = None; import numpy as np\n"
        "from pdepth.compat import cleanlab\n"
        "assert cleanlab.knn_graph(np.eye(5), 2).nnz == 10\n"
        "cleanlab.patch()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = (
        "ImportError: pdepth.compat.cleanlab.patch needs cleanlab: pip install 'pdepth[cleanlab]'."
    )
    assert expected in run.stderr


PROBES = [ROWS, ROWS[:, :3].astype(np.float32), np.tanh(ROWS[:, 3:9])]


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_label_quality_is_the_share_of_the_votes(metric: str) -> None:
    result = compat.label_quality(PROBES, LABELS, 9, metric=metric)
    assert (result.classes == [-7, 3, 4, 900]).all()
    assert (result.classes[result.labels] == LABELS).all()
    for number, rows in enumerate(PROBES):
        near = definition.kneighbors(rows, k=9, metric=metric)[1]
        counts = (LABELS[near][..., None] == result.classes).sum(axis=1)
        assert (result.counts[number] == counts).all()
        assert (result.pred_probs(number) == counts / 9).all()
        assert (result.scores[number] == (LABELS[near] == LABELS[:, None]).sum(axis=1) / 9).all()
    assert (result.pred_probs() == result.pred_probs(2)).all()
    np.testing.assert_allclose(result.overall("uniform"), result.scores.mean(axis=0), rtol=1e-12)
    right = (result.counts.argmax(axis=2) == result.labels).mean(axis=1)
    np.testing.assert_allclose(result.overall(), right @ result.scores / right.sum(), rtol=1e-12)


@pytest.mark.parametrize("given", ["one array", "iterator", "tensors", "strings", "objects"])
def test_kinds_of_embeddings_and_labels(given: str) -> None:
    expected = compat.label_quality(PROBES, LABELS, 5)
    names = np.array(["ant", "bee", "crab", "dove"])[expected.labels]
    result = {
        "one array": lambda: compat.label_quality(PROBES[0], LABELS, 5),
        "iterator": lambda: compat.label_quality(iter(PROBES), LABELS.tolist(), 5),
        "tensors": lambda: compat.label_quality(
            list(map(torch.from_numpy, PROBES)), torch.from_numpy(LABELS), 5
        ),
        "strings": lambda: compat.label_quality(PROBES, names, 5),
        "objects": lambda: compat.label_quality(PROBES, pandas.Series(names, dtype=object), 5),
    }[given]()
    assert isinstance(result.scores, np.ndarray)
    assert result.scores.shape == (1 if given == "one array" else 3, 300)
    assert (result.scores == expected.scores[: len(result.scores)]).all()
    assert (result.labels == expected.labels).all()
    assert result.classes.tolist() == (
        ["ant", "bee", "crab", "dove"] if given in ("strings", "objects") else [-7, 3, 4, 900]
    )


def test_a_vote_that_is_never_right_leaves_all_probes_alike() -> None:
    rows = np.array([[0.0], [1.0], [10.0], [11.0]])
    result = compat.label_quality([rows, rows], [0, 1, 0, 1], 1)
    assert (result.overall() == 0).all()


def test_label_quality_is_cleanlabs_of_these_shares(digits: Any, theirs: Any) -> None:
    from cleanlab import filter as filtering
    from cleanlab import rank

    labels = digits.target.copy()
    wrong = np.random.default_rng(3).choice(len(labels), 90, replace=False)
    labels[wrong] = (labels[wrong] + 1 + wrong % 8) % 10
    probes = [digits.data, np.tanh(digits.data @ RNG.standard_normal((64, 20)) / 40)]
    result = compat.label_quality(probes, labels, 15)
    every = [result.pred_probs(number) for number in range(2)]
    for shares, scores in zip(every, result.scores, strict=True):
        assert (rank.get_label_quality_scores(result.labels, shares) == scores).all()
    for way in ("accuracy", "uniform"):
        expected = rank.get_label_quality_ensemble_scores(
            result.labels, every, weight_ensemble_members_by=way, verbose=False
        )
        assert (result.overall(way) == expected).all()
    assert np.isin(result.overall().argsort()[:90], wrong).mean() > 0.9
    votes = pdepth.probe_votes(probes, labels, k=15, return_counts=True)
    ours = result.issues()
    assert ours.score.tolist() == pdepth.label_issues(votes, labels).score.tolist()
    assert np.isin(ours.ranked[:90], wrong).mean() > 0.9
    # The second probe has no equally near rows, so scikit-learn's shares are the same.
    plain = neighbors.KNeighborsClassifier(15, algorithm="brute").fit(probes[1], labels)
    near = plain.kneighbors(return_distance=False)
    shares = np.stack([(labels[near] == each).mean(axis=1) for each in range(10)], axis=1)
    assert (shares == every[1]).all()
    expected, issues = (
        filtering.find_label_issues(labels, each, n_jobs=1) for each in (shares, every[1])
    )
    assert (issues == expected).all()
    assert issues.any()


WRONG: dict[str, tuple[type[Exception], Callable[[Any], Any]]] = {
    "nothing": (ValueError, lambda graph: graph(None)),
    "one dimension": (ValueError, lambda graph: graph(ROWS[0], metric="cosine")),
    "three dimensions": (ValueError, lambda graph: graph(ROWS.reshape(30, 10, 20))),
    "one row": (ValueError, lambda graph: graph(ROWS[:1])),
    "no rows": (ValueError, lambda graph: graph(ROWS[:0])),
    "sparse": (ValueError, lambda graph: graph(sparse.csr_matrix(ROWS))),
    "NaN": (ValueError, lambda graph: graph(np.full((30, 5), np.nan))),
    "words": (ValueError, lambda graph: graph(np.full((30, 5), "a"))),
    "k of all rows": (ValueError, lambda graph: graph(ROWS, n_neighbors=300)),
    "k below 0": (ValueError, lambda graph: graph(ROWS, n_neighbors=-1)),
    "k of 2.5": (ValueError, lambda graph: graph(ROWS, n_neighbors=2.5)),
    "k of a word": (TypeError, lambda graph: graph(ROWS, n_neighbors="3")),
    "metric": (ValueError, lambda graph: graph(ROWS, metric="far")),
    "option": (TypeError, lambda graph: graph(ROWS, speed=3)),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_features_are_refused(what: str) -> None:
    error, call = WRONG[what]
    with pytest.raises(error):
        call(compat.create_knn_graph_and_index)


@pytest.mark.parametrize("what", WRONG)
def test_cleanlab_refuses_the_same(what: str, theirs: Any) -> None:
    error, call = WRONG[what]
    with pytest.raises(error):
        call(theirs.create_knn_graph_and_index)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: compat.knn_graph(ROWS[0]),
            ValueError,
            r"^features: expected a dense array of shape \(N, D\), got shape \(20,\)",
        ),
        (lambda: compat.knn_graph(ROWS[:1]), ValueError, r"^k\b.*\b0\b"),
        (lambda: compat.knn_graph(ROWS, 300), ValueError, r"^k\b.*\b300\b.*\b300\b"),
        (lambda: compat.outlier_scores(ROWS, queries=QUERIES[:, :5]), ValueError, "5 features"),
        (lambda: compat.label_quality(ROWS, LABELS[:9]), ValueError, r"^labels\b.*\b9\b"),
        (lambda: compat.label_quality(ROWS, LABELS + 0.5), TypeError, r"^labels\b.*float64"),
        (lambda: compat.label_quality(ROWS, [None] * len(ROWS)), TypeError, "such as None"),
        (lambda: compat.label_quality(ROWS, LABELS[:, None]), ValueError, r"^labels\b.*\(300, 1\)"),
        (lambda: compat.label_quality(ROWS, LABELS, 300), ValueError, r"^k\b.*\b300\b"),
        (lambda: compat.label_quality(ROWS, LABELS, [3, 5]), TypeError, r"^k\b.*\[3, 5\]"),  # type: ignore[arg-type]
        (
            lambda: compat.label_quality(ROWS, LABELS).overall("size"),
            ValueError,
            r"^weigh_by\b.*'size'",
        ),
    ],
)
def test_sentences(call: Callable[[], Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        call()
