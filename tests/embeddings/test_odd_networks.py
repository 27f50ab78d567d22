"""Networks whose layers are not called in the usual ways, and what is said where one is unsure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pdepth
from pdepth.definition import probe_votes

from helpers.networks import inspected

ROWS = 12


class Loop(nn.Module):
    """Residuals that the network adds itself, around modules that are its plain attributes."""

    def __init__(self, shared=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(8, 6), nn.Linear(6, 4)
        self.first = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.second = self.first if shared else nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def forward(self, x):
        x = self.stem(x)
        x = x + self.first(x)
        x = x + self.second(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("shared", "names"),
    [
        (False, ("input", "stem", "second (input)", "head (input)", "softmax")),
        (True, ("input", "stem", "first@2 (input)", "head (input)", "softmax")),
    ],
)
def test_residuals_that_the_network_adds_itself(shared, names):
    network, rows = Loop(shared), torch.randn(ROWS, 8)
    embeddings = pdepth.capture(network, rows).embeddings
    assert tuple(embeddings) == names
    with torch.no_grad():
        after = [network.stem(rows)]
        after.append(after[0] + network.first(after[0]))
        after.append(after[1] + network.second(after[1]))
    for name, expected in zip(names[1:4], after, strict=True):
        assert torch.equal(embeddings[name], expected)


class Net(nn.Module):
    """Two hidden layers; `change` is done to the output, `before` to the input."""

    def __init__(self, before=lambda x: x, change=lambda scores: scores, classes=4):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 5)
        self.head = nn.Linear(5, classes)
        self.before, self.change = before, change

    def forward(self, x):
        x = self.b(self.a(self.before(x)).relu()).relu()
        return self.change(self.head(x))


def test_an_output_function_may_compute_the_scores():
    network = Net(change=lambda scores: {"left": scores, "right": scores * 2})
    layout = inspected(
        network, torch.randn(6, 8), rows=6, output=lambda out: out["left"] + out["right"]
    )
    assert layout.names == ("input", "a", "b", "softmax")


def test_layers_behind_a_comparison_are_probed():
    network = Net(before=lambda x: (x > 0).float())
    assert inspected(network, torch.randn(6, 8), rows=6).names == ("input", "a", "b", "softmax")


@pytest.mark.parametrize(
    "squash",
    [
        lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6),
        lambda z: z.sigmoid().clone(),
        lambda z: 1 / (1 + (-z).exp()),
        lambda z: (z.sigmoid() + (2 * z).sigmoid()) / 2,
    ],
)
def test_one_probability_is_known_however_it_was_made(squash):
    network, rows = Net(change=squash, classes=1), torch.randn(40, 8)
    with torch.no_grad():  # half of the rows on either side
        network.change = lambda z: z
        network.head.bias.sub_(network(rows).median())
        network.change = squash
    data = TensorDataset(rows, torch.arange(40) % 2)
    result = pdepth.prediction_depth(network, data, k=3, progress=False)
    with torch.no_grad():
        expected = (network(rows)[:, 0] > 0.5).long()
    assert 0 < expected.sum() < 40
    assert np.array_equal(result.predictions, expected)


def test_the_logarithm_of_one_probability_is_refused():
    network = Net(change=nn.functional.logsigmoid, classes=1)
    with pytest.raises(ValueError, match=r"pass output=lambda returned: returned\.exp\(\)"):
        inspected(network, torch.randn(6, 8), rows=6)


class Named(nn.Module):
    """Four columns, two of which are called lengths."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, petal_length, petal_width, sepal_length, sepal_width):
        columns = (petal_length, petal_width, sepal_length, sepal_width)
        return self.head(self.a(torch.stack(columns, 1)).relu())


def test_floating_columns_called_lengths_are_values():
    columns = torch.randn(4, 6)
    names = ("petal_length", "petal_width", "sepal_length", "sepal_width")
    captured = pdepth.capture(Named(), **dict(zip(names, columns, strict=True)))
    assert torch.equal(captured.embeddings["input"], columns.T)


def test_a_pooling_function_cannot_change_the_network():
    network, rows = Net(), torch.randn(40, 8)
    data = TensorDataset(rows, torch.arange(40) % 4)
    plain = pdepth.prediction_depth(network, data, k=3, progress=False)
    zeroed = pdepth.prediction_depth(
        network, data, k=3, progress=False, pool=lambda value: value.zero_()
    )
    assert np.array_equal(zeroed.predictions, plain.predictions)


class Longer(Net):
    """Runs a layer more often where there are many rows."""

    def __init__(self):
        super().__init__()
        self.again = nn.Linear(6, 6)

    def forward(self, x):
        x = self.a(x)
        for _ in range(1 if len(x) < 10 else 2):
            x = self.again(x)
        return self.head(self.b(x))


def test_more_runs_than_in_the_first_rows_are_refused():
    data = TensorDataset(torch.randn(40, 8), torch.arange(40) % 4)
    with pytest.raises(ValueError, match="run as often as in the first rows, got 'again'"):
        pdepth.prediction_depth(Longer(), data, k=3, progress=False)


