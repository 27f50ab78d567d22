"""Votes of a network by a test's own hooks and the float64 definition, to compare with pdepth's.

Nothing here comes from `pdepth.embeddings`: a test names the modules, and says how the head of the
network makes a vector of what they return.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import pdepth
from pdepth import definition

K, SUPPORT, QUERIES, BATCH, CLASSES = 5, 40, 24, 16, 4
Vector = Callable[[Any, Any], Tensor]  # of a module's output and the batch: (B, D)


def flat(value: Any, batch: Any) -> Tensor:
    return value.flatten(1)


def token(place: int) -> Vector:
    """One of the tokens (B, T, D)."""
    return lambda value, batch: first_of(value)[:, place]


def mean_from(begin: int, end: int | None = None) -> Vector:
    """The mean of tokens (B, T, D), of some from `begin` to before `end`."""
    return lambda value, batch: first_of(value)[:, begin:end].mean(dim=1)


def mean_of_grid(value: Any, batch: Any) -> Tensor:
    """The mean of tokens on a grid (B, H, W, D)."""
    return value.flatten(1, 2).mean(dim=1)


def last_real(value: Any, batch: Any) -> Tensor:
    """The last of the tokens (B, T, D) that is not padding, on whichever side that is."""
    mask = batch["attention_mask"]
    last = [int(row.nonzero().max()) for row in mask]
    return first_of(value)[torch.arange(len(mask)), last]


def first_of(value: Any) -> Tensor:
    """The tensor of a module that returns it alone or first."""
    return value if isinstance(value, Tensor) else value[0]


@dataclass(frozen=True)
class Hook:
    """A probe as a test takes it: by the name that pdepth gives it, and as which vector.

    module: its dotted name, where that is another. run: which, of a module that runs often.
    """

    name: str
    vector: Vector = flat
    module: str = ""
    run: int = 1


def hooks(names: Iterable[str], vector: Vector = flat) -> list[Hook]:
    return [Hook(name, vector) for name in names]


@dataclass(frozen=True)
class Case:
    """A network, its rows, and where and how its head's way of reading makes vectors.

    Attributes:
        model: in evaluation mode. rows: one of each, without label: tensors, or dicts of them.
        hooks: between the input and the softmax. input: whether the input is a probe.
        collate: of (row, label) pairs, where not torch's own. channels_last: images are laid so, as
            pdepth does for float32 convolutions on a CPU. call: runs the network on a batch.
        scores: the class scores (B, C) in what it returns. probabilities: of the scores.
    """

    model: nn.Module
    rows: Sequence[Any]
    hooks: Sequence[Hook]
    input: bool = True
    collate: Callable[[list[Any]], Any] | None = None
    channels_last: bool = True
    call: Callable[[nn.Module, Any], Any] = lambda model, batch: (
        model(**batch) if isinstance(batch, Mapping) else model(batch)
    )
    scores: Callable[[Any], Tensor] = lambda returned: getattr(returned, "logits", returned)
    probabilities: Callable[[Tensor], Tensor] = lambda scores: scores.softmax(dim=1)

    @property
    def names(self) -> list[str]:
        return [*["input"] * self.input, *(hook.name for hook in self.hooks), "softmax"]

    def batches(self, rows: Sequence[Any], labels: Tensor) -> DataLoader[Any]:
        pairs = list(zip(rows, labels.tolist(), strict=True))
        if isinstance(rows[0], Mapping):
            pairs = [row | {"labels": label} for row, label in pairs]
        return DataLoader(pairs, batch_size=BATCH, collate_fn=self.collate)


def assert_votes_equal(case: Case) -> None:
    """Compare names, votes, predictions and depths with those of hooks and the definition."""
    support, queries = case.rows[:SUPPORT], case.rows[SUPPORT:]
    labels = _labels(case)
    loaders = [
        case.batches(support, labels[:SUPPORT]),
        case.batches(queries, labels[SUPPORT:]),
    ]
    (of_support, _), (of_queries, scores) = (hooked(case, loader) for loader in loaders)
    predictions = scores.argmax(dim=1).numpy()
    votes = np.stack(
        [
            definition.probe_votes(of_support[name], labels[:SUPPORT], of_queries[name], k=K).votes
            for name in case.names
        ]
    )
    depth, undefined = definition.depth_from_votes(votes, predictions)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "model: ")  # no doubt is said
        result = pdepth.prediction_depth(
            case.model, *loaders, k=K, early_exit=False, progress=False
        )
    assert list(result.probes) == case.names
    assert list(result.widths) == [of_support[name].shape[1] for name in case.names]
    np.testing.assert_array_equal(result.predictions, predictions)
    np.testing.assert_array_equal(result.votes, votes)
    np.testing.assert_array_equal(result.depth, depth)
    np.testing.assert_array_equal(result.undefined, undefined)
    # And there was something to tell apart.
    assert len(set(predictions.tolist())) > 1
    assert len(np.unique(votes, axis=0)) > len(votes) // 2
    assert len(np.unique(depth)) > 1


def hooked(case: Case, batches: Iterable[Any]) -> tuple[dict[str, Tensor], Tensor]:
    """Vectors (n, D) of each probe by its name, and class scores (n, C), by plain forward hooks."""
    vectors: dict[str, list[Tensor]] = {name: [] for name in case.names}
    all_scores: list[Tensor] = []
    runs: Counter[str] = Counter()
    batch: Any = None

    def hook_of(module: str) -> Callable[..., None]:
        def keep(_: nn.Module, args: Any, output: Any) -> None:
            runs[module] += 1
            for hook in case.hooks:
                if (hook.module or hook.name) == module and hook.run == runs[module]:
                    vectors[hook.name].append(hook.vector(output, batch).clone())

        return keep

    modules = {hook.module or hook.name for hook in case.hooks}
    handles = [case.model.get_submodule(m).register_forward_hook(hook_of(m)) for m in modules]
    try:
        with torch.no_grad(), without_fused_attention():
            for item in batches:
                runs.clear()
                batch = _without_labels(item)
                if case.input:
                    (value,) = [t for t in tensors(batch) if t.is_floating_point()]
                    vectors["input"].append(value.flatten(1).clone())
                batch = _laid(case, batch)
                scores = case.scores(case.call(case.model, batch))
                all_scores.append(scores)
                vectors["softmax"].append(case.probabilities(scores))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in vectors.items()}, torch.cat(all_scores)


def tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Mapping):
        return [tensor for value in batch.values() for tensor in tensors(value)]
    if isinstance(batch, tuple | list):
        return [tensor for value in batch for tensor in tensors(value)]
    return [batch]


@contextmanager
def without_fused_attention() -> Any:
    """`nn.TransformerEncoder`'s fused path runs none of the modules within its layers."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _labels(case: Case) -> Tensor:
    """The network's own classes, but for a quarter of the rows: votes agree here and there.

    Its head's biases are first set so that it prefers no class over all rows.
    """
    unlabelled = case.batches(case.rows, torch.zeros(len(case.rows)).long())
    _, scores = hooked(case, unlabelled)
    for module in case.model.modules():
        width = getattr(module, "out_features", None)
        if width in (1, scores.shape[1]) and module.bias is not None:
            module.bias.data -= scores.median(dim=0).values[-width:]
    _, scores = hooked(case, unlabelled)
    generator = torch.Generator().manual_seed(1)
    own = scores.argmax(dim=1)
    other = torch.randint(0, scores.shape[1], (len(own),), generator=generator)
    return torch.where(torch.rand(len(own), generator=generator) < 0.25, other, own)


