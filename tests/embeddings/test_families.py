"""A dozen networks of the study of placements, and what it found to look at: probes by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.networks import inspected, of_timm, placed

models = pytest.importorskip("torchvision").models
pytest.importorskip("timm")


def numbered(name, *counts):
    """Names with two numbers: of each stage as many blocks as `counts` says."""
    return [name.format(i, j) for i, count in enumerate(counts) for j in range(count)]


def ranged(name, begin, end):
    return [name.format(number) for number in range(begin, end)]


INCEPTIONS = [f"inception{name}" for name in ("3a", "3b", *(f"4{c}" for c in "abcde"), "5a", "5b")]
FAMILIES = [
    (
        "torchvision:mobilenet_v3_small",
        64,
        [*ranged("features.{}", 0, 13), "classifier.1"],
    ),
    (
        "torchvision:efficientnet_b0",
        64,
        [
            "features.0",
            *[
                f"features.{i + 1}.{j}"
                for i, n in enumerate((1, 2, 2, 3, 3, 4, 1))
                for j in range(n)
            ],
            "features.8",
        ],
    ),
    (
        "timm:regnety_002",
        64,
        [
            "stem",
            *[f"s{i}.b{j}" for i, n in ((1, 1), (2, 1), (3, 4), (4, 7)) for j in range(1, n + 1)],
        ],
    ),
    (
        "torchvision:densenet121",
        64,
        ["features.relu0", *ranged("features.denseblock{}", 1, 5)],
    ),
    ("torchvision:googlenet", 64, [*ranged("conv{}", 1, 4), *INCEPTIONS]),
    (
        "torchvision:convnext_tiny",
        64,
        [
            "features.0",
            *[f"features.{i}.{j}" for i, n in ((1, 3), (3, 3), (5, 9), (7, 3)) for j in range(n)],
        ],
    ),
    (
        "torchvision:swin_t",
        64,
        [f"features.{i}.{j}" for i, n in ((1, 2), (3, 2), (5, 6), (7, 2)) for j in range(n)],
    ),
    ("timm:mixer_s32_224", 224, ranged("blocks.{}", 0, 8)),
    (
        "timm:levit_128s",
        224,
        [
            "stem",
            *numbered("stages.{}.blocks.{}", 2),
            "stages.1.downsample",
            *ranged("stages.1.blocks.{}", 0, 3),
            "stages.2.downsample",
            *ranged("stages.2.blocks.{}", 0, 4),
        ],
    ),
    (
        "timm:mobilevit_xxs",
        64,
        [
            "stem",
            "stages.0.0",
            *ranged("stages.1.{}", 0, 3),
            *[f"stages.{stage}.{block}" for stage in (2, 3, 4) for block in (0, 1)],
            "final_conv",
        ],
    ),
    ("timm:pvt_v2_b0", 64, numbered("stages.{}.blocks.{}", 2, 2, 2, 2)),
    ("timm:edgenext_xx_small", 64, ["stem", *numbered("stages.{}.blocks.{}", 2, 2, 6, 2)]),
]
# Blocks of three pieces; stages of pairs of blocks; blocks of residual pieces; blocks that read the
# class token alone.
SLOW = [
    ("torchvision:maxvit_t", 224, ["stem.0", *numbered("blocks.{}.layers.{}", 2, 2, 5, 2)]),
    (
        "timm:davit_tiny",
        224,
        [
            f"stages.{i}.blocks.{j}.{k}"
            for i, n in enumerate((1, 1, 3, 1))
            for j in range(n)
            for k in (0, 1)
        ],
    ),
    (
        "timm:lowformer_b0",
        64,
        ["stem", *numbered("stages.{}.{}", 1, 1, 4, 5), "in_conv"],
    ),
    ("timm:cait_xxs24_224", 224, [*ranged("blocks.{}", 0, 24), "norm (input)"]),
    (
        "timm:xcit_nano_12_p8_224",
        224,
        [
            "patch_embed.proj.1",
            "patch_embed.proj.3",
            *ranged("blocks.{}", 0, 12),
            *ranged("cls_attn_blocks.{}", 0, 2),
        ],
    ),
]


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [*FAMILIES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_families(name, size, expected):
    library, _, own = name.partition(":")
    if library == "timm":
        network, device = of_timm(own)
    else:
        kept = {"init_weights": False} if own == "googlenet" else {}  # without its warning
        with torch.device("meta"):  # structure only: no time for weights
            network, device = models.get_model(own, **kept).eval(), "meta"
    placement = placed(network, torch.zeros(2, 3, size, size, device=device))
    assert list(placement.names) == expected
    assert placement.dropped == ()


class FeedForward(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
        self.append(nn.Linear(2 * width, width))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return self.out((query @ key.transpose(-1, -2)).softmax(dim=-1) @ value)


class Loop(nn.Module):
    """x = x + block(x), over lists of two; no module returns a block's output."""

    def __init__(self, width=16, depth=3):
        super().__init__()
        pairs = ((Attention(width), FeedForward(width)) for _ in range(depth))
        self.layers = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)
        self.norm = nn.LayerNorm(width)
        self.seen = []

    def forward(self, x):
        self.seen.clear()
        for attention, feed_forward in self.layers:
            self.seen.append(x.clone())
            x = x + attention(x)
            x = x + feed_forward(x)
        return self.norm(x)