def test_half_of_a_value_is_not_all_of_it():
    class Coupled(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            for part in self.parts:
                left, right = x.chunk(2, 1)
                x = torch.cat([right + part(left).relu(), left], 1)
            return self.head(x)

    layout = inspected(Coupled(), torch.randn(6, 8), rows=6)
    assert set(layout.widths[:-1]) == {8}


def test_randomness_within_the_network_is_said():
    network = Net(before=lambda x: nn.functional.dropout(x, 0.5, True))
    layout = inspected(network, torch.randn(6, 8), rows=6)
    assert "depths are those of one draw" in layout.doubts[0]
    assert not inspected(Net(), torch.randn(6, 8), rows=6).doubts


def test_a_network_that_trains_itself_is_refused():
    network = Net()
    network.before = lambda x: (network.train(), x)[1]
    with pytest.raises(ValueError, match="stays in evaluation mode"):
        inspected(network, torch.randn(6, 8), rows=6)


class Converting(nn.Module):
    """Weights of 16 bits, and values that the network converts itself."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float16))
        self.a, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.a(x.float() * self.scale.float()).relu())


def test_a_network_that_converts_its_input_gets_it_as_it_is():
    network, rows = Converting(), torch.randn(6, 8)
    with torch.no_grad():
        expected = network.a(rows)
    assert torch.equal(pdepth.capture(network, rows).embeddings["a"], expected)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_sequence_first_whatever_the_length(steps):
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            x = self.b(self.a(x.transpose(0, 1)).relu()).relu()
            return self.head(x.mean(dim=0))

    layout = inspected(First(), torch.randn(11, steps, 4), rows=11)
    assert [probe.axis for probe in layout.probes if probe.name in "ab"] == [1, 1]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_recurrent_layers_of_padded_rows_are_read_at_the_last_valid_step(batch_size, bidirectional):
    class Gathered(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.g = nn.GRU(3, 5, 2, batch_first=True, bidirectional=bidirectional)
            self.head = nn.Linear(self.g.hidden_size * (1 + bidirectional), 3)

        def forward(self, x, lengths):
            return self.head(self.g(x)[0][torch.arange(len(x)), lengths - 1])

    network = Gathered()
    series = [torch.randn(4 + number % 6, 3) for number in range(40)]

    def collate(rows):
        padded = nn.utils.rnn.pad_sequence([x for x, _ in rows], batch_first=True)
        return (padded, torch.tensor([len(x) for x, _ in rows])), torch.tensor([y for _, y in rows])

    data = list(zip(series, (n % 3 for n in range(40)), strict=True))
    loader = DataLoader(data, batch_size=batch_size, collate_fn=collate)
    result = pdepth.prediction_depth(network, loader, k=3, progress=False, early_exit=False)
    assert result.probes == ("g[0]", "g[1]", "softmax")
    with torch.no_grad():
        states = [network.g(row[None])[1] for row in series]
    width = 1 + bidirectional
    for layer in range(2):
        alone = torch.stack([s[layer * width : (layer + 1) * width, 0].flatten() for s in states])
        expected = probe_votes(alone.double().numpy(), np.arange(40) % 3, k=3)
        assert np.array_equal(result.votes[layer], expected.votes)


class Tokens(nn.Module):
    """One encoder layer; `read` makes vectors of its tokens."""

    def __init__(self, read, width=8):
        super().__init__()
        torch.manual_seed(3)
        self.words = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.read = nn.Linear(width, 3), read

    def forward(self, ids, mask):
        tokens = self.encoder(self.words(ids), src_key_padding_mask=~mask)
        return self.head(self.read(tokens, mask))


def masked_mean(tokens, mask):
    weights = mask.unsqueeze(-1).float()
    return (tokens * weights).sum(1) / weights.sum(1)


def test_a_mask_is_understood_though_the_first_rows_hold_no_padding():
    ids, mask = torch.randint(0, 20, (6, 9)), torch.ones(6, 9, dtype=torch.bool)
    layout = inspected(Tokens(masked_mean), (ids, mask), rows=6)
    assert layout.mask is not None
    assert (layout.mask.name, layout.mask.marks) == ("mask", "valid")
    assert not layout.doubts
    every = inspected(Tokens(lambda tokens, mask: tokens.mean(1)), (ids, mask), rows=6)
    assert not every.probes[0].masked  # it would read padding, if there were any


def test_a_head_that_reads_tokens_unlike_is_named():
    def both(tokens, mask):
        return torch.cat([tokens[:, 0], masked_mean(tokens, mask)], 1)

    ids, mask = torch.randint(0, 20, (6, 9)), torch.ones(6, 9, dtype=torch.bool)
    layout = inspected(Tokens(both, 16), (ids, mask), rows=6)
    assert "does not read all tokens alike" in layout.doubts[0]


def test_a_dataset_that_is_shorter_than_it_says():
    class Short(torch.utils.data.Dataset):
        def __len__(self):
            return 50

        def __getitem__(self, row):
            if row >= 40:
                raise IndexError("no such row")
            return torch.zeros(8) + row, row % 4

    with pytest.raises(ValueError, match="support: expected 50 rows by its length, got an Index"):
        pdepth.prediction_depth(Net(), Short(), k=3, batch_size=40, progress=False)


def test_a_collation_that_fills_the_same_buffers_for_each_batch():
    rows, labels = torch.randn(40, 8), torch.arange(40) % 4
    buffer, label_buffer = torch.empty(7, 8), torch.empty(7, dtype=torch.long)

    def collate(batch):
        for place, (row, label) in enumerate(batch):
            buffer[place], label_buffer[place] = row, label
        return buffer[: len(batch)], label_buffer[: len(batch)]

    data, options = TensorDataset(rows, labels), {"k": 3, "progress": False, "early_exit": False}
    plain = pdepth.prediction_depth(Net(), DataLoader(data, batch_size=7), **options)
    refilled = pdepth.prediction_depth(
        Net(), DataLoader(data, batch_size=7, collate_fn=collate), **options
    )
    for name in ("votes", "labels", "predictions", "depth"):
        assert np.array_equal(getattr(refilled, name), getattr(plain, name))
