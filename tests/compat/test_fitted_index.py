"""The index behind fitted estimators: made at the first query, from the rows as they are."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone

from pdepth import Index, definition
from pdepth.compat import sklearn as compat
from pdepth.compat.shared.fitted import FittedRows

RNG = np.random.default_rng(0)
SUPPORT, QUERIES = RNG.standard_normal((300, 20)), RNG.standard_normal((70, 20))
LABELS = RNG.integers(0, 4, 300)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The supports of indexes that were made."""
    supports = []
    opened = Index.__init__

    def watched(self: Any, support: Any, *given: Any, **options: Any) -> None:
        supports.append(support)
        opened(self, support, *given, **options)

    monkeypatch.setattr(Index, "__init__", watched)
    return supports


def nearest(rows: Any, queries: Any, k: int) -> Any:
    return definition.kneighbors(rows, queries, k=k)[1]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_rows_are_packed_once_at_the_first_query(made: list[Any], metric: str) -> None:
    rows = SUPPORT.copy()
    model = compat.KNeighborsClassifier(5, metric=metric).fit(rows, LABELS)
    assert not made
    assert model._support.nbytes == 0
    for _ in range(2):
        model.predict(QUERIES)
        model.predict_proba(None)
        model.kneighbors(QUERIES)
        model.set_params(n_neighbors=9, n_jobs=1)
    assert len(made) == 1
    assert made[0] is rows
    assert model._support.nbytes > rows.nbytes


def test_changed_rows_are_packed_anew(made: list[Any]) -> None:
    rows = SUPPORT.copy()
    model = compat.NearestNeighbors(n_neighbors=4).fit(rows)
    assert (model.kneighbors(QUERIES)[1] == nearest(SUPPORT, QUERIES, 4)).all()
    rows *= -1
    for _ in range(2):
        assert (model.kneighbors(QUERIES)[1] == nearest(-SUPPORT, QUERIES, 4)).all()
    assert len(made) == 2


def test_threads_pack_changed_rows_once(made: list[Any]) -> None:
    """All find them changed in the index that they had."""
    rows = SUPPORT.copy()
    fitted = FittedRows(rows)
    fitted.kneighbors(QUERIES, k=3)
    expected, index = nearest(-SUPPORT, QUERIES, 3), fitted._index
    rows *= -1
    start, found = threading.Barrier(6), []

    class Waiting:
        def kneighbors(self, *given: Any, **options: Any) -> Any:
            start.wait()
            return index.kneighbors(*given, **options)

    fitted._index = Waiting()  # type: ignore[assignment]
    threads = [
        threading.Thread(target=lambda: found.append(fitted.kneighbors(QUERIES, k=3)[1]))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    assert len(found) == 6
    assert all((each == expected).all() for each in found)


def test_copies_hold_rows_alone(made: list[Any], tmp_path: Path) -> None:
    model = compat.KNeighborsClassifier(5).fit(SUPPORT, LABELS)
    before = len(pickle.dumps(model))
    votes = model.predict(QUERIES)
    assert len(pickle.dumps(model)) == before < 1.3 * (SUPPORT.nbytes + LABELS.nbytes)
    joblib.dump(model, tmp_path / "model")
    again = [
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        joblib.load(tmp_path / "model"),
        joblib.load(tmp_path / "model", mmap_mode="r"),
    ]
    for each in again:
        assert each._support.nbytes == 0
        assert (each.predict(QUERIES) == votes).all()
    assert len(made) == 1 + len(again)
    assert not hasattr(clone(model), "_support")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_model_of_mapped_rows(metric: str, tmp_path: Path) -> None:
    joblib.dump(compat.NearestNeighbors(metric=metric).fit(SUPPORT), tmp_path / "model")
    model = joblib.load(tmp_path / "model", mmap_mode="r")
    assert isinstance(model._fit_X, np.memmap)
    oracle = definition.kneighbors(
        SUPPORT, QUERIES, k=5, metric="cosine" if metric == "cosine" else "sqeuclidean"
    )
    assert (model.kneighbors(QUERIES)[1] == oracle[1]).all()


def test_fitting_again_forgets(made: list[Any]) -> None:
    model = compat.NearestNeighbors(n_neighbors=3).fit(SUPPORT)
    for rows in (SUPPORT, SUPPORT[:200, :9]):
        queries = QUERIES[:, : rows.shape[1]]
        found = model.fit(rows).kneighbors(queries)[1]
        assert (found == nearest(rows, queries, 3)).all()
    assert len(made) == 2


def test_many_threads_make_one_index(made: list[Any]) -> None:
    model = compat.NearestNeighbors(n_neighbors=3, n_jobs=1).fit(SUPPORT)
    expected = nearest(SUPPORT, QUERIES, 3)
    start, wrong = threading.Barrier(6), []

    def search(number: int) -> None:
        start.wait()
        some = slice(number, None, 6)
        if (model.kneighbors(QUERIES[some])[1] != expected[some]).any():
            wrong.append(number)

    threads = [threading.Thread(target=search, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert not wrong


def test_rows_without_a_cosine_are_looked_at_once(made: list[Any]) -> None:
    rows = SUPPORT.copy()
    rows[5] = 0
    fitted = FittedRows(rows, metric="cosine")
    for _ in range(2):
        with pytest.raises(ValueError, match="norm"):
            fitted.kneighbors(QUERIES, k=3)
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_a_single_call_does_not_pack_all_rows_at_once() -> None:
    """What faiss.knn takes beside its rows: less than half of the backend's own choice."""
    code = """
import numpy as np, pdepth
from pdepth.bench.peak import memory_now, memory_peak
from pdepth.compat import faiss
rows = np.random.default_rng(0).standard_normal((40_000, 400), np.float32)
for search in (
    lambda: faiss.knn(rows[:50], rows, 5),
    lambda: pdepth.kneighbors(rows, rows[:50], num_threads=1),
):
    before = memory_now()
    search()
    print(memory_peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    taken, whole = map(int, run.stdout.split())
    assert taken < whole / 2
