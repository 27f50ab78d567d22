"""Where the rules put probes, and what they say about layers they cannot use."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import pdepth
from pdepth.embeddings.placement import Probe, unwrap

from helpers.networks import inspected, of_timm, placed

torchvision = pytest.importorskip("torchvision")
models = torchvision.models

RESNET18 = ["bn1", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))]


def build(name, **options):
    with torch.device("meta"):  # structure only: no time for weights
        return getattr(models, name)(**options)


def pixels(size=64, device="meta"):
    return torch.zeros(2, 3, size, size, device=device)


def names(name, size=64, **options):
    """The names of a torchvision network's probes between input and softmax, and their rule."""
    placement = placed(build(name, **options), pixels(size))
    return placement.rule, list(placement.names)


def small_vit(**options):
    settings = {
        "image_size": 16, "patch_size": 8, "num_layers": 3, "num_heads": 2,
        "hidden_dim": 8, "mlp_dim": 16, "num_classes": 5,
    }  # fmt: skip
    torch.manual_seed(0)
    model = models.VisionTransformer(**(settings | options))
    nn.init.normal_(model.heads.head.weight)  # zeros at first: no gradient tells what it reads
    return model


def test_resnet18_has_the_papers_eleven_probes():
    torch.manual_seed(0)
    layout = inspected(models.resnet18(), torch.randn(2, 3, 32, 32))
    assert layout.names == ("input", *RESNET18, "softmax")
    assert layout.rule == "resnet"
    assert layout.probes[0] == Probe("input", "", "input", "flatten")
    assert layout.probes[1] == Probe("bn1", "bn1", "output", "flatten")
    assert layout.probes[-1] == Probe("softmax", "", "output", "softmax")
    assert layout.notes == layout.doubts == ()


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_bottlenecks_are_blocks(name):
    blocks = [f"layer{s}.{b}" for s, n in enumerate((3, 4, 6, 3), 1) for b in range(n)]
    assert names(name) == ("resnet", ["bn1", *blocks])


@pytest.mark.parametrize(("name", "count"), [("vgg16", 13), ("vgg11_bn", 8)])
def test_vgg_probes_are_its_convolutions(name, count):
    model = build(name)
    placement = placed(model, pixels())
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert (placement.rule, list(placement.names)) == ("vgg", convolutions)
    assert len(convolutions) == count


def test_blocks_of_torchvision():
    assert names("vit_b_16", 224) == (
        "blocks", [f"encoder.layers.encoder_layer_{n}" for n in range(12)],
    )  # fmt: skip
    stages = {1: 2, 3: 2, 5: 6, 7: 2}
    assert names("swin_t") == (
        "blocks", [f"features.{s}.{b}" for s, count in stages.items() for b in range(count)],
    )  # fmt: skip
    assert names("mobilenet_v2") == ("blocks", [f"features.{n}" for n in range(19)])
    dense = [f"features.denseblock{n}" for n in (1, 2, 3, 4)]
    assert names("densenet121") == ("blocks", ["features.relu0", *dense])
    inceptions = ["3a", "3b", *(f"4{letter}" for letter in "abcde"), "5a", "5b"]
    assert names("googlenet", init_weights=False) == (
        "blocks", ["conv1", "conv2", "conv3", *(f"inception{name}" for name in inceptions)],
    )  # fmt: skip


def test_layers_of_alexnet_end_in_their_activation():
    """Convolution and ReLU are one probe; so are a dense layer and its ReLU."""
    assert names("alexnet") == (
        "layers", ["features.1", "features.4", "features.7", "features.9", "features.11",
                   "classifier.2", "classifier.5"],
    )  # fmt: skip


def test_vision_transformer_pools_its_class_token():
    layout = inspected(small_vit(), torch.randn(2, 3, 16, 16))
    first, *blocks, _ = layout.probes
    layer = "encoder.layers.encoder_layer_"
    assert first == Probe("input", "", "input", "flatten")
    assert blocks == [
        Probe(f"{layer}{i}", f"{layer}{i}", pool="token", tokens=True) for i in range(3)
    ]


class MeanOfTokens(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed, self.encoder = nn.Linear(4, 8), nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(dim=1))


def test_transformer_without_class_token_pools_the_mean():
    layout = inspected(MeanOfTokens(), torch.randn(2, 5, 4))
    assert layout.names == ("input", "encoder.layers.0", "encoder.layers.1", "softmax")
    assert [p.pool for p in layout.probes] == ["flatten", "mean", "mean", "softmax"]


def test_mlp_probes_every_linear_layer_but_the_last():
    mlp = torchvision.ops.MLP(12, [8, 8, 4], norm_layer=nn.BatchNorm1d, dropout=0.1)
    placement = placed(mlp, torch.randn(2, 12))
    linear = [n for n, m in mlp.named_modules() if isinstance(m, nn.Linear)]
    assert placement.rule == "mlp"
    assert list(placement.names) == linear[:-1]
    assert placed(nn.Linear(4, 2), torch.randn(2, 4)).names == ()


class Registered(nn.Module):
    """The head is registered first, and functions activate."""

    def __init__(self):
        super().__init__()
        self.head, self.first, self.second = nn.Linear(8, 3), nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


class TwoHeads(Registered):
    def __init__(self):
        super().__init__()
        self.side = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x), self.side(x)


class Projector(TwoHeads):
    """A second head that runs in training only."""

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return (self.head(x), self.side(x)) if self.training else self.head(x)


