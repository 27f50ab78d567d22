"""Checkpoints: every place and name of weights that is read, and the sentence for each mistake."""

from __future__ import annotations

import argparse
import collections
import json
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from pdepth.inputs import find_state, load_model, load_state, read_checkpoint, read_state
from pdepth.inputs.checkpoints import FOLDER_FILES


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def is_loaded(model, state):
    own = model.state_dict()
    assert list(own) == list(state)
    return all(torch.equal(own[name], tensor) for name, tensor in state.items())


TRAINED = net(1).state_dict()
AVERAGED = net(2).state_dict()


@pytest.mark.parametrize(
    "key",
    ["model", "state_dict", "model_state_dict", "net", "network", "ema", "model_ema",
     "state_dict_ema"],
)  # fmt: skip
def test_entries_of_a_checkpoint(tmp_path, key):
    torch.save({key: TRAINED, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "w.pt")
    model = net()
    load_state(model, read_state(tmp_path / "w.pt"))
    assert is_loaded(model, TRAINED)
    nested = {"epoch": 3, "model": {key: TRAINED, "updates": 7}}
    assert find_state(nested) == TRAINED


def test_a_configuration_of_that_name_is_no_state():
    checkpoint = {"model": {"name": "resnet", "depth": 18}, "net": TRAINED}
    assert find_state(checkpoint) == TRAINED


@pytest.mark.parametrize("key", ["ema", "model_ema", "state_dict_ema"])
def test_averaged_weights_are_taken_on_request(tmp_path, key):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": TRAINED, key: {"module": AVERAGED, "updates": 9}}, path)
    sentence = rf"weights: took 'state_dict', not '{key}.module', of .*w.pt; pass ema=True"
    with pytest.warns(UserWarning, match=sentence):
        state = read_state(path)
    assert torch.equal(state["0.weight"], TRAINED["0.weight"])
    with pytest.warns(
        UserWarning, match=rf"took '{key}.module', not 'state_dict', of .*; leave out"
    ):
        state = read_state(path, ema=True)
    assert torch.equal(state["0.weight"], AVERAGED["0.weight"])


def test_averages_that_are_not_there(tmp_path, user_file):
    torch.save({"model": TRAINED}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="expected averaged weights under ema, .*leave out ema"):
        read_state(tmp_path / "w.pt", ema=True)
    with pytest.raises(ValueError, match=r"ema \(--ema\): expected together with weights"):
        load_model(f"{user_file}:net", ema=True)


def test_averages_of_torch():
    averaged = torch.optim.swa_utils.AveragedModel(net(2))
    model = net()
    with pytest.warns(UserWarning, match="left out what is not under 'module.*: n_averaged"):
        load_state(model, averaged.state_dict())
    assert is_loaded(model, AVERAGED)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "net.", "network.", "module._orig_mod.", "model.module.",
     "model._orig_mod.", "_orig_mod.module."],
)  # fmt: skip
def test_prefixes(prefix):
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_state(model, prefixed(prefix, TRAINED))
    assert is_loaded(model, TRAINED)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_wrapped_models_take_plain_weights_and_their_own(wrap):
    for state in (TRAINED, wrap(net(1)).state_dict()):
        model = net()
        load_state(wrap(model), state)
        assert is_loaded(model, TRAINED)


def test_a_compiled_part():
    model, other = net(), net(1)
    other[0] = torch.compile(other[0])
    assert "0._orig_mod.weight" in other.state_dict()
    load_state(model, other.state_dict())
    assert is_loaded(model, TRAINED)
    load_state(other, AVERAGED)
    assert torch.equal(other[0]._orig_mod.weight, AVERAGED["0.weight"])


def test_a_prefix_that_is_the_models_own_stays():
    class Outer(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.module = net(seed)

    model, trained = Outer(0), Outer(1).state_dict()
    for state in (trained, prefixed("module.", trained), prefixed("model.", trained)):
        load_state(model, state)
        assert is_loaded(model, trained)


def test_what_a_training_module_has_beside_its_network_is_named():
    state = {**prefixed("model.", TRAINED), "loss.weight": torch.ones(2), "steps": torch.ones(1)}
    model = net()
    sentence = "left out what is not under 'model.', and no part of mine: loss.weight, steps."
    with pytest.warns(UserWarning, match=re.escape(sentence)):
        load_state(model, state, name="mine")
    assert is_loaded(model, TRAINED)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s | {"model.extra": torch.ones(1)}, "1 unexpected (first: extra)"),
        (
            lambda s: {n: t for n, t in s.items() if n != "model.0.bias"},
            "1 missing (first: 0.bias)",
        ),
        (
            lambda s: s | {"model.3.weight": torch.ones(5, 3)},
            "1 of another shape (first: 3.weight, (5, 3) in the file, (2, 3) in the model)",
        ),
    ],
)
def test_nothing_under_a_prefix_is_left_out(change, sentence):
    model, state = net(), prefixed("model.", TRAINED) | {"loss.weight": torch.ones(2)}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_state(model, change(state))
    assert is_loaded(model, before)  # untouched by what did fit


