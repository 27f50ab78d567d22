"""Label issues of runs: what a folder has, votes cast from its store, and the examples' files."""

from __future__ import annotations

import dataclasses
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import TensorDataset

import pdepth
from pdepth import inputs
from pdepth.io.embedding_store import open_store
from pdepth.report.record import RunRecord
from pdepth.report.run import RunOptions, run_to_folder
from pdepth.report.terminal import print_label_issues

for module in ("pyarrow", "pandas", "PIL", "torchvision"):
    pytest.importorskip(module)

K = 5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def tensors(rows: int, seed: int) -> TensorDataset:
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    inputs_ = rng.standard_normal((rows, 3, 4, 4)) + 2 * labels[:, None, None, None]
    labels[0] = 2  # a wrong one
    return TensorDataset(torch.tensor(inputs_, dtype=torch.float32), torch.from_numpy(labels))


def run(out: Path, queries: Any = None, **options: Any) -> pdepth.DepthResult:
    named = {"model": "net.py:net", "support": "npz:train data.npz"}
    kept = {"keep_embeddings": str(options.get("keep_embeddings", out / "none"))}
    finished = run_to_folder(
        network(), tensors(60, 0), queries, out, RunOptions(k=(K,), **options), progress=False,
        meta=named | RunRecord(**named, options=kept).to_meta(),
    )  # fmt: skip
    return finished.results[K]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_missing_votes_are_cast_from_the_store(tmp_path: Path, held_out: bool, metric: str) -> None:
    queries = tensors(30, 1) if held_out else None
    result = run(tmp_path / "run", queries, metric=metric, keep_embeddings=tmp_path / "kept")
    assert not result.known.all()
    store = open_store(tmp_path / "kept")
    asked = None if store.queries is None else store.queries.embeddings
    votes = pdepth.probe_votes(
        store.support.embeddings, store.support.labels, asked, k=K, metric=metric,
        return_counts=True,
    )  # fmt: skip
    expected = pdepth.label_issues(votes, result.labels)
    every: list[Any] = [tmp_path / "run", tmp_path / "run" / "depth.parquet", result]
    for source in every:
        assert pdepth.label_issues(source).score.tolist() == expected.score.tolist()
    for source in (store, tmp_path / "kept"):
        found = pdepth.label_issues(source, k=K, metric=metric)
        assert found.score.tolist() == expected.score.tolist()
    assert expected.ranked[0] == 0
    changed = np.roll(expected.label, 1)
    anew = pdepth.label_issues(result, changed)
    assert anew.label.tolist() == changed.tolist()


def test_a_store_that_has_moved_is_passed(tmp_path: Path) -> None:
    run(tmp_path / "run", keep_embeddings=tmp_path / "kept")
    expected = pdepth.label_issues(tmp_path / "run").score.tolist()
    shutil.move(tmp_path / "kept", tmp_path / "moved")
    with pytest.raises(ValueError, match="got neither; run pdepth run net.py:net"):
        pdepth.label_issues(tmp_path / "run")
    moved = pdepth.label_issues(tmp_path / "run", store=tmp_path / "moved")
    assert moved.score.tolist() == expected


def test_without_a_store_the_command_is_named_that_keeps_one(tmp_path: Path) -> None:
    result = run(tmp_path / "run")
    with pytest.raises(ValueError, match="expected a run that kept its embeddings") as raised:
        pdepth.label_issues(tmp_path / "run")
    assert (
        "pdepth run net.py:net --support 'npz:train data.npz' -k 5 --keep-embeddings DIR --out NEW"
        in str(raised.value)
    )
    with pytest.raises(ValueError, match="pass keep_embeddings=DIR to prediction_depth"):
        pdepth.label_issues(dataclasses.replace(result, meta={}))
    with pytest.raises(ValueError, match="expected a result with labels, got one without"):
        pdepth.label_issues(dataclasses.replace(result, labels=None))


def test_a_store_of_other_rows_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path / "run", keep_embeddings=tmp_path / "kept")
    for other in (
        dataclasses.replace(result, labels=np.roll(result.labels, 1)),
        dataclasses.replace(result, predictions=np.roll(result.predictions, 1)),
        dataclasses.replace(result, checksums=np.roll(result.checksums, 1)),
    ):
        with pytest.raises(ValueError, match="store: expected the (labels|predictions|inputs) of"):
            pdepth.label_issues(other)
    run(tmp_path / "held out", tensors(60, 0), keep_embeddings=tmp_path / "kept 2")
    with pytest.raises(ValueError, match="store: expected the embeddings of this run, got Embedd"):
        pdepth.label_issues(result, store=tmp_path / "kept 2")


