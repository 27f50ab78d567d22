"""Ensembles: counts against plain loops over all members, and what is refused."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import pdepth
from pdepth.analysis import networks
from pdepth.analysis.compare import compare
from pdepth.analysis.ensemble import Ensemble, Member, entropy
from pdepth.analysis.groups import CORNERS, groups, groups_or_reason
from pdepth.analysis.ranks import correlate
from pdepth.result import DepthResult

from helpers.torch_or_skip import torch

N, L, K = 23, 4, 9
LABELS = np.arange(N) % 3 * 5 - 2


def members(seed: int = 0, count: int = K) -> list[Member]:
    """Networks of which each says one class more than those before; row 4 is never held out."""
    rng = np.random.default_rng(seed)
    actual = []
    for number in range(count):
        held_out = rng.random(N) < 0.4
        held_out[4] = False
        predictions = np.where(
            rng.random(N) < 0.6, LABELS, rng.choice([-2, 3, 8, -9, 5, 40][: 3 + number], N)
        )
        actual.append(
            Member(rng.integers(0, L + 1, N), predictions, held_out, L, f"{seed}:{number}")
        )
    return actual


def added(subset: list[Member], **options: Any) -> Ensemble:
    ensemble = Ensemble(LABELS, **options)
    for member in subset:
        ensemble.add(member)
    return ensemble


def by_rule(subset: list[Member], row: int) -> dict[str, Any]:
    """The paper's words for one example, in fractions."""
    own = [m for m in subset if not m.held_out[row]]
    out = [m for m in subset if m.held_out[row]]
    nan = float("nan")

    def mean(values: list[int]) -> float:
        return float(Fraction(sum(values), len(values))) if values else nan

    class_counts = Counter(int(m.predictions[row]) for m in out)
    best = min(class_counts, key=lambda item: (-class_counts[item], item)) if out else None
    shares = [count / len(out) for count in class_counts.values()]
    return {
        "id": row,
        "label": LABELS[row],
        "support_networks": len(own),
        "held_out_networks": len(out),
        "support_depth": mean([int(m.depth[row]) for m in own]),
        "held_out_depth": mean([int(m.depth[row]) for m in out]),
        "support_undefined": sum(m.depth[row] == L for m in own),
        "held_out_undefined": sum(m.depth[row] == L for m in out),
        "support_accuracy": mean([int(m.predictions[row] == LABELS[row]) for m in own]),
        "held_out_accuracy": mean([int(m.predictions[row] == LABELS[row]) for m in out]),
        "consensus": best,
        "consistency": float(Fraction(class_counts[best], len(out))) if best is not None else nan,
        "entropy": -math.fsum(p * math.log(p) for p in shares) if out else nan,
    }


def same_counts(first: Ensemble, second: Ensemble) -> None:
    for name in ("labels", "ids", "classes", "depths", "predicted"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), strict=True)
    assert (first.layers, set(first.names)) == (second.layers, set(second.names))


def test_each_example_as_the_paper_says() -> None:
    subset = members()
    columns = added(subset).examples()
    for row in range(N):
        expected = by_rule(subset, row)
        assert set(expected) == set(columns)
        for name, value in expected.items():
            values, missing = columns[name]
            if value is None:
                assert missing is not None
                assert missing[row]
            elif name == "entropy" and not math.isnan(value):  # another order of summation
                assert math.isclose(values[row], value, rel_tol=1e-15, abs_tol=0)
            else:
                np.testing.assert_array_equal(values[row], value)
    assert columns["consensus"][1].tolist() == [row == 4 for row in range(N)]
    assert columns["held_out_networks"][0][4] == 0
    assert np.isnan(columns["held_out_depth"][0][4])
    assert np.nanmin(columns["consistency"][0]) < 1


def test_parts_add_up_in_any_order() -> None:
    subset = members()
    whole = added(subset)
    chunks = [added(subset[:2]), added(subset[2:3]), added(subset[3:]), added([])]
    for order in permutations(chunks):
        total = order[0]
        for chunk in order[1:]:
            total = total + chunk
        same_counts(total, whole)
    same_counts(added(subset[::-1]), whole)
    for name, (values, _) in (chunks[0] + chunks[1] + chunks[2]).examples().items():
        np.testing.assert_array_equal(values, whole.examples()[name][0])


def test_memory_does_not_grow_with_networks() -> None:
    few, large = added(members(count=8)), added(members(count=200))
    assert large.depths.nbytes == few.depths.nbytes
    assert large.predicted.nbytes == few.predicted.nbytes
    assert large.counts.sum() == 200 * N


