"""Data in every form that PyTorch knows is read in its own order, or refused in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pdepth.embeddings.calling import at_rest
from pdepth.embeddings.capture import capture
from pdepth.embeddings.dataset import Batches
from pdepth.embeddings.inspection import inspect
from pdepth.embeddings.placement import ProbeOptions

from helpers.networks import BATCH, Net, Stream, assert_same, images, run


class Squares(Dataset):
    """A map-style dataset of NumPy arrays and plain integers."""

    def __len__(self):
        return 10

    def __getitem__(self, row):
        x, y = images()[row]
        return x.numpy(), int(y), "ignored"


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(images(), batch_size=BATCH, shuffle=True),
        DataLoader(images(), batch_size=BATCH, shuffle=True, drop_last=True),
        DataLoader(
            images(), batch_sampler=BatchSampler(RandomSampler(images()), BATCH, drop_last=True)
        ),
        DataLoader(
            images(), batch_size=BATCH, collate_fn=lambda r: (torch.stack([x for x, _ in r]),
            [int(y) for _, y in r])
        ),
        DataLoader([(x, y) for x, y in zip(images().tensors[0].split(BATCH),
                    images().tensors[1].split(BATCH), strict=True)], batch_size=None),
        Stream(images()),
        DataLoader(Stream(images()), batch_size=BATCH),
        Squares(),
        list(images()),
    ],
    ids=["shuffled", "drop_last", "batch_sampler", "collate", "ready batches", "iterable",
         "iterable loader", "numpy", "list"],
)  # fmt: skip
def test_every_kind_of_data_reads_like_the_dataset(data):
    _, plain = run(Net(), images())
    _, got = run(Net(), data)
    assert_same(got.labels, plain.labels)
    assert_same(got.predictions, plain.predictions)
    for mine, wanted in zip(got.embeddings, plain.embeddings, strict=True):
        assert_same(mine, wanted)


def test_a_subset_sampler_reads_its_rows_and_no_others():
    loader = DataLoader(images(), batch_size=BATCH, sampler=SubsetRandomSampler([7, 2, 5]))
    _, got = run(Net(), loader)
    assert_same(got.embeddings[0], images().tensors[0][[2, 5, 7]].flatten(1))


def test_reading_leaves_the_random_state_alone():
    torch.manual_seed(11)
    wanted = torch.rand(3)
    loader, model = DataLoader(images(), shuffle=True), Net()
    torch.manual_seed(11)
    source = Batches(loader, "support", BATCH)
    with at_rest(model):
        capture(inspect(model, ProbeOptions(), source.first.inputs), source)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        (
            TensorDataset(torch.zeros(0, 3), torch.zeros(0)),
            ValueError,
            "support: expected at least one",
        ),
        (Stream([]), ValueError, "support: expected at least one .* row, got none"),
        (TensorDataset(torch.zeros(4, 3)), ValueError, "got list of Tensor without labels"),
        ([{"x": 1}], ValueError, "got dict without labels"),
        (torch.zeros(4, 3), ValueError, "got Tensor without labels"),
        ([(torch.zeros(3), 1.0)], ValueError, r"expected integers as labels, got torch\.float64"),
        ([(torch.zeros(3), "cat")], ValueError, r"expected integers as labels, got tuple of str"),
        ([(torch.zeros(3), torch.zeros(4).long())], ValueError, r"got labels of shape \(1, 4\)"),
        (3, TypeError, "support: expected a DataLoader, a Dataset .*, got a int"),
    ],
)
def test_wrong_data_in_one_sentence(data, error, sentence):
    with pytest.raises(error, match=sentence):
        Batches(data, "support", BATCH)


def test_rows_of_another_shape():
    small, large = images(BATCH, 16).tensors, images(BATCH, 18).tensors
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(model, nn.Linear(2, 5))
    loader = DataLoader([small, large], batch_size=None)
    sentence = r"shape \(3, 16, 16\) at probe 'input', .* got \(3, 18, 18\) in rows 4-7"
    with pytest.raises(ValueError, match=sentence):
        run(model, loader)


def test_the_length_of_an_iterable_is_not_believed():
    class Guessing(Stream):
        def __len__(self):
            return 99

    assert Batches(Guessing(images()), "support", BATCH).rows is None


def test_a_stream_asks_for_room_as_it_grows():
    asked = []
    run(Net(), Stream(images(rows=100)), make_room=asked.append)
    assert asked[-1] >= 100
    assert asked == sorted(asked)
    assert len(asked) < 15  # of 25 batches

    def refuse(rows):
        if rows > 20:
            raise MemoryError("no")

    with pytest.raises(MemoryError):
        run(Net(), Stream(images(rows=30)), make_room=refuse)


@pytest.mark.parametrize(
    "choice",
    [
        {"sampler": RandomSampler(range(10), replacement=True)},
        {"sampler": RandomSampler(range(10), num_samples=3)},
        {"sampler": WeightedRandomSampler([1.0] * 10, 4)},
        {"batch_sampler": [[3, 1], [2]]},
    ],
)
def test_a_sampler_that_chooses_rows_is_refused(choice):
    with pytest.raises(TypeError, match="that chooses rows of its own; pass Subset"):
        Batches(DataLoader(images(), **choice), "support", 4)
