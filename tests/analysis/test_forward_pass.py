"""`pdepth.capture`: one forward pass, and depths of some of its rows by votes of others."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import pdepth
from pdepth import definition

NODES, FEATURES, HIDDEN, CLASSES, K = 60, 8, 6, 3, 5


class Convolution(nn.Module):
    """Of a graph: each node takes the mean of its neighbours."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        return torch.relu(adjacency @ self.linear(nodes))


class GraphNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = Convolution(FEATURES, HIDDEN)
        self.second = Convolution(HIDDEN, HIDDEN)
        self.classes = nn.Linear(HIDDEN, CLASSES)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        return self.classes(self.second(self.first(nodes, adjacency), adjacency))


def graph(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (N, F), a normalised adjacency (N, N), labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(NODES) % CLASSES
    near = torch.rand(NODES, NODES, generator=generator)
    linked = (near + 0.4 * (labels[:, None] == labels)) > 0.97
    linked = (linked | linked.T | torch.eye(NODES, dtype=torch.bool)).float()
    nodes = torch.randn(NODES, FEATURES, generator=generator)
    nodes[torch.arange(NODES), labels] += 1
    return nodes, linked / linked.sum(dim=1, keepdim=True), labels


def hooked(network: nn.Module, names: list[str], *args: Any) -> list[Tensor]:
    """The outputs of some modules in one plain forward pass."""
    values: list[Tensor] = []
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output: values.append(output.detach().clone())
        )
        for name in names
    ]
    with torch.no_grad():
        network.eval()(*args)
    for handle in handles:
        handle.remove()
    return values


