"""Embeddings equal independent forward passes, and the model is left as it was found."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pdepth.arrays.memory import Budget, human
from pdepth.backends import triton
from pdepth.embeddings import collect
from pdepth.embeddings.calling import Caller, at_rest
from pdepth.embeddings.capture import capture, check_memory, footprint
from pdepth.embeddings.dataset import Batches
from pdepth.embeddings.inspection import inspect
from pdepth.embeddings.layout import Layout
from pdepth.embeddings.placement import ProbeOptions

from helpers.networks import BATCH, Net, assert_same, batches, images, laid, run, small_resnet


def test_resnet_embeddings_equal_a_forward_pass_by_hand():
    model, data = small_resnet().eval(), images()
    names, got = run(model, data)
    assert len(names) == 8
    by_hand = {name: [] for name in names}
    scores = []
    with torch.no_grad():
        for x in laid(data.tensors[0]):
            by_hand["input"].append(x)
            x = model.bn1(model.conv1(x))
            by_hand["bn1"].append(x.clone())
            x = model.maxpool(model.relu(x))
            for stage in ("layer1", "layer2", "layer3", "layer4"):
                for i, block in enumerate(getattr(model, stage)):
                    x = block(x)
                    by_hand[f"{stage}.{i}"].append(x.clone())
            scores.append(model.fc(model.avgpool(x).flatten(1)))
            by_hand["softmax"].append(scores[-1].softmax(1))
    for name, embedding in zip(names, got.embeddings, strict=True):
        assert_same(embedding, torch.cat(by_hand[name]).flatten(1))
        assert embedding.is_contiguous()
    assert (got.embeddings[1] < 0).any()  # before the in-place ReLU
    assert torch.equal(got.predictions, torch.cat(scores).argmax(1))
    assert torch.equal(got.labels, data.tensors[1])


def test_vgg_convolutions_are_taken_before_the_relu():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(3)
    features = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True)
    )
    model = models.VGG(features, num_classes=5, init_weights=False)
    model.classifier = nn.Sequential(nn.Flatten(), nn.Linear(6 * 49, 5))
    data = images()
    names, got = run(model, data)
    assert names == ("input", "features.0", "features.2", "softmax")
    with torch.no_grad():
        first = torch.cat([features[0](x) for x in laid(data.tensors[0])])
        second = torch.cat([features[:3](x) for x in laid(data.tensors[0])])
    assert_same(got.embeddings[1], first.flatten(1))
    assert_same(got.embeddings[2], second.flatten(1))
    assert (first < 0).any()
    assert (second < 0).any()


def test_vision_transformer_tokens():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(4)
    model = models.VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=5).eval()
    torch.nn.init.normal_(model.heads.head.weight)
    data = images()
    names, got = run(model, data)
    layer = "encoder.layers.encoder_layer_"
    assert names == ("input", f"{layer}0", f"{layer}1", "softmax")
    assert [e.shape[1] for e in got.embeddings] == [3 * 16 * 16, 8, 8, 5]
    tokens = []
    with at_rest(model):  # without the fused attention, which runs no inner module
        for x in laid(data.tensors[0]):
            x = model._process_input(x)
            x = torch.cat([model.class_token.expand(len(x), -1, -1), x], dim=1)
            tokens.append(model.encoder.layers[0](x + model.encoder.pos_embedding)[:, 0])
    assert_same(got.embeddings[0], data.tensors[0].flatten(1))
    assert_same(got.embeddings[1], torch.cat(tokens))


@pytest.mark.slow_if(name=["vgg11"])
@pytest.mark.parametrize("name", ["resnet18", "vgg11", "vit_tiny_patch16_224"])
def test_timm(name):
    timm = pytest.importorskip("timm")
    size = {"img_size": 32} if name.startswith("vit") else {}
    torch.manual_seed(5)
    model = timm.create_model(name, num_classes=5, **size).eval()
    if name == "vgg11":  # 400 MB of dense weights say nothing about capture
        model.pre_logits = nn.Identity()
        model.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 5))
    data = images(rows=3, size=32)
    names, got = run(model, data)
    assert len(names) == {"resnet18": 11, "vgg11": 10}.get(name, 14)
    (x,) = laid(data.tensors[0])
    with torch.no_grad():
        if name == "resnet18":
            second = model.bn1(model.conv1(x))
        elif name == "vgg11":
            second = model.features[0](x)
        else:
            start = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
            second = model.blocks[0](start)[:, 0]
        assert_same(got.embeddings[1], second.flatten(1))
        assert_same(got.embeddings[-1], model(x).softmax(1))


def test_probes_follow_the_forward_pass_not_the_users_list():
    names, _ = run(Net(), images(), ["head", "norm", "conv"])
    assert names == ("input", "conv", "norm", "head", "softmax")


def test_in_place_activation_does_not_reach_an_earlier_probe():
    model, data = Net().eval(), images()
    _, got = run(model, data, ["norm", "act"])
    norm, act = got.embeddings[1:3]
    assert (norm < 0).any()
    assert_same(norm.relu(), act)


def flags(model):
    return [module.training for module in model.modules()]


def test_modes_come_back_module_by_module():
    model = Net().train()
    model.norm.eval()
    before, state = flags(model), {n: t.clone() for n, t in model.state_dict().items()}
    _, got = run(model, images())
    assert flags(model) == before
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    _, again = run(model, images())  # dropout in training mode would differ
    assert torch.equal(got.embeddings[-1], again.embeddings[-1])


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_modes_and_hooks_come_back_after_an_interruption(interruption):
    model = Net().train()
    model.norm.eval()
    before = flags(model)

    def stop(done):
        raise interruption

    with pytest.raises(interruption):
        run(model, images(), on_rows=stop)
    assert flags(model) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.is_grad_enabled()


def test_no_gradients_and_a_model_that_still_trains():
    model, data = Net(), images()
    _, got = run(model, data)
    assert not any(e.requires_grad or e.is_inference() for e in got.embeddings)
    assert all(p.grad is None for p in model.parameters())
    model(data.tensors[0]).sum().backward()
    assert model.conv.weight.grad is not None


def test_no_gradients_where_the_model_turns_them_on():
    model = Net()
    model.forward = torch.enable_grad()(model.forward)
    _, got = run(model, images())
    assert not any(e.requires_grad for e in got.embeddings)


def test_the_users_own_hooks_come_first():
    model = Net().eval()
    _, plain = run(model, images(), ["norm"])
    model.norm.register_forward_hook(lambda module, args, output: output + 1)
    _, got = run(model, images(), ["norm"])
    assert_same(got.embeddings[1], plain.embeddings[1] + 1)
    assert len(model.norm._forward_hooks) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_of_the_model_is_kept(dtype):
    model, data = Net().to(dtype).eval(), images()
    _, got = run(model, data, ["conv"])
    x = data.tensors[0].to(dtype)
    with torch.no_grad():
        conv = torch.cat([model.conv(part) for part in batches(x)])
        scores = torch.cat([model(part) for part in batches(x)])
    assert_same(got.embeddings[0], x.flatten(1))
    assert_same(got.embeddings[1], conv.flatten(1))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert_same(got.embeddings[2], scores.to(wide).softmax(1))


class Viewing(nn.Module):
    """A view() that channels which lie last do not allow."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 14, 5)

    def forward(self, x):
        x = self.conv(x)
        return self.head(x.view(len(x), -1))


