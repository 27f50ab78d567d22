"""The shapes of the suite and the rows that fill them, the same ones in every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pdepth.bench.data import DATA, real_data

K, CLASSES = 30, 10


class Named(Protocol):
    @property
    def name(self) -> str: ...


AnyNamed = TypeVar("AnyNamed", bound=Named)
Rows = NDArray[np.float32]
Labels = NDArray[np.int64]

# Widths of the probes of three networks on 32 x 32 colour images, in forward order.
NETWORKS: dict[str, tuple[int, ...]] = {
    "ResNet18": (3072, *[65536] * 3, *[32768] * 2, *[16384] * 2, *[8192] * 2, 10),
    "VGG16": (3072, *[65536] * 2, *[32768] * 2, *[16384] * 3, *[8192] * 3, *[2048] * 3, 10),
    "MLP": (3072, *[2048] * 6, 10),
}


class Problem(NamedTuple):
    """Labels (M,) int64, and for each probe its support (M, D) and queries (N, D), float32."""

    labels: Labels
    layers: list[tuple[Rows, Rows]]


@dataclass(frozen=True)
class Shape:
    """A problem by its sizes; `fill` makes its rows.

    Attributes:
        kind: of the rows; the name begins with it.
        support, queries: how many rows each has.
        widths: of the probes; most shapes have one.
        fill: makes the rows.
        group: "goal" (the first table), "layer" (of NETWORKS), "special" or "quick".
    """

    kind: str
    support: int
    queries: int
    widths: tuple[int, ...]
    fill: Callable[[Shape], Problem]
    group: str = "goal"

    @property
    def size(self) -> str:
        width = self.widths[0] if len(self.widths) == 1 else f"{len(self.widths)} probes"
        return f"{self.support:,} x {self.queries:,} x {width}"

    @property
    def name(self) -> str:
        return self.size if self.kind == "random" else f"{self.kind}, {self.size}"

    @property
    def work(self) -> float:
        """Floating-point operations of the distances."""
        return 2.0 * self.support * self.queries * sum(self.widths)


def random_rows(shape: Shape) -> Problem:
    rng = np.random.default_rng(0)
    return _problem(shape, rng.standard_normal((_count(shape), shape.widths[0]), np.float32))


def equal_rows(shape: Shape) -> Problem:
    """A dead layer: every row the same."""
    row = np.random.default_rng(0).standard_normal((1, shape.widths[0]), np.float32)
    return _problem(shape, np.repeat(row, _count(shape), axis=0))


def half_one_hot(shape: Shape) -> Problem:
    """A softmax of which half the rows are saturated."""
    rng = np.random.default_rng(0)
    values = _softmax(3 * rng.standard_normal((_count(shape), shape.widths[0]), np.float32))
    hot = rng.random(len(values)) < 0.5
    values[hot] = np.eye(shape.widths[0], dtype=np.float32)[values[hot].argmax(axis=1)]
    return _problem(shape, values, _mostly_right(shape, values))


def confident(shape: Shape) -> Problem:
    """The softmax of a network that is sure of nearly everything: near-duplicates."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((_count(shape), shape.widths[0]), np.float32)
    logits[np.arange(len(logits)), rng.integers(0, shape.widths[0], len(logits))] += 12
    values = _softmax(logits)
    return _problem(shape, values, _mostly_right(shape, values))


def trained(shape: Shape) -> Problem:
    """The probes of an MLP after a few seconds of training: input, each dense layer, softmax."""
    import torch
    from torch import nn

    (x, labels), (queries, _) = _images(shape)
    torch.manual_seed(0)
    *sizes, classes = shape.widths
    blocks = [
        nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(sizes)
    ]
    model = nn.Sequential(*blocks, nn.Linear(sizes[-1], classes))
    optimizer = torch.optim.AdamW(model.parameters())
    y = torch.from_numpy(labels)
    for _ in range(2):
        for rows in torch.split(torch.randperm(len(y)), 256):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(torch.from_numpy(x[rows])), y[rows])
            loss.backward()
            optimizer.step()
    model.eval()

    def embeddings(images: Rows) -> list[Rows]:
        outputs = [torch.from_numpy(images)]
        with torch.no_grad():
            for block in model:
                outputs.append(block(outputs[-1]))
        outputs[-1] = outputs[-1].softmax(dim=1)
        return [output.numpy() for output in outputs]

    return Problem(labels, list(zip(embeddings(x), embeddings(queries), strict=True)))


