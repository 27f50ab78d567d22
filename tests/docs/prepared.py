"""What the pages take for granted: a small network, its data, their embeddings, files beside them.

The names are those of the pages; sizes are the smallest at which every block has an answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

SUPPORT, QUERIES, CLASSES, WIDTH = 120, 60, 3, 64


class Net(nn.Module):
    """Three blocks and a head, on images of 1 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(3)
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = self.flatten(inputs)
        for block in self.blocks:
            rows = block(rows)
        output: torch.Tensor = self.head(rows)
        return output


def train(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """One step of gradient descent."""
    model.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.1 * weight.grad


def names() -> dict[str, Any]:
    """The variables of every page."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, WIDTH))

    def split(rows: int) -> tuple[Any, Any]:
        labels = np.arange(rows) % CLASSES
        values = centres[labels] + 0.8 * rng.standard_normal((rows, WIDTH))
        return torch.tensor(values.reshape(rows, 1, 8, 8), dtype=torch.float32), labels

    torch.manual_seed(0)
    model = Net()
    (inputs, labels), (held_out_inputs, held_out_labels) = split(SUPPORT), split(QUERIES)
    batches = [(inputs, torch.tensor(labels))] * 3
    for _ in range(20):
        train(model, batches[0])
    layers, held_out = _embeddings(model, inputs), _embeddings(model, held_out_inputs)
    planted = np.arange(SUPPORT) % 10 == 0  # rows with a wrong label
    return {
        "model": model,
        "train_set": TensorDataset(inputs, torch.tensor(labels)),
        "test_set": TensorDataset(held_out_inputs, torch.tensor(held_out_labels)),
        "batches": batches,
        "train": train,
        "layers": layers,
        "labels": labels,
        "queries": held_out,
        "held_out": held_out,
        "held_out_labels": held_out_labels,
        "predictions": model(held_out_inputs).argmax(dim=1).numpy(),
        "support": layers[-1],
        "features": layers[-1],
        "planted": planted,
        "names": [f"example {number}" for number in range(QUERIES)],
        "images": (255 * np.abs(held_out_inputs[:, 0].numpy()) / 5).clip(0, 255).astype(np.uint8),
        "class_names": ["cat", "dog", "owl"],
    }


def names_of_transformers() -> dict[str, Any]:
    """Further variables of the page about texts: small networks with random weights, and rows."""
    from PIL import Image

    from helpers import pretrained

    rng = np.random.default_rng(0)
    words = np.array([["bad", "never"], ["good", "so"], ["the", "was"]])
    texts = []
    for row in range(QUERIES):
        label = row % CLASSES
        chosen = rng.choice([*words[label], "film", "a"], size=rng.integers(2, 9))
        texts.append({"text": " ".join(chosen), "label": label})
    pixels = rng.integers(0, 256, (QUERIES, 12, 12, 3), dtype=np.uint8)
    return {
        "texts": texts,
        "images": [
            {"image": Image.fromarray(image), "label": row % CLASSES}
            for row, image in enumerate(pixels)
        ],
        "text_classifier": pretrained.classifier("bert"),
        "decoder": pretrained.classifier("gpt2"),
        "image_classifier": pretrained.classifier("swin"),
        "tokenizer": pretrained.tokenizer(),
        "image_processor": pretrained.image_processor(),
    }


def _embeddings(model: Net, inputs: torch.Tensor) -> list[np.ndarray[Any, Any]]:
    rows, found = model.flatten(inputs), []
    with torch.no_grad():
        for block in model.blocks:
            rows = block(rows)
            found.append(rows.numpy())
    return found


def write_files(folder: Path, layers: list[np.ndarray[Any, Any]]) -> None:
    """Files that the pages read: shards, a table of embeddings, an ensemble."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = folder / "embeddings" / "layer3"
    shards.mkdir(parents=True)
    for number, rows in enumerate(np.array_split(layers[-1], 3)):
        np.save(shards / f"{number}.npy", rows)
    flat = pa.array(layers[-1].ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, layers[-1].shape[1])
    pq.write_table(pa.table({"layer3": column}), folder / "embeddings.parquet")
    _write_ensemble(folder / "many-digits" / "ensemble.parquet")


def _write_ensemble(path: Path) -> None:
    """Four networks, each held out from another quarter of the examples."""
    from pdepth.analysis.ensemble import Ensemble, Member

    labels, rng = np.arange(SUPPORT) % CLASSES, np.random.default_rng(0)
    ensemble = Ensemble(labels)
    for network in range(4):
        depth, held_out = rng.integers(0, 4, SUPPORT), np.arange(SUPPORT) // 30 == network
        ensemble.add(Member(depth, labels, held_out, 4, network, labels))
    path.parent.mkdir()
    ensemble.save(path)
