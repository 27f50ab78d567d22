"""Rules of published prediction-depth code, each said again here, one example at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import pdepth
from pdepth import DepthResult, definition
from pdepth.arrays.rows import rows_of
from pdepth.bench import common
from pdepth.bench.studies import presets as bench
from pdepth.compat import nn_example_difficulty as example_difficulty
from pdepth.compat import presets
from pdepth.compat.shared import manhattan

from helpers.cases import KINDS, cast
from helpers.torch_or_skip import torch

RNG = np.random.default_rng(0)
WIDTHS = (30, 1, 17, 64, 5)


def layers(rows: NDArray[Any], count: int) -> list[NDArray[Any]]:
    """Probes that grow nearer to the classes of their rows, with more of these at the end."""
    result = []
    for number, width in enumerate(WIDTHS[:count]):
        mix = np.random.default_rng(number).normal(size=(rows.shape[1], width))
        result.append((rows @ mix).astype("f4"))
    return result


def problem(classes: int, noise: float) -> tuple[Any, ...]:
    """Support, its labels, predictions of all, and queries with their labels: 5 probes."""
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 240)
    rows = rng.normal(size=(classes, 12))[labels] + noise * rng.normal(size=(240, 12))
    rows[7] = rows[3]  # a copy
    probes = layers(rows, 5)
    predictions = np.where(rng.random(240) < 0.85, labels, rng.integers(0, classes, 240))
    own, queries = [each[:180] for each in probes], [each[180:] for each in probes]
    return own, labels[:180] * 3 - 2, predictions * 3 - 2, queries, labels[180:] * 3 - 2


def digits() -> tuple[Any, ...]:
    """Pixels, a projection and sums of them: whole numbers, with many ties."""
    data = load_digits()
    mix = RNG.integers(-1, 2, (64, 9)).astype(float)
    probes = [data.data, data.data @ mix, data.data.reshape(-1, 8, 8).sum(1)]
    own, queries = [each[:300] for each in probes], [each[300:380] for each in probes]
    predictions = np.where(RNG.random(380) < 0.9, data.target[:380], 3)
    return own, data.target[:300], predictions, queries, data.target[300:380]


PROBLEMS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "two classes": lambda: problem(2, 1.2),
    "two classes, apart": lambda: problem(2, 0.8),
    "ten classes": lambda: problem(10, 0.7),
    "digits": digits,
}
WAYS = ["held out", "own", "some"]


def sorted_rows(support: Any, queries: Any, absolute: bool = False) -> Iterator[Any]:
    """For each query its float64 distances (M,) and the rows, nearest first, ties by row."""
    for query in np.asarray(queries, dtype=np.float64):
        difference = np.asarray(support, dtype=np.float64) - query
        terms = np.abs(difference) if absolute else difference**2
        distances = definition.total(terms) if absolute else np.sqrt(definition.total(terms))
        yield distances, np.lexsort((np.arange(len(distances)), distances))


def majority(labels: Any) -> int:
    values, counts = np.unique(labels, return_counts=True)
    return int(values[counts.argmax()])


def plain_votes(support: Any, labels: Any, queries: Any, k: int = 30) -> NDArray[np.int64]:
    return np.array(
        [
            [majority(labels[rows[:k]]) for _, rows in sorted_rows(own, probe_queries)]
            for own, probe_queries in zip(support, queries, strict=True)
        ]
    )


def run_length(votes: Any, expected: Any) -> int:
    """How many of the votes, from the last one backward, are the wanted class."""
    length = 0
    while length < len(votes) and votes[len(votes) - 1 - length] == expected:
        length += 1
    return length


# ---- the rules: number (N,) from support, labels, queries, predictions, the queries' labels ----


def aucurriculum(
    support: Any, labels: Any, queries: Any, predicted: Any, truth: Any, own: bool
) -> list[float]:
    votes = plain_votes(support, labels, queries)
    depth = [len(votes) - run_length(votes[:, i], predicted[i]) for i in range(votes.shape[1])]
    return [each / (len(votes) + 1) for each in depth]


def classifier_playground(
    support: Any, labels: Any, queries: Any, predicted: Any, truth: Any, own: bool
) -> list[float]:
    votes = plain_votes(support, labels, queries)
    return [len(votes) - run_length(vote, vote[-1]) for vote in votes.T]


def nn_example_difficulty(
    support: Any, labels: Any, queries: Any, predicted: Any, truth: Any, own: bool
) -> list[float]:
    votes = plain_votes(support, labels, queries)
    return [
        len(votes) - run_length(vote, label) for vote, label in zip(votes.T, truth, strict=True)
    ]


def tflearning(
    support: Any, labels: Any, queries: Any, predicted: Any, truth: Any, own: bool
) -> list[float]:
    votes = plain_votes(support, labels, queries)
    result = []
    for vote in votes.T:
        unlike = [number for number in range(len(votes)) if vote[number] != vote[-1]]
        result.append(unlike[-1] if unlike else 0)
    return result


def inverse_of_the_wrong_rows(
    support: Any, labels: Any, queries: Any, drop: bool
) -> NDArray[np.int64]:
    votes = []
    for own, probe_queries in zip(support, queries, strict=True):
        votes.append([])
        for distances, rows in sorted_rows(own, probe_queries):
            scores = dict.fromkeys(sorted(set(labels.tolist())), 0.0)
            with np.errstate(divide="ignore"):
                for place, row in enumerate(rows[:30][drop:]):
                    scores[labels[row]] += 1 / distances[place]
            votes[-1].append(max(scores, key=lambda label: (scores[label], -label)))
    return np.array(votes)


def count_down(votes: NDArray[np.int64]) -> list[float]:
    result = []
    for vote in votes.T:
        back, same = vote[::-1], 0
        while back[same] == back[0] and same <= len(vote) - 2:
            same += 1
        result.append(len(vote) - same)
    return result


def miae(
    support: Any, labels: Any, queries: Any, predicted: Any, truth: Any, own: bool
) -> list[float]:
    return count_down(inverse_of_the_wrong_rows(support, labels, queries, True))


def rpi_dsplab(
    support: Any, labels: Any, queries: Any, predicted: Any, truth: Any, own: bool
) -> list[float]:
    return count_down(inverse_of_the_wrong_rows(support, labels, queries, own))


def murali(
    support: Any, labels: Any, queries: Any, predicted: Any, truth: Any, own: bool
) -> list[float]:
    """Two classes: the mean of 29 labels of 0 and 1, and 99 between the thresholds."""
    classes = sorted(set(labels.tolist()))
    assert len(classes) == 2
    one = labels == classes[1]
    casts = []
    for rows_own, probe_queries in zip(support, queries, strict=True):
        means = [
            round(float(one[rows[:29]].mean()), 2)
            for _, rows in sorted_rows(rows_own, probe_queries, absolute=True)
        ]
        casts.append([1 if mean > 0.62 else 0 if mean < 0.38 else 99 for mean in means])
    result = []
    for cast_by in np.array(casts).T.tolist():
        if 99 in cast_by[-2:]:
            result.append(-25)
            continue
        unlike = [number for number, each in enumerate(cast_by) if each != cast_by[-1]]
        result.append(4 * (unlike[-1] + 1) + 4 if unlike else 4)
    return result


STATED = {
    each.__name__: each
    for each in (
        aucurriculum,
        classifier_playground,
        miae,
        murali,
        nn_example_difficulty,
        rpi_dsplab,
        tflearning,
    )
}


def query_arguments(problem: tuple[Any, ...], way: str) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The arguments of `presets.depth`, and what they mean to a rule as it is stated here."""
    support, labels, predictions, queries, truth = problem
    rows = len(labels)
    if way == "held out":
        given = {"queries": queries, "query_labels": truth, "predictions": predictions[rows:]}
        return given, (queries, predictions[rows:], truth, False)
    chosen = np.arange(rows) if way == "own" else np.array([9, 3, 120, 7, 3])
    given = {"predictions": predictions[:rows][chosen]}
    if way == "some":
        given["query_rows"] = chosen
    own = [each[chosen] for each in support]
    return given, (own, predictions[:rows][chosen], labels[chosen], True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("preset", "name"),
    # murali's rule knows two classes
    [(p, n) for p in presets.RULES for n in PROBLEMS if p != "murali" or n.startswith("two")],
)
def test_the_numbers_are_those_of_the_stated_rule(preset: str, name: str, way: str) -> None:
    problem = PROBLEMS[name]()
    support, labels = problem[:2]
    given, (queries, predicted, truth, own) = query_arguments(problem, way)
    expected = STATED[preset](support, labels, queries, predicted, truth, own)
    result = presets.depth(support, labels, preset=preset, **given)
    assert presets.scores(result).tolist() == expected
    if way != "some":
        assert len(set(expected)) > 1
    assert result.meta == {"preset": preset}
    assert result.probes == tuple(f"probe {n}" for n in range(len(support)))


