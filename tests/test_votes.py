"""More from one search: several k, weighted votes, margins, and depths against other references."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pdepth
from pdepth import _native, definition
from pdepth.backends import triton
from pdepth.search import voting

from helpers.cases import Case, activations, case, duplicates, first_difference, grid
from helpers.torch_or_skip import torch

WAYS: list[dict[str, Any]] = [
    {},
    {"weights": "distance"},
    {"weights": "exp"},
    {"weights": "exp", "temperature": 1e-3},
    {"weights": "exp", "temperature": 40},
]


@lru_cache(maxsize=256)  # each level is asked the same
def _oracle(problem: Case, k: int, way: tuple[tuple[str, Any], ...]) -> definition.VoteTable:
    options = problem.options | dict(way) | {"k": k}
    with np.errstate(over="ignore"):
        return definition.probe_votes(problem.support, problem.labels, problem.queries, **options)


def oracle(problem: Case, k: int, way: dict[str, Any]) -> definition.VoteTable:
    return _oracle(problem, k, tuple(way.items()))


def assert_exact(problem: Case, ks: list[int], way: dict[str, Any], **engine: Any) -> None:
    """Votes, ties, counts and margins of every k from one call, and of each from its own."""
    options = problem.options | way | engine
    given = problem.support, problem.labels, problem.queries
    together = pdepth.probe_votes(*given, return_counts=True, **(options | {"k": ks}))
    assert list(together) == ks
    for k, found in together.items():
        wanted = oracle(problem, k, way)
        alone = pdepth.probe_votes(*given, return_counts=True, **(options | {"k": k}))
        for votes in (found, alone):
            for name in ("votes", "tied", "counts", "classes"):
                where = first_difference(getattr(votes, name), getattr(wanted, name))
                assert where is None, f"{problem.name} {way} k={k}: {name} differ at {where}"
            assert np.asarray(votes.counts).dtype == (np.float64 if way else np.int32)
            top = -np.sort(-wanted.counts, axis=1)
            second = top[:, 1] if top.shape[1] > 1 else 0
            assert first_difference(votes.margins, top[:, 0] - second) is None


def some_k(most: int, rng: np.random.Generator) -> list[int]:
    return sorted({most, 1, *rng.integers(1, most + 1, 2).tolist()}, key=lambda k: (k % 3, k))


def test_every_k_and_weight_is_the_definitions(
    level: str, of_tier: Callable[[Any, Any], Any]
) -> None:
    for number in range(of_tier(15, 45)):
        problem = case(number)
        ks = some_k(problem.options["k"], np.random.default_rng(number))
        assert_exact(problem, ks, WAYS[number % len(WAYS)], num_threads=1 + number % 2)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", [grid, duplicates, activations])
def test_ties_and_zero_distances(kind: Any, way: dict[str, Any]) -> None:
    """All rows but one vote, many at distance 0 or at equal ones."""
    rng = np.random.default_rng(1)
    values, labels = kind(rng, 90, 3), rng.integers(-4, 1, 90) * 3
    assert_exact(Case(kind.__name__, values, labels, None, {}), [89, 30, 5], way)
    assert_exact(Case(kind.__name__, values, labels, values[:9], {}), [90, 7], way)


@pytest.mark.parametrize("way", WAYS[1:3], ids=str)
def test_one_class_and_infinite_distances(way: dict[str, Any]) -> None:
    """Where every distance is infinite all neighbours weigh the same: a class without any loses."""
    values = np.array([[1e200], [-1e200], [3e200], [-3e200], [9e200]])
    assert_exact(Case("one class", values[:, :1] * 1e-190, np.full(5, 7), None, {}), [4, 1], way)
    far = Case("far", values, np.array([3, 8, 8, 8, 1]), np.array([[-9e200]]), {})
    assert_exact(far, [4, 3], way)
    assert pdepth.probe_votes(values, far.labels, far.queries, k=4, **way).votes == 8


@pytest.mark.slow_if(backend=["reference"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_query_chunks_change_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voting, "CHUNK_BYTES", 1)
    monkeypatch.setattr(voting, "CHUNK_QUERIES", 7)
    for number in (0, 3, 8, 14, 31):
        problem = case(number)
        for way in WAYS[:3]:
            assert_exact(problem, some_k(problem.options["k"], np.random.default_rng(0)), way,
                         backend=backend)  # fmt: skip


def test_query_chunks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more queries go to a search than the bound lets, and none of their rows are copied."""
    monkeypatch.setattr(voting, "CHUNK_BYTES", 5 * (24 * 4 + 8 * 3))
    monkeypatch.setattr(voting, "CHUNK_QUERIES", 1)
    sizes: list[int] = []
    run = _native.run

    def sized(**call: Any) -> Any:
        sizes.append(call["queries"])
        assert np.shares_memory(call["layers"][0][1][0], values)
        return run(**call)

    monkeypatch.setattr(_native, "run", sized)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((32, 3))
    pdepth.probe_votes(values[:20], rng.integers(0, 2, 20), values[20:], k=4, weights="exp")
    assert sizes == [5, 5, 2]