class SideFirst(TwoHeads):
    """The side head runs before the layers that lead to the class scores."""

    def forward(self, x):
        x = torch.relu(self.first(x))
        side = self.side(x)
        return self.head(torch.relu(self.second(x))), side


@pytest.mark.parametrize("network", [Registered, TwoHeads, Projector, SideFirst])
def test_layers_in_the_order_they_run_and_no_heads(network):
    assert placed(network(), torch.randn(2, 4)).names == ("first", "second")


class Shared(nn.Module):
    """One block, three times, as ALBERT's layers share their weights."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x):
        x = self.embed(x)
        for _ in range(3):
            x = self.block(x)
        return self.head(x)


def test_each_run_of_shared_weights_is_a_probe():
    placement = placed(Shared(), torch.randn(2, 4))
    assert [(p.module, p.call) for p in placement.probes][1:] == [
        ("block.0", 1), ("block.0", 2), ("block.0", 3),
    ]  # fmt: skip
    assert placement.names == ("embed", "block.0@1", "block.0@2", "block.0@3")
    chosen = placed(Shared(), torch.randn(2, 4), ["block@3", "block.1@1", "head"])
    assert chosen.names == ("block.1@1", "block@3", "head")  # as they run


def test_layers_without_weights_and_no_ops_are_not_probed():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Identity(), nn.Conv2d(4, 4, 3)),
        nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    placement = placed(model, pixels(8, "cpu"))
    assert placement.rule == "layers"
    assert placement.names == ("0", "1")


class Residual(nn.Module):
    """A block whose body is a Sequential of like modules, and its skip a layer."""

    def __init__(self, width=4):
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(width, width, 3, padding=1) for _ in range(3)))
        self.skip = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))


def test_residual_blocks_stay_whole_whatever_their_body_is():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), Residual(), nn.Sequential(Residual(), Residual()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    placement = placed(model, pixels(8, "cpu"))
    assert placement.names == ("1", "2", "3.0", "3.1")
    assert placement.rule == "blocks"


def test_family_is_recognised_inside_a_wrapper():
    wrapped = nn.Sequential(OrderedDict(normalise=nn.Identity(), net=build("resnet18")))
    assert list(placed(wrapped, pixels()).names) == [f"net.{name}" for name in RESNET18]
    backbone = build("vgg16")
    backbone.classifier = nn.Identity()
    with torch.device("meta"):
        wrapped = nn.Sequential(backbone, nn.Linear(512 * 49, 2))
    placement = placed(wrapped, pixels())
    assert (placement.rule, len(placement.probes)) == ("vgg", 13)


def test_wrappers_of_torch_are_seen_through():
    model = build("resnet18")
    assert unwrap(torch.compile(nn.DataParallel(model))) is model
    assert placed(torch.compile(model), pixels()) == placed(model, pixels())


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("resnet18", 9, "bn1"),
        ("vgg11", 8, "features.0"),
        ("vit_tiny_patch16_224", 12, "blocks.0"),
        ("vit_base_patch16_siglip_224", 12, "blocks.0"),
        ("beit_base_patch16_224", 12, "blocks.0"),
    ],
)
def test_timm(name, count, first):
    network, device = of_timm(name)
    placement = placed(network, pixels(224, device))
    assert len(placement.probes) == count
    assert placement.names[0] == first


def test_users_choices():
    model, x = build("resnet18"), pixels()
    expected = ("layer1.0", "layer4")
    assert placed(model, x, ["layer4", "layer1.0"]).names == expected
    assert placed(model, x, "layer1.0, layer4").names == expected
    assert placed(model, x, lambda net: [net.layer1[0], "layer4"]).names == expected
    assert placed(model, x, {"layer4": "mean", "layer1.0": "flatten"}).names == expected
    assert placed(model, x, [Probe("early", "layer1.0", pool="mean"), "layer4"]).probes == (
        Probe("early", "layer1.0", pool="mean"), Probe("layer4", "layer4"),
    )  # fmt: skip
    assert placed(model, x, "layer[34].?").names == (
        "layer3.0", "layer3.1", "layer4.0", "layer4.1",
    )  # fmt: skip
    assert placed(model, x, []).names == ()
    assert placed(model, x, ["fc"]).rule == "given"


def test_users_choice_in_a_transformer_keeps_its_pooling():
    probes = inspected(small_vit(), torch.randn(2, 3, 16, 16), layers="encoder.ln").probes
    assert [p.name for p in probes] == ["input", "encoder.ln", "softmax"]
    assert probes[1].pool == "token"


def test_patterns_do_not_mean_lists_that_are_never_called():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

        def forward(self, x):
            return self.parts[1](self.parts[0](x))

    assert placed(Listed(), torch.randn(2, 2), "parts.*").names == ("parts.0", "parts.1")


@pytest.mark.parametrize(
    ("layers", "error", "sentence"),
    [
        (["layer1.7"], ValueError, r"layers: expected names of .*, got 'layer1.7'; nearest: '"),
        ("layr4", ValueError, r"layers: .*, got 'layr4'; nearest: 'layer4'"),
        ("blocks.*", ValueError, r"that matches a module, got 'blocks\.\*'; the model has 'conv1'"),
        (["layer1@2"], ValueError, r"expected a run from 1 to 1 of 'layer1', got 2"),
        (["layer1.0.relu"], ValueError, r"got .*, which runs 2 times; name 'layer1.0.relu@1' to"),
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
        placed(build("resnet18"), pixels(), layers)


def test_a_model_is_a_module():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got a str"):
        pdepth.prediction_depth("resnet18", None)
