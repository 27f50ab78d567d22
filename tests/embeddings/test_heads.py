"""Which tokens a head reads is seen from the network; where it is not, a sentence says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pdepth.embeddings.pooling import Mask

from helpers.networks import inspected

T, D, CLASSES, PAD = 7, 8, 3, 0
Head = Callable[["Reader", Tensor, Any], Tensor]


class Reader(nn.Module):
    """A block that mixes a token with itself only, and a head that reads some of the tokens."""

    def __init__(self, head: Head, padding_idx: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, D, padding_idx=padding_idx)
        self.mix, self.out, self.key = nn.Linear(D, D), nn.Linear(D, CLASSES), nn.Linear(D, 1)
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.mix(self.embed(input_ids)).tanh()
        mask = attention_mask
        return self.out(self.head(self, x, input_ids if mask is None else mask))


class PaddingMask(Reader):
    """Of which true is padding, as torch's own attention has it."""

    def forward(self, input_ids: Tensor, src_key_padding_mask: Tensor) -> Tensor:
        return super().forward(input_ids, ~src_key_padding_mask)


def ids(rows: int = 6) -> Tensor:
    """Rows of distinct words: of equal ones a maximum reads both."""
    generator = torch.Generator().manual_seed(1)
    return torch.stack([1 + torch.randperm(19, generator=generator)[:T] for _ in range(rows)])


def lengths(rows: int = 6) -> list[int]:
    return [7, 5, 3, 6, 2, 4][:rows]


def right(rows: int = 6) -> Tensor:
    """A mask (B, T) of rows that are padded at their end."""
    return (torch.arange(T) < torch.tensor(lengths(rows)).unsqueeze(1)).long()


def left(rows: int = 6) -> Tensor:
    return right(rows).flip(1)


