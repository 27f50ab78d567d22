"""Rows that make no batch: one sentence, with the line that mends it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pdepth.embeddings.dataset import Batches, DataOptions

from helpers.rows import read

X, Y = torch.randn(10, 3), torch.arange(10) % 3
RAGGED_IDS = [{"input_ids": list(range(n)), "label": 0} for n in (3, 0, 7)]


class Frame:
    def __len__(self):
        return 3

    def __getitem__(self, name):
        raise KeyError(name)


Frame.__name__ = "DataFrame"


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        ([("some text", 1)], ValueError, "support: expected tensors as inputs, got text; pass processor=tokenizer"),
        ([{"text": "some", "id": 3, "label": 1}], ValueError, "got text in 'text'; pass processor=tokenizer"),
        ([(b"png", 1)], ValueError, r"got images that .*; pass processor=image_processor, .*, or set dataset\.transform = torchvision\.transforms\.ToTensor\(\)"),
        ([({"array": np.zeros(3), "sampling_rate": 8}, 1)], ValueError, "got sounds; pass processor=feature_extractor"),
        (RAGGED_IDS, ValueError, "expected rows of one length in a batch, got 0 to 7 token ids in 'input_ids'; pass processor=tokenizer"),
        ([(torch.zeros(3, 4), 0), (torch.zeros(3, 5), 0)], ValueError, r"expected rows of one shape in a batch, got \(3, 4\) and \(3, 5\); resize or pad"),
        ([({"a": {"b": [1, 2]}}, 0), ({"a": {"b": [1]}}, 0)], ValueError, "got 1 to 2 token ids in 'a.b'"),
        ([{"x": 1.0, "z": 1}], ValueError, "got dict without labels, with the keys 'x', 'z'; pass label_column='z'"),
        ({"x": X}, ValueError, "got dict without labels, with the keys 'x'; pass label_column=the labels' key"),
        ([{"x": 1.0, "label": 1, "labels": 1}], ValueError, "expected labels under one key, got 'label' and 'labels'; pass label_column='label'"),
        ([{"label": 1}], ValueError, "expected tensors as inputs, got dict"),
        ([{"x": 1, "label": 0}, {"z": 1, "label": 0}], ValueError, "expected rows that can be stacked, got an error: KeyError: 'x'; pass a DataLoader with a collate_fn"),
        ([(("a", X), 0), ((X,), 0)], ValueError, "expected as many entries in each row, got 1 and 2"),
        ([(X[0], X[0])], ValueError, r"got labels of shape \(1, 3\); pdepth is for single-label classifiers: .* labels\.argmax\(1\); .* labels\[:, i\] and output="),
        ([(X[0], Y[:1])], ValueError, r"got labels of shape \(1, 1\); pass integers of shape \(rows,\)"),
        ([(X[0], None)], ValueError, "expected integers as labels, got NoneType"),
        (Frame(), TypeError, r"support: expected a dataset, got a DataFrame; pass support\.to_dict\('records'\)"),
        ("imagefolder:x", TypeError, r"expected a dataset, got the str 'imagefolder:x'; pass pdepth\.inputs\.load_data"),
        ({"train": TensorDataset(X), "test": TensorDataset(X)}, TypeError, r"expected one dataset, got a dict of 'train', 'test'; pass support\['train'\]"),
        ([DataLoader(TensorDataset(X, Y))], TypeError, r"expected one DataLoader, got a list of them; pass support\[0\]"),
        ({"x": X, "label": 3}, TypeError, "expected a dict of tensors, arrays or lists of one value a row, got {'x': Tensor, 'label': int}"),
        ({"x": X, "label": Y[:9]}, ValueError, "expected columns of one length, got 10 in 'x', 9 in 'label'"),
        ([X, Y], TypeError, r"got a list of tensors; pass TensorDataset\(\*support\)"),
    ],
)  # fmt: skip
def test_refused_in_one_sentence(data, error, sentence):
    with pytest.raises(error, match=sentence):
        Batches(data, "support", 4)


def test_a_named_column_that_is_not_there():
    with pytest.raises(
        ValueError, match="labels under label_column='y', got the keys 'x', 'label'"
    ):
        read({"x": X, "label": Y}, label_column="y")
    with pytest.raises(ValueError, match="expected rows that are dicts, for label_column='y'"):
        read(TensorDataset(X, Y), label_column="y")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_collation_is_one_sentence_with_its_cause(workers):
    def collate(rows):
        return {}["image"]

    loader = DataLoader(TensorDataset(X, Y), 4, collate_fn=collate, num_workers=workers)
    with pytest.raises(
        ValueError, match="support: expected a batch from .*: KeyError: 'image'; try"
    ) as caught:
        Batches(loader, "support", 4)
    assert "\n" not in str(caught.value)
    cause = caught.value.__cause__
    assert isinstance(cause, RuntimeError if workers else KeyError)
    assert "'image'" in str(cause)


def test_options_are_frozen():
    with pytest.raises(AttributeError):
        DataOptions().processor = len
