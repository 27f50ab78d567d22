"""Votes of networks of text and of series equal a float64 k-NN on values that plain hooks take.

Rows have many lengths, and every batch is padded to its longest: each case says which tokens the
network's own code reads.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
    masked_mean,
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


def text(model, hooked, side="right"):
    return Case(model, texts(), hooked, input=False, collate=padded(side))


def bert():
    """BertPooler: `hidden_states[:, 0]`."""
    return text(of_transformers("Bert", **SMALL), hooks([], token(0)))


def roberta():
    """RobertaClassificationHead: `features[:, 0, :]`."""
    return text(of_transformers("Roberta", **SMALL), hooks([], token(0)))


def distilbert():
    """`hidden_state[:, 0]`."""
    small = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    return text(of_transformers("DistilBert", **small), hooks([], token(0)))


def albert():
    """`sequence_output[:, 0]`; one layer's weights, three times."""
    return text(of_transformers("Albert", **SMALL, embedding_size=8), hooks([], token(0)))


def gpt2():
    """The last token that is not `pad_token_id`."""
    small = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return text(of_transformers("GPT2", **small), hooks([], last_real))


def llama():
    """As GPT-2; padding is on the left here, so that it is the last position of all."""
    return text(of_transformers("Llama", **SMALL), hooks([], last_real), side="left")


def xlnet():
    return text(of_transformers("XLNet", d_model=16, n_layer=2, n_head=2, d_inner=32), hooks([], last_real))


class Series:
    pass


FAST = [bert, gpt2]
SLOW = [roberta, distilbert, albert, llama, xlnet]


@pytest.mark.slow_if(network=SLOW)
@pytest.mark.parametrize("network", [*FAST, *SLOW])
def test_votes_are_those_of_hooks_and_the_definition(network):
    assert_votes_equal(network())