class LoopedTransformer(nn.Module):
    """As lucidrains writes them."""

    def __init__(self, read):
        super().__init__()
        self.embed, self.transformer = nn.Conv2d(3, 16, 8, 8), Loop()
        self.token, self.head = nn.Parameter(torch.randn(1, 1, 16)), nn.Linear(16, 5)
        self.read = read

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return self.head(self.read(self.transformer(x)))


@pytest.mark.parametrize(
    ("pool", "read"),
    [("token", lambda x: x[:, 0]), ("mean", lambda x: x.mean(dim=1))],
    ids=["token", "mean"],
)
def test_a_loop_is_probed_at_the_inputs_of_its_members(pool, read):
    from pdepth import capture

    torch.manual_seed(0)
    network, rows = LoopedTransformer(read), torch.randn(4, 3, 32, 32)
    layout = inspected(network, rows, rows=4)
    inputs = [f"transformer.layers.{number}.0 (input)" for number in (1, 2)]
    assert layout.names == ("input", *inputs, "transformer", "softmax")
    assert [probe.pool for probe in layout.probes[1:-1]] == [pool] * 3
    assert layout.doubts == ()
    values = capture(network, rows).embeddings
    with torch.no_grad():
        network(rows)
    for number, name in enumerate(inputs, 1):
        assert torch.equal(values[name], read(network.transformer.seen[number]))


class Split(nn.Module):
    """Two resolutions side by side, as in an HRNet or CrossViT."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 2, 2)
        self.up = nn.Conv2d(8, 4, 1)

    def forward(self, pair):
        fine, coarse = pair
        large = nn.functional.interpolate(self.up(coarse), scale_factor=2)
        return [torch.relu(self.fine(fine) + large), torch.relu(coarse + self.coarse(fine))]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 2, 2)
        self.stages = nn.ModuleList(Split() for _ in range(2))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        fine = torch.relu(self.stem(x))
        pair = [fine, torch.relu(self.down(fine))]
        for stage in self.stages:
            pair = stage(pair)
        return self.head(torch.cat([value.mean(dim=(2, 3)) for value in pair], dim=1))


def test_values_that_only_together_are_all_of_a_row_are_taken_side_by_side():
    from pdepth import capture

    torch.manual_seed(0)
    network = Branches().double()  # in float32 images would lie channels last, and round otherwise
    rows = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    layout = inspected(network, rows, rows=4)
    assert layout.names == ("input", "stem", "stages.0", "stages.1", "softmax")
    kept = []
    handle = network.stages[1].register_forward_hook(lambda module, args, value: kept.extend(value))
    with torch.no_grad():
        network(rows)
    handle.remove()
    expected = torch.cat([value.flatten(1) for value in kept], dim=1)
    assert torch.equal(capture(network, rows).embeddings["stages.1"], expected)


class Inner(nn.Module):
    """A token's own pixels beside the tokens, as in a TNT: (B * T, P, D) and (B, T, D)."""

    def __init__(self):
        super().__init__()
        self.pixels, self.tokens = nn.Linear(4, 4), nn.Linear(8, 8)
        self.join = nn.Linear(12, 8)

    def forward(self, pixels, tokens):
        pixels = pixels + torch.tanh(self.pixels(pixels))
        tokens = tokens + self.join(pixels.reshape(*tokens.shape[:2], 12))
        return pixels, tokens + torch.tanh(self.tokens(tokens))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lift = nn.Linear(4, 4), nn.Linear(12, 8)
        self.blocks = nn.ModuleList(Inner() for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x):  # (B, T, P, D)
        pixels = self.embed(x).flatten(0, 1)
        tokens = self.lift(pixels.reshape(*x.shape[:2], 12))
        for block in self.blocks:
            pixels, tokens = block(pixels, tokens)
        return self.head(tokens.mean(dim=1))


def test_of_several_values_those_without_a_row_each_are_named():
    torch.manual_seed(0)
    layout = inspected(Nested(), torch.randn(2, 5, 3, 4))
    assert layout.names[-4:-1] == ("blocks.0", "blocks.1", "blocks.2")
    assert layout.shapes[-4:-1] == ((8,), (8,), (8,))
    sentence = "'blocks.0' to 'blocks.2' give values of shape (10, 3, 4), not one for each row"
    assert f"not probed: {sentence}" in layout.doubts
