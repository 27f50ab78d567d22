"""pdepth.compat.fiftyone against FiftyOne's own backend, and against the definition in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import pdepth
from pdepth import definition

os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "1")
ROWS = 60
METRICS = ["cosine", "euclidean"]


def test_without_fiftyone() -> None:
    code = "import sys; sys.modules['fiftyone'] = None; import pdepth.compat.fiftyone"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = "ImportError: pdepth.compat.fiftyone needs fiftyone: pip install 'pdepth[fiftyone]'."
    assert expected in run.stderr


@pytest.mark.parametrize("metric", METRICS)
def test_nearest_rows_without_a_database(metric: str) -> None:
    """By vectors and of all rows, from one index; a query's own row is left out by its number."""
    pytest.importorskip("fiftyone.brain")
    from pdepth.compat import fiftyone as compat

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, 12)).astype(np.float32)
    active = compat._ActiveRows.make(rows, None, metric, None)
    name = "cosine" if metric == "cosine" else "sqeuclidean"
    nearest = compat.PdepthSimilarityIndex._nearest
    for own, full in ((np.arange(ROWS), True), (np.arange(ROWS), False), (np.full(9, -1), False)):
        vectors = rows if len(own) == ROWS else rng.standard_normal((9, 12)).astype(np.float32)
        queries = compat._Queries(active.compared(vectors, "query"), own, full, False)
        squared, near = nearest(None, active, queries, 7)
        asked = None if len(own) == ROWS else vectors
        expected = definition.kneighbors(rows, asked, k=7, metric=name)
        assert (squared[:, :7] == expected[0]).all()
        assert (near[:, :7] == expected[1]).all()


@pytest.fixture(scope="module")
def dataset() -> Iterator[Any]:
    """So many samples, without pictures."""
    pytest.importorskip("fiftyone")
    try:
        import fiftyone
        import fiftyone.brain

        made = fiftyone.Dataset()
    except Exception as error:  # whatever a database that is not there has it raise
        pytest.skip(f"FiftyOne's database does not run here: {error}")
    made.add_samples(
        [fiftyone.Sample(filepath=f"/none/{n}.png") for n in range(ROWS)], progress=False
    )
    yield made
    made.delete()


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, dataset: Any) -> None:
    """What the two lines of the module's first paragraph do to FiftyOne."""
    import fiftyone.brain
    from fiftyone.brain.config import BrainConfig

    monkeypatch.setenv("FIFTYONE_BRAIN_SIMILARITY_BACKENDS", "*,pdepth")
    name = "pdepth.compat.fiftyone.PdepthSimilarityConfig"
    monkeypatch.setenv("FIFTYONE_BRAIN_SIMILARITY_PDEPTH_CONFIG_CLS", name)
    monkeypatch.setattr(fiftyone.brain, "brain_config", BrainConfig())


