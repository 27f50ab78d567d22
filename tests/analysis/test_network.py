"""Depth against what a network says, pairs of classes, settling: against plain Python loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import pdepth
from pdepth.analysis import network, outputs, ranks
from pdepth.result import DepthResult


def of_digits(**options: Any) -> DepthResult:
    """Pixels, a layer of a random network over them, and a noisy copy of the classes."""
    digits = load_digits()
    rng = np.random.default_rng(0)
    x, y = digits.data.astype(np.float32), digits.target
    hidden = np.maximum(x @ rng.standard_normal((64, 24), np.float32), 0)
    last = np.eye(10)[y] + 0.4 * rng.standard_normal((len(y), 10))
    layers = {"input": x, "hidden": hidden, "softmax": last}
    queries = {name: value[:400] for name, value in layers.items()}
    support = {name: value[400:900] for name, value in layers.items()}
    predictions = last[:400].argmax(axis=1)
    return pdepth.depth_from_embeddings(
        support, y[400:900], predictions, queries, k=9, query_labels=y[:400],
        **{"early_exit": False} | options,
    )  # fmt: skip


def random_result(seed: int, labelled: bool = True) -> DepthResult:
    """Votes at random over classes that are not 0..C-1; depth is theirs."""
    rng = np.random.default_rng(seed)
    n, probes = 60, 4
    predictions = rng.choice([-3, 2, 7, 11], n)
    votes = np.where(rng.random((probes, n)) < 0.7, predictions, rng.choice([-3, 2, 7], n))
    depth, undefined = pdepth.depth_from_votes(votes, predictions)
    labels = np.where(rng.random(n) < 0.8, predictions, 2)
    return DepthResult(
        depth, undefined, votes, np.ones((probes, n), bool), predictions,
        labels if labelled else None, ("input", "a", "b", "softmax"), 5,
    )  # fmt: skip


RESULTS: list[Callable[[], DepthResult]] = [of_digits, lambda: random_result(1)]


@pytest.mark.parametrize("make", RESULTS)
def test_against_depth(make: Callable[[], DepthResult]) -> None:
    result = make()
    measure = np.random.default_rng(2).integers(0, 9, len(result))
    actual = network.against_depth(result, {"measure": torch.from_numpy(measure)})
    assert result.labels is not None
    values = {
        "accuracy": [int(p == y) for p, y in zip(result.predictions, result.labels, strict=True)],
        "measure": measure.tolist(),
    }
    assert list(actual.mean) == list(values)
    for depth in range(len(result.probes) + 1):
        rows = [i for i in range(len(result)) if result.depth[i] == depth]
        assert actual.count[depth] == len(rows)
        for name, value in values.items():
            if rows:  # sums of small whole numbers are exact
                assert actual.mean[name][depth] == sum(value[i] for i in rows) / len(rows)
            else:
                assert np.isnan(actual.mean[name][depth])
    for name, value in values.items():
        assert actual.trend[name] == ranks.spearman(result.depth, value)
    frame = actual.to_pandas()
    assert list(frame) == ["depth", "probe", "count", "accuracy", "measure"]
    assert frame["probe"].tolist() == [*result.probes, "undefined"]
    assert frame["count"].sum() == len(result)


def test_against_depth_without_labels_and_an_infinite_margin() -> None:
    result = random_result(3, labelled=False)
    margin = np.arange(60.0)
    margin[7] = np.inf
    actual = network.against_depth(result, {"margin": margin})
    assert list(actual.mean) == ["margin"]
    assert np.isinf(actual.mean["margin"][result.depth[7]])
    assert -1 <= actual.trend["margin"].statistic <= 1


@pytest.mark.parametrize("make", RESULTS)
def test_agreement(make: Callable[[], DepthResult]) -> None:
    result = make()
    actual, n = network.agreement(result), len(result)
    assert result.labels is not None
    assert actual.label is not None
    for probe in range(len(result.probes)):
        votes = result.votes[probe]
        assert actual.network[probe] == sum(votes[i] == result.predictions[i] for i in range(n)) / n
        assert actual.label[probe] == sum(votes[i] == result.labels[i] for i in range(n)) / n
        assert actual.settled[probe] == sum(result.depth[i] <= probe for i in range(n)) / n
    assert list(actual.to_pandas()) == ["probe", "network", "label", "settled"]


def test_agreement_where_votes_are_unknown() -> None:
    early, whole = of_digits(early_exit=True), of_digits()
    actual = network.agreement(early)
    assert not early.known[0].all()
    assert np.isnan(actual.network[0])
    assert (actual.settled == network.agreement(whole).settled).all()
    with pytest.raises(ValueError, match="confusion: expected a result with every vote"):
        network.confusion(early)


@pytest.mark.parametrize("make", RESULTS)
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_confused_pairs(make: Callable[[], DepthResult], share: float) -> None:
    result = make()
    labels, votes = result.labels, result.votes
    assert labels is not None
    classes = sorted({*labels.tolist(), *votes.ravel().tolist()})
    expected = []
    for i, a in enumerate(classes):
        for b in classes[i + 1 :]:
            counts = [
                sum((y, v) in ((a, b), (b, a)) for y, v in zip(labels, cast, strict=True))
                for cast in votes
            ]
            examples = sum(y in (a, b) for y in labels)
            until = [p for p, c in enumerate(counts) if c and c >= share * examples]
            if until:
                expected.append((-until[-1], -sum(counts), a, b, examples, counts))
    actual = network.confused_pairs(result, share)
    assert [
        (-until, -sum(counts), a, b, examples, counts)
        for until, counts, a, b, examples in zip(
            actual.until.tolist(),
            actual.counts.tolist(),
            actual.first.tolist(),
            actual.second.tolist(),
            actual.examples.tolist(),
            strict=True,
        )
    ] == sorted(expected)
    counts, own = network.confusion(result)
    assert own.tolist() == classes
    assert (counts.sum(axis=2) == [[(labels == c).sum() for c in classes]]).all()
    assert (np.trace(counts, axis1=1, axis2=2) == (votes == labels).sum(axis=1)).all()
    frame = actual.to_pandas()
    names = [f"share_{probe}" for probe in result.probes]
    assert list(frame) == ["first", "second", "examples", "until", *names]
    if len(actual):
        assert frame["until"][0] == result.probes[actual.until[0]]


def test_settling_lists_every_example_once_in_the_order_asked() -> None:
    result = random_result(5)
    actual = network.settling(result)
    assert list(actual) == [*result.probes, "undefined"]
    for depth, rows in enumerate(actual.values()):
        assert rows.tolist() == [i for i in range(60) if result.depth[i] == depth]
    by = np.random.default_rng(0).integers(0, 5, 60)
    for depth, rows in enumerate(network.settling(result, by).values()):
        expected = sorted((by[i], i) for i in range(60) if result.depth[i] == depth)
        assert rows.tolist() == [i for _, i in expected]


def test_spearman_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in (3, 4, 30, 2000):
        for spread in (0.3, 3, 30):
            single = rng.integers(0, 5, n)
            another = single + np.round(spread * rng.standard_normal(n))
            expected, actual = stats.spearmanr(single, another), ranks.spearman(single, another)
            if np.isnan(expected.statistic):
                assert np.isnan(actual.statistic)
                continue
            assert actual.statistic == pytest.approx(expected.statistic, rel=1e-12, abs=1e-12)
            assert actual.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    infinite = [1.0, np.inf, 3.0, -np.inf]
    assert ranks.spearman(infinite, [2, 9, 4, 0]).statistic == 1
    assert np.isnan(ranks.spearman(single, single * 0).statistic)
    assert np.isnan(ranks.spearman([1, 2], [1, 2]).p_value)


def test_incomplete_beta_is_scipys() -> None:
    special = pytest.importorskip("scipy.special")
    for a in (0.5, 1.5, 20, 500, 5000):
        for x in (1e-9, 0.3, 0.9, 0.999, 1 - 1e-12):
            assert ranks.incomplete_beta(a, 0.5, x) == pytest.approx(
                special.betainc(a, 0.5, x), rel=1e-9, abs=1e-300
            )
    assert [ranks.incomplete_beta(3, 0.5, x) for x in (0, 1)] == [0, 1]


def test_measures_of_logits() -> None:
    rng = np.random.default_rng(0)
    logits = np.concatenate([3 * rng.standard_normal((50, 4)), [[1e4, 0, 0, 0], [2, 2, 1, 2]]])
    for i, row in enumerate(logits.tolist()):
        top = max(row)
        shares = [math.exp(z - top) for z in row]
        shares = [share / math.fsum(shares) for share in shares]
        assert outputs.softmax(logits)[i] == pytest.approx(shares, rel=1e-13)
        assert outputs.confidence(logits)[i] == pytest.approx(max(shares), rel=1e-13)
        expected = -math.fsum(share * math.log(share) for share in shares if share)
        assert outputs.entropy(logits)[i] == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert outputs.output_margin(logits)[i] == sorted(row)[-1] - sorted(row)[-2]
    tensor = torch.from_numpy(logits)
    assert (outputs.entropy(tensor) == outputs.entropy(logits)).all()
    assert outputs.entropy(np.zeros((1, 8)))[0] == pytest.approx(math.log(8))


def net(dtype: torch.dtype = torch.float64, last: nn.Module | None = None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        more = [] if last is None else [last]
        return nn.Sequential(
            nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 5), *more
        ).to(dtype)


def inputs(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((20, 3, 4))).to(dtype)


def test_input_margin_is_the_quotient_row_by_row() -> None:
    model, x = net(), inputs()
    model.train()
    actual = outputs.input_margin(model, x)
    assert model.training
    assert all(value.grad is None for value in model.parameters())
    model.eval()
    for i, row in enumerate(x):
        (slopes,) = torch.autograd.functional.jacobian(model, row[None]).squeeze(2)
        z = model(row[None])[0]
        first, second = z.argsort(descending=True)[:2]
        norm = (slopes[first] - slopes[second]).norm()
        assert actual[i] == pytest.approx(((z[first] - z[second]) / norm).item(), rel=1e-10)


def test_input_margin_of_a_linear_network_is_the_distance() -> None:
    """A step of that length along the gradient meets the plane where two logits are equal."""
    model, x = nn.Linear(6, 2).double(), torch.randn(9, 6, dtype=torch.float64)
    actual = outputs.input_margin(model, x)
    across = (model.weight[0] - model.weight[1]).detach()
    z = model(x).detach()
    side = torch.sign(z[:, 0] - z[:, 1])[:, None]
    moved = x - side * torch.from_numpy(actual)[:, None] * across / across.norm()
    z = model(moved).detach()
    np.testing.assert_allclose(z[:, 0], z[:, 1], atol=1e-12)


def test_input_margin_without_a_slope_and_of_a_tie() -> None:
    flat = nn.Linear(3, 2)
    nn.init.zeros_(flat.weight)
    with torch.no_grad():
        flat.bias[:] = torch.tensor([3.0, 1.0])
    assert outputs.input_margin(flat, torch.zeros(2, 3)).tolist() == [np.inf, np.inf]
    with torch.no_grad():
        flat.bias[:] = 0
    assert outputs.input_margin(flat, torch.zeros(2, 3)).tolist() == [0, 0]


def test_outputs_runs_the_model_once_in_order() -> None:
    model, x = net(), inputs()
    y = torch.arange(20) % 5
    actual = outputs.outputs(model, TensorDataset(x, y), input_margins=True, batch_size=6)
    model.eval()
    with torch.no_grad():
        np.testing.assert_allclose(actual.logits, model(x), rtol=1e-12)
    assert (actual.labels == y.numpy()).all()
    assert (actual.predictions == model(x).argmax(dim=1).numpy()).all()
    expected = outputs.softmax(model(x).detach())[np.arange(20), y]
    np.testing.assert_allclose(actual.label_probability, expected)
    assert actual.input_margin is not None
    np.testing.assert_allclose(actual.input_margin, outputs.input_margin(model, x), rtol=1e-10)
    assert list(actual.measures()) == ["confidence", "entropy", "output_margin", "input_margin"]
    plain = outputs.outputs(model, TensorDataset(x, y))
    assert plain.input_margin is None
    assert list(plain.measures()) == ["confidence", "entropy", "output_margin"]


def test_a_network_of_probabilities_has_the_margins_of_its_logits() -> None:
    data = TensorDataset(inputs(), torch.zeros(20, dtype=torch.int64))
    bare = outputs.outputs(net(), data, input_margins=True)
    soft = outputs.outputs(net(last=nn.Softmax(dim=1)), data, input_margins=True)
    for name, values in bare.measures().items():
        np.testing.assert_allclose(soft.measures()[name], values, rtol=1e-9, err_msg=name)
    sure = nn.Sequential(nn.Linear(12, 5), nn.Threshold(9e9, 0), nn.Softmax(dim=1)).double()
    with torch.no_grad():
        sure[0].bias[2] = 1e10  # the other classes' probabilities are nought
    data = TensorDataset(inputs().flatten(1), torch.full((20,), 2))
    actual = outputs.outputs(sure, data, input_margins=True).measures()
    assert np.isfinite(actual["output_margin"]).all()
    assert np.isinf(actual["input_margin"]).all()


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda r: network.against_depth(r, {"accuracy": r.depth}),
            ValueError,
            "measures: expected names",
        ),
        (lambda r: network.against_depth(r, {"m": r.depth[1:]}), ValueError, r"m: .* got \(59,\)"),
        (
            lambda r: network.against_depth(r, {"m": r.depth / 0.0}),
            ValueError,
            "m: expected numbers, got NaN in row",
        ),
        (
            lambda r: network.against_depth(r, {"m": ["a"] * 60}),
            TypeError,
            "m: expected numbers, got elements of type <U1",
        ),
        (
            lambda r: network.confused_pairs(r, 0),
            ValueError,
            "share: expected a number above 0 and at most 1, got 0",
        ),
        (
            lambda r: network.confusion(random_result(1, labelled=False)),
            ValueError,
            "confusion: expected a result with labels, got one without",
        ),
        (
            lambda r: ranks.spearman([1, 2], [1]),
            ValueError,
            r"x, y: expected shape \(n,\) for both",
        ),
        (
            lambda r: ranks.spearman([1, np.nan], [1, 2]),
            ValueError,
            "x, y: expected numbers, got NaN",
        ),
        (
            lambda r: outputs.entropy(np.zeros((3, 1))),
            ValueError,
            r"logits: expected shape \(N, 2 or more\), got \(3, 1\)",
        ),
        (
            lambda r: outputs.input_margin(nn.Linear(3, 2), torch.zeros(2, 3, dtype=torch.int64)),
            ValueError,
            "int64",
        ),
        (
            lambda r: outputs.outputs(net(), TensorDataset(inputs(), torch.full((20,), 5))),
            ValueError,
            "data: expected labels from 0 to 4, the network's 5 classes, got 5.",
        ),
    ],
)
def test_mistakes(call: Any, error: type[Exception], sentence: str) -> None:
    result = random_result(1)
    assert (result.depth == 0).any()  # 0 / 0 is the nan
    with pytest.raises(error, match=sentence), np.errstate(all="ignore"):
        call(result)