def votes_of(
    values: Tensor, labels: Tensor, support: NDArray[np.int64], queries: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Votes by the definition, row by row: a query that is in the support is left out of it."""
    rows, found = values.double().numpy(), []
    for query in queries:
        others = support[support != query]
        found.append(definition.probe_votes(rows[others], labels[others], rows[[query]], k=K)[0])
    return np.concatenate(found)


@pytest.mark.parametrize("layout", ["dense", "sparse", "csr"])
def test_nodes_of_a_graph(layout: str) -> None:
    nodes, adjacency, labels = graph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that CSR tensors are new
        matrix = {"dense": adjacency, "sparse": adjacency.to_sparse()}.get(layout)
        matrix = adjacency.to_sparse_csr() if matrix is None else matrix
    network, before = GraphNetwork(), nodes.clone()
    forward_pass = pdepth.capture(network, nodes, matrix)
    assert network.training
    assert torch.equal(nodes, before)
    assert forward_pass.probes == ("input", "first", "second", "softmax")
    expected = hooked(network, ["first", "second", "classes"], nodes, matrix)
    actual = list(forward_pass.embeddings.values())
    assert torch.equal(actual[0], nodes)
    assert torch.equal(actual[1], expected[0])
    assert torch.equal(actual[2], expected[1])
    assert torch.equal(actual[3], expected[2].softmax(dim=1))
    assert torch.equal(forward_pass.scores, expected[2])
    assert (forward_pass.predictions == expected[2].argmax(dim=1).numpy()).all()

    mask = torch.rand(NODES, generator=torch.Generator().manual_seed(1)) < 0.5
    for support, queries in (
        (mask, ~mask),
        (mask, None),
        (mask.nonzero()[:, 0], (~mask).nonzero()[:, 0].flip(0)),  # row numbers, in any order
        (mask.nonzero()[:, 0].flip(0), None),
        (mask, np.arange(NODES)[::-1].copy()),  # some of them vote
        (None, mask.tolist()),
    ):
        voting = np.arange(NODES) if support is None else np.asarray(support)
        asked = voting if queries is None else np.asarray(queries)
        voting = np.flatnonzero(voting) if voting.dtype == bool else voting
        asked = np.flatnonzero(asked) if asked.dtype == bool else asked
        result = forward_pass.depth(labels, support, queries, k=K, early_exit=False)
        votes = np.stack([votes_of(values, labels, voting, asked) for values in actual])
        assert (result.votes == votes).all()
        assert (result.predictions == forward_pass.predictions[asked]).all()
        assert (result.labels == labels.numpy()[asked]).all()
        depth, undefined = pdepth.depth_from_votes(votes, result.predictions)
        assert (result.depth == depth).all()
        assert (result.undefined == undefined).all()
        assert result.leave_one_out == set(asked).issubset(voting)
        assert result.meta["model"] == "GraphNetwork"
        assert result.meta["placement version"] == "2"


def test_options_of_the_vote_for_rows_of_both_kinds() -> None:
    nodes, adjacency, labels = graph()
    forward_pass = pdepth.capture(GraphNetwork(), nodes, adjacency=adjacency)
    support, queries = np.arange(40), np.arange(20, 60)[::-1]
    by_k = forward_pass.depth(labels, support, queries, k=[1, K], return_counts=True)
    alone = forward_pass.depth(labels, support, queries, k=K, early_exit=False)
    assert set(by_k) == {1, K}
    assert (by_k[K].votes == alone.votes).all()
    assert by_k[K].margins.shape == by_k[K].tied.shape == (4, 40)
    assert alone.meta["rows"] == "20 of 40 are support, each left out of its own vote"

    reference = labels.numpy()[queries]
    by_array = forward_pass.depth(labels, support, queries, k=K, reference=reference)
    by_label = forward_pass.depth(labels, support, queries, k=K, reference="label")
    assert (by_array.depth == by_label.depth).all()
    assert (by_array.reference_values == reference).all()

    themselves = forward_pass.depth(
        labels, support, support, k=1, exclude_self=False, early_exit=False
    )
    assert (themselves.votes == labels.numpy()[support]).all()
    assert not themselves.leave_one_out


def test_the_same_as_from_a_dataset() -> None:
    """A network whose rows stand alone has the embeddings that it has in one batch."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, CLASSES),
    )  # fmt: skip
    images, labels = torch.randn(50, 3, 8, 8), torch.arange(50) % CLASSES
    options: dict[str, Any] = {"max_width": 64, "pool": {"4": "max"}}
    forward_pass = pdepth.capture(network, images, **options)
    widths = [values.shape[1] for values in forward_pass.embeddings.values()]
    expected = pdepth.prediction_depth(
        network, TensorDataset(images, labels), k=K, batch_size=50, early_exit=False,
        progress=False, **options,
    )  # fmt: skip
    assert tuple(widths) == expected.widths == (48, 32, 8, 3)
    result = forward_pass.depth(labels, k=K, early_exit=False)
    assert result.probes == expected.probes
    assert (result.votes == expected.votes).all()
    assert (result.depth == expected.depth).all()
    assert result.meta["probes"] == expected.meta["probes"]
    assert result.meta["probes"] == (
        "4: max; max_width 64: averaged to fewer positions at input to 2"
    )