@pytest.mark.parametrize("held_out", [False, True])
def test_all_votes_of_kept_neighbours_need_no_store(tmp_path: Path, held_out: bool) -> None:
    queries = tensors(30, 1) if held_out else None
    run(tmp_path / "kept", queries, keep_embeddings=tmp_path / "store")
    expected = pdepth.label_issues(tmp_path / "kept").score.tolist()
    result = run(tmp_path / "run", queries, early_exit=False, return_neighbors=2)
    for source in (tmp_path / "run", tmp_path / "run" / "depth.parquet", result):
        assert pdepth.label_issues(source).score.tolist() == expected
    run(tmp_path / "early", queries, return_neighbors=2)
    with pytest.raises(ValueError, match="expected a run that kept its embeddings"):
        pdepth.label_issues(tmp_path / "early")


def test_of_several_k_the_largest_is_taken(tmp_path: Path) -> None:
    options = RunOptions(k=(3, 5), keep_embeddings=tmp_path / "kept")
    run_to_folder(network(), tensors(60, 0), None, tmp_path / "run", options, progress=False)
    for k, source in ((5, tmp_path / "run"), (3, tmp_path / "run" / "depth-k3.parquet")):
        expected = pdepth.label_issues(tmp_path / "kept", k=k).score.tolist()
        assert pdepth.label_issues(source, store=tmp_path / "kept").score.tolist() == expected
    with pytest.raises(FileNotFoundError, match="RESULTS: expected a folder or a Parquet file"):
        pdepth.label_issues(tmp_path / "none")


def image_folder(root: Path) -> list[Path]:
    """Six files, in the order in which they are read."""
    from PIL import Image

    rng = np.random.default_rng(0)
    files = []
    for name in ("[b]cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            files.append(root / name / f"{number}.png")
            Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(files[-1])
    return files


def of_images(tmp_path: Path) -> tuple[pdepth.DepthResult, Any]:
    """A result of the images' folder, and its store."""
    spec = f"imagefolder:{tmp_path / 'data'}"
    data = inputs.load_data(spec)
    result = pdepth.prediction_depth(
        network(), data, k=2, keep_embeddings=tmp_path / "kept", progress=False
    )
    meta = {"support": spec, "class_names": '["[b]cat", "dog"]'}
    return dataclasses.replace(result, meta=meta), open_store(tmp_path / "kept")


def test_paths_are_those_of_the_folder_of_images(tmp_path: Path) -> None:
    files = image_folder(tmp_path / "data")
    result, store = of_images(tmp_path)
    found = pdepth.label_issues(result, store=store)
    assert found.paths == [str(file) for file in files]
    assert found.class_names == ["[b]cat", "dog"]
    table = found.to_pandas()
    assert table["path"].tolist() == [str(files[row]) for row in table["row"]]
    assert set(table["label_name"]) == {"[b]cat", "dog"}
    console = Console(file=StringIO(), width=200)
    print_label_issues(dataclasses.replace(found, threshold=-1e9), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(str(file) in printed for file in files)
    assert "[b]cat  " in printed


def test_paths_of_a_folder_that_has_moved(tmp_path: Path) -> None:
    image_folder(tmp_path / "data")
    result, store = of_images(tmp_path)
    shutil.move(tmp_path / "data", tmp_path / "new")
    with pytest.warns(UserWarning, match="label_issues: no paths: DATA imagefolder: expected an"):
        assert pdepth.label_issues(result, store=store).paths is None
    new = f"imagefolder:{tmp_path / 'new'}"
    found = pdepth.label_issues(result, store=store, data=new)
    assert found.paths is not None
    assert found.paths[0].startswith(str(tmp_path / "new"))
    (tmp_path / "new" / "dog" / "2.png").unlink()
    with pytest.raises(ValueError, match="data: expected 6 rows in imagefolder:.*, got 5"):
        pdepth.label_issues(result, store=store, data=new)


class _Folder(list[Any]):
    """A dataset with `samples`, as torchvision's ImageFolder has them."""

    def __init__(self, *samples: Any, rows: int = 2) -> None:
        super().__init__([(0.0, 0)] * rows)
        self.samples = list(samples)


def test_samples_that_are_no_files() -> None:
    """A user's dataset may name anything so: tensors, more entries, and those of other rows."""
    data: Any
    for data in (
        *(_Folder((np.zeros(3), 0), (np.ones(3), 1)), _Folder((0, 0), (1, 1))),
        *(_Folder(("a", 0, 0), ("b", 0, 1)), _Folder(("a", 0), rows=2), _Folder(rows=2)),
    ):
        assert inputs.row_paths(data) is None


def test_paths_of_a_users_own_image_folder() -> None:
    assert inputs.row_paths(_Folder(("a/x.png", 0), (Path("b/y.png"), 1))) == ["a/x.png", "b/y.png"]
    assert inputs.row_paths(tensors(3, 0)) is None