def first(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return x[:, 0]


def second(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return x[:, 1]


def two_tokens(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return (x[:, 0] + x[:, 1]) / 2


def without_first(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return x[:, 1:].mean(dim=1)


def from_third_to_fifth(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return x[:, 2:5].sum(dim=1)


def every_other(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return x[:, ::2].sum(dim=1)


def at_end(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return x[:, -1]


def last_real(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(T) * (mask != 0)
    return x[torch.arange(len(x)), places.argmax(dim=1)]


def mean(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return x.mean(dim=1)


def masked_mean(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    real = (mask != 0).unsqueeze(-1).to(x.dtype)
    return (x * real).sum(dim=1) / real.sum(dim=1)


def largest(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return x.amax(dim=1)


def masked_max(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill((mask == 0).unsqueeze(-1), -torch.inf).amax(dim=1)


def attention(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    """Weights of all positions that the mask allows."""
    scores = model.key(x).masked_fill((mask == 0).unsqueeze(-1), -torch.inf)
    return (scores.softmax(dim=1) * x).sum(dim=1)


def flattened(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
    return x.unflatten(1, (1, T)).flatten(1, 2).cumsum(dim=1)[:, -1]


def seen(
    model: nn.Module, mask: Tensor | None = None, name: str = "attention_mask", **options: Any
) -> Any:
    """The pooling of the last probe of tokens, the mask, and the doubts."""
    inputs = {"input_ids": ids()} | ({} if mask is None else {name: mask})
    layout = inspected(model, inputs, rows=6, **options)
    (probe,) = [p for p in layout.probes if p.module == "mix"]
    return probe, layout.mask, layout.doubts


@pytest.mark.parametrize(
    ("head", "pool", "positions"),
    [
        (first, "token", (0, None)),
        (second, "mean", (1, 2)),
        (two_tokens, "mean", (0, 2)),
        (without_first, "mean", (1, None)),
        (from_third_to_fifth, "mean", (2, 5)),
        (at_end, "last", (0, None)),
        (mean, "mean", (0, None)),
        (largest, "max", (0, None)),
        (flattened, "mean", (0, None)),
    ],
)
def test_heads_of_tokens_without_padding(head: Head, pool: str, positions: Any) -> None:
    model = Reader(head)
    for mask in (None, torch.ones(6, T, dtype=torch.long)):
        probe, _, doubts = seen(model, mask)
        assert (probe.pool, probe.positions) == (pool, positions)
        assert doubts == ()


@pytest.mark.parametrize("side", [right, left])
@pytest.mark.parametrize(
    ("head", "pool"),
    [
        (last_real, "last"),
        (masked_mean, "mean"),
        (attention, "mean"),
        (first, "token"),
        (masked_max, "max"),
    ],
)
def test_padding_is_left_out_on_either_side(head: Head, pool: str, side: Any) -> None:
    probe, mask, doubts = seen(Reader(head), side())
    assert (probe.pool, probe.positions, probe.masked) == (pool, (0, None), True)
    assert mask == Mask("attention_mask", "valid")
    assert doubts == ()


@pytest.mark.parametrize("side", [right, left])
@pytest.mark.parametrize(("head", "pool"), [(last_real, "last"), (masked_mean, "mean")])
def test_masks_that_mark_padding(head: Head, pool: str, side: Any) -> None:
    model = PaddingMask(head)
    probe, mask, doubts = seen(model, side() == 0, "src_key_padding_mask")
    assert (probe.pool, probe.masked) == (pool, True)
    assert mask == Mask("src_key_padding_mask", "padding")
    assert doubts == ()


@pytest.mark.parametrize(
    ("head", "pool"), [(last_real, "last"), (masked_mean, "mean"), (attention, "mean")]
)
@pytest.mark.parametrize("padded", [True, False])
def test_ids_that_the_network_names_as_padding(head: Head, pool: str, padded: bool) -> None:
    """Also where none of the first rows holds any."""
    model = Reader(head, padding_idx=PAD)
    inputs = ids() * right() if padded else ids()
    layout = inspected(model, {"input_ids": inputs}, rows=6)
    (probe,) = [p for p in layout.probes if p.module == "mix"]
    assert (probe.pool, probe.masked, layout.doubts) == (pool, True, ())
    assert layout.mask is not None
    assert (layout.mask.name, layout.mask.marks, layout.mask.padding) == ("input_ids", "ids", PAD)


def test_a_head_that_reads_padding_is_pooled_as_it_reads_and_said() -> None:
    for head, pool in ((mean, "mean"), (at_end, "last"), (largest, "max")):
        probe, _, doubts = seen(Reader(head), right())
        assert (probe.pool, probe.masked) == (pool, False)
        assert doubts == ("the head reads padding at 'mix', which votes",)


def test_the_end_of_padded_rows_is_not_the_last_of_their_padding() -> None:
    """A mask read the wrong way round would name it; rows without padding would then differ."""
    mask = torch.minimum(right(), torch.arange(T) < T - 1)  # all rows are padded
    probe, used, doubts = seen(Reader(at_end), mask)
    assert (probe.pool, probe.masked) == ("last", False)
    assert used == Mask("attention_mask", "valid")
    assert doubts == ("the head reads padding at 'mix', which votes",)


def test_what_no_pooling_takes_is_doubted() -> None:
    probe, _, doubts = seen(Reader(every_other))
    assert probe.pool == "mean"
    assert doubts == (
        "the head reads other tokens than any pooling takes at 'mix': pooled by 'mean'; pass pool= "
        "to choose",
    )
    probe, _, doubts = seen(Reader(every_other), pool="max")
    assert (probe.pool, doubts) == ("max", ())


def test_what_cannot_be_differentiated_is_doubted() -> None:
    def rounded(model: Reader, x: Tensor, mask: Tensor) -> Tensor:
        return x.detach().mean(dim=1)

    probe, _, doubts = seen(Reader(rounded))
    assert probe.pool == "mean"
    assert doubts == (
        "which tokens the head reads could not be checked at 'mix': pooled by 'mean'; pass pool= "
        "to choose",
    )

    class WithClassToken(Reader):
        def __init__(self, head: Head) -> None:
            super().__init__(head)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, D))

    probe, _, doubts = seen(WithClassToken(rounded))
    assert probe.pool == "token"
    assert len(doubts) == 1


def test_blocks_with_other_positions_are_pooled_by_what_they_lead_to() -> None:
    """The first stage has 6 tokens, all of which lead on; of the second's 3 the head reads one."""

    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(D, 2, 16, batch_first=True)
            self.one, self.two = (nn.TransformerEncoder(layer, 2) for _ in range(2))
            self.merge, self.out = nn.Linear(2 * D, D), nn.Linear(D, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x).unflatten(1, (3, 2)).flatten(2)
            return self.out(self.two(self.merge(x))[:, 0])

    layout = inspected(Stages(), torch.randn(4, 6, D), rows=4)
    assert [(p.name, p.pool) for p in layout.probes] == [
        ("input", "flatten"), ("one.layers.0", "mean"), ("one.layers.1", "mean"),
        ("two.layers.0", "token"), ("two.layers.1", "token"), ("softmax", "softmax"),
    ]  # fmt: skip
    assert layout.doubts == ()


def test_one_logit_and_saturated_scores_are_read_too() -> None:
    model = Reader(first)
    model.out = nn.Linear(D, 1)
    assert seen(model)[0].pool == "token"

    class Saturated(Reader):
        def forward(self, input_ids: Tensor) -> Tensor:
            return (1e4 * super().forward(input_ids)).softmax(dim=1)

    probe, _, doubts = seen(Saturated(without_first))
    assert doubts == () or "could not be checked" in doubts[0]
    assert doubts or probe.positions == (1, None)


def test_the_networks_gradients_are_left_alone() -> None:
    model = Reader(mean)
    model.embed.weight.requires_grad_(False)
    seen(model)
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 6
    assert all(p.grad is None for p in model.parameters())
