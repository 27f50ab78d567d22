"""Neighbours that a search keeps: of every example at each probe where it was searched."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import DepthResult, KeptNeighbors, definition
from pdepth.cluster import Cluster, voter
from pdepth.search import nearest
from pdepth.search.nearest import NearestTable, ranked

from helpers import inline_ray
from helpers.cases import DTYPES, cast, first_difference
from helpers.torch_or_skip import torch

ROWS, ASKED, PROBES = 120, 70, 3
CLASSES = np.array([-2, 0, 5])


def layers(rows: int, seed: int, dtype: str = "float32") -> list[Any]:
    """Small whole numbers, which tie exactly, a third of them twice."""
    rng = np.random.default_rng(seed)
    probes = []
    for width in (7, 3, 24):
        values = rng.integers(1, 4, (rows, width)).astype(float)
        values[rng.integers(0, rows, rows // 3)] = values[0]
        probes.append(cast(values, dtype))
    return probes


RNG = np.random.default_rng(0)
SUPPORT, QUERIES = layers(ROWS, 1), layers(ASKED, 2)
LABELS, PREDICTIONS = CLASSES[RNG.integers(0, 3, ROWS)], CLASSES[RNG.integers(0, 3, ASKED)]
OWN_PREDICTIONS = np.where(RNG.random(ROWS) < 0.5, LABELS, np.roll(LABELS, 1))


def depth(own: bool, **options: Any) -> Any:
    if own:
        return pdepth.depth_from_embeddings(SUPPORT, LABELS, OWN_PREDICTIONS, **options)
    return pdepth.depth_from_embeddings(SUPPORT, LABELS, PREDICTIONS, QUERIES, **options)


def searched(result: DepthResult) -> Any:
    """Where the definition of early exit searches: down to the first other vote."""
    known = np.asarray(result.known)
    return np.vstack([known[1:], np.ones((1, known.shape[1]), bool)])


def assert_kept(result: DepthResult, own: bool, count: int, where: Any, **options: Any) -> None:
    """Rows, distances and counts equal those of the definition where they were searched, and
    nothing is said elsewhere."""
    kept = result.neighbors
    assert kept is not None
    assert kept.rows.shape == (PROBES, len(result), count)
    assert (kept.k, kept.probes) == (result.k, result.probes)
    np.testing.assert_array_equal(kept.searched, where)
    np.testing.assert_array_equal(kept.classes[kept.codes], LABELS)
    wanted = {**options, "k": result.k}
    lists = {name: value for name, value in wanted.items() if name in ("metric", "query_rows")}
    for probe, support in enumerate(SUPPORT):
        queries, active = None if own else QUERIES[probe], where[probe]
        distances, rows = definition.kneighbors(support, queries, **lists, k=max(count, result.k))
        votes = definition.probe_votes(support, LABELS, queries, **wanted)
        assert first_difference(kept.rows[probe][active], rows[active, :count]) is None
        assert first_difference(kept.distances[probe][active], distances[active, :count]) is None
        np.testing.assert_array_equal(kept.class_counts()[probe][active], votes.counts[active])
        np.testing.assert_array_equal(kept.votes()[probe][active], votes.votes[active])
        top = np.sort(votes.counts, axis=1)
        np.testing.assert_array_equal(
            kept.margins()[probe][active], (top[:, -1] - top[:, -2])[active]
        )
    assert (kept.rows[~where] == -1).all()
    assert np.isnan(kept.distances[~where]).all()
    assert not kept.counts[~where].any()
    assert (kept.votes()[~where] == -1).all()


@pytest.mark.parametrize("own", [True, False], ids=["own", "queries"])
@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metric": "cosine"},
        {"metric": "inner_product"},
        {"weights": "distance"},
        {"weights": "exp", "temperature": 2.0, "metric": "cosine"},
        {"backend": "reference"},
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 4, 7, 9])
def test_what_is_kept(count: int, options: dict[str, Any], early_exit: bool, own: bool) -> None:
    """Fewer than k = 7, all of them, and more; votes and depths are those without."""
    result = depth(own, k=7, early_exit=early_exit, return_neighbors=count, **options)
    plain = depth(own, k=7, early_exit=early_exit, **options)
    for name in ("depth", "undefined", "votes", "known"):
        np.testing.assert_array_equal(getattr(result, name), getattr(plain, name))
    where = searched(result) if early_exit else np.ones((PROBES, len(result)), bool)
    assert early_exit == (not where.all())
    options.pop("backend", None)
    assert_kept(result, own, count, where, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_rows(dtype: str) -> None:
    support, queries = layers(ROWS, 1, dtype), layers(ASKED, 2, dtype)
    result = pdepth.depth_from_embeddings(
        support, LABELS, PREDICTIONS, queries, k=5, return_neighbors=5
    )
    assert result.neighbors is not None
    for probe, (rows, asked) in enumerate(zip(support, queries, strict=True)):
        where = result.neighbors.searched[probe]
        distances, neighbors = pdepth.kneighbors(rows, asked, k=5)
        found = result.neighbors.distances[probe], result.neighbors.rows[probe]
        np.testing.assert_array_equal(found[0][where], np.asarray(distances)[where])
        np.testing.assert_array_equal(found[1][where], np.asarray(neighbors)[where])


def test_several_k_share_their_rows() -> None:
    """Each has the counts of its own k; a query is searched as long as any vote of it matches."""
    results = depth(own=False, k=[3, 9, 6], return_neighbors=4)
    alone = {k: depth(own=False, k=k, early_exit=False, return_neighbors=4) for k in (3, 9, 6)}
    first, *others = (results[k].neighbors for k in (3, 9, 6))
    assert all(other.rows is first.rows for other in others)
    where = first.searched
    assert where.sum() >= max(searched(result).sum() for result in results.values())
    for k, result in results.items():
        np.testing.assert_array_equal(
            result.neighbors.class_counts()[where], alone[k].neighbors.class_counts()[where]
        )
        np.testing.assert_array_equal(result.neighbors.rows[where], alone[k].neighbors.rows[where])


@pytest.mark.parametrize("reference", ["label", "last_probe", np.full(ROWS, 5)], ids=str)
def test_other_references(reference: Any) -> None:
    result = depth(own=True, k=7, reference=reference, return_neighbors=2)
    assert_kept(result, True, 2, searched(result))


def test_beside_margins() -> None:
    result = depth(own=False, k=7, return_counts=True, return_neighbors=2)
    assert result.neighbors is not None
    assert result.known.all()
    np.testing.assert_array_equal(result.neighbors.margins(), result.margins)


def test_some_rows_of_the_support() -> None:
    rows = np.array([5, 5, 117, 0, 44])
    result = pdepth.depth_from_embeddings(
        SUPPORT, LABELS, OWN_PREDICTIONS[rows], query_rows=rows, k=7, return_neighbors=3
    )
    whole = depth(own=True, k=7, early_exit=False, return_neighbors=3)
    where = searched(result)
    np.testing.assert_array_equal(
        result.neighbors.rows[where], whole.neighbors.rows[:, rows][where]
    )


def test_an_iterator_of_probes() -> None:
    result = pdepth.depth_from_embeddings(
        iter(SUPPORT), LABELS, PREDICTIONS, iter(QUERIES), k=7, return_neighbors=3
    )
    assert_kept(result, False, 3, np.ones((PROBES, ASKED), bool))


@pytest.mark.parametrize("own", [True, False], ids=["own", "queries"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_rows_that_are_read_in_chunks(
    own: bool, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for side, probes in (("support", SUPPORT), ("queries", QUERIES)):
        for number, values in enumerate(probes):
            np.save(tmp_path / f"{side}{number}.npy", values)
        paths.append([tmp_path / f"{side}{number}.npy" for number in range(PROBES)])
    queries = None if own else paths[1]
    predictions = OWN_PREDICTIONS if own else PREDICTIONS
    result = pdepth.depth_from_embeddings(
        paths[0], LABELS, predictions, queries, k=7, return_neighbors=4, memory=9_000,
        weights=weights,
    )  # fmt: skip
    assert_kept(result, own, 4, searched(result), weights=weights)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("own", [True, False], ids=["own", "queries"])
@pytest.mark.parametrize("options", [{}, {"k": [7, 2]}, {"metric": "inner_product"}], ids=str)
def test_workers_of_a_cluster(
    options: dict[str, Any], own: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline_ray.install(monkeypatch, 16)
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 12)
    options = {"k": 7, **options}
    there = depth(own, return_neighbors=4, cluster=Cluster(workers=workers), **options)
    here = depth(own, return_neighbors=4, **options)
    if "k" in options and isinstance(options["k"], int):
        there, here = {7: there}, {7: here}
    for k in here:
        for name in ("distances", "rows", "ranked", "counts"):
            np.testing.assert_array_equal(
                getattr(there[k].neighbors, name), getattr(here[k].neighbors, name), strict=True
            )


def test_votes_bring_them_in_arrays_of_the_support() -> None:
    tensors = [torch.from_numpy(each) for each in SUPPORT]
    votes = pdepth.probe_votes(tensors, LABELS, k=[5, 7], return_neighbors=2)
    for k in (5, 7):
        assert votes[k].counts.shape == (PROBES, ROWS, 3)
        assert isinstance(votes[k].rows, torch.Tensor)
        for probe, support in enumerate(tensors):
            distances, rows = pdepth.kneighbors(support, k=2)
            assert torch.equal(votes[k].rows[probe], rows)
            assert torch.equal(votes[k].distances[probe], distances)
    single = pdepth.probe_votes(SUPPORT[0], LABELS, k=5, metric="inner_product", return_neighbors=2)
    products, rows = pdepth.kneighbors(SUPPORT[0], k=2, metric="inner_product")
    np.testing.assert_array_equal(single.distances, products)
    np.testing.assert_array_equal(single.rows, rows)
    assert pdepth.probe_votes(SUPPORT[0], LABELS, k=5).rows is None


def test_wrong_numbers() -> None:
    for value, kind in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(kind, match="return_neighbors: expected an integer"):
            depth(own=True, k=3, return_neighbors=value)
    sentence = (
        r"^return_neighbors: expected at most 119 \(support has 120 rows, less the row that is "
        r"left out\), got 120\.$"
    )
    with pytest.raises(ValueError, match=sentence):
        depth(own=True, k=3, return_neighbors=ROWS)
    assert depth(own=True, k=3, return_neighbors=ROWS - 1).neighbors.rows.shape[-1] == ROWS - 1


@pytest.mark.parametrize("classes", [1, 2, 5, 300])
@pytest.mark.parametrize("kind", [np.int32, np.float64])
def test_classes_are_ranked(classes: int, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their votes, of equals the smaller first, as many as may have any."""
    rng = np.random.default_rng(classes)
    counts = np.zeros((50, classes), kind)
    for row in counts:
        row[rng.integers(0, classes, 4)] += rng.integers(1, 3)
    ordered = [sorted(range(classes), key=lambda c, row=row: (-row[c], c))[:4] for row in counts]
    found, votes = ranked(counts, 4)
    assert found.dtype == (np.uint16 if classes > 256 else np.uint8)
    np.testing.assert_array_equal(found, ordered)
    np.testing.assert_array_equal(votes, np.take_along_axis(counts, np.array(ordered), axis=1))


