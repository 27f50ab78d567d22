"""Data modules, graphs, skorch's datasets and tables: read without glue, or the glue is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, random_split

from pdepth.embeddings.batch import Batch, Inputs
from pdepth.embeddings.dataset import Batches, DataOptions

from helpers.rows import LABELS, WORDS, assert_batches, read, tokenizer

X, Y = torch.randn(30, 3), torch.arange(30) % 3


def part(first):
    return TensorDataset(X[first : first + 10], Y[first : first + 10])


class Module:
    """A data module that makes its datasets as it is set up; its calls are counted."""

    def __init__(self, **stages):
        self.calls, self.stages = [], stages

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(stage)
        self.parts = {name: part(first) for name, first in self.stages.items()}

    def train_dataloader(self):
        return DataLoader(self.parts["train"], 4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.parts["val"], 4)


class WithTests(Module):
    def test_dataloader(self):
        return DataLoader(self.parts["test"], 4)


class WithPredictions(Module):
    val_dataloader = None

    def predict_dataloader(self):
        return DataLoader(self.parts["predict"], 4)


def test_a_data_module_gives_its_rows_for_training_and_for_tests():
    module = WithTests(train=0, val=10, test=20)
    assert_batches(read(module), {"0": X[:10]}, Y[:10])
    assert module.calls == ["prepare_data", "fit"]
    module = WithTests(train=0, val=10, test=20)
    assert_batches(read(module, what="queries"), {"0": X[20:]}, Y[20:])
    assert module.calls == ["prepare_data", "test"]
    module = Module(train=0, val=10)
    assert_batches(read(module, what="queries"), {"0": X[10:20]}, Y[10:20])
    assert module.calls == ["prepare_data", "fit"]
    module = WithPredictions(train=0, predict=10)
    assert_batches(read(module, what="queries"), {"0": X[10:20]}, Y[10:20])
    assert module.calls == ["prepare_data", "predict"]


def test_a_random_split_is_not_drawn_again():
    class Split(Module):
        def setup(self, stage):
            self.calls.append(stage)
            train, val = random_split(part(0), [5, 5])
            self.parts = {"train": train, "val": val}

    module = Split()
    rows = [read(module, what=what) for what in ("support", "queries")]
    both = torch.cat([batch.inputs.args[0] for batches in rows for batch in batches])
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, X[:10].tolist()))
    assert module.calls == ["prepare_data", "fit"]


@pytest.mark.parametrize("library", ["pytorch_lightning", "lightning.pytorch"])
def test_lightnings_data_modules(library):
    lightning = pytest.importorskip(library)

    class Own(lightning.LightningDataModule):
        train = test = None

        def setup(self, stage):
            if stage == "fit":
                self.train = part(0)
            if stage == "test":
                self.test = part(20)

        def train_dataloader(self):
            return DataLoader(self.train, 4)

        def test_dataloader(self):
            return DataLoader(self.test, 4)

    module = Own()
    assert_batches(read(module), {"0": X[:10]}, Y[:10])
    assert_batches(read(module, what="queries"), {"0": X[20:]}, Y[20:])

    made = lightning.LightningDataModule.from_datasets(part(0), part(10), batch_size=4)
    assert_batches(read(made), {"0": X[:10]}, Y[:10])
    assert_batches(read(made, what="queries"), {"0": X[10:20]}, Y[10:20])
    sentence = "expected a data module with test_dataloader or .*, which has none; pass a Dataset"
    with pytest.raises(TypeError, match=sentence):
        read(lightning.LightningDataModule(), what="queries")


def test_a_module_of_several_loaders_is_refused():
    class Several(Module):
        def train_dataloader(self):
            return [DataLoader(part(0)), DataLoader(part(10))]

    sentence = r"support: expected one DataLoader from train_dataloader\(\) of Several, got a list"
    with pytest.raises(TypeError, match=sentence):
        read(Several())


def test_errors_of_a_data_module_are_its_own():
    with pytest.raises(KeyError, match="train"):
        read(Module())


def test_skorchs_datasets():
    skorch = pytest.importorskip("skorch.dataset")
    data = skorch.Dataset(X.numpy(), Y.numpy())
    assert_batches(read(data), {"0": X}, Y)
    named = skorch.Dataset({"x": X.numpy(), "z": Y.numpy()}, Y.numpy())
    assert_batches(read(named), {"x": X, "z": Y}, Y)


def graphs(**entries):
    data = pytest.importorskip("torch_geometric.data")
    torch.manual_seed(0)
    made = []
    for row in range(7):
        nodes = 2 + row % 3
        edges = torch.stack([torch.arange(nodes), torch.arange(nodes).flip(0)])
        label = {name: torch.tensor([row % 3]) for name in entries or {"y": None}}
        made.append(data.Data(x=torch.randn(nodes, 4), edge_index=edges, **label))
    return made


@pytest.mark.parametrize("form", ["loader", "workers", "list", "pairs"])
def test_graphs(form):
    rows = graphs()
    loaders = pytest.importorskip("torch_geometric.loader")
    batch_of = pytest.importorskip("torch_geometric.data").Batch.from_data_list
    data = {
        "loader": loaders.DataLoader(rows, 4, shuffle=True),
        "workers": loaders.DataLoader(rows, 4, num_workers=1),
        "list": rows,
        "pairs": [(graph, int(graph.y)) for graph in rows],
    }[form]
    source = Batches(data, "support", 4)
    source.remembers = True
    assert source.rows == 7
    assert not source.varies
    batches = list(source)
    for mine, part in zip(batches, (rows[:4], rows[4:]), strict=True):
        by_hand = batch_of(part)
        assert mine.inputs.graph.num_graphs == mine.inputs.rows == len(part)
        assert Batch(mine.inputs, by_hand.y).same_as(Batch(Inputs.of(by_hand, 4), by_hand.y))
        assert torch.equal(mine.labels, by_hand.y)
    assert [begin for begin, _ in source.again([1, 0])] == [4, 0]
    assert batches[0].inputs.first(2) is batches[0].inputs


def test_labels_of_graphs():
    rows = graphs(kind=None)
    assert torch.equal(read(rows, label_column="kind")[0].labels, torch.tensor([0, 1, 2, 0]))
    with pytest.raises(ValueError, match="labels of graphs as their attribute y, got none"):
        read(rows)
    nodes = graphs()[:1]
    nodes[0].y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"got 1 inputs and 2 labels; .* call pdepth\.capture"):
        read(nodes)


def test_a_data_frame_is_refused_with_what_reads_it():
    pandas = pytest.importorskip("pandas")
    support = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1], "label": Y})
    with pytest.raises(TypeError, match="support: .*, got a DataFrame; pass") as error:
        read(support)
    columns = ["a", "b"]
    named = {"support": support, "columns": columns, "list": list, "zip": zip}
    pairs = eval(str(error.value).split("or else ")[1].rstrip("."), named)
    assert_batches(read(pairs), {"0": X[:, :2]}, Y)
    texts = pandas.DataFrame({"text": WORDS, "label": LABELS}).to_dict("records")
    source = Batches(texts, "support", 6, DataOptions(processor=tokenizer()))
    assert np.array_equal(source.first.labels, LABELS)