@pytest.mark.parametrize("preset", presets.RULES)
def test_all_kinds_of_input_are_taken(preset: str, tmp_path: Path) -> None:
    support, labels, predictions, queries, truth = PROBLEMS["two classes"]()
    predictions = predictions[len(labels) :]

    def actual(support: Any, queries: Any, **options: Any) -> list[list[Any]]:
        result = presets.depth(
            support, labels, predictions, queries, preset=preset, query_labels=truth, **options
        )
        return [result.depth.tolist(), result.undefined.tolist()]

    expected = actual(support, queries)
    tensors = [[torch.from_numpy(each) for each in given] for given in (support, queries)]
    files = [tmp_path / f"{n}.npy" for n in range(5)]
    for file, array in zip(files, support, strict=True):
        np.save(file, array)
    assert actual(*tensors) == expected
    assert actual(iter(support), iter(queries)) == expected
    assert actual(files, queries) == expected
    assert actual(files, queries, memory=60_000) == expected
    assert actual(support, queries, backend="reference", num_threads=1) == expected
    assert actual(support, queries, early_exit=False) == expected
    rows = np.array([9, 3, 120, 3])
    twice = [
        presets.depth(given, labels, labels[rows], preset=preset, query_rows=rows).depth.tolist()
        for given in (support, files)
    ]
    assert twice[0] == twice[1]