def image_source() -> str:
    """The images that `trained` uses here, in words."""
    return "CIFAR-10" if (DATA / "cifar10.py").is_file() else "synthetic images"


def _images(shape: Shape) -> list[tuple[Rows, Labels]]:
    """Images as rows, with their labels: the support, which the network learns, and the queries."""
    if image_source() == "CIFAR-10":
        sets = [real_data().images(split) for split in ("train", "test")]
        pixels = [(images.reshape(len(images), -1) / 127.5 - 1, y) for images, y in sets]
    else:
        rng = np.random.default_rng(0)
        patterns = rng.standard_normal((CLASSES, shape.widths[0]))
        labels = [rng.integers(0, CLASSES, n) for n in (shape.support, shape.queries)]
        pixels = [
            (patterns[y] + 12 * rng.standard_normal((len(y), shape.widths[0])), y) for y in labels
        ]
    return [
        (images[:n].astype(np.float32), y[:n].astype(np.int64))
        for (images, y), n in zip(pixels, (shape.support, shape.queries), strict=True)
    ]


def _count(shape: Shape) -> int:
    return shape.support + shape.queries


def _problem(shape: Shape, rows: Rows, labels: Labels | None = None) -> Problem:
    """The first rows as the support, labelled at random without `labels`; the rest as queries."""
    if labels is None:
        labels = np.random.default_rng(1).integers(0, CLASSES, shape.support)
    return Problem(labels, [(rows[: shape.support], rows[shape.support :])])


def _mostly_right(shape: Shape, rows: Rows) -> Labels:
    """The index of its largest element as each support row's label; one in twenty at random."""
    rng = np.random.default_rng(1)
    labels: Labels = rows[: shape.support].argmax(axis=1)
    wrong = rng.random(shape.support) < 0.05
    labels[wrong] = rng.integers(0, shape.widths[0], wrong.sum())
    return labels


def _softmax(logits: Rows) -> Rows:
    values: Rows = np.exp(logits)
    values /= values.sum(axis=1, keepdims=True)
    return values


def _random(support: int, queries: int, width: int, group: str = "goal") -> Shape:
    return Shape("random", support, queries, (width,), random_rows, group)


_MLP = (3072, 1024, 1024, 512, 512, 512, 256, 256, 256, 128, 10)
SHAPES = (
    _random(10_000, 10_000, 64),
    _random(10_000, 10_000, 512),
    _random(10_000, 10_000, 4096),
    _random(50_000, 10_000, 512),
    _random(100_000, 10_000, 16),
    _random(10_000, 10_000, 65536),
    Shape("softmax", 10_000, 10_000, (10,), confident),
    _random(1_000, 1_000, 512),
    Shape("trained network", 10_000, 10_000, _MLP, trained),
    *(_random(10_000, 2_000, width, "layer") for width in (2048, 3072, 8192, 16384, 32768, 65536)),
    Shape("softmax", 10_000, 2_000, (10,), confident, "layer"),
    Shape("equal rows", 50_000, 10_000, (512,), equal_rows, "special"),
    Shape("half one-hot", 50_000, 10_000, (10,), half_one_hot, "special"),
    _random(50_000, 10_000, 10, "special"),
    _random(500, 200, 64, "quick"),
    _random(5_000, 1_000, 64, "quick"),
    _random(5_000, 1_000, 512, "quick"),
    Shape("softmax", 5_000, 1_000, (10,), confident, "quick"),
    Shape("equal rows", 5_000, 1_000, (64,), equal_rows, "quick"),
)


def pick(pattern: str | None, quick: bool) -> list[Shape]:
    """The shapes of a run, quick ones or the others, whose names match the pattern."""
    known = [shape for shape in SHAPES if quick == (shape.group == "quick")]
    return select("--shape", pattern, known)


def select(option: str, pattern: str | None, known: Sequence[AnyNamed]) -> list[AnyNamed]:
    """Those whose names match the pattern; ValueError, naming all, where none does."""
    selected = [item for item in known if fnmatchcase(item.name, pattern or "*")]
    if pattern and not selected:
        names = "; ".join(item.name for item in known)
        raise ValueError(
            f"{option}: expected a pattern that matches one of: {names}; got {pattern!r}."
        )
    return selected
