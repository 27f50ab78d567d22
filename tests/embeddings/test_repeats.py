"""One batch of each source is read twice: what is random in it is refused, wherever it is drawn."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info

from pdepth.embeddings.batch import Batch, Inputs
from pdepth.embeddings.dataset import Batches, Changed

from helpers.networks import Stream

SENTENCE = (
    r"support: expected the same values at each reading, got others in rows 0-7; read without "
    r"random transforms: dataset\.transform = the evaluation transform\."
)


class Noisy(Dataset):
    """Rows of which one in `every` has noise of a generator."""

    def __init__(self, draw, every=1, label=False):
        self.draw, self.every, self.label = draw, every, label
        self.own = np.random.default_rng(0)

    def __len__(self):
        return 20

    def __getitem__(self, row):
        noise = self.draw(self, row) if row % self.every == self.every - 1 else 0
        x = torch.full((3,), float(row))
        return (x, int(noise * 1e6)) if self.label else (x + noise, 0)


def by_worker(data, row):
    """A generator seeded by the worker's seed and the row, as the same worker gives it again."""
    info = get_worker_info()
    seed = torch.initial_seed() if info is None else info.seed + row
    return np.random.default_rng(seed).random() if info else random.random()


DRAWS = {
    "torch": lambda data, row: torch.rand(1).item(),
    "numpy": lambda data, row: np.random.rand(),  # noqa: NPY002
    "random": lambda data, row: random.random(),
    "its own": lambda data, row: data.own.random(),
    "by worker": by_worker,
}


def fixed_seeds(worker):
    """Seeds that are the same in every run, as for reproducible training."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("draw", DRAWS)
def test_random_rows_are_refused(draw, workers):
    data = Noisy(DRAWS[draw])
    with pytest.raises(Changed, match=SENTENCE):
        Batches(DataLoader(data, 8, num_workers=workers), "support", 8)
    if workers and draw in ("torch", "numpy", "random"):
        loader = DataLoader(data, 8, num_workers=workers, worker_init_fn=fixed_seeds)
        with pytest.raises(Changed, match=SENTENCE):
            Batches(loader, "support", 8)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("label", [False, True])
def test_randomness_in_one_row_alone_is_refused(label, workers):
    data = Noisy(DRAWS["torch"], every=8, label=label)
    with pytest.raises(Changed, match=SENTENCE):
        Batches(DataLoader(data, 8, num_workers=workers), "support", 8)


def test_a_random_collation_is_refused():
    def collate(rows):
        return {"x": torch.zeros(len(rows), 2), "noise": torch.rand(len(rows))}, [0] * len(rows)

    with pytest.raises(Changed, match=SENTENCE):
        Batches(DataLoader(Noisy(DRAWS["torch"]), 8, collate_fn=collate), "support", 8)


def test_ready_batches_are_read_twice():
    data = DataLoader(Ready(), batch_size=None)
    with pytest.raises(Changed):
        Batches(data, "support", 8)


class Ready(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, batch):
        return torch.rand(4, 3), torch.zeros(4, dtype=torch.long)


def test_flips_and_crops_are_refused():
    transforms = pytest.importorskip("torchvision.transforms")
    crop, mirror = transforms.RandomCrop(8, padding=2), transforms.RandomHorizontalFlip()

    def draw(data, row):
        return float(mirror(crop(torch.arange(64.0).view(1, 8, 8)))[0, 0, 0])

    with pytest.raises(Changed, match=SENTENCE):
        Batches(Noisy(draw), "support", 8)


def test_the_second_reading_leaves_the_callers_random_state_alone():
    def draws(data, row):  # of every generator, for nothing
        return 0 * (torch.rand(1).item() + np.random.rand() + random.random())  # noqa: NPY002

    def after(read):
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)
        read()
        return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002

    data = Noisy(draws)
    once = after(lambda: [data[row] for row in range(8)])
    assert after(lambda: Batches(data, "support", 8)) == once
    untouched = after(lambda: None)
    assert after(lambda: Batches(DataLoader(data, 8, num_workers=1), "support", 8)) == untouched


def test_a_random_row_after_the_first_batch_is_seen_when_it_is_read_again():
    draw = DRAWS["torch"]
    source = Batches(Noisy(lambda data, row: draw(data, row) if row > 15 else 0), "support", 8)
    source.remembers = True
    list(source)
    with pytest.raises(Changed, match="got others in rows 16-19; read without random transforms"):
        list(source.again([0, 2]))


def test_a_stream_is_read_once():
    class Once(Stream):
        readings = 0

        def __iter__(self):
            Once.readings += 1
            yield from self.data

    source = Batches(Once(TensorDataset(torch.rand(9, 2), torch.zeros(9).long())), "support", 4)
    assert sum(len(batch.labels) for batch in source) == 9
    assert Once.readings == 1


def test_one_more_batch_is_what_it_costs():
    reads = []

    def draw(data, row):
        reads.append(row)
        return 0

    Batches(Noisy(draw), "support", 8)
    assert reads == [*range(8), *range(8)]


def test_bits_are_compared():
    def batch(*values, name="x"):
        return Batch(Inputs.of({name: torch.tensor(values)}, len(values)), torch.zeros(1).long())

    nan = float("nan")
    assert batch(nan).same_as(batch(nan))
    for other in (batch(-0.0), batch(1.0), batch(0), batch(0.0, 0.0), batch(0.0, name="y")):
        assert not batch(0.0).same_as(other)
    sparse = Batch(Inputs.of(torch.eye(2).to_sparse(), 2), torch.zeros(2).long())
    dense = Batch(Inputs.of(torch.eye(2), 2), torch.zeros(2).long())
    assert sparse.same_as(sparse)
    assert (sparse.row_checksums() == dense.row_checksums()).all()