def test_an_abstention_is_no_known_vote(tmp_path: Path) -> None:
    support, labels, predictions, queries, _ = PROBLEMS["two classes"]()
    result = presets.depth(support, labels, predictions[180:], queries, preset="murali")
    assert result.known.any()
    assert not result.known.all()
    assert (result.votes[~result.known] == -1).all()
    assert np.isin(result.votes[result.known], labels).all()
    unsure = ~result.known[-2:].all(axis=0)
    assert unsure.any()
    assert (result.undefined == unsure).all()
    assert (result.depth[unsure] == 5).all()
    # An abstention before the last two is a disagreement.
    for votes, known, depth in zip(result.votes.T, result.known.T, result.depth, strict=True):
        if depth < 5:
            assert known[depth:].all()
            assert (votes[depth:] == votes[-1]).all()
            assert depth == 0 or not known[depth - 1] or votes[depth - 1] != votes[-1]
    result.save(tmp_path / "found.parquet")
    again = DepthResult.load(tmp_path / "found.parquet")
    assert (presets.scores(again) == presets.scores(result)).all()


def test_of_more_classes_one_needs_19_of_29() -> None:
    support, labels, predictions, queries, _ = PROBLEMS["ten classes"]()
    result = presets.depth(support, labels, predictions[180:], queries, preset="murali")
    for number, (own, probe_queries) in enumerate(zip(support, queries, strict=True)):
        for i, (_, rows) in enumerate(sorted_rows(own, probe_queries, absolute=True)):
            values, counts = np.unique(labels[rows[:29]], return_counts=True)
            assert result.known[number, i] == (counts.max() >= 19)
            if counts.max() >= 19:
                assert result.votes[number, i] == values[counts.argmax()]


def test_mistakes_are_named() -> None:
    support, labels, predictions, queries, _ = PROBLEMS["two classes"]()
    predicted = predictions[180:]
    with pytest.raises(ValueError, match=r"^preset\b(?=.*'pdepth').*aucurriculum, "):
        presets.depth(support, labels, predicted, queries, preset="pdepth")
    for preset in presets.RULES:
        with pytest.raises(ValueError, match=r"^labels\b(?=.*\b179\b).*\b180\b"):
            presets.depth(support, labels[:-1], predicted, queries, preset=preset)
        with pytest.raises(ValueError, match=r"^k\b.*\b20\b"):
            presets.depth([support[0][:20]], labels[:20], labels[:20], preset=preset)
    spoiled = [each.copy() for each in support]
    spoiled[2][5, 1] = np.inf
    with pytest.raises(ValueError, match="^support .probe 2.*NaN or infinity in row 5"):
        presets.depth(spoiled, labels, predicted, queries, preset="murali")
    plain = pdepth.depth_from_embeddings(support, labels, predicted, queries)
    with pytest.raises(
        ValueError, match="result: expected one of pdepth.compat.presets.depth, got one without a"
    ):
        presets.scores(plain)


