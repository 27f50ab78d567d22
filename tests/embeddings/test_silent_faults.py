"""What once gave wrong depths without a word: each kind, with the right values beside it.

Networks whose weights and values are small integers compute without rounding, so that their values
are the same beside whichever rows they run.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import pdepth
from pdepth.embeddings.calling import at_rest

from helpers.hooked import CLASSES, PAD, VOCABULARY, padded, shaken, texts, without_fused_attention
from helpers.networks import inspected, run

K = 5


def rows_of(model, data, batch_size, **options):
    """The embeddings by probe, each row's in float64, and the predictions."""
    loader = DataLoader(data, batch_size=batch_size, collate_fn=padded(), shuffle=False)
    names, captured = run(model, loader, **options)
    return dict(zip(names, captured.embeddings, strict=True)), captured.predictions


def labelled_texts():
    return [row | {"labels": n % CLASSES} for n, row in enumerate(texts())]


class Integers(nn.Module):
    """Tokens mixed with their neighbours that are real, and read as `head` says; all integers."""

    def __init__(self, head):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, 6)
        self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.read = head
        for weight in self.parameters():
            weight.data = torch.randint(-2, 3, weight.shape).float()

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1).float()
        x = self.embed(input_ids)
        x = F.relu(self.one(x)) + (x * mask).sum(dim=1, keepdim=True)
        x = self.two(x)
        return self.out(self.read(x, attention_mask))


def first(x, mask):
    return x[:, 0]


def last(x, mask):
    return x[torch.arange(len(x)), mask.sum(dim=1) - 1]


def total(x, mask):
    return (x * mask.unsqueeze(-1)).sum(dim=1)


@pytest.mark.parametrize("head", [first, last, total])
def test_padding_moves_no_vector(head):
    """Depths are those of rows run alone, whatever they are padded to: exactly, where sums are."""
    model, data = Integers(head).eval(), labelled_texts()
    alone, predictions = rows_of(model, data, 1)
    for batch_size in (8, len(data)):
        together, again = rows_of(model, data, batch_size)
        assert together.keys() == alone.keys()
        assert torch.equal(again, predictions)
        for name in alone:
            assert torch.equal(together[name], alone[name]), name
    depths = [
        pdepth.prediction_depth(
            model, DataLoader(data, size, collate_fn=padded()), k=K, progress=False,
            early_exit=False,
        )
        for size in (1, 8, len(data))
    ]  # fmt: skip
    for result in depths[1:]:
        np.testing.assert_array_equal(result.votes, depths[0].votes)
        np.testing.assert_array_equal(result.depth, depths[0].depth)
    assert len(set(depths[0].depth.tolist())) > 1


MOST = 1e-5  # relative to a row's norm: the float32 sums of another batch; 5e-7 was measured


@pytest.mark.parametrize(
    ("name", "pool", "config"),
    [
        ("Bert", "token", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                           "intermediate_size": 32, "max_position_embeddings": 32}),
        ("GPT2", "last", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}),
    ],
)  # fmt: skip
def test_padding_changes_no_more_than_rounding(name, pool, config):
    """Between batches the network's own float32 sums differ, and which tokens vote does not."""
    transformers = pytest.importorskip("transformers")
    settings = getattr(transformers, f"{name}Config")(
        num_labels=CLASSES, vocab_size=VOCABULARY, pad_token_id=PAD, **config
    )
    model = shaken(getattr(transformers, f"{name}ForSequenceClassification")(settings))
    data = labelled_texts()
    alone, predictions = rows_of(model, data, 1)
    for batch_size in (8, len(data)):
        batch = padded()(data[:batch_size])
        batch.pop("labels")
        layout = inspected(model, batch, rows=batch_size)
        assert {probe.pool for probe in layout.probes[:-1]} == {pool}
        together, again = rows_of(model, data, batch_size)
        assert torch.equal(again, predictions)
        for probe in alone:
            difference = (together[probe].double() - alone[probe].double()).norm(dim=1)
            assert (difference / alone[probe].double().norm(dim=1)).max() < MOST