def test_a_file_keeps_all(tmp_path: Any) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    subset = members()
    for ensemble in (
        added(subset),
        added(subset[:1]),
        added(subset, ids=[f"img{i}" for i in range(N)]),
    ):
        ensemble.meta = {"k": "30"}
        ensemble.save(tmp_path / "e.parquet")
        again = Ensemble.load(tmp_path / "e.parquet")
        same_counts(again, ensemble)
        assert again.meta == ensemble.meta
        assert again.names == ensemble.names
    table = pq.read_table(tmp_path / "e.parquet")
    expected = ensemble.examples()
    np.testing.assert_array_equal(table["held_out_depth"], expected["held_out_depth"][0])
    assert table["consensus"].is_null().to_pylist() == expected["consensus"][1].tolist()
    frame = ensemble.to_pandas()
    assert frame["consensus"].isna().sum() == 1
    assert list(frame) == list(expected)
    with pytest.raises(ValueError, match="expected a DepthResult, got an Ensemble"):
        DepthResult.load(tmp_path / "e.parquet")


def test_entropy() -> None:
    actual = entropy([[2, 2, 0], [5, 0, 0], [0, 0, 0], [1, 1, 1]])
    np.testing.assert_allclose(actual, [math.log(2), 0, np.nan, math.log(3)], rtol=1e-15)
    assert math.copysign(1, actual[1]) == 1


def digits(subset: int = 240) -> torch.utils.data.TensorDataset:
    data = load_digits()
    return torch.utils.data.TensorDataset(
        torch.from_numpy(data.data[:subset]).float() / 16, torch.from_numpy(data.target[:subset])
    )