def test_the_page_has_every_preset_and_what_was_counted() -> None:
    if not common.CHECKOUT:
        pytest.skip("needs a checkout: an installed copy has no pages")
    page = (common.HOME / bench.PAGE).read_text()
    stored = json.loads(bench.STORED.read_text())
    assert bench.table(stored) in page
    assert set(stored["counted"]) == set(STATED) == set(presets.RULES)
    for preset in presets.RULES:
        assert page.count(f"| `{preset}` |") == 2


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "uint8"])
def test_nearest_by_absolute_differences(
    kind: Callable[..., Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The definition's order of sums, whatever the blocks: equality."""
    rng = np.random.default_rng(2)
    values = cast(kind(rng, 130, int(rng.integers(1, 90))), dtype)
    support, queries = values[:100], values[100:]
    with np.errstate(over="ignore"):
        expected = [
            rows[:13]
            for _, rows in sorted_rows(
                definition.as_rows(support), definition.as_rows(queries), absolute=True
            )
        ]
        for most, piece in ((1 << 22, 1 << 17), (700, 90)):
            monkeypatch.setattr(manhattan, "CHUNK", most)
            monkeypatch.setattr(manhattan, "IN_CACHE", piece)
            result = manhattan.manhattan_neighbors(
                rows_of(support, "s"), rows_of(queries, "q"), 13, 2
            )
            assert (result == expected).all()


# ---- nn_example_difficulty ----


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("held_out", [False, True])
def test_example_difficulty(name: str, held_out: bool, capsys: Any) -> None:
    support, labels, _, queries, truth = PROBLEMS[name]()
    own, probe_queries = (
        [torch.from_numpy(each) for each in given] for given in (support, queries)
    )
    given = (torch.from_numpy(labels), probe_queries, torch.from_numpy(truth))
    given = given if held_out else given[:1]
    votes = plain_votes(support, labels, queries if held_out else support)
    matches = votes == (truth if held_out else labels)
    expected = [len(support) - run_length(match, True) for match in matches.T]
    depth = example_difficulty.prediction_depth(own, *given)
    assert depth.dtype == torch.int64
    assert depth.tolist() == expected
    assert len(set(expected)) > 2
    as_dict = [dict(enumerate(each)) if isinstance(each, list) else each for each in (own, *given)]
    lazily = [iter(each) if isinstance(each, list) else each for each in (own, *given)]
    assert example_difficulty.prediction_depth(*as_dict).tolist() == expected
    result = example_difficulty.prediction_depth(
        *lazily, k=30, return_matches=True, use_faiss=True, device="cuda", verbose=True
    )
    assert result[0].tolist() == expected
    assert result[1].dtype == torch.int64
    assert result[1].tolist() == matches.astype(int).tolist()
    assert len(capsys.readouterr().out.splitlines()) == len(support)
    one = example_difficulty.knn_predict(
        own[0], given[0], *(each[0] for each in given[1:2]), *given[2:]
    )
    assert one.dtype == torch.bool
    assert one.tolist() == matches[0].tolist()


def test_example_difficulty_is_that_of_scikit_learn() -> None:
    """Its rule in its own library, where no two rows are equally near."""
    neighbors = pytest.importorskip("sklearn.neighbors")
    support, labels, _, queries, truth = PROBLEMS["ten classes"]()
    classifiers = [neighbors.KNeighborsClassifier(30).fit(each, labels) for each in support]
    votes = np.array([c.predict(q) for c, q in zip(classifiers, queries, strict=True)])
    result = example_difficulty.prediction_depth(
        *([torch.from_numpy(each) for each in support], torch.from_numpy(labels)),
        *([torch.from_numpy(each) for each in queries], torch.from_numpy(truth)),
        return_matches=True,
    )
    assert result[1].tolist() == (votes == truth).astype(int).tolist()


def test_example_difficulty_names_mistakes() -> None:
    support, labels, _, queries, truth = PROBLEMS["two classes"]()
    own, probe_queries = (
        [torch.from_numpy(each) for each in given] for given in (support, queries)
    )
    labels, truth = torch.from_numpy(labels), torch.from_numpy(truth)
    for wrong in ((None, truth), (probe_queries[0], None)):
        with pytest.raises(AssertionError):
            example_difficulty.knn_predict(own[0], labels, *wrong)
    with pytest.raises(AssertionError):
        example_difficulty.prediction_depth(own, labels, None, truth)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        example_difficulty.prediction_depth(own, labels, probe_queries[:4], truth)
    with pytest.raises(ValueError, match=r"^k\b(?=.*\b181\b).*\b180\b"):
        example_difficulty.prediction_depth(own, labels, k=181)
