"""What works where torch is not installed: run as a script, in a process that does not find it.

    python tests/helpers/without_torch.py FOLDER

FOLDER holds what `tests/test_without_torch.py` has made by a network.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

# And what needs it, so that no test of theirs finds the libraries without what they stand on.
REFUSED = ("torch", "triton", "torchvision", "transformers", "timm", "lightly", "torchdr")
ROWS = np.random.default_rng(0).standard_normal((80, 12))
QUERIES, LABELS = ROWS[60:] + 0.25, np.arange(60) % 3


class Without:
    """A finder of modules that does not find some."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, *rest: Any) -> ModuleSpec | None:
        found = None if name.partition(".")[0] in REFUSED else self._finder.find_spec(name, *rest)
        return found  # type: ignore[no-any-return]


def refuse() -> None:
    """From now on this process is one where `REFUSED` are not installed."""
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]


def says(extra: str, call: Callable[..., object], *arguments: Any) -> None:
    """Check that a call names the extra that brings torch."""
    sentence = f"needs torch: pip install 'pdepth[{extra}]'."
    with pytest.raises(ImportError, match=f"{re.escape(sentence)}$"):
        call(*arguments)


def public_names() -> None:
    """`from pdepth import *` and help(pdepth) take what is there."""
    import pdepth

    names: dict[str, Any] = {}
    exec("from pdepth import *", names)
    inspect.getmembers(pdepth)
    assert {"probe_votes", "capture", "explain", "plot"} < set(names)
    for name in ("prediction_depth", "plan", "Plan"):
        assert name not in dir(pdepth)
        says("torch", getattr, pdepth, name)
    says("torch", pdepth.capture, object())
    assert pdepth.backends()["cpu"] == "available"
    assert pdepth.backends()["triton"] == "triton is not installed: pip install 'pdepth[gpu]'."
    with pytest.raises(ValueError, match=r"triton is not installed: pip install 'pdepth\[gpu\]'"):
        pdepth.probe_votes(ROWS, np.arange(80), k=1, backend="triton")


def arrays() -> None:
    """Votes, neighbours, an index and depths of arrays."""
    import pdepth
    from pdepth import definition

    support = ROWS[:60]
    for metric in ("sqeuclidean", "cosine", "inner_product"):
        options: dict[str, Any] = {"k": 5, "metric": metric}
        votes = pdepth.probe_votes(support, LABELS, QUERIES, **options)
        assert (votes.votes == definition.probe_votes(support, LABELS, QUERIES, **options)[0]).all()
        near = pdepth.kneighbors(support, QUERIES, **options)
        expected = definition.kneighbors(support, QUERIES, **options)
        assert all((a == b).all() for a, b in zip(near, expected, strict=True))
        with pdepth.Index(support, LABELS, metric=metric) as index:
            index.save(f"{metric}.pdepth")
        with pdepth.Index.load(f"{metric}.pdepth") as index:
            assert (index.kneighbors(QUERIES, k=5)[1] == near[1]).all()
            assert (index.votes(QUERIES, k=5).votes == votes.votes).all()
    layers, asked = [support, support**3], [QUERIES, QUERIES**3]
    result = pdepth.depth_from_embeddings(layers, LABELS, LABELS[:20], asked, k=5, early_exit=False)
    pairs = zip(layers, asked, strict=True)
    voted = np.stack([definition.probe_votes(m, LABELS, n, k=5)[0] for m, n in pairs])
    assert (result.votes == voted).all()
    assert (result.depth == pdepth.depth_from_votes(voted, LABELS[:20])[0]).all()


def stores(folder: Path) -> None:
    """Stores of embeddings that networks left, in bfloat16 too, which NumPy lacks."""
    import pdepth
    from pdepth import definition
    from pdepth.arrays.convert import to_numpy
    from pdepth.arrays.rows import BFloat16
    from pdepth.arrays.shards import Shard, Shards

    for kind in ("float32", "bfloat16"):
        expected = pdepth.DepthResult.load(folder / f"{kind}.parquet")
        store = pdepth.open_store(folder / kind)
        store.verify()
        again = pdepth.depth_from_embeddings(store, k=5, early_exit=False)
        assert (again.votes == expected.votes).all()
        assert (again.depth == expected.depth).all()
        layer = store.support.embeddings[store.probes[1]]
        assert (to_numpy(layer) == np.load(folder / f"{kind}.npy")).all()
        near = pdepth.kneighbors(layer, k=5, memory="1MB")
        assert (near[1] == definition.kneighbors(to_numpy(layer), k=5)[1]).all()
        with pdepth.Index(layer) as index:
            assert (index.kneighbors(layer[:9], k=5)[1][:, 1:] == near[1][:9, :4]).all()
            index.add(layer[:0])
            index.save(f"{kind}.pdepth")
        with pdepth.Index.load(f"{kind}.pdepth") as index:
            assert (to_numpy(index.rows) == to_numpy(layer)).all()
    assert isinstance(layer, BFloat16)
    with pytest.raises(TypeError, match="__array_ufunc__"):
        layer + 1  # of bits would be another number
    bits = np.load(folder / "bfloat16" / "support" / "01.npy")
    read = Shards([Shard("bits", bits.shape, "bfloat16", bits.dtype, bits)])
    assert (pdepth.kneighbors(read, k=5)[1] == near[1]).all()