def random_network(support: Any, seed: int) -> torch.nn.Module:
    """Untrained, but for its seed; whom it was held out from shows in the votes."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))


def test_networks_on_splits_of_digits() -> None:
    data, options = digits(), {"k": 5, "progress": False, "num_threads": 1}
    x, y = (item.numpy() for item in data.tensors)
    splits = {}
    for number, model, out in networks.train_all(random_network, data, range(3), held_out=0.25):
        assert len(out) == 60
        assert (np.diff(out) > 0).all()
        splits[number] = out
        member = networks.measure(model, data, out, name=number, **options)
        assert member.held_out.sum() == 60
        assert (member.labels == y).all()
        with torch.no_grad():
            logits = model(data.tensors[0])
        assert (member.predictions == logits.argmax(1).numpy()).all()
        own = np.setdiff1d(np.arange(240), out)
        layers = [x, *(model[:n](data.tensors[0]).detach().numpy() for n in (1,))]
        layers.append(logits.softmax(1).numpy())
        for rows, queries in ((own, None), (out, out)):
            expected = pdepth.depth_from_embeddings(
                [item[own] for item in layers],
                y[own],
                member.predictions[rows],
                None if queries is None else [item[queries] for item in layers],
                k=5,
            )
            assert member.layers == 3
            assert (member.depth[rows] == expected.depth).all()
    assert len({tuple(item) for item in splits.values()}) == 3
    again = networks.draw_held_out_rows(240, 0.25, 1)
    assert (again == splits[1]).all()


def test_a_seed_for_each_network() -> None:
    assert len({networks.network_seed(n, s) for n in range(50) for s in range(3)}) == 150


def test_comparison_is_a_bootstrap_of_examples() -> None:
    first, second = added(members(1)), added(members(2))
    actual = compare(first, second, resamples=400, seed=3)
    both = np.flatnonzero((first.counts[1] > 0) & (second.counts[1] > 0))
    assert 0 < len(both) < N
    assert actual.examples == len(both)
    depths = [e.mean_depth()[1][both] for e in (first, second)]
    assert math.isclose(actual.mean.value, (depths[1] - depths[0]).mean(), rel_tol=1e-12)
    shares = [(e.depths[1][both] / e.counts[1][both, None]).mean(axis=0) for e in (first, second)]
    np.testing.assert_allclose(actual.shares, shares, rtol=1e-12)
    area = sum(abs(np.cumsum(shares[1] - shares[0])))
    assert math.isclose(actual.distance.value, area, rel_tol=1e-9)
    rng = np.random.default_rng(3)
    drawn = [
        ((depths[1] - depths[0]) * rng.multinomial(len(both), np.full(len(both), 1 / len(both))))
        for _ in range(400)
    ]
    expected = np.percentile([item.mean() for item in drawn], (2.5, 97.5))
    np.testing.assert_allclose([actual.mean.low, actual.mean.high], expected, rtol=1e-9)
    assert actual.mean.low < actual.mean.value < actual.mean.high
    with_itself = compare(first, first, resamples=10)
    assert with_itself.mean == with_itself.distance == (0, 0, 0)
    turned = compare(second, first, kind="support", resamples=10)
    assert turned.examples == ((first.counts[0] > 0) & (second.counts[0] > 0)).sum()


def test_rank_correlation_with_a_column_that_is_joined() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    depth, score = rng.integers(0, 6, 50) / 2.0, rng.integers(-5, 5, 50) / 3.0
    depth[3], score[7] = np.nan, np.nan
    kept = ~np.isnan(depth + score)
    actual = correlate(depth, score)
    assert actual.n == 48
    expected = stats.spearmanr(depth[kept], score[kept])
    assert math.isclose(actual.statistic, expected.statistic, rel_tol=1e-12)
    assert math.isclose(actual.p_value, expected.pvalue, rel_tol=1e-9)
    order = rng.permutation(50)[:40]  # another order, and some have no score
    names = np.array([f"img{i}" for i in range(50)])
    joined = correlate(depth, score[order], ids=names, score_ids=names[order])
    again = correlate(depth[order], score[order])
    assert joined == again
    assert joined.n < actual.n


def test_groups_are_the_corners() -> None:
    rng = np.random.default_rng(1)
    support, held_out = rng.integers(0, 12, (2, 200)) / 4
    support[5] = np.nan
    actual = groups(support, held_out, support_limits=(0.5, 2), held_out_limits=(0.25, 2.25))
    assert actual.unknown == 1
    expected = {name: [] for name in ("easy", "like_another", "needs_label", "ambiguous")}
    for row in range(200):
        low = (support[row] <= 0.5, held_out[row] <= 0.25)
        high = (support[row] >= 2, held_out[row] >= 2.25)
        for name, ends in {
            "easy": (low[0], low[1]),
            "like_another": (high[0], low[1]),
            "needs_label": (low[0], high[1]),
            "ambiguous": (high[0], high[1]),
        }.items():
            if all(ends):
                expected[name].append(row)
    assert set(CORNERS) == set(expected)
    names = actual.names()
    for name, rows in expected.items():
        assert rows
        assert sorted(actual.corners[name]) == rows
        assert (names[rows] == name).all()
    assert (names == "").sum() == 200 - sum(map(len, expected.values()))
    deepest = actual.corners["ambiguous"][0]
    total = support + held_out
    assert total[deepest] == np.nanmax(total)
    # The outermost of equals is the first; quantiles are numbers that occur.
    quartiles = groups(support, held_out, quantile=0.25).limits
    for values, (low, high) in zip((support, held_out), quartiles, strict=True):
        kept = np.sort(values[~np.isnan(support)])
        assert low == kept[math.ceil(0.25 * 199) - 1]
        assert high == kept[math.ceil(0.75 * 199) - 1]


def result(n: int, leave_one_out: bool, probes: tuple[str, ...] = ("a", "b")) -> DepthResult:
    rows = np.zeros(n, np.int64)
    votes = np.zeros((len(probes), n), np.int64)
    return DepthResult(
        rows, rows == 1, votes, votes == 0, rows, rows, probes, 1, leave_one_out=leave_one_out
    )


ONE = members()[0]


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: added([ONE]).to_pandas(),
            ValueError,
            "ensemble: expected at least two networks, got 1.",
        ),
        (
            lambda: compare(added([ONE]), added(members())),
            ValueError,
            "ensemble: expected at least two networks, got 1.",
        ),
        (lambda: Ensemble([]), ValueError, "labels: expected at least one example, got none."),
        (
            lambda: Ensemble([1, 2], ids=["a", "a"]),
            ValueError,
            "ids: expected distinct values, got a twice.",
        ),
        (
            lambda: Ensemble([1, 2], ids=[0.5, 1]),
            TypeError,
            "ids: expected integers or strings, got elements of type float64.",
        ),
        (
            lambda: added([]).add(ONE, ids=[1, 0, *range(2, N)]),
            ValueError,
            "ids: expected the examples in the ensemble's order, 0 in row 0, got 1.",
        ),
        (
            lambda: added([]).add(ONE, ids=np.arange(1, N + 1)),
            ValueError,
            "ids: expected the ensemble's examples, 0 in row 0, got 1.",
        ),
        (
            lambda: added([], ids=range(N)) + added([], ids=[*range(1, N), 0]),
            ValueError,
            "ids: expected the examples in the ensemble's order",
        ),
        (
            lambda: added([ONE]).add(ONE),
            ValueError,
            "name: expected a network that is not in the ensemble, got 0:0.",
        ),
        (lambda: added([ONE]) + added([ONE]), ValueError, "is not in the ensemble, got 0:0."),
        (
            lambda: added([ONE, replace(ONE, name="b", layers=L + 1)]),
            ValueError,
            "layers: expected 4 probes as of the networks before, got 5.",
        ),
        (
            lambda: added([replace(ONE, depth=ONE.depth + 1)]),
            ValueError,
            "depth: expected values from 0 to 4, got 1 to 5.",
        ),
        (
            lambda: added([replace(ONE, labels=LABELS + (np.arange(N) == 3))]),
            ValueError,
            "labels: expected the ensemble's labels, -2 in row 3, got -1; 1 rows differ.",
        ),
        (
            lambda: Ensemble(LABELS[:-1]).add(ONE),
            ValueError,
            f"depth: expected {N - 1} entries, got {N}.",
        ),
        (
            lambda: added([]) + Ensemble(LABELS[:-1]),
            ValueError,
            "ensembles: expected the same examples, got 23 and 22 of them.",
        ),
        (
            lambda: Member.from_results(result(3, True), result(2, False), [1, 5], "a"),
            ValueError,
            "held_out_rows: expected rows from 0 to 4, got 1 to 5.",
        ),
        (
            lambda: Member.from_results(result(3, True), result(2, False), [1, 1], "a"),
            ValueError,
            "held_out_rows: expected distinct values, got 1 twice.",
        ),
        (
            lambda: Member.from_results(result(3, True), result(2, False), [1], "a"),
            ValueError,
            "held_out_rows: expected 2 entries, got 1.",
        ),
        (
            lambda: Member.from_results(result(3, False), result(2, False), [1, 2], "a"),
            ValueError,
            "got leave_one_out=False and False.",
        ),
        (
            lambda: Member.from_results(result(3, True), result(2, False, ("a", "c")), [1, 2], "a"),
            ValueError,
            "held_out: expected the probes of support, ['a', 'b'], got ['a', 'c'].",
        ),
        (
            lambda: networks.draw_held_out_rows(10, 0.01, 0),
            ValueError,
            "some of 10 rows and not all, got 0.01, which holds out 0.",
        ),
        (
            lambda: next(iter(networks.train_all(lambda s, n: 5, digits(20), [0], held_out=0.5))),
            TypeError,
            "network returned by train: expected a torch.nn.Module, got a int.",
        ),
        (
            lambda: compare(added([]), added([]), kind="all"),
            ValueError,
            "kind: expected one of support, held_out, got 'all'.",
        ),
        (
            lambda: correlate([1, 2], [1]),
            ValueError,
            "score: expected shape (2,) as depth, got (1,).",
        ),
        (
            lambda: compare([added([])], added([])),
            TypeError,
            "first: expected an Ensemble, got list.",
        ),
        (lambda: correlate([1, np.nan], [np.nan, 2]), ValueError, "got NaN in every row"),
        (
            lambda: correlate([1, 2], ["a", "b"]),
            TypeError,
            "score: expected numbers, got elements of type <U1.",
        ),
        (
            lambda: correlate([1, 2], [1, 2], ids=[1, 2], score_ids=[3, 4]),
            ValueError,
            "ids, score_ids: expected at least one id in common, got none.",
        ),
        (
            lambda: correlate([1, 2], [1, 2], ids=[1, 2]),
            ValueError,
            "ids, score_ids: expected both or neither, got one.",
        ),
        (
            lambda: correlate([1, 2], [1, 2], ids=[1, 2], score_ids=[1, 1]),
            ValueError,
            "score_ids: expected distinct values, got 1 twice.",
        ),
        (lambda: groups([1, 2], [1]), ValueError, "got (2,) and (1,)."),
        (
            lambda: groups([np.nan], [1]),
            ValueError,
            "expected at least one example with both depths, got none.",
        ),
        (
            lambda: groups([1, 2], [1, 2], quantile=0.5),
            ValueError,
            "quantile: expected a number between 0 and 0.5, got 0.5.",
        ),
        (
            lambda: groups([0, 0, 0], [0, 1, 2]),
            ValueError,
            "support: expected a shallow limit below the deep limit, got 0 and 0; pass",
        ),
    ],
)
def test_mistakes(call: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert sentence in text
    assert "\n" not in str(caught.value)


def test_the_former_name_of_from_results_is_deprecated() -> None:
    results = result(3, True), result(2, False), [1, 2], "a"
    with pytest.warns(DeprecationWarning, match="use Member.from_results"):
        member = Member.of(*results)
    assert member.held_out.tolist() == Member.from_results(*results).held_out.tolist()


def test_groups_or_the_reason_why_there_are_none() -> None:
    ensemble = added(members())
    actual, reason = groups_or_reason(ensemble)
    assert actual is not None
    assert reason == ""
    expected = groups(*ensemble.mean_depth())
    assert (actual.names() == expected.names()).all()
    flat = added([replace(member, depth=0 * member.depth) for member in members()])
    assert groups_or_reason(flat) == (
        None,
        "support: expected a shallow limit below the deep limit, got 0 and 0; pass another "
        "quantile or support_limits.",
    )


def test_a_refused_network_leaves_no_trace() -> None:
    ensemble, before = added(members()), added(members())
    with pytest.raises(ValueError, match="labels: expected the ensemble's labels"):
        ensemble.add(replace(ONE, name="b", predictions=LABELS + 100, labels=LABELS + 1))
    same_counts(ensemble, before)