def test_a_residual_block_is_probed_after_its_addition():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
            self.skip = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return F.relu(self.body(x) + self.skip(x))

    model = shaken(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ))  # fmt: skip
    x = torch.randn(12, 3, 8, 8)
    names, captured = run(model, TensorDataset(x, torch.arange(12) % 3), batch_size=12)
    assert names == ("input", "1", "2", "3", "softmax")
    with torch.no_grad():
        value = model[:2](x.contiguous(memory_format=torch.channels_last))
        for block, embedding in zip((2, 3), captured.embeddings[2:], strict=False):
            value = F.relu(model[block].body(value) + model[block].skip(value))
            assert torch.equal(embedding, value.flatten(1))


class Dense(nn.Module):
    """12 values, two hidden layers, 4 classes; `way` runs the second."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.way = way

    def forward(self, x):
        return self.o(torch.relu(self.way(self.b, torch.relu(self.a(x)))))


class ByFunctions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (
            nn.Parameter(torch.randn(*shape)) for shape in ((16, 12), (16, 16), (4, 16))
        )

    def forward(self, x):
        return F.linear(F.linear(x, self.first).relu() @ self.second, self.last)


VALUES = TensorDataset(torch.randn(50, 12), torch.randint(0, 4, (50,)))


def dense():
    return nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("build", "kind", "advice"),
    [
        (lambda: torch.jit.trace(dense(), VALUES.tensors[0][:2]), "TopLevelTracedModule",
         "a torch.jit module runs as one piece; pass the network it was made from"),
        (lambda: torch.jit.script(dense()), "RecursiveScriptModule",
         "a torch.jit module runs as one piece; pass the network it was made from"),
        (lambda: torch.export.export(dense(), (VALUES.tensors[0][:2],),
                                     dynamic_shapes=({0: torch.export.Dim.AUTO},)).module(),
         "GraphModule",
         "an exported module runs as one piece; pass the network it was made from"),
        (ByFunctions, "ByFunctions", "'first' is used without a call of its module"),
    ],
)  # fmt: skip
def test_networks_whose_layers_cannot_be_seen_are_refused(build, kind, advice):
    model = build()
    with pytest.raises(ValueError, match="expected a network with a layer that can be") as caught:
        pdepth.prediction_depth(model, VALUES, k=3, progress=False)
    assert f"got a {kind}: " in str(caught.value)
    assert advice in str(caught.value)


def test_a_single_layer_rightly_has_no_probes_between_input_and_softmax():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = pdepth.prediction_depth(nn.Linear(12, 4), VALUES, k=3, progress=False)
    assert list(result.probes) == ["input", "softmax"]


def test_a_layer_that_is_not_called_is_named():
    called = Dense(lambda layer, x: layer(x))
    by_hand = Dense(lambda layer, x: layer.forward(x))
    result = pdepth.prediction_depth(called, VALUES, k=3, progress=False, early_exit=False)
    assert list(result.probes) == ["input", "a", "b", "softmax"]
    with pytest.warns(UserWarning, match="not probed: 'b.weight' is used without a call of its"):
        fewer = pdepth.prediction_depth(by_hand, VALUES, k=3, progress=False, early_exit=False)
    assert list(fewer.probes) == ["input", "a", "softmax"]
    np.testing.assert_array_equal(fewer.votes, result.votes[[0, 1, 3]])


class Subtracts(nn.Module):
    """Normalises its input in place."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x):
        x.sub_(0.7).div_(0.25)
        return self.b(torch.relu(self.a(x)))


class ActivatesFirst(Subtracts):
    """Its first layer works in place on the input."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.b(torch.relu(self.a(self.act(x))))


@pytest.mark.parametrize("network", [Subtracts, ActivatesFirst])
@pytest.mark.slow_if(rows=[2000])
@pytest.mark.parametrize("rows", [90, 600, 2000])
def test_no_pass_touches_the_callers_rows(network, rows):
    """Neither the dry passes' first rows, nor those that are run again for each span."""
    torch.manual_seed(0)
    model, x = network(), torch.randn(rows, 12)
    with torch.no_grad():
        predictions = model(x.clone()).argmax(dim=1)
        hidden = [model.a(F.relu(part) if network is ActivatesFirst else (part - 0.7) / 0.25)
                  for part in x.split(256)]  # fmt: skip
    data = TensorDataset(x.clone(), torch.arange(rows) % 4)
    # Fewer rows at a time than there are: the network runs again for each span of probes.
    memory = {} if rows == 90 else {"memory": {600: "60KiB", 2000: "120KiB"}[rows]}
    result = pdepth.prediction_depth(model, data, k=K, progress=False, early_exit=False, **memory)
    assert torch.equal(data.tensors[0], x)
    np.testing.assert_array_equal(result.predictions, predictions.numpy())
    assert list(result.probes) == ["input", "a", "softmax"]
    expected = pdepth.probe_votes([x, torch.cat(hidden)], data.tensors[1], k=K)
    np.testing.assert_array_equal(result.votes[:2], expected.votes)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(x).mean(dim=1))