def test_torch_in_torch_out() -> None:
    rng = np.random.default_rng(3)
    values, labels = grid(rng, 60, 2), rng.integers(0, 4, 60)
    layers = [torch.from_numpy(values), torch.from_numpy(values).bfloat16()]
    for way in WAYS[:3]:
        found = pdepth.probe_votes(layers, labels, k=(9, 4), return_counts=True, **way)
        plain = pdepth.probe_votes([values] * 2, labels, k=(9, 4), return_counts=True, **way)
        for k in (9, 4):
            assert isinstance(found[k].margins, torch.Tensor)
            assert found[k].margins.shape == (2, 60)
            for name in ("votes", "tied", "counts", "margins"):
                mine, other = getattr(found[k], name).numpy(), getattr(plain[k], name)
                assert first_difference(mine, other) is None
                assert mine.dtype == other.dtype
    alone = pdepth.probe_votes(layers[0], labels * 0, k=4, return_counts=True)
    assert (alone.margins == 4).all()  # one class has no second


def test_margins_need_counts() -> None:
    votes = pdepth.probe_votes(np.eye(4), [0, 1, 0, 1], k=2)
    with pytest.raises(
        ValueError, match="margins: expected votes with counts, got none; pass return_"
    ):
        _ = votes.margins


def test_distance_weights_are_scikit_learns() -> None:
    neighbours = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(4)
    support, queries = activations(rng, 700, 12), activations(rng, 150, 12)
    labels = rng.integers(0, 10, 700)
    queries[:20] = support[:20]  # at distance 0, ten of them to two copies of two classes
    support[300:310], labels[300:310] = support[:10], labels[:10] + 1
    for k in (3, 10, 45):
        peer = neighbours.KNeighborsClassifier(k, weights="distance", algorithm="kd_tree")
        peer.fit(support, labels)
        found = pdepth.probe_votes(support, labels, queries, k=k, weights="distance")
        assert first_difference(found.votes, peer.predict(queries)) is None
    assert found.tied[:10].all()


@pytest.mark.parametrize("temperature", [0.02, 0.07, 0.5])
def test_exp_weights_are_dinos(temperature: float) -> None:
    """exp(cos / T) scattered into classes: the same winners where the margin is not rounding."""
    rng = np.random.default_rng(5)
    support, queries = rng.standard_normal((900, 24)), rng.standard_normal((300, 24))
    labels, k = rng.integers(0, 12, 900), 40
    unit = [torch.nn.functional.normalize(torch.from_numpy(x), dim=1) for x in (queries, support)]
    cosines, rows = (unit[0] @ unit[1].T).topk(k)
    scores = torch.zeros(300, 12, dtype=torch.float64)
    scores.scatter_add_(1, torch.from_numpy(labels)[rows], (cosines / temperature).exp())
    found = pdepth.probe_votes(
        support, labels, queries, k=k, metric="cosine", weights="exp", temperature=temperature,
        return_counts=True,
    )  # fmt: skip
    clear = found.margins > 1e-9
    assert clear.mean() > 0.99
    assert first_difference(found.votes[clear], scores.argmax(1).numpy()[clear]) is None
    scale = scores.numpy() / (cosines[:, :1] / temperature).exp().numpy()  # the common factor
    np.testing.assert_allclose(found.counts, scale, rtol=1e-9, atol=1e-12)


def network(rng: np.random.Generator, examples: int) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """Layers that tell classes apart the better the later they come, and labels with mistakes."""
    labels = rng.integers(0, 4, examples)
    centres = rng.standard_normal((5, 4, 12))
    layers = [
        0.3 * depth * centres[depth][labels] + rng.standard_normal((examples, 12))
        for depth in range(5)
    ]
    return layers, np.where(rng.random(examples) < 0.9, labels, 3) * 7 - 5


REFERENCES = ["prediction", "label", "last_probe", "array"]


