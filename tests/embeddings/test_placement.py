"""Where the rules put probes, and what they say about layers they cannot use."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from pdepth.embeddings.placement import Probe, place, unwrap

torchvision = pytest.importorskip("torchvision")
models = torchvision.models

RESNET18 = ["bn1", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))]


def build(name, **options):
    with torch.device("meta"):  # structure only: no time for weights
        return getattr(models, name)(**options)


def small_vit(**options):
    settings = {
        "image_size": 16, "patch_size": 8, "num_layers": 3, "num_heads": 2,
        "hidden_dim": 8, "mlp_dim": 16, "num_classes": 5,
    }  # fmt: skip
    return models.VisionTransformer(**(settings | options))


def test_resnet18_has_the_papers_eleven_probes():
    placement = place(build("resnet18"))
    assert placement.names == ("input", *RESNET18, "softmax")
    assert placement.rule == "resnet"
    assert placement.probes[0] == Probe("input", "", "input", "flatten")
    assert placement.probes[1] == Probe("bn1", "bn1", "output", "flatten")
    assert placement.probes[-1] == Probe("softmax", "", "output", "softmax")


@pytest.mark.parametrize(
    ("name", "rule", "count"),
    [
        ("resnet50", "resnet", 3 + 16),
        ("resnext50_32x4d", "resnet", 3 + 16),
        ("vgg16", "vgg", 15),
        ("vgg11_bn", "vgg", 10),
        ("vit_b_16", "transformer", 14),
        ("swin_t", "transformer", 14),
        ("mobilenet_v2", "chain", 21),
        ("alexnet", "chain", 20),
        ("densenet121", "chain", 14),
    ],
)
def test_probe_counts_of_torchvision(name, rule, count):
    placement = place(build(name))
    assert (placement.rule, len(placement.probes)) == (rule, count)
    assert len(set(placement.names)) == count


def test_vgg_probes_are_its_convolutions():
    model = build("vgg11_bn")
    middle = place(model).probes[1:-1]
    assert all(isinstance(model.get_submodule(p.module), nn.Conv2d) for p in middle)


def test_vision_transformer_pools_its_class_token():
    placement = place(small_vit())
    first, *blocks, _ = placement.probes
    layer = "encoder.layers.encoder_layer_"
    assert first == Probe("embedding", f"{layer}0", "input", "mean")
    assert blocks == [Probe(f"{layer}{i}", f"{layer}{i}", "output", "token") for i in range(3)]


def test_transformer_without_class_token_pools_the_mean():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 3))
    placement = place(model)
    assert placement.names == ("embedding", "1.layers.0", "1.layers.1", "softmax")
    assert {p.pool for p in placement.probes[:-1]} == {"mean"}


def test_mlp_probes_every_linear_layer_but_the_last():
    mlp = torchvision.ops.MLP(12, [8, 8, 4], norm_layer=nn.BatchNorm1d, dropout=0.1)
    placement = place(mlp)
    linear = [n for n, m in mlp.named_modules() if isinstance(m, nn.Linear)]
    assert placement.rule == "mlp"
    assert placement.names == ("input", *linear[:-1], "softmax")

    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    assert place(Custom()).names == ("input", "first", "second", "softmax")
    assert place(nn.Linear(4, 2)).names == ("input", "softmax")


def test_chain_opens_lists_and_skips_no_ops():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Identity(), nn.Conv2d(4, 4, 3)),
        nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    placement = place(model)
    assert placement.rule == "chain"
    assert placement.names == ("input", "0", "1.0", "1.2", "3", "softmax")


def test_family_is_found_inside_a_wrapper():
    wrapped = nn.Sequential(OrderedDict(normalise=nn.Identity(), net=build("resnet18")))
    names = place(wrapped).names
    assert names == ("input", *(f"net.{name}" for name in RESNET18), "softmax")
    backbone = build("vgg16")
    backbone.classifier = nn.Identity()
    assert len(place(nn.Sequential(backbone, nn.Linear(4, 2))).probes) == 15


def test_wrappers_of_torch_are_seen_through():
    model = build("resnet18")
    assert unwrap(torch.compile(nn.DataParallel(model))) is model
    assert place(torch.compile(model)) == place(model)


@pytest.mark.parametrize(
    ("name", "count", "pool"),
    [
        ("resnet18", 11, "flatten"),
        ("vgg11", 10, "flatten"),
        ("vit_tiny_patch16_224", 14, "token"),
        ("vit_base_patch16_siglip_224", 14, "mean"),
        ("beit_base_patch16_224", 14, "mean"),
        ("cait_xxs24_224", 26, "mean"),
    ],
)
def test_timm(name, count, pool):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        placement = place(timm.create_model(name))
    assert len(placement.probes) == count
    assert {p.pool for p in placement.probes[1:-1]} == {pool}


def test_users_choices():
    model = build("resnet18")
    wanted = ("input", "layer1.0", "layer4", "softmax")
    assert place(model, ["layer1.0", "layer4"]).names == wanted
    assert place(model, "layer1.0, layer4").names == wanted
    assert place(model, lambda net: [net.layer1[0], "layer4"]).names == wanted
    assert place(model, "layer[34].?").names == (
        "input", "layer3.0", "layer3.1", "layer4.0", "layer4.1", "softmax",
    )  # fmt: skip
    assert place(model, []).names == ("input", "softmax")
    assert place(model, ["fc"]).rule == "given"


def test_users_choice_in_a_transformer_keeps_its_pooling():
    probes = place(small_vit(), "encoder.ln").probes
    assert [p.name for p in probes] == ["embedding", "encoder.ln", "softmax"]
    assert probes[1].pool == "token"


def test_patterns_do_not_mean_lists_that_are_never_called():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)])

    assert place(Listed(), "parts.*").names == ("input", "parts.0", "parts.1", "softmax")


@pytest.mark.parametrize(
    ("layers", "error", "sentence"),
    [
        (["layer1.7"], ValueError, r"layers: expected names of .*, got 'layer1.7'; nearest: '"),
        ("layr4", ValueError, r"layers: .*, got 'layr4'; nearest: 'layer4'"),
        ("blocks.*", ValueError, r"that matches a module, got 'blocks\.\*'; the model has 'conv1'"),
        (["fc", "fc"], ValueError, r"layers: expected each module once, got 'fc' twice"),
        ([3], TypeError, r"layers: expected module names, got a int"),
        (3, TypeError, r"layers: expected an iterable of .*, got a int"),
        (lambda net: 3, TypeError, r"an iterable of .*, got a callable that returned a int"),
        (lambda net: "fc", TypeError, r"an iterable of .*, got a callable that returned a str"),
        (
            lambda net: [nn.ReLU()],
            ValueError,
            r"expected submodules of the model, got a module of another",
        ),
    ],
)
def test_wrong_layers_in_one_sentence(layers, error, sentence):
    with pytest.raises(error, match=sentence):
        place(build("resnet18"), layers)


def test_a_model_is_a_module():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got a str"):
        place("resnet18")
