"""MODEL, its weights, and functions in a user's file: what each form opens, and each mistake."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pdepth.inputs import ImageOptions, load_data, load_model, network_of


def small_network(classes: int) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.get_model("squeezenet1_1", num_classes=classes)


def test_torchvision_takes_the_number_of_classes_from_the_weights(tmp_path):
    trained = small_network(7)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    model = load_model("torchvision:squeezenet1_1", tmp_path / "w.pt")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_timm_takes_the_number_of_classes_whatever_the_order_in_the_file(tmp_path):
    timm = pytest.importorskip("timm")
    trained = timm.create_model("test_resnet", num_classes=7)
    state = dict(sorted(trained.state_dict().items()))  # safetensors sorts: `fc` is not the last
    torch.save(state, tmp_path / "w.pt")
    model = load_model("timm:test_resnet", tmp_path / "w.pt")
    assert model.num_classes == 7
    assert ImageOptions.for_model(model).mean == tuple(trained.pretrained_cfg["mean"])


def test_safetensors(tmp_path, user_file):
    safetensors = pytest.importorskip("safetensors.torch")
    state = load_model(f"{user_file}:net").state_dict()
    state["0.bias"] = torch.tensor([1.0, 2.0, 3.0])
    safetensors.save_file(state, tmp_path / "w.safetensors")
    model = load_model(f"{user_file}:net", tmp_path / "w.safetensors")
    assert model.state_dict()["0.bias"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    ],
    ids=["checkpoint", "parallel checkpoint", "parallel compiled"],
)
def test_wrapped_weights(tmp_path, user_file, wrap):
    state = load_model(f"{user_file}:net").state_dict()
    state["0.bias"] = torch.tensor([1.0, 2.0, 3.0])
    torch.save(wrap(state), tmp_path / "w.pth")
    model = load_model(f"{user_file}:net", tmp_path / "w.pth")
    assert model.state_dict()["0.bias"].tolist() == [1, 2, 3]


def test_weights_that_do_not_fit(tmp_path, user_file):
    state = load_model(f"{user_file}:net").state_dict()
    state["extra"] = state.pop("0.bias")
    state["2.weight"] = torch.zeros(9, 9)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="expected the tensors of") as error:
        load_model(f"{user_file}:net", tmp_path / "w.pt")
    assert str(error.value) == (
        f"weights: expected the tensors of {user_file}:net, got {tmp_path / 'w.pt'} with 1 missing "
        "(first: 0.bias), 1 unexpected (first: extra), 1 of another shape (first: 2.weight, (9, 9) "
        "in the file, (2, 3) in the model); build the network that was saved, or pass this one's "
        "own weights."
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"expected a state dict that torch\.load.*got .*w\.pt"),
        (b"no weights", r"expected a state dict that torch\.load.*got .*w\.pt"),
        (b"PK\x03\x04 broken", r"expected .*w\.pt as torch\.save wrote it.*; copy or download it"),
    ],
)
def test_weights_that_cannot_be_read(tmp_path, user_file, content, sentence):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        load_model(f"{user_file}:net", tmp_path / "w.pt")


def test_weights_that_hold_code_or_no_tensors(tmp_path, user_file):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(ValueError, match="expected a state dict that"):
        load_model(f"{user_file}:net", tmp_path / "w.pt")
    torch.save({"a": 1}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="expected a state dict .tensors by name. in .*, got none"):
        load_model(f"{user_file}:net", tmp_path / "w.pt")


def test_model_mistakes(tmp_path, user_file):
    with pytest.raises(ValueError, match="MODEL: expected torchvision:NAME, .*got 'resnet18'"):
        load_model("resnet18")
    with pytest.raises(ValueError, match=r"model, got 'resnet81'; did you mean resnet18"):
        load_model("torchvision:resnet81", untrained=True)
    with pytest.raises(ValueError, match="expected trained weights, .*; pass --weights FILE"):
        load_model("torchvision:resnet18")
    with pytest.raises(FileNotFoundError, match=r"weights: expected an existing .*gone\.pt"):
        load_model(f"{user_file}:net", tmp_path / "gone.pt")
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module from .*:data, got TensorDataset"):
        load_model(f"{user_file}:data")


def test_user_file_gives_a_model_and_data(user_file):
    assert isinstance(load_model(f"{user_file}:net"), nn.Sequential)
    data = load_data(f"{user_file}:data")
    assert isinstance(data, TensorDataset)
    assert len(data) == 5


def test_user_file_mistakes(tmp_path, user_file):
    with pytest.raises(FileNotFoundError, match=r"MODEL: expected an existing file, .*gone\.py"):
        load_model(f"{tmp_path / 'gone.py'}:net")
    with pytest.raises(ValueError, match=r"expected a function of mine\.py, got 'other'"):
        load_model(f"{user_file}:other")
    with pytest.raises(ValueError, match=r"expected a function of mine\.py, got 'text'"):
        load_model(f"{user_file}:text")
    with pytest.raises(TypeError, match="expected a torch Dataset or DataLoader from .*, got int"):
        load_data(f"{user_file}:number")


def test_a_bug_in_the_users_file_keeps_its_traceback(tmp_path, user_file):
    with pytest.raises(RuntimeError, match=":broken failed") as error:
        load_data(f"{user_file}:broken")
    assert str(error.value.__cause__) == "inside"
    (tmp_path / "bad.py").write_text("import nothing_of_this_name")
    for _ in range(2):  # a failed import is not remembered as a module
        with pytest.raises(RuntimeError, match="failed while it was imported"):
            load_model(f"{tmp_path / 'bad.py'}:net")


def test_the_network_in_a_skorch_net(tmp_path):
    skorch = pytest.importorskip("skorch")
    net = skorch.NeuralNetClassifier(nn.Linear, module__in_features=3, module__out_features=2)
    with pytest.raises(ValueError, match=r"expected a fitted skorch net, got .*; call net\.fit"):
        network_of(net)
    net.initialize()
    assert network_of(net) is net.module_
    file = tmp_path / "mine.py"
    file.write_text(
        "import skorch, torch\n"
        "def net():\n"
        "    options = dict(module__in_features=3, module__out_features=2)\n"
        "    return skorch.NeuralNetClassifier(torch.nn.Linear, **options).initialize()\n"
        "def unfitted():\n"
        "    return skorch.NeuralNetClassifier(torch.nn.Linear)\n"
    )
    net.save_params(f_params=str(tmp_path / "w.pt"))
    model = load_model(f"{file}:net", tmp_path / "w.pt")
    assert torch.equal(model.weight, net.module_.weight)
    with pytest.raises(ValueError, match="MODEL: expected a fitted skorch net"):
        load_model(f"{file}:unfitted")


def test_a_lightning_module_is_a_network(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")
    module = lightning.LightningModule()
    assert network_of(module) is module


def test_what_is_no_network():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got a dict"):
        network_of({})
    with pytest.raises(TypeError, match="network: expected a torch.nn.Module, got None"):
        network_of(None, "network")
    with pytest.raises(TypeError, match=r"got the class Linear; pass an object of it, Linear\("):
        network_of(nn.Linear)


def test_the_number_of_classes_behind_a_prefix(tmp_path):
    trained = small_network(7).state_dict()
    state = {f"net.{name}": tensor for name, tensor in trained.items()}
    torch.save({"state_dict": state, "model_ema": state}, tmp_path / "w.ckpt")
    with pytest.warns(UserWarning, match="took 'model_ema'"):
        model = load_model("torchvision:squeezenet1_1", tmp_path / "w.ckpt", ema=True)
    assert all(torch.equal(t, trained[name]) for name, t in model.state_dict().items())
