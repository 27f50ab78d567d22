"""`pdepth run hf:DIR` and checkpoints: from folders and files to depths."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from pdepth.result import DepthResult

from helpers.commands import invoke, refusal
from helpers.image_files import image_folder
from helpers.pretrained import CLASSES, WORDS, image_processor, save_folder, tokenizer

for module in ("pyarrow", "matplotlib", "PIL", "transformers"):
    pytest.importorskip(module)


def images(root, count, seed):
    """Images of three classes in folders, and the same in the order in which they are read."""
    rng = np.random.default_rng(seed)
    by_class = {
        name: [rng.integers(0, 256, (9, 9, 3), np.uint8) for _ in range(count)]
        for name in sorted(CLASSES.values())
    }
    return image_folder(root, by_class), by_class


def texts(path, rows, seed):
    """Texts of three classes in a CSV file, and the same as pairs."""
    rng = np.random.default_rng(seed)
    pairs = [
        (" ".join(rng.choice(WORDS, rng.integers(1, 9))), CLASSES[int(rng.integers(3))])
        for _ in range(rows)
    ]
    path.write_text("words,stars\n" + "".join(f"{text},{name}\n" for text, name in pairs))
    return pairs


def saved(out):
    return DepthResult.load(out / "depth.parquet")


@pytest.mark.slow
def test_images(tmp_path):
    network = save_folder(tmp_path / "vit", "vit")
    support, _ = images(tmp_path / "train", 8, 0)
    queries, by_class = images(tmp_path / "test", 3, 1)
    arguments = ("run", f"hf:{tmp_path / 'vit'}", "--support", f"imagefolder:{support}")
    result = invoke(
        *arguments, "--queries", f"imagefolder:{queries}", "-k", 3, "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    assert "Loading weights" not in result.stderr
    depths = saved(tmp_path / "out")
    # Folders are sorted by name; classes are numbered as the network's.
    assert depths.labels.tolist() == [0] * 3 + [2] * 3 + [1] * 3
    assert json.loads(depths.meta["class_names"]) == ["no", "yes", "perhaps"]
    rows = [image for of_class in by_class.values() for image in of_class]
    with torch.no_grad():
        logits = network(**image_processor()(images=rows, return_tensors="pt")).logits
    assert depths.predictions.tolist() == logits.argmax(1).tolist()
    assert "--image-size: expected none with hf:" in refusal(
        *arguments, "--image-size", 8, "--dry-run"
    )
    shown = invoke(*arguments, "--show-probes")
    assert "probes, placed by" in shown.stdout


def test_texts(tmp_path):
    network = save_folder(tmp_path / "bert", "bert")
    texts(tmp_path / "train.csv", 30, 0)
    pairs = texts(tmp_path / "test.csv", 9, 1)
    arguments = (
        f"hf:{tmp_path / 'bert'}", "--support", f"csv:{tmp_path / 'train.csv'}",
        "--queries", f"csv:{tmp_path / 'test.csv'}", "--label-column", "stars", "-k", 3
    )  # fmt: skip
    result = invoke("run", *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    depths = saved(tmp_path / "out")
    numbers = {name: number for number, name in CLASSES.items()}
    assert depths.labels.tolist() == [numbers[name] for _, name in pairs]
    assert depths.meta["label_column"] == "stars"
    tokens = tokenizer()([text for text, _ in pairs], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = network(**tokens).logits
    assert depths.predictions.tolist() == logits.argmax(1).tolist()
    plan = invoke("plan", *arguments)
    assert plan.exit_code == 0, plan.output
    (tmp_path / "bert" / "tokenizer_config.json").unlink()
    (tmp_path / "bert" / "tokenizer.json").unlink()
    assert "expected tokenizer_config.json in" in refusal("plan", *arguments)


NETS = """
import torch
from torch.utils.data import TensorDataset

def net():
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))

def data():
    rows = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(rows, (rows[:, 0] > 0).long())

def checkpoints():
    from pathlib import Path
    folder = Path(__file__).parent
    yield folder / "0.ckpt", range(0, 5)
    yield folder / "1.ckpt", range(5, 10)
"""


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.fixture
def nets(tmp_path):
    """A user's file, and checkpoints with averages beside it."""
    (tmp_path / "nets.py").write_text(NETS)
    for number in range(2):
        states = {
            key: {f"module.{name}": tensor for name, tensor in net(seed).state_dict().items()}
            for key, seed in (("model", 2 * number), ("model_ema", 2 * number + 1))
        }
        torch.save(states, tmp_path / f"{number}.ckpt")
    return tmp_path / "nets.py"


def predictions(nets, seed):
    rows = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return net(seed)(rows).argmax(1).tolist()


def test_averaged_weights_of_a_checkpoint(tmp_path, nets):
    arguments = ("run", f"{nets}:net", "--support", f"{nets}:data", "-k", 3)
    weights = ("--weights", tmp_path / "0.ckpt")
    result = invoke(*arguments, *weights, "--out", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "Warning: weights: took 'model', not 'model_ema', of " in result.stderr
    assert "UserWarning" not in result.stderr
    assert saved(tmp_path / "a").predictions.tolist() == predictions(nets, 0)
    result = invoke(*arguments, *weights, "--ema", "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert saved(tmp_path / "b").predictions.tolist() == predictions(nets, 1)
    assert "ema (--ema): expected together with weights" in refusal(
        *arguments, "--ema", "--out", tmp_path / "c"
    )


def test_an_ensemble_of_checkpoints(tmp_path, nets):
    from pdepth.analysis.ensemble import Ensemble

    arguments = (
        "ensemble", "--data", f"{nets}:data", "--read", f"{nets}:checkpoints", "--networks", 2,
        "-k", 3
    )  # fmt: skip
    model = ("--model", f"{nets}:net")
    result = invoke(*arguments, *model, "--ema", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    ensemble = Ensemble.load(tmp_path / "out" / "ensemble.parquet")
    assert list(ensemble.names) == [0, 1]
    assert (ensemble.meta["model"], ensemble.meta["ema"]) == (f"{nets}:net", "True")
    expected = np.zeros((40, 2), int)
    for seed in (1, 3):
        expected[np.arange(40), predictions(nets, seed)] += 1
    np.testing.assert_array_equal(ensemble.predicted.sum(axis=0), expected)
    assert "pass --model MODEL" in refusal(*arguments, "--out", tmp_path / "other")
    assert "--model and --ema: expected together with --read" in refusal(
        "ensemble", "--data", f"{nets}:data", "--train", f"{nets}:net", *model
    )
