"""A network of torchvision, timm and transformers: one network, and the same probes."""

from __future__ import annotations

import pytest
import torch

from helpers.networks import inspected

models = pytest.importorskip("torchvision").models
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

DEPTHS, WIDTHS = (2, 1, 3, 2), (8, 16, 24, 32)


def shapes(network, size):
    """Shapes of a row at each probe between input and softmax, in order."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            torch.nn.init.normal_(module.weight)  # zeros at first: nothing would be read
    return inspected(network.eval(), torch.randn(2, 3, size, size)).shapes[1:-1]


def of_transformers(kind, **settings):
    config = transformers.AutoConfig.for_model(kind, num_labels=5, **settings)
    return transformers.AutoModelForImageClassification.from_config(config)


def resnet():
    return (
        models.ResNet(models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=5),
        timm.models.ResNet(timm.models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=5),
        of_transformers(
            "resnet",
            embedding_size=64,
            hidden_sizes=[64, 128, 256, 512],
            depths=[1, 2, 1, 1],
            layer_type="basic",
        ),
    )


def vit():
    return (
        models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5),
        timm.models.VisionTransformer(
            32, 8, embed_dim=16, depth=3, num_heads=2, mlp_ratio=2, num_classes=5
        ),
        of_transformers(
            "vit",
            image_size=32,
            patch_size=8,
            num_hidden_layers=3,
            num_attention_heads=2,
            hidden_size=16,
            intermediate_size=32,
        ),
    )


def swin():
    depths, heads = [2, 2], [2, 4]
    return (
        models.SwinTransformer([4, 4], 8, depths, heads, [4, 4], num_classes=5),
        timm.models.SwinTransformer(
            32, 4, embed_dim=8, depths=depths, num_heads=heads, window_size=4, num_classes=5
        ),
        of_transformers(
            "swin", image_size=32, embed_dim=8, depths=depths, num_heads=heads, window_size=4
        ),
    )


def convnext():
    settings = [
        models.convnext.CNBlockConfig(width, after, depth)
        for width, after, depth in zip(WIDTHS, (*WIDTHS[1:], None), DEPTHS, strict=True)
    ]
    return (
        models.ConvNeXt(settings, num_classes=5),
        timm.models.ConvNeXt(depths=DEPTHS, dims=WIDTHS, num_classes=5),
        of_transformers("convnext", hidden_sizes=list(WIDTHS), depths=list(DEPTHS)),
    )


def regnet():
    return (
        models.regnet_y_400mf(num_classes=5),
        timm.create_model("regnety_004", num_classes=5),
        of_transformers(
            "regnet",
            embedding_size=32,
            hidden_sizes=[48, 104, 208, 440],
            depths=[1, 3, 6, 6],
            groups_width=8,
        ),
    )


@pytest.mark.parametrize(
    ("copies", "size", "count"),
    [
        (resnet, 32, 1 + 5),
        (vit, 32, 3),
        (swin, 32, 4),
        (convnext, 64, 1 + 8),
        pytest.param(regnet, 64, 1 + 16, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_copies_of_a_network_have_the_same_probes(copies, size, count):
    ours, *others = (shapes(network, size) for network in copies())
    assert len(ours) == count
    assert others == [ours, ours]


@pytest.mark.slow
def test_copies_of_mobilenet_v2():
    """The stem of transformers' copy holds the first block, too."""
    ours = shapes(models.mobilenet_v2(num_classes=5), 64)
    assert len(ours) == 1 + 17 + 1
    assert shapes(timm.create_model("mobilenetv2_100", num_classes=5), 64) == ours
    assert shapes(of_transformers("mobilenet_v2", image_size=64), 64) == ours[1:]