def test_a_table_in_a_folder_is_that_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files have no names, and end with it."""
    monkeypatch.setattr(nearest, "BLOCK", 8)
    here, there = NearestTable(2, 9), NearestTable(2, 9, tmp_path)
    support = nearest.Labelled(CLASSES, np.zeros(4, np.int32), "sqeuclidean")
    part = {
        "distances": np.ones((3, 2)),
        "rows": np.ones((3, 2), np.int32),
        "ranked k5": np.ones((3, 3), np.uint8),
        "counts k5": np.ones((3, 3), np.uint8),
    }
    tables = []
    for table in (here, there):
        table.put(1, np.array([2, 5, 8]), part)
        tables.append(table.kept(5, ("a", "b"), support))
    assert list(tmp_path.iterdir()) == []
    for name in ("distances", "rows", "ranked", "counts"):
        np.testing.assert_array_equal(*(getattr(table, name) for table in tables), strict=True)
    assert tables[0].searched.sum() == 3
    ended = weakref.ref(tables[1].rows)
    del table, there, tables
    assert ended() is None


def test_its_words() -> None:
    result = depth(own=False, k=7, return_neighbors=3)
    assert isinstance(result.neighbors, KeptNeighbors)
    assert repr(result.neighbors) == (
        "KeptNeighbors(3 of k=7, 70 examples, 3 probes, 120 support rows)"
    )