def _without_labels(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {name: value for name, value in item.items() if name != "labels"}
    return item[0]


def _laid(case: Case, batch: Any) -> Any:
    """Copies, as the network may write to them; images with their channels last."""
    if isinstance(batch, Mapping):
        return {name: _laid(case, value) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_laid(case, value) for value in batch)
    last = case.channels_last and batch.ndim == 4
    return batch.clone(memory_format=torch.channels_last if last else torch.preserve_format)


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """A network in evaluation mode with weights that none of its parts can hide behind.

    Heads, scales of layers and residual branches that begin as zero or nearly so get values as
    large as the others', and normalisations statistics of their own.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def pictures(size: int = 32, channels: int = 3) -> Tensor:
    """Rows (N, C, H, W): noise about a picture of each of a few kinds."""
    generator = torch.Generator().manual_seed(2)
    rows = SUPPORT + QUERIES
    kinds = torch.randn(CLASSES, channels, size, size, generator=generator)
    noise = torch.randn(rows, channels, size, size, generator=generator)
    return kinds[torch.arange(rows) % CLASSES] + noise


VOCABULARY, PAD = 50, 1


def texts(longest: int = 12) -> list[dict[str, Tensor]]:
    """Rows of token ids of any length, each kind with words of its own."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for row in range(SUPPORT + QUERIES):
        length = int(torch.randint(3, longest + 1, (1,), generator=generator))
        words = torch.randint(2, VOCABULARY, (length,), generator=generator)
        own = 2 + 10 * (row % CLASSES) + torch.randint(0, 10, (length,), generator=generator)
        keep = torch.rand(length, generator=generator) < 0.5
        rows.append({"input_ids": torch.where(keep, own, words)})
    return rows


def padded(side: str = "right", mask: str = "attention_mask") -> Callable[[list[Any]], Any]:
    """Collation to the longest row of a batch; `mask` is the name of that of real tokens."""

    def collate(rows: list[Any]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), longest), PAD)
        valid = torch.zeros(len(rows), longest, dtype=torch.long)
        for line, row in enumerate(rows):
            length = len(row["input_ids"])
            part = slice(0, length) if side == "right" else slice(longest - length, longest)
            ids[line, part], valid[line, part] = row["input_ids"], 1
        return {
            "input_ids": ids, mask: valid, "labels": torch.tensor([row["labels"] for row in rows])
        }  # fmt: skip

    return collate