def test_a_model_that_wants_its_channels_first_has_them():
    model, data = Viewing().eval(), images()
    _, got = run(model, data, ["conv"])
    with torch.no_grad():
        conv = torch.cat([model.conv(part) for part in batches(data.tensors[0])])
    assert_same(got.embeddings[1], conv.flatten(1))


def test_integer_inputs_stay_integers():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Tanh(), nn.Linear(12, 3))
    tokens = torch.arange(18).view(6, 3) % 7
    data = TensorDataset(tokens, torch.zeros(6, dtype=torch.int32))
    names, got = run(model, data, probes=ProbeOptions(input=False))
    assert names == ("0", "softmax")
    with torch.no_grad():
        assert_same(got.embeddings[0], model[0](tokens).mean(dim=1))
    assert got.labels.dtype == torch.int64


@pytest.mark.parametrize("wrapper", [nn.DataParallel, torch.compile])
def test_wrapped_models(wrapper):
    model, data = Net().eval(), images()
    names, plain = run(model, data)
    wrapped_names, wrapped = run(wrapper(model), data)
    assert wrapped_names == names
    for got, wanted in zip(wrapped.embeddings, plain.embeddings, strict=True):
        assert_same(got, wanted)


def test_model_compiled_in_place_before_the_hooks_came():
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    model, data = Net().eval(), images()
    _, plain = run(model, data)
    model.compile(backend=backend)
    with torch.no_grad():
        model(data.tensors[0][:BATCH])
    assert len(calls) == 1
    _, got = run(model, data)
    assert_same(got.embeddings[1], plain.embeddings[1])
    assert len(calls) == 1  # and nothing was compiled anew