def test_tokens_are_pooled_as_the_head_reads_them() -> None:
    class Reader(nn.Module):
        """Reads the first of the tokens, of which all rows have one number."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True) for _ in range(2)
            )
            self.head = nn.Linear(16, CLASSES)

        def forward(self, tokens: Tensor) -> dict[str, Tensor]:
            for block in self.blocks:
                tokens = block(tokens)
            return {"loss": tokens.mean(), "found": self.head(tokens[:, 0])}

    network, tokens = Reader(), torch.randn(30, 5, 16)
    torch.backends.mha.set_fastpath_enabled(False)  # as pdepth does while it runs
    try:
        expected = hooked(network, ["blocks.0", "blocks.1"], tokens)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    forward_pass = pdepth.capture(network, tokens, output="found")
    assert torch.equal(forward_pass.embeddings["blocks.0"], expected[0][:, 0])
    assert torch.equal(forward_pass.embeddings["blocks.1"], expected[1][:, 0])
    assert forward_pass.meta["probes"] == "blocks.0 to blocks.1: token"
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ValueError, match="model: expected class scores"):
        pdepth.capture(network, tokens)


def test_how_often_a_network_runs() -> None:
    class Counting(GraphNetwork):
        runs = 0

        def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
            self.runs += 1
            return super().forward(nodes, adjacency)

    network = Counting()
    pdepth.capture(network, *graph()[:2], max_width=4)
    assert network.runs == 2  # one is recorded, and one hands its values on


def test_what_is_refused() -> None:
    nodes, adjacency, labels = graph()
    forward_pass = pdepth.capture(GraphNetwork(), nodes, adjacency)
    many = torch.zeros(NODES, 10, dtype=torch.bool)
    for error, sentence, arguments in (
        (ValueError, r"support: expected a mask of shape \(60,\).*got shape \(59,\)",
         {"support": torch.ones(59, dtype=torch.bool)}),
        (ValueError, r"queries: expected a mask of shape \(60,\).*\[:, 0\], got shape \(60, 10\)",
         {"queries": many}),
        (ValueError, "support: expected at least one row, got none", {"support": many[:, 0]}),
        (ValueError, "queries: expected rows from 0 to 59, got 60", {"queries": [0, 60]}),
        (ValueError, "support: expected each row once, got row 3 twice", {"support": [3, 5, 3]}),
        (TypeError, "support: expected integers", {"support": [0.5]}),
        (TypeError, "query_rows: expected none", {"query_rows": [0]}),
        (ValueError, "k: expected at most 59", {"k": 60}),
    ):  # fmt: skip
        with pytest.raises(error, match=sentence):
            forward_pass.depth(labels, **{"k": K, **arguments})
    unknown = labels.clone()
    unknown[7] = -1
    with pytest.raises(
        ValueError, match="labels: expected integers from 0 to 2 for rows of support"
    ):
        forward_pass.depth(unknown, k=K)
    others = np.setdiff1d(np.arange(NODES), [7])
    assert len(forward_pass.depth(unknown, others, k=K)) == NODES - 1
    with pytest.raises(ValueError, match="labels: expected 60 entries, got 59"):
        forward_pass.depth(labels[1:], k=K)
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module, got a str"):
        pdepth.capture("network", nodes)
    with pytest.raises(ValueError, match="layers: expected names of the model's modules"):
        pdepth.capture(GraphNetwork(), nodes, adjacency, layers=["third"])
    with pytest.raises(ValueError, match="pool: expected names of probes or patterns, got 'third'"):
        pdepth.capture(GraphNetwork(), nodes, adjacency, pool={"third": "mean"})
    with pytest.raises(ValueError, match="gives it 0 .*; got TypeError: .*adjacency"):
        pdepth.capture(GraphNetwork(), nodes)


def test_graphs_of_pytorch_geometric() -> None:
    geometric = pytest.importorskip("torch_geometric")
    data, layers = geometric.data, pytest.importorskip("torch_geometric.nn")

    class Nodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = layers.GCNConv(FEATURES, HIDDEN)
            self.second = layers.SAGEConv(HIDDEN, HIDDEN)
            self.third = layers.GCNConv(HIDDEN, CLASSES)

        def forward(self, batch: Any) -> Tensor:
            nodes = self.first(batch.x, batch.edge_index).relu()
            nodes = self.second(nodes, batch.edge_index).relu()
            return self.third(nodes, batch.edge_index)

    nodes, adjacency, labels = graph()
    train = torch.arange(NODES) % 2 == 0
    whole = data.Data(x=nodes, edge_index=adjacency.nonzero().T, y=labels, train_mask=train)
    network = Nodes()
    forward_pass = pdepth.capture(network, whole)
    assert forward_pass.probes == ("input", "first", "second", "softmax")
    assert torch.equal(forward_pass.embeddings["input"], nodes)
    values = hooked(network, ["first", "second"], whole)
    assert torch.equal(forward_pass.embeddings["first"], values[0])
    assert torch.equal(forward_pass.embeddings["second"], values[1])
    result = forward_pass.depth(whole.y, whole.train_mask, ~whole.train_mask, k=K, early_exit=False)
    rows = np.flatnonzero(train)
    expected = votes_of(values[1], labels, rows, np.setdiff1d(np.arange(NODES), rows))
    assert (result.votes[2] == expected).all()
