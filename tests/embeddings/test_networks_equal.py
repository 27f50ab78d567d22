"""Votes of image networks equal a float64 k-NN on values that plain hooks take, pooled by hand.

Where a network's tokens are pooled, its case says how its own code reads them.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from helpers.hooked import (
    CLASSES,
    Case,
    Hook,
    assert_votes_equal,
    hooks,
    mean_from,
    mean_of_grid,
    pictures,
    shaken,
    token,
)

torchvision = pytest.importorskip("torchvision")
models = torchvision.models


def resnet():
    model = models.resnet.ResNet(models.resnet.BasicBlock, [2, 1, 1, 1], num_classes=CLASSES)
    names = ["bn1", "layer1.0", "layer1.1", "layer2.0", "layer3.0", "layer4.0"]
    return Case(shaken(model), pictures(), hooks(names))


def vgg():
    layers = models.vgg.make_layers([8, 8, "M", 12, "M"], batch_norm=True)
    model = models.VGG(layers, num_classes=CLASSES, init_weights=False)
    model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(2), nn.Linear(48, CLASSES)
    names = ["features.0", "features.3", "features.7"]  # the convolutions, before batch norm
    return Case(shaken(model), pictures(), hooks(names))


def mobilenet_v2():
    settings = [[1, 8, 1, 1], [6, 8, 2, 2], [6, 12, 1, 2]]
    model = models.MobileNetV2(CLASSES, 0.5, settings)
    return Case(shaken(model), pictures(), hooks(f"features.{n}" for n in range(6)))


def densenet():
    model = models.DenseNet(4, (2, 3), 8, num_classes=CLASSES)
    names = ["features.relu0", "features.denseblock1", "features.denseblock2"]
    return Case(shaken(model), pictures(), hooks(names))


def googlenet():
    model = models.GoogLeNet(CLASSES, aux_logits=False, init_weights=False)
    inceptions = ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    names = ["conv1", "conv2", "conv3", *(f"inception{name}" for name in inceptions)]
    return Case(shaken(model), pictures(), hooks(names))


def vision_transformer():
    """`x = x[:, 0]` before the heads: the class token."""
    model = models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=CLASSES)
    names = [f"encoder.layers.encoder_layer_{n}" for n in range(3)]
    return Case(shaken(model), pictures(), hooks(names, token(0)))


def swin():
    """Tokens (B, H, W, C), to the head by norm, permute and AdaptiveAvgPool2d(1): their mean."""
    model = models.SwinTransformer([4, 4], 12, [2, 2], [2, 2], [2, 2], num_classes=CLASSES)
    names = ["features.1.0", "features.1.1", "features.3.0", "features.3.1"]
    return Case(shaken(model), pictures(), hooks(names, mean_of_grid))


def convnext():
    config = models.convnext.CNBlockConfig
    model = models.ConvNeXt([config(8, 16, 2), config(16, None, 1)], num_classes=CLASSES)
    names = ["features.0", "features.1.0", "features.1.1", "features.3.0"]
    return Case(shaken(model), pictures(), hooks(names))


def regnet():
    parameters = models.regnet.BlockParams([2, 2], [8, 16], [8, 8], [1, 1], [2, 2], se_ratio=0.25)
    model = models.RegNet(parameters, num_classes=CLASSES, stem_width=8)
    names = [f"trunk_output.block{s}.block{s}-{n}" for s in (1, 2) for n in (0, 1)]
    return Case(shaken(model), pictures(), hooks(["stem", *names]))


def efficientnet():
    config = models.efficientnet.MBConvConfig
    model = models.EfficientNet(
        [config(1, 3, 1, 8, 8, 1), config(6, 3, 2, 8, 12, 2)], 0.1, num_classes=CLASSES
    )
    names = ["features.0", "features.1.0", "features.2.0", "features.2.1", "features.3"]
    return Case(shaken(model), pictures(), hooks(names))


def timm_vit_with_registers():
    """`global_pool="avg"` takes tokens from `num_prefix_tokens` on: 1 class token, 2 registers."""
    vit = pytest.importorskip("timm.models.vision_transformer")
    model = vit.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, reg_tokens=2,
        global_pool="avg", num_classes=CLASSES,
    )  # fmt: skip
    assert model.num_prefix_tokens == 3
    return Case(shaken(model), pictures(), hooks((f"blocks.{n}" for n in range(3)), mean_from(3)))


def timm_deit_distilled():
    """`forward_head` averages a head of token 0 and a head of token 1."""
    deit = pytest.importorskip("timm.models.deit")
    model = deit.VisionTransformerDistilled(
        img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES
    )
    return Case(shaken(model), pictures(), hooks(["blocks.0", "blocks.1"], mean_from(0, 2)))


def timm_mixer():
    """`global_pool="avg"` is `x.mean(dim=1)`."""
    mixer = pytest.importorskip("timm.models.mlp_mixer")
    model = mixer.MlpMixer(CLASSES, 32, patch_size=8, num_blocks=3, embed_dim=12)
    return Case(shaken(model), pictures(), hooks((f"blocks.{n}" for n in range(3)), mean_from(0)))


def timm_mobilevit():
    timm = pytest.importorskip("timm")
    model = timm.create_model("mobilevit_xxs", num_classes=CLASSES)
    names = ["stem", "stages.0.0", "stages.1.0", "stages.1.1", "stages.1.2"]
    names += [f"stages.{stage}.{block}" for stage in (2, 3, 4) for block in (0, 1)]
    return Case(shaken(model), pictures(64), hooks(names))


def timm_levit():
    """`global_pool="avg"` is `x.mean(dim=1)`, of the tokens of the last stage."""
    levit = pytest.importorskip("timm.models.levit")
    model = levit.Levit(
        64, num_classes=CLASSES, embed_dim=(16, 24), key_dim=8, depth=(2, 1), num_heads=(2, 2),
    )  # fmt: skip
    names = [*(f"stages.0.blocks.{n}" for n in (0, 1)), "stages.1.downsample", "stages.1.blocks.0"]
    return Case(shaken(model), pictures(64), [Hook("stem"), *hooks(names, mean_from(0))])


def side_by_side(values, batch):
    return torch.cat([value.flatten(1) for value in values], dim=1)


def timm_pit():
    """The last stage's class token; earlier, where pooling leads all tokens on, their mean."""
    pit = pytest.importorskip("timm.models.pit")
    model = pit.PoolingVisionTransformer(
        32, 8, 4, base_dims=(8, 8), depth=(2, 1), heads=(2, 4), mlp_ratio=2, num_classes=CLASSES
    )
    hooked = hooks((f"transformers.0.blocks.{n}" for n in (0, 1)), mean_from(0))
    # Between the stages, the map of patches and the class token are values of their own.
    hooked.append(Hook("transformers.1.pool", side_by_side))
    hooked.append(Hook("transformers.1.blocks.0", token(0)))
    return Case(shaken(model), pictures(), hooked)