def output_object(scores):
    class Output:
        logits = scores

    return Output()


@pytest.mark.parametrize(
    "wrap", [lambda s: (s, None), lambda s: [s], lambda s: {"logits": s}, output_object]
)
def test_outputs_that_carry_scores(wrap):
    _, plain = run(Net(), images())
    _, got = run(Net(wrap), images())
    assert_same(got.embeddings[-1], plain.embeddings[-1])
    assert_same(got.predictions, plain.predictions)


def test_probabilities_are_not_squashed_again():
    _, scores = run(Net(), images())
    _, got = run(Net(lambda s: s.softmax(1)), images())
    assert_same(got.embeddings[-1], scores.embeddings[-1])


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda s: s.flatten(), r"shape \(10,\) for 2 rows"),
        (lambda s: s[:, :0], r"shape \(2, 0\) for 2 rows"),
        (lambda s: s[:1], r"shape \(1, 5\) for 2 rows"),
        (lambda s: {"scores": s}, "dict"),
        (lambda s: None, "NoneType"),
    ],
)
def test_outputs_that_are_no_class_scores(wrap, kind):
    with pytest.raises(ValueError, match=rf"model: expected class scores .*, got {kind}"):
        run(Net(wrap), images())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Linear(36, 5)
        self.spare = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.head(self.pool(self.pool(self.conv(x))).flatten(1))


def test_modules_that_run_several_times_or_never():
    torch.manual_seed(3)
    model, data = Twice().eval(), images()
    with pytest.raises(ValueError, match=r"'pool', which runs 2 times; name 'pool@1' to 'pool@2'"):
        run(model, data, ["pool"])
    with pytest.raises(ValueError, match=r"run in a forward pass, got 'spare', which runs never"):
        run(model, data, ["spare"])
    names, got = run(model, data, ["pool@2", "pool@1"])
    assert names == ("input", "pool@1", "pool@2", "softmax")
    with torch.no_grad():
        once = torch.cat([model.pool(model.conv(x)) for x in laid(data.tensors[0])])
    assert_same(got.embeddings[1], once.flatten(1))
    assert_same(got.embeddings[2], model.pool(once).flatten(1))


def test_a_module_that_runs_less_often_in_later_batches():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.a(x)
            return self.head(self.b(x) if x.sum() < 1e6 else x)

    data = TensorDataset(torch.zeros(6, 3), torch.zeros(6, dtype=torch.long))
    data.tensors[0][5] = 1e9
    model = Fickle()
    nn.init.ones_(model.a.weight)
    with pytest.raises(
        ValueError, match=r"as often as in the first rows, got 'b', whose run 1 comes never"
    ):
        run(model, data)


