"""Tokenizers and image processors made on the spot, and batches compared bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pdepth.embeddings.dataset import Batches, DataOptions

WORDS = ["a good film", "bad", "not so bad a film at all", "good", "so good", "at all bad film"]
LABELS = [1, 0, 1, 1, 1, 0]


def read(data, batch_size=4, what="support", **options):
    """All batches of some data."""
    return list(Batches(data, what, batch_size, DataOptions(**options)))


def tensors(batch):
    """{name: tensor} of a batch's inputs."""
    return dict(batch.inputs.tensors())


def assert_batches(batches, inputs, labels, size=4):
    """Batches hold `inputs`, {name: tensor of all rows}, and labels, in parts of `size` rows."""
    labels = torch.as_tensor(labels)
    assert [len(batch.labels) for batch in batches] == [len(part) for part in labels.split(size)]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), labels)
    for number, batch in enumerate(batches):
        mine = tensors(batch)
        assert list(mine) == list(inputs)
        assert batch.inputs.rows == len(batch.labels)
        assert batch.labels.dtype == torch.int64
        for name, whole in inputs.items():
            part = whole[number * size : (number + 1) * size]
            assert (mine[name].dtype, mine[name].shape) == (part.dtype, part.shape)
            assert torch.equal(mine[name], part)


def tokenizer(pad="[PAD]"):
    """A word-level tokenizer of WORDS, of at most six tokens."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]"])
    raw.train_from_iterator(WORDS, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", pad_token=pad, model_max_length=6,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def image_processor():
    """A ViT's, for images of 8 x 8."""
    pytest.importorskip("torchvision")
    transformers = pytest.importorskip("transformers")
    return transformers.ViTImageProcessor(size={"height": 8, "width": 8})


def pictures(mode="RGB"):
    """Six PIL images of several sizes."""
    pil = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    shapes = [(10 + row, 12, 3) for row in range(6)]
    return [pil.fromarray(rng.integers(0, 256, s, np.uint8)).convert(mode) for s in shapes]