def datasets(folder: Path) -> None:
    """Images and texts, which a report shows; as a network takes them, images are tensors."""
    from pdepth import inputs

    size = inputs.ImageOptions(4)
    data: Any = inputs.load_data(f"imagefolder:{folder / 'pictures'}", size, compare=False)
    assert data.image(0).shape == (4, 4, 3)
    assert data.original(0).shape == (6, 9, 3)
    assert inputs.row_paths(data) == [str(folder / "pictures" / "a" / "0.png")]
    says("torch", data.__getitem__, 0)
    texts: Any = inputs.load_data(f"csv:{folder / 'texts.csv'}")
    assert texts[1] == {"text": "two", "label": 1}


def commands(folder: Path) -> None:
    """Commands on a run that kept neighbours and embeddings, and those that take a network."""
    from typer.testing import CliRunner

    from pdepth.cli import app
    from pdepth.report.view import View, serving

    def ran(*words: object) -> Any:
        return CliRunner().invoke(app, [str(word) for word in words])

    out = folder / "run"
    for words in (
        ("report", out, "--pdf"),
        ("compare", out, out, "--names", "a,b", "--out", folder / "compared"),
        ("explain", out, 3, 5, "--out", folder / "why"),
        ("label-issues", out),
        ("label-issues", folder / "float32", "--out", folder / "issues.csv"),
    ):
        done = ran(*words)
        assert done.exit_code == 0, (words, done.output)
        assert "no pictures" not in done.output, done.output
    assert "data:image/" in (out / "report.html").read_text()
    with serving(View(out)) as address, urlopen(address) as answer:
        assert b"<html" in answer.read()
    for needy in (
        ("run", "nets.py:net", "--support", "npz:digits.npz", "--out", folder / "never"),
        ("plan", "nets.py:net", "--support", "npz:digits.npz"),
        ("run", "nets.py:net", "--show-probes"),
        ("demo", "--out", folder / "never"),
        ("ensemble", "--out", folder / "never"),
    ):
        done = ran(*needy)
        assert done.exit_code == 2, (needy, done.output)
        assert done.stderr.count("\n") == 1, done.stderr
        extra = "demo" if needy[0] in ("demo", "ensemble") else "torch"
        assert done.stderr.endswith(f" needs torch: pip install 'pdepth[{extra}]'.\n"), done.stderr
    assert not (folder / "never").exists()


def libraries() -> None:
    """Drop-ins whose library does not need torch, and analysis that needs no network."""
    from pdepth.analysis.fragments import neighbourhood_agreement
    from pdepth.analysis.neighbourhood import hubs
    from pdepth.analysis.outputs import softmax
    from pdepth.compat import faiss, sklearn

    classifier = sklearn.KNeighborsClassifier(5).fit(ROWS[:60], LABELS)
    assert classifier.predict(QUERIES).shape == (20,)
    index = faiss.IndexFlatL2(12)
    index.add(ROWS[:60].astype("float32"))
    assert index.search(QUERIES.astype("float32"), 5)[1].shape == (20, 5)
    neighbourhood_agreement(ROWS[:60], np.arange(60.0), fragments=4)
    hubs(ROWS[:60], labels=LABELS, k=5)
    assert np.allclose(softmax(ROWS).sum(1), 1)
    for name in ("nn_example_difficulty", "cleanlab", "presets", "umap"):
        if find_spec(name) or name in ("nn_example_difficulty", "presets"):
            importlib.import_module(f"pdepth.compat.{name}")


def networks() -> None:
    """What takes a network says what is missing, from wherever it is imported."""
    import pdepth.demo
    from pdepth import inputs
    from pdepth.analysis import ensemble_file, networks, outputs
    from pdepth.analysis.training import Recorder

    modules = ("depth", "planning", "embeddings.placement", "report.probes", "compat.dino")
    for module in modules:
        says("torch", importlib.import_module, f"pdepth.{module}")
    says("torchdr", importlib.import_module, "pdepth.compat.torchdr")
    says("torch", outputs.outputs, object(), object())
    says("torch", getattr, inputs, "load_model")
    says("torch", getattr, pdepth.demo, "run_demo")
    says("demo", pdepth.demo.moved_digits)
    says("torch", ensemble_file.EnsembleSettings("x").meta)
    says("torch", lambda: next(networks.measure_all([(0, object(), [0])], [1, 2])))
    says("torch", lambda: Recorder([(1, 0)]).record(object(), 0))


def files_of_tests() -> None:
    """Exactly those files of tests that are said to need torch cannot be imported."""
    tests = Path(__file__).parents[1]
    sys.path.insert(0, str(tests))
    package = ModuleType("tests")  # not another's of this name, which lies beside pdepth
    package.__path__ = [str(tests)]
    sys.modules["tests"] = package
    from helpers.torch_or_skip import NEED_TORCH

    found = []
    for path in tests.rglob("test_*.py"):
        name = path.relative_to(tests)
        try:
            importlib.import_module(".".join(["tests", *name.with_suffix("").parts]))
        except ImportError as error:
            if (error.name or "").partition(".")[0] not in REFUSED:
                raise
            found.append(str(name))
        except pytest.skip.Exception:
            pass  # for want of another library, as everywhere
    listed = sorted(str(Path(name)) for name in NEED_TORCH)
    assert sorted(found) == listed, set(found) ^ set(listed)


def main(folder: Path) -> None:
    refuse()
    public_names()
    arrays()
    stores(folder)
    libraries()
    networks()
    datasets(folder)
    commands(folder)
    files_of_tests()
    assert not [name for name in REFUSED if name in sys.modules]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
