"""Votes of networks of text and of series equal a float64 k-NN on values that plain hooks take.

Rows have many lengths, and every batch is padded to its longest: each case says which tokens the
network's own code reads.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.hooked import (
    CLASSES,
    PAD,
    QUERIES,
    SUPPORT,
    VOCABULARY,
    Case,
    Hook,
    assert_votes_equal,
    hooks,
    last_real,
    padded,
    pictures,
    shaken,
    texts,
    token,
)

ROWS = SUPPORT + QUERIES


def of_transformers(name, **config):
    transformers = pytest.importorskip("transformers")
    settings = getattr(transformers, f"{name}Config")(
        num_labels=CLASSES, vocab_size=VOCABULARY, pad_token_id=PAD, **config
    )
    return shaken(getattr(transformers, f"{name}ForSequenceClassification")(settings))


SMALL = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 32,
}  # fmt: skip


def layers(prefix, count=3):
    return [f"{prefix}.{n}" for n in range(count)]


def text(model, hooked, side="right"):
    return Case(model, texts(), hooked, input=False, collate=padded(side))


def bert():
    """BertPooler: `hidden_states[:, 0]`."""
    return text(of_transformers("Bert", **SMALL), hooks(layers("bert.encoder.layer"), token(0)))


def bert_of_pairs():
    """Token types come with the ids: 1 from the third token on, as of a second sentence."""

    def collate(rows):
        batch = padded()(rows)
        return batch | {"token_type_ids": (batch["attention_mask"].cumsum(dim=1) > 2).long()}

    return dataclasses.replace(bert(), collate=collate)


def roberta():
    """RobertaClassificationHead: `features[:, 0, :]`."""
    return text(
        of_transformers("Roberta", **SMALL), hooks(layers("roberta.encoder.layer"), token(0))
    )


def distilbert():
    """`hidden_state[:, 0]`."""
    small = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    names = layers("distilbert.transformer.layer", 2)
    return text(of_transformers("DistilBert", **small), hooks(names, token(0)))


def albert():
    """`sequence_output[:, 0]`; one layer's weights, three times."""
    shared = "albert.encoder.albert_layer_groups.0"
    runs = [Hook(f"{shared}@{run}", token(0), shared, run) for run in (1, 2, 3)]
    return text(of_transformers("Albert", **SMALL, embedding_size=8), runs)


def gpt2():
    """The last token that is not `pad_token_id`."""
    small = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return text(of_transformers("GPT2", **small), hooks(layers("transformer.h", 2), last_real))


def llama():
    """As GPT-2; padding is on the left here, so that it is the last position of all."""
    hooked = hooks(layers("model.layers"), last_real)
    return text(of_transformers("Llama", **SMALL), hooked, side="left")


def xlnet():
    """`output[:, -1]` of values whose first axis is positions; padding is on the left."""
    model = of_transformers("XLNet", d_model=16, n_layer=2, n_head=2, d_inner=32)
    hooked = hooks(layers("transformer.layer", 2), lambda value, batch: value[0][-1])
    return text(model, hooked, side="left")


class Pooled(nn.Module):
    """Plain PyTorch: the mean of the tokens that `src_key_padding_mask` leaves."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed, self.encoder = nn.Embedding(VOCABULARY, 16), nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, input_ids, padding_mask):
        x = self.encoder(self.embed(input_ids), src_key_padding_mask=padding_mask)
        real = ~padding_mask.unsqueeze(-1)
        return self.head((x * real).sum(dim=1) / real.sum(dim=1))


def transformer_encoder():
    def collate(rows):
        batch = padded()(rows)
        return batch | {"padding_mask": batch.pop("attention_mask") == 0}

    def mean(value, batch):
        return torch.stack([
            tokens[~padding].sum(dim=0) / (~padding).sum()
            for tokens, padding in zip(value, batch["padding_mask"], strict=True)
        ])  # fmt: skip

    names = layers("encoder.layers", 2)
    return Case(shaken(Pooled()), texts(), hooks(names, mean), input=False, collate=collate)


class Packed(nn.Module):
    """The last step of each row, by a packed sequence."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 12, 2, batch_first=True), nn.Linear(12, CLASSES)

    def forward(self, series, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            series, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (states, _) = self.lstm(packed)
        return self.head(states[-1])


def series(fixed=False):
    """Rows (T, 4), of one length or of many."""
    generator = torch.Generator().manual_seed(5)
    kinds = torch.randn(CLASSES, 9, 4, generator=generator)
    noise = torch.randn(ROWS, 9, 4, generator=generator)
    lengths = torch.randint(2, 10, (ROWS,), generator=generator).tolist()
    rows = kinds[torch.arange(ROWS) % CLASSES] + noise
    return list(rows) if fixed else [row[:n] for row, n in zip(rows, lengths, strict=True)]


def lstm_of_packed_rows():
    def collate(rows):
        values = nn.utils.rnn.pad_sequence([row["series"] for row in rows], batch_first=True)
        lengths = torch.tensor([len(row["series"]) for row in rows])
        labels = torch.tensor([row["labels"] for row in rows])
        return {"series": values, "lengths": lengths, "labels": labels}

    def last_step(value, batch):
        steps, lengths = nn.utils.rnn.pad_packed_sequence(value[0], batch_first=True)
        return steps[torch.arange(len(steps)), lengths - 1]

    rows = [{"series": row} for row in series()]
    first = Hook("lstm[0]", lambda value, batch: value[1][0][0], "lstm")
    second = Hook("lstm[1]", last_step, "lstm")
    return Case(shaken(Packed()), rows, [first, second], input=False, collate=collate)


class SequenceFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(4, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        steps, _ = self.gru(x.transpose(0, 1))
        return self.head(steps[-1])


def gru_sequence_first():
    last = Hook("gru", lambda value, batch: value[0][-1])
    return Case(shaken(SequenceFirst()), series(fixed=True), [last])


class Functional(nn.Module):
    """Activations and pooling by functions, so that a layer's value is the one before them."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.head(F.relu(self.conv2(x)).mean(dim=(2, 3)))


def functional_cnn():
    return Case(shaken(Functional()), pictures(16), hooks(["conv1", "conv2"]))


def layered(*widths):
    linear = [nn.Linear(*pair) for pair in itertools.pairwise(widths)]
    parts = [part for layer in linear for part in (layer, nn.ReLU(inplace=True))]
    return shaken(nn.Sequential(nn.Flatten(), *parts[:-1]))


def mlp():
    """Each layer before its ReLU, which works in place."""
    return Case(layered(48, 20, 16, 12, CLASSES), pictures(4), hooks(["1", "3", "5"]))


def one_logit():
    """A binary classifier: class 1 where the logit z is > 0, probabilities (1 - s(z), s(z))."""
    return Case(
        layered(48, 20, 12, 1), pictures(4), hooks(["1", "3"]),
        scores=lambda logit: torch.cat([torch.zeros_like(logit), logit], dim=1),
        probabilities=lambda scores: torch.stack(
            [1 - scores[:, 1].sigmoid(), scores[:, 1].sigmoid()], dim=1
        ),
    )  # fmt: skip


FAST = [
    bert, bert_of_pairs, gpt2, albert, llama, transformer_encoder, lstm_of_packed_rows,
    gru_sequence_first, functional_cnn, mlp, one_logit,
]  # fmt: skip
SLOW = [roberta, distilbert, xlnet]


@pytest.mark.slow_if(network=SLOW)
@pytest.mark.parametrize("network", [*FAST, *SLOW])
def test_votes_are_those_of_hooks_and_the_definition(network):
    assert_votes_equal(network())