def test_another_prefix_is_named():
    state = prefixed("student.", TRAINED) | prefixed("teacher.", AVERAGED)
    with pytest.raises(ValueError, match=r"all are there under 'student\.': pass \{name.remove"):
        load_state(net(), state)


def test_lightning_checkpoint(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net(1)
            self.loss = nn.CrossEntropyLoss(weight=torch.ones(2))

        def training_step(self, batch, _):
            return self.loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    rows = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.arange(8) % 2)
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = read_state(tmp_path / "last.ckpt")
    whole, model = Module(), net()
    load_state(whole, state)
    assert is_loaded(whole, module.state_dict())
    with pytest.warns(UserWarning, match="left out what is not under 'net.*: loss.weight"):
        load_state(model, state)
    assert is_loaded(model, module.net.state_dict())


def test_norms_of_before_they_counted_batches():
    model = net()
    load_state(model, {n: t for n, t in TRAINED.items() if "num_batches" not in n})
    assert torch.equal(model[1].running_var, TRAINED["1.running_var"])


def test_hooks_of_a_model_translate_names_before_they_are_judged():
    class Renamed(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.body, self.head = net(seed), nn.Linear(2, 2)
            self.register_load_state_dict_pre_hook(self._translate)

        @staticmethod
        def _translate(module, state, prefix, *_):
            for name in [n for n in state if n.startswith(prefix + "classifier.")]:
                state[name.replace("classifier.", "head.")] = state.pop(name)

    trained = Renamed(1).state_dict()
    old = {name.replace("head.", "classifier."): tensor for name, tensor in trained.items()}
    assert set(old) != set(trained)
    for state in (old, prefixed("model.", old)):
        model = Renamed(0)
        load_state(model, state)
        assert is_loaded(model, trained)
    with pytest.raises(ValueError, match=r"with 1 missing \(first: head.bias\); build"):
        load_state(Renamed(0), {n: t for n, t in old.items() if n != "classifier.bias"})


def test_old_names_of_densenet():
    torchvision = pytest.importorskip("torchvision")

    def densenet(seed):
        torch.manual_seed(seed)
        return torchvision.models.DenseNet(4, (1, 1, 1, 1), 8, num_classes=2)

    trained = densenet(1).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): tensor
        for name, tensor in trained.items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    model = densenet(0)
    load_state(model, prefixed("module.", old))
    assert is_loaded(model, trained)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_hooks_that_ask_for_the_version_of_a_module(tmp_path, suffix):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(1)
    trained = torchvision.models.mnasnet0_5(num_classes=2).state_dict()
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        wrapped = nn.ModuleDict({"model": torchvision.models.mnasnet0_5(num_classes=2)})
        wrapped["model"].load_state_dict(trained)
        torch.save({"state_dict": wrapped.state_dict()}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(trained, path)
    assert is_loaded(load_model("torchvision:mnasnet0_5", path), trained)


def test_tied_weights_are_saved_once():
    class Tied(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

    trained = Tied(1).state_dict()
    model = Tied(0)
    load_state(model, {n: t for n, t in trained.items() if n != "second.weight"})
    assert is_loaded(model, trained)
    with pytest.raises(ValueError, match=r"1 missing \(first: second.bias\)"):
        load_state(model, {n: t for n, t in trained.items() if n != "second.bias"})


def test_values_that_training_scripts_save_beside_weights(tmp_path):
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.9), "epoch": np.int64(3)}
    torch.save({"model": TRAINED, **beside}, tmp_path / "w.pt")
    assert torch.equal(read_state(tmp_path / "w.pt")["0.weight"], TRAINED["0.weight"])
    assert read_checkpoint(tmp_path / "w.pt")["args"] == beside["args"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_shards_and_folders(tmp_path, name):
    parts = {"1-of-2": list(TRAINED)[:3], "2-of-2": list(TRAINED)[3:]}
    files = {}
    for part, names in parts.items():
        file = f"{name.split('.')[0]}-{part}.{name.split('.')[1]}"
        state = {name: TRAINED[name] for name in names}
        if name.endswith(".bin"):
            torch.save(state, tmp_path / file)
        else:
            pytest.importorskip("safetensors.torch").save_file(state, tmp_path / file)
        files |= dict.fromkeys(names, file)
    index = tmp_path / f"{name}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    for path in (tmp_path, index, str(index)):
        state = read_state(path)
        assert {n: t.tolist() for n, t in state.items()} == {
            n: t.tolist() for n, t in TRAINED.items()
        }
    index.write_text(json.dumps({"weight_map": files | {"9.weight": files["0.weight"]}}))
    with pytest.raises(ValueError, match=r"expected 9\.weight in .* as .*index\.json says"):
        read_state(tmp_path)
    (tmp_path / files["0.weight"]).unlink()
    with pytest.raises(FileNotFoundError, match="expected the shard .*copy all 2 into its folder"):
        read_state(tmp_path)
    for content in ("no json", "[]", "{}", '{"weight_map": {"a": "../b.bin"}}'):
        index.write_text(content)
        with pytest.raises(ValueError, match="expected an index of shards .*; pass the file of"):
            read_state(tmp_path)


def change(path, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("name", ["w.pt", "last.ckpt", "pytorch_model.bin"])
def test_a_byte_that_torch_does_not_miss_is_refused(tmp_path, name):
    path = tmp_path / name
    torch.save({"model": TRAINED, "epoch": 3}, path)
    weight = TRAINED["0.weight"].numpy()
    change(path, weight.tobytes(), (-weight).tobytes())
    assert torch.equal(torch.load(path)["model"]["0.weight"], -TRAINED["0.weight"])
    what = (
        rf"damaged archive \(Bad CRC-32 for file '{path.stem}/data/0'\); copy or download it anew"
    )
    sentence = rf"^weights: expected {path} as torch\.save wrote it, got a {what}\.$"
    for read in (read_checkpoint, read_state):
        with pytest.raises(ValueError, match=sentence):
            read(path)
    if name in FOLDER_FILES:
        with pytest.raises(ValueError, match=sentence):
            read_state(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    files = {name: f"w-{number}.bin" for number, name in enumerate(TRAINED)}
    for name, file in files.items():
        torch.save({name: TRAINED[name]}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    read_state(tmp_path)
    values = TRAINED["3.weight"].numpy().tobytes()
    change(tmp_path / files["3.weight"], values, values[::-1])
    with pytest.raises(ValueError, match=rf"expected .*{files['3.weight']} as torch.save wrote it"):
        read_state(tmp_path)


def test_a_record_that_torch_takes_for_a_directory_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(TRAINED, path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"w/data/0", content.index(b"PK\1\2"))
    content[entry - 8] ^= 0x10  # of its attributes
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pt as .* \(Bad attributes of file 'w/data/0'\);"):
        read_state(path)


def test_a_download_that_was_cut_short(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(TRAINED, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"w\.pt as torch\.save wrote it.*; copy or download it"):
        read_state(path)


def test_archives_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TRAINED, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    model = net()
    load_state(model, read_state(tmp_path / "w.pt"))
    assert is_loaded(model, TRAINED)


def test_folders_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected one of model\.safeten.*; pass the file"):
        read_state(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="format_utils dcp_to_torch"):
        read_state(tmp_path)


class Mine:
    """What a checkpoint may hold, and torch.load does not read."""


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(net(), path)
    with pytest.raises(
        ValueError, match=r"which holds objects of torch\.nn.*; save one with torch"
    ):
        read_state(path)
    torch.save({"model": TRAINED, "mine": Mine()}, path)
    with pytest.raises(ValueError, match=r"objects of .*Mine; save one"):
        read_state(path)
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="expected a state dict that torch.load"):
        read_state(tmp_path / "w.safetensors")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_archives_of_programs(tmp_path):
    path = tmp_path / "w.pt"
    torch.jit.save(torch.jit.script(net()), path)
    with pytest.raises(ValueError, match=r"got the TorchScript archive .*torch\.jit\.load\(path\)"):
        read_state(path)
    program = torch.export.export(net().eval(), (torch.ones(2, 4),))
    torch.export.save(program, tmp_path / "w.pt2")
    with pytest.raises(ValueError, match=r"got the torch\.export archive .*export\.load\(path\)"):
        read_state(tmp_path / "w.pt2")


@pytest.mark.parametrize(
    ("checkpoint", "sentence"),
    [
        ({}, "expected a state dict (tensors by name), got none; save one"),
        (net(), "got a Sequential; pass its state_dict()"),
        ([TRAINED], "got a list; save one"),
        (
            {"generator": TRAINED, "epoch": 3},
            "got none under state_dict, model_state_dict, model, net, network, module, ema, "
            "model_ema, state_dict_ema but generator, epoch; save its entry alone.",
        ),
    ],
)
def test_what_holds_no_state(checkpoint, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        find_state(checkpoint)


def test_versions_of_modules_stay_beside_the_tensors(tmp_path):
    torch.save(prefixed("model.", {}) | {"state_dict": TRAINED}, tmp_path / "w.pt")
    state = read_state(tmp_path / "w.pt")
    assert isinstance(state, collections.OrderedDict)
    assert state._metadata == TRAINED._metadata