def balanced(seed: int, width: int = 8) -> NDArray[np.float32]:
    """Rows whose mean is 0 to the bit, so that FiftyOne's subtracting it changes nothing."""
    rng = np.random.default_rng(seed)
    half = np.rint(rng.standard_normal((ROWS // 2, width)) * 1024) / 1024
    return np.concatenate([half, -half]).astype(np.float32)[rng.permutation(ROWS)]


def index(dataset: Any, embeddings: Any, backend: str = "pdepth", **options: Any) -> Any:
    import fiftyone.brain

    return fiftyone.brain.compute_similarity(
        dataset, embeddings=embeddings.copy(), backend=backend, **options
    )


def both(dataset: Any, embeddings: Any, **options: Any) -> list[Any]:
    return [index(dataset, embeddings, backend, **options) for backend in ("sklearn", "pdepth")]


def distances(embeddings: NDArray[Any], queries: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """(N, M) by the definition."""
    own = definition.as_rows(embeddings, "cosine" if metric == "cosine" else "sqeuclidean")
    query_rows = definition.as_rows(queries, "cosine" if metric == "cosine" else "sqeuclidean")
    squared = np.stack([definition.squared_distances(own, query) for query in query_rows])
    return squared / 2 if metric == "cosine" else np.sqrt(squared)


def alike(result: Any, expected: Any) -> None:
    """Rows and ids are equal, distances to float32's rounding of products."""
    if isinstance(expected, float | np.floating):  # float32's there, of embeddings in float32
        assert isinstance(result, float)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
        return
    assert type(result) is type(expected)
    if isinstance(result, tuple | list):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            alike(one, other)
    elif isinstance(result, np.ndarray) and result.dtype.kind in "iu":
        assert (result == expected).all()
    elif isinstance(result, np.ndarray):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    else:
        assert result == expected


def test_it_is_chosen_by_configuration(dataset: Any, configured: None) -> None:
    from pdepth.compat import fiftyone as compat

    made = index(dataset, balanced(0), brain_key="near")
    assert type(made) is compat.PdepthSimilarityIndex
    assert made.config.method == "pdepth"
    expected = made._kneighbors(k=4)
    dataset.clear_cache()
    loaded = dataset.load_brain_results("near", cache=False)
    assert type(loaded) is compat.PdepthSimilarityIndex
    assert loaded is not made
    alike(loaded._kneighbors(k=4), expected)
    dataset.delete_brain_run("near")
    plain = index(dataset, balanced(0), compat.PdepthSimilarityConfig, metric="euclidean")
    assert type(plain) is compat.PdepthSimilarityIndex


@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_are_fiftyones(dataset: Any, configured: None, metric: str) -> None:
    theirs, ours = both(dataset, balanced(1), metric=metric)
    ids = list(ours.sample_ids)
    for k in (1, 5):
        for query in (None, ids[7], ids[9:12]):
            for return_dists in (False, True):
                options = {"query": query, "k": k, "return_dists": return_dists}
                alike(ours._kneighbors(**options), theirs._kneighbors(**options))
    place = {each: row for row, each in enumerate(ids)}
    for aggregation in ("mean", "post-mean", "post-min", "post-max"):
        for query in (ids[3], ids[20:23], balanced(2)[:1], balanced(2)[:3]):
            for reverse in (False, True):
                options = {"query": query, "reverse": reverse, "aggregation": aggregation}
                expected = theirs._kneighbors(**options, return_dists=True)
                result = ours._kneighbors(**options, return_dists=True)
                assert result[1] is expected[1] is None
                # Two of the queries are as far from each other as back: theirs takes either first.
                far, theirs_far = (
                    dict(zip(each[0], each[2], strict=True)) for each in (result, expected)
                )
                alike([far[each] for each in ids], [theirs_far[each] for each in ids])
                order = sorted((-d if reverse else d, place[each]) for each, d in far.items())
                assert [place[each] for each in result[0]] == [row for _, row in order]
                first = ours._kneighbors(**options, k=6, return_dists=True)
                assert first == (result[0][:6], None, result[2][:6])
    for thresh in (0.0, 0.4, 1.1, 3.0):
        for query in (None, ids[7], ids[9:12]):
            for return_dists in (False, True):
                options = {"query": query, "thresh": thresh, "return_dists": return_dists}
                alike(ours._radius_neighbors(**options), theirs._radius_neighbors(**options))
    view = ours.sort_by_similarity(ids[3], k=5, dist_field="far")
    assert view.values("id") == theirs.sort_by_similarity(ids[3], k=5).values("id")
    assert view.values("far")[0] == 0


@pytest.mark.parametrize("metric", METRICS)
def test_duplicates_are_fiftyones(dataset: Any, configured: None, metric: str) -> None:
    embeddings = balanced(3, width=3)
    theirs, ours = both(dataset, embeddings, metric=metric)
    for options in ({"thresh": 0.05}, {"thresh": 0.3}, {"fraction": 0.25}):
        for made in (theirs, ours):
            made.find_duplicates(**options)
        assert ours.unique_ids == theirs.unique_ids
        assert ours.duplicate_ids == theirs.duplicate_ids
        # It ends its search at 1e-6 where two pairs are at one distance, as they are here.
        assert ours.thresh == pytest.approx(theirs.thresh, abs=1e-6)
        # The nearest that is kept, by the definition: theirs compares with other rows here.
        every = distances(embeddings, embeddings, metric)
        place = {each: n for n, each in enumerate(ours.sample_ids)}
        kept = [place[each] for each in ours.unique_ids]
        result = {dup: (own, far) for own, d in ours.neighbors_map.items() for dup, far in d}
        assert list(map(result.__contains__, ours.duplicate_ids)) == [True] * len(result)
        for dup, (own, far) in result.items():
            row = every[place[dup], kept]
            assert (place[own], far) == (kept[row.argmin()], row.min())
    for made in (theirs, ours):
        made.find_unique(11)
    assert ours.unique_ids == theirs.unique_ids


@pytest.mark.parametrize("metric", METRICS)
def test_of_a_view_and_by_the_definition(dataset: Any, configured: None, metric: str) -> None:
    digits = load_digits().data[:ROWS].astype(np.float32)
    digits[40] = digits[3]
    made = index(dataset, digits, metric=metric)
    ids = np.array(made.sample_ids)
    view = dataset.select(list(ids[::2]))
    rng = np.random.default_rng(4)
    for active, samples in ((np.arange(ROWS), dataset), (np.arange(0, ROWS, 2), view)):
        made.use_view(samples)
        rows = digits[active]
        full = distances(rows, rows, metric)
        np.fill_diagonal(full, np.inf)
        order = np.argsort(full, axis=1, kind="stable")
        for k in (1, 9, len(active) - 1, 1000, None):
            inds, dists = made._kneighbors(k=k, return_dists=True)
            most = len(active) - 1 if k is None else min(k, len(active) - 1)
            assert (np.stack(inds) == order[:, :most]).all()
            assert (np.stack(dists) == np.take_along_axis(full, order, 1)[:, :most]).all()
        vectors = rng.random((100, 64)).astype(np.float32)
        for some in (vectors[:3], vectors):  # few, and many
            expected = distances(rows, some, metric)
            order = np.argsort(expected, axis=1, kind="stable")[:, :7]
            result, labels, dists = made._kneighbors(query=some, k=7, return_dists=True)
            assert labels is None
            assert (np.array(result) == ids[active][order]).all()
            assert (np.array(dists) == np.take_along_axis(expected, order, 1)).all()
        # Some in the view, which are not their own neighbours, and some outside, if any are.
        numbers = np.array([3, 4, 5, 40])
        expected = distances(rows, digits[numbers], metric)
        expected[numbers[:, None] == active] = np.inf
        order = np.argsort(expected, axis=1, kind="stable")[:, :7]
        assert (np.array(made._kneighbors(list(ids[numbers]), 7)[0]) == ids[active][order]).all()
        limit = expected[1, order[1, 3]]
        result, _, dists = made._radius_neighbors(list(ids[numbers]), limit, return_dists=True)
        for near, far, row in zip(result, dists, expected, strict=True):
            assert near == list(ids[active][row <= limit])
            assert far == list(row[row <= limit])


def test_duplicates_of_digits_at_any_radius(dataset: Any, configured: None) -> None:
    """By blocks, and of those that stay alone: as of all neighbours."""
    from fiftyone.brain.similarity import DuplicatesMixin

    from pdepth.compat import fiftyone as compat

    digits = load_digits().data[:ROWS].astype(np.float32)
    made = index(dataset, digits)
    ids = list(made.sample_ids)
    kept = []
    for thresh in (-1, 0, 0.05, 0.1, 0.2, 0.5, 1, 2):
        expected = DuplicatesMixin._remove_duplicates_thresh(made, thresh, ids)
        for at_once, shrunk in ((1, 0.5), (7, 1), (7, 0), (256, 0.8)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(compat, "CHUNK", at_once)
                patch.setattr(compat, "SHRUNK", shrunk)
                assert made._remove_duplicates_thresh(thresh, ids) == expected
        kept.append(len(expected))
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) > 4


def test_center_is_what_fiftyone_does(dataset: Any, configured: None) -> None:
    embeddings = (balanced(5) + 2).astype(np.float32)
    theirs, ours = both(dataset, embeddings)
    centred = index(dataset, embeddings, center=True)
    expected = theirs._kneighbors(k=5)
    alike(centred._kneighbors(k=5), expected)
    assert not all((a == b).all() for a, b in zip(ours._kneighbors(k=5), expected, strict=True))
    assert (ours.get_embeddings()[0] == embeddings).all()
    assert (centred.get_embeddings()[0] == embeddings).all()
    assert (theirs.get_embeddings()[0] != embeddings).any()


def test_rows_come_and_go(dataset: Any, configured: None) -> None:
    embeddings, ids = balanced(6), np.array(dataset.values("id"))
    made = index(dataset, embeddings, metric="euclidean")

    def nearest(rows: NDArray[Any]) -> Any:
        every = distances(rows, rows, "euclidean")
        np.fill_diagonal(every, np.inf)
        return every.argmin(axis=1)

    assert (np.concatenate(made._kneighbors(k=1)) == nearest(embeddings)).all()
    made.remove_from_index(sample_ids=ids[:20])
    assert (np.concatenate(made._kneighbors(k=1)) == nearest(embeddings[20:])).all()
    changed = embeddings[20:] * np.linspace(1, 2, 40, dtype=np.float32)[:, None]
    made.add_to_index(changed, ids[20:])
    assert (np.concatenate(made._kneighbors(k=1)) == nearest(changed)).all()
    made.remove_from_index(sample_ids=ids[21:])
    assert [each.tolist() for each in made._kneighbors(k=1)] == [[]]
    made.remove_from_index(sample_ids=ids)
    with pytest.raises(ValueError, match="the index: expected at least one embedding"):
        made._kneighbors(k=1)


def test_of_a_field_and_other_metrics(dataset: Any, configured: None) -> None:
    embeddings = balanced(7)
    made = index(dataset, embeddings, embeddings_field="embedding")
    assert np.array_equal(np.array(dataset.values("embedding")), embeddings)
    assert not made.is_external
    theirs, ours = both(dataset, embeddings, metric="manhattan")
    alike(ours._kneighbors(k=3, return_dists=True), theirs._kneighbors(k=3, return_dists=True))
    alike(ours._radius_neighbors(thresh=6), theirs._radius_neighbors(thresh=6))
    for made in (theirs, ours):
        made.find_duplicates(thresh=3)
    assert ours.unique_ids == theirs.unique_ids
    dataset.delete_sample_field("embedding")


def test_mistakes(dataset: Any, configured: None) -> None:
    embeddings = balanced(8)
    theirs, ours = both(dataset, embeddings)
    for made in (theirs, ours):
        with pytest.raises(ValueError, match="Query IDs .*'none'.* do not exist in this index"):
            made._kneighbors(["none"], 3)
        with pytest.raises(ValueError, match="Unsupported aggregation method 'most'"):
            made._kneighbors(list(made.sample_ids[:2]), 3, aggregation="most")
        with pytest.raises(ValueError, match="Full index queries do not support aggregation"):
            made._kneighbors(k=3, aggregation="mean")
        with pytest.raises(ValueError, match="dim|width|features"):
            made._kneighbors(np.ones((1, 5), np.float32), 3)
        with pytest.raises(TypeError):
            made._radius_neighbors(thresh=None)
        with pytest.raises(ValueError, match="NaN"):
            made._kneighbors(np.full((1, 8), np.nan, np.float32), 3)
    embeddings[4] = 0
    with pytest.raises(ValueError, match="^the index.*row 4\\b"):
        index(dataset, embeddings)._kneighbors(k=3)
    with pytest.raises(ValueError, match="^query.*row 0\\b"):
        ours._kneighbors(np.zeros(8, np.float32), 3)


def depths() -> Any:
    rng = np.random.default_rng(9)
    rows = [rng.standard_normal((ROWS, width)) for width in (4, 6, 5)]
    labels = rng.integers(0, 2, ROWS)
    return pdepth.depth_from_embeddings(rows, labels, labels, k=3)


def test_depth_in_sample_fields(dataset: Any) -> None:
    from pdepth.compat.fiftyone import write_depth

    result, ids = depths(), dataset.values("id")
    order = np.random.default_rng(10).permutation(ROWS)
    names = np.where(result.depth > 1, "hard", "easy")
    shuffled = [ids[place] for place in order]
    for given, prefix in ((None, ""), (shuffled, "shuffled_")):
        write_depth(dataset, result, ids=given, groups=names, prefix=prefix)
        place = np.arange(ROWS) if given is None else np.argsort(order)
        assert dataset.values(f"{prefix}depth") == result.depth[place].tolist()
        assert dataset.values(f"{prefix}undefined") == result.undefined[place].tolist()
        assert dataset.values(f"{prefix}group") == names[place].tolist()
        assert dataset.values(f"{prefix}votes") == result.votes.T[place].tolist()
    assert (result.votes[~result.known] == -1).all()
    assert not result.known.all()
    assert dataset.match({"depth": 3}).values("id") == dataset.match({"undefined": True}).values(
        "id"
    )
    dataset.reload()
    assert len(dataset.first()["votes"]) == 3
    assert not dataset.has_field("neighbors")
    rng = np.random.default_rng(1)
    layer = rng.standard_normal((ROWS, 4))
    labels = np.arange(ROWS) % 3
    kept = pdepth.depth_from_embeddings([layer], labels, labels, k=5, return_neighbors=2)
    write_depth(dataset, kept)
    _, rows = pdepth.kneighbors(layer, k=2)
    assert dataset.values("neighbors") == [[ids[row] for row in nearest] for nearest in rows]


def test_depth_is_not_written_halfway(dataset: Any) -> None:
    from pdepth.compat.fiftyone import write_depth

    result, ids = depths(), dataset.values("id")
    for options, sentence in (
        ({"ids": ids[1:]}, "ids: expected 60 entries, one for each example of the result, got 59."),
        (
            {"groups": ["a"]},
            "groups: expected 60 entries, one for each example of the result, got 1.",
        ),
        ({"ids": ids[:-1] + ids[:1]}, "ids: expected distinct ids, got one twice."),
        ({"ids": [*ids[:-1], "none"]}, "ids: expected ids of samples, got none."),
    ):
        with pytest.raises(ValueError, match=sentence):
            write_depth(dataset, result, prefix="no_", **options)
    with pytest.raises(ValueError, match="samples: expected 60 entries"):
        write_depth(dataset.limit(5), result, prefix="no_")
    assert not dataset.has_field("no_depth")