class SequenceFirst(nn.Module):
    """Between two transpositions, rows are the second axis."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(3, 1, 8)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.encoder(x.transpose(0, 1)).transpose(0, 1).flatten(1))


def test_rows_along_the_second_axis():
    torch.manual_seed(3)
    model, data = SequenceFirst().eval(), TensorDataset(torch.randn(6, 4, 3), torch.arange(6) % 5)
    names, got = run(model, data, probes=ProbeOptions(pool="flatten"))
    assert names == ("input", "encoder.layers.0", "encoder.layers.1", "softmax")
    with torch.no_grad(), at_rest(model):
        first = [model.encoder.layers[0](x.transpose(0, 1)) for x in batches(data.tensors[0])]
    assert_same(got.embeddings[1], torch.cat([x.transpose(0, 1).flatten(1) for x in first]))


def test_a_module_without_one_row_for_each_input():
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 12)), nn.Linear(12, 5))
    data = TensorDataset(torch.randn(6, 12), torch.zeros(6, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r"one row for each of 3 inputs as the output of module '0', got shape"
    ):
        run(model, data, ["0"])


def test_footprint_is_what_the_matrices_take():
    model = Net().bfloat16()
    source = Batches(images(), "support", BATCH)
    with at_rest(model):
        layout = inspect(model, ProbeOptions(), source.first.inputs)
        got = capture(layout, source)
    assert footprint(layout, 10) == sum(e.untyped_storage().nbytes() for e in got.embeddings)
    assert layout.widths == tuple(e.shape[1] for e in got.embeddings)
    bytes_needed = footprint(layout, 10**6)
    words = f"{human(bytes_needed)} in memory for 1,000,000 rows x {len(layout.probes)} probes"
    assert check_memory(layout, 10**6, Budget(None)) == words
    assert check_memory(layout, 10**6, Budget(bytes_needed)).endswith(
        f"{words} ({human(bytes_needed)} free)"
    )
    with pytest.raises(
        MemoryError, match=r"expected at most the budget of .*, got .*; probe fewer layers"
    ):
        check_memory(layout, 10**6, Budget(bytes_needed - 1, given=True))


def test_embeddings_stay_on_the_device_where_the_search_fits_beside_them(monkeypatch):
    layout = Layout((), ((4, 64),), (torch.float32,), Caller(nn.Identity()))
    readers = [SimpleNamespace(rows=rows) for rows in (50_000, 10_000)]
    free, devices = [10**9], ["cuda:1"]
    monkeypatch.setattr(collect, "free_on", lambda device: free[0])
    monkeypatch.setattr(collect, "device_of", lambda model: torch.device(devices[0]))
    monkeypatch.setattr(triton, "unavailable", lambda: None)
    needed = footprint(layout, 60_000) + triton.working_set(256, 50_000, 10_000)
    no_limit = Budget(None)

    def at_home(backend="auto", budget=no_limit):
        return collect.Job(None, layout, readers, "sqeuclidean", 30, budget).at_home(backend)

    def home(backend="auto", budget=no_limit):
        return at_home(backend, budget).home

    free[0] = int(needed / collect.DEVICE_SHARE) + 2
    assert home("auto") == home("triton") == torch.device("cuda:1")
    assert at_home().budget == Budget(free[0])
    assert home("cpu") is None
    assert at_home("cpu").budget is no_limit
    enough = Budget(footprint(layout, 60_000), given=True)
    assert home(budget=enough) is not None
    assert at_home(budget=enough).budget is enough
    assert home(budget=Budget(footprint(layout, 60_000) - 1, given=True)) is None
    free[0] = int(needed / collect.DEVICE_SHARE) - 2
    assert home() is None
    free[0] *= 2
    readers[1].rows = None
    assert home() is None
    readers[1].rows = 10
    devices[0] = "cpu"
    assert home() is None
    devices[0] = "cuda"
    assert home() is not None
    monkeypatch.setattr(triton, "unavailable", lambda: "torch sees no CUDA device.")
    assert home() is None


def test_values_are_kept_on_the_device_that_is_asked_for():
    model, data = small_resnet(), images()
    with at_rest(model):
        source = Batches(data, "support", 4)
        layout = inspect(model, ProbeOptions(), source.first.inputs)
        found = capture(layout, source, device=torch.device("meta"))
    assert {each.device.type for each in found.embeddings} == {"meta"}
    assert [each.shape[1] for each in found.embeddings] == list(layout.widths)
    assert {found.labels.device.type, found.predictions.device.type} == {"cpu"}