@pytest.mark.slow_if(reference=["label", "array"], ways=[WAYS[1], WAYS[2], {"k": [15, 3, 30]}])
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("ways", [*WAYS[:3], {"k": [15, 3, 30]}, {"k": [7], "weights": "exp"}])
def test_depths_against_every_reference(reference: str, ways: dict[str, Any]) -> None:
    """Early exit or not, held out or not, of iterators, for every weighting and several k."""
    rng = np.random.default_rng(6)
    layers, labels = network(rng, 260)
    options = {"k": 15, **ways}
    ks = options["k"] if isinstance(options["k"], list) else [options["k"]]
    way = {name: value for name, value in ways.items() if name != "k"}
    for held_out in (True, False):
        support = [layer[:200] for layer in layers] if held_out else layers
        queries = [layer[200:] for layer in layers] if held_out else None
        own, asked = (labels[:200], labels[200:]) if held_out else (labels, labels)
        predictions = np.where(rng.random(len(asked)) < 0.8, asked, 2)
        array = np.where(rng.random(len(asked)) < 0.8, predictions, 99)
        tables = {
            k: [
                definition.probe_votes(s, own, None if queries is None else queries[i], k=k, **way)
                for i, s in enumerate(support)
            ]
            for k in ks
        }
        for early_exit, iterated, counted in (
            (True, False, False), (False, False, False), (True, True, False), (True, False, True),
        ):  # fmt: skip
            found = pdepth.depth_from_embeddings(
                iter(support) if iterated else support, own, predictions,
                iter(queries) if iterated and queries else queries,
                reference=array if reference == "array" else reference, early_exit=early_exit,
                query_labels=asked if held_out else None, return_counts=counted, **options,
            )  # fmt: skip
            results = found if isinstance(found, dict) else {ks[0]: found}
            assert isinstance(found, dict) == isinstance(options["k"], list)
            assert list(results) == ks
            for k, result in results.items():
                votes = np.stack([table.votes for table in tables[k]])
                against = {"prediction": predictions, "label": asked, "last_probe": votes[-1],
                           "array": array}[reference]  # fmt: skip
                depth, undefined = definition.depth_from_votes(votes, against)
                assert len(set(depth.tolist())) > 3  # the case has something to tell apart
                assert undefined.any() == (reference != "last_probe")
                assert first_difference(result.depth, depth) is None
                assert first_difference(result.undefined, undefined) is None
                assert first_difference(result.votes[result.known], votes[result.known]) is None
                settled = np.arange(len(layers))[:, None] >= depth
                walked = early_exit and not iterated and not counted
                known = settled if walked else np.ones_like(settled)
                assert first_difference(result.known, known) is None
                assert (result.k, result.reference) == (k, reference)
                assert first_difference(result.predictions, predictions) is None
                if reference == "prediction":
                    assert result.reference_values is None
                else:
                    assert first_difference(result.reference_values, against) is None
                assert (result.margins is None) == (result.tied is None) == (not counted)
                if counted:
                    tied = np.stack([table.tied for table in tables[k]])
                    top = np.sort(np.stack([table.counts for table in tables[k]]), axis=2)
                    assert first_difference(result.tied, tied) is None
                    assert first_difference(result.margins, top[..., -1] - top[..., -2]) is None


def test_one_probe_against_itself() -> None:
    values, labels = np.random.default_rng(0).standard_normal((30, 4)), np.arange(30) % 2
    for ways in ({"k": 3}, {"k": 3, "weights": "exp"}):
        result = pdepth.depth_from_embeddings(
            values, labels, labels, reference="last_probe", **ways
        )
        assert not result.depth.any()
        assert result.known.all()


def test_what_differs_from_the_default_is_in_meta() -> None:
    values, labels = np.random.default_rng(0).standard_normal((30, 4)), np.arange(30) % 2
    assert pdepth.depth_from_embeddings(values, labels, labels, k=3).meta == {}
    options = {"metric": "cosine", "weights": "exp", "temperature": 0.1}
    found = pdepth.depth_from_embeddings(values, labels, labels, k=[3], **options)[3].meta
    assert found == {"metric": "cosine", "weights": "exp", "temperature": "0.1"}


def test_early_exit_searches_less_for_several_k() -> None:
    """A query is asked as long as one k agrees; the search knows no one else."""
    rng = np.random.default_rng(6)
    layers, labels = network(rng, 200)
    asked: dict[int, int] = {}
    found = pdepth.depth_from_embeddings(
        layers, labels, labels, k=[30, 3],
        progress=lambda probe, fraction, alive: asked.__setitem__(probe, alive),
    )  # fmt: skip
    depth = np.minimum(found[3].depth, found[30].depth)
    assert asked == {p: n for p in range(5) if (n := int((depth <= p + 1).sum()))}
    assert asked[0] < 100


@pytest.mark.slow_if(metric=["sqeuclidean"])
@pytest.mark.slow_if(way=[WAYS[0], WAYS[2]])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("way", WAYS[:3], ids=str)
def test_the_triton_backend_agrees(way: dict[str, Any], metric: str) -> None:
    if (reason := triton.unavailable()) is not None:
        pytest.skip(f"no triton backend here: {reason}")
    rng = np.random.default_rng(8)
    values, labels = activations(rng, 80, 20).astype("f4") + 0.01, rng.integers(0, 4, 80)
    options = {"query_rows": rng.integers(0, 80, 4), "metric": metric}
    problem = Case("triton", values, labels, None, options)
    assert_exact(problem, [11, 30], way, backend="triton")
    depths = [
        pdepth.depth_from_embeddings(
            [values, values[:, ::2]], labels, labels[options["query_rows"]], k=[5, 12],
            reference="last_probe", backend=backend, **options, **way,
        )
        for backend in ("triton", "cpu")
    ]  # fmt: skip
    for k in (5, 12):
        assert first_difference(depths[0][k].depth, depths[1][k].depth) is None
        assert first_difference(depths[0][k].votes, depths[1][k].votes) is None
