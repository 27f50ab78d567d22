"""pdepth where torch is not installed: all that needs no network works, and the rest says why not.

The guards of what an import brings are here too; times are in docs/install.md.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pdepth
from pdepth.arrays.convert import to_numpy
from pdepth.optional import imported_later

from helpers.commands import invoke
from helpers.torch_or_skip import torch

HELPERS = Path(__file__).parent / "helpers"
NETWORK = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))
"""
# What takes long to import, and is not needed for votes, help or the version.
HEAVY = {
    *("torch", "triton", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "plotly", "PIL"),
    *("ray", "psutil", "filelock", "rich", "pydantic", "importlib.metadata", "asyncio"),
    *("pdepth.cluster.voter", "pdepth.embeddings", "pdepth.inputs", "pdepth.report.html"),
}


def kept_by_a_network(folder: Path, kind: torch.dtype) -> None:
    """A store of embeddings, the depths that they have, and one layer as NumPy sees it."""
    torch.manual_seed(1)
    nn = torch.nn
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).to(kind)
    data = torch.utils.data.TensorDataset(torch.randn(40, 8).to(kind), torch.arange(40) % 3)
    name = str(kind).removeprefix("torch.")
    result = pdepth.prediction_depth(
        network, data, k=5, early_exit=False, keep_embeddings=folder / name, progress=False
    )
    result.save(folder / f"{name}.parquet")
    store = pdepth.open_store(folder / name)
    np.save(folder / f"{name}.npy", to_numpy(store.support.embeddings[store.probes[1]]))


def test_without_torch_all_that_needs_no_network_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pyarrow", "pandas", "plotly", "matplotlib", "PIL", "sklearn"):
        pytest.importorskip(module)
    from PIL import Image

    for kind in (torch.float32, torch.bfloat16):
        kept_by_a_network(tmp_path, kind)
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETWORK)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    np.savez("digits.npz", x=images, y=np.arange(40) % 3)
    Path("texts.csv").write_text("text,label\none,0\ntwo,1\n")
    Path("pictures", "a").mkdir(parents=True)
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(Path("pictures", "a", "0.png"))
    out = ("--out", "run", "--all-votes", "--keep-neighbors", 5, "-k", 5, "-q")
    ran = invoke("run", "nets.py:net", "--support", "npz:digits.npz", "--weights", weights(), *out)
    assert ran.exit_code == 0, ran.output
    done = subprocess.run(
        [sys.executable, HELPERS / "without_torch.py", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout


def weights() -> str:
    torch.manual_seed(0)
    nn = torch.nn
    torch.save(
        nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3)).state_dict(),
        "net.pt",
    )
    return "net.pt"


@pytest.mark.parametrize(
    "code",
    [
        "import pdepth",
        "import pdepth, numpy; pdepth.probe_votes(numpy.eye(9), numpy.arange(9), k=2)",
        "from pdepth.cli import app; app(['--help'], standalone_mode=False)",
        "from pdepth.cli import app; app(['--version'], standalone_mode=False)",
    ],
)
def test_an_import_brings_nothing_heavy(code: str) -> None:
    """What `import pdepth`, a search and `pdepth --help` take is NumPy, typer and pdepth."""
    brought = (
        f"{code}\nimport sys\nfound = sorted({HEAVY!r} & set(sys.modules))\nassert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", brought], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_module_that_is_missing_is_not_taken_for_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "takes_another.py").write_text("import nothing_of_this_name")
    (tmp_path / "takes_torch.py").write_text("import torch")
    get = imported_later("here", {"a": "takes_another", "b": "takes_torch"})
    with pytest.raises(ModuleNotFoundError, match="No module named 'nothing_of_this_name'"):
        get("a")
    with pytest.raises(ImportError, match=r"here.b needs torch: pip install 'pdepth\[torch\]'"):
        get("b")