def timm_xcit():
    """`x[:, 0]`: the class token, which class attention joins to the patches after the blocks."""
    xcit = pytest.importorskip("timm.models.xcit")
    model = xcit.Xcit(
        32, 16, embed_dim=16, depth=2, num_heads=2, cls_attn_layers=1, num_classes=CLASSES
    )
    stem = hooks(f"patch_embed.proj.{n}" for n in (1, 3, 5))
    blocks = hooks(["blocks.0", "blocks.1"], mean_from(0))
    return Case(shaken(model), pictures(), [*stem, *blocks, Hook("cls_attn_blocks.0", token(0))])


def of_transformers(name, **config):
    transformers = pytest.importorskip("transformers")
    settings = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **config)
    return shaken(getattr(transformers, f"{name}ForImageClassification")(settings))


def rows(size=32):
    return [{"pixel_values": picture} for picture in pictures(size)]


SMALL = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip


def layers_of(model):
    """The names of its layers, which differ by the library's version."""
    named = [(name, type(module).__name__) for name, module in model.named_modules()]
    return [name for name, kind in named if re.fullmatch("(ViT|Beit|Segformer)Layer", kind)]


def transformers_vit():
    """`sequence_output[:, 0, :]`, the class token."""
    model = of_transformers("ViT", **SMALL)
    return Case(model, rows(), hooks(layers_of(model), token(0)))


def transformers_beit():
    """`use_mean_pooling`: `hidden_states[:, 1:, :].mean(1)`, without the class token."""
    model = of_transformers("Beit", **SMALL, use_mean_pooling=True)
    return Case(model, rows(), hooks(layers_of(model), mean_from(1)))


def transformers_resnet():
    model = of_transformers(
        "ResNet", embedding_size=8, hidden_sizes=[8, 12], depths=[2, 2], layer_type="basic"
    )
    blocks = [f"resnet.encoder.stages.{stage}.layers.{n}" for stage in (0, 1) for n in (0, 1)]
    return Case(model, rows(), hooks(["resnet.embedder.embedder.normalization", *blocks]))


def transformers_segformer():
    """The last stage's tokens by `sequence_output.mean(dim=1)`."""
    model = of_transformers(
        "Segformer", num_encoder_blocks=2, depths=[2, 2], sr_ratios=[2, 1], hidden_sizes=[12, 16],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
    )  # fmt: skip
    return Case(model, rows(), hooks(layers_of(model), mean_from(0)))


def transformers_swin():
    """The last stage's tokens by AdaptiveAvgPool1d(1): their mean."""
    model = of_transformers(
        "Swin", image_size=32, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[2, 2],
        window_size=2,
    )  # fmt: skip
    names = [f"swin.encoder.layers.{stage}.blocks.{n}" for stage in (0, 1) for n in (0, 1)]
    return Case(model, rows(), hooks(names, mean_from(0)))


FAST = [
    resnet, vgg, vision_transformer, swin, convnext, timm_vit_with_registers, timm_pit,
    transformers_vit, transformers_beit, transformers_segformer,
]  # fmt: skip
SLOW = [
    mobilenet_v2, densenet, googlenet, regnet, efficientnet, timm_deit_distilled, timm_mixer,
    timm_mobilevit, timm_levit, timm_xcit, transformers_resnet, transformers_swin,
]  # fmt: skip


@pytest.mark.slow_if(network=SLOW)
@pytest.mark.parametrize("network", [*FAST, *SLOW])
def test_votes_are_those_of_hooks_and_the_definition(network):
    assert_votes_equal(network())


@pytest.mark.parametrize("network", [resnet, transformers_vit])
def test_votes_are_those_of_several_threads_too(network):
    """Parallel tests have one thread of torch each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert_votes_equal(network())
    finally:
        torch.set_num_threads(threads)