def test_modules_within_an_encoder_are_those_of_its_plain_path():
    """Whichever are probed: a layer without hooks would take the fused path, if it could."""
    model, x = shaken(Encoder()), torch.randn(12, 5, 8)
    names = ["encoder.layers.0.linear1", "encoder.layers.1.norm1", "encoder.layers.1"]
    values = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: values[name].append(output)
        )
        for name in names
    ]
    with torch.no_grad(), without_fused_attention():
        model(x)
    for handle in handles:
        handle.remove()
    assert torch.backends.mha.get_fastpath_enabled()
    data = TensorDataset(x, torch.arange(12) % 3)
    got, captured = run(model, data, names, batch_size=12)
    assert got == ("input", *names, "softmax")
    for name, embedding in zip(names, captured.embeddings[1:], strict=False):
        assert torch.equal(embedding, values[name][0].mean(dim=1)), name
        _, alone = run(model, data, [name], batch_size=12)
        assert torch.equal(alone.embeddings[1], embedding), name
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("before", [True, False])
def test_the_fused_paths_flag_comes_back_after_an_error(before):
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(before)
    try:
        with pytest.raises(ValueError, match="network that runs on"):
            pdepth.prediction_depth(Encoder(), VALUES, k=3, progress=False)
        assert torch.backends.mha.get_fastpath_enabled() == before
        with pytest.raises(KeyError), at_rest(Encoder()):
            raise KeyError
        assert torch.backends.mha.get_fastpath_enabled() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def test_a_dict_of_layers_pools_as_it_says():
    model = shaken(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 16, 3),
    ))  # fmt: skip
    x = torch.randn(12, 3, 8, 8)
    names, captured = run(
        model, TensorDataset(x, torch.arange(12) % 3),
        {"3": "max", "0": "mean", "1": lambda value: value[:, :2, 0], "2": "flatten"},
        batch_size=12,
    )  # fmt: skip
    assert names == ("input", "0", "1", "2", "3", "softmax")
    with torch.no_grad():
        laid = x.contiguous(memory_format=torch.channels_last)
        values = [model[: stop + 1](laid) for stop in range(4)]
    expected = [
        values[0].mean(dim=(2, 3)), values[1][:, :2, 0].flatten(1), values[2].flatten(1),
        values[3].amax(dim=(2, 3)),
    ]  # fmt: skip
    for embedding, value in zip(captured.embeddings[1:], expected, strict=False):
        assert embedding.shape == value.shape
        torch.testing.assert_close(embedding, value)


def test_the_order_of_registration_and_unused_modules_place_nothing():
    class Untidy(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.side = nn.Linear(16, 4), nn.Linear(16, 2)
            self.projector, self.b, self.a = nn.Linear(16, 8), nn.Linear(16, 16), nn.Linear(12, 16)

        def forward(self, x):
            h = torch.relu(self.b(torch.relu(self.a(x))))
            if self.training:
                return self.head(h), self.projector(h)
            return self.head(h), self.side(h)

    result = pdepth.prediction_depth(Untidy(), VALUES, k=3, progress=False)
    assert list(result.probes) == ["input", "a", "b", "softmax"]


def test_shared_weights_are_probed_at_each_run():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.o = nn.Linear(12, 16), nn.Linear(16, 4)
            self.block = nn.Sequential(nn.Linear(16, 16), nn.ReLU())

        def forward(self, x):
            x = self.e(x)
            for _ in range(3):
                x = self.block(x)
            return self.o(x)

    model, (x, _) = shaken(Shared()), VALUES.tensors
    names, captured = run(model, VALUES, batch_size=50)
    assert names == ("input", "e", *(f"block.0@{n}" for n in (1, 2, 3)), "softmax")
    with torch.no_grad():
        value = model.e(x)
        for embedding in captured.embeddings[2:-1]:
            assert torch.equal(embedding, model.block[0](value))
            value = model.block(value)
