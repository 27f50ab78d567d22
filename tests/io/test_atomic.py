"""Where a file is written: what is no regular file is refused in a sentence, and stays as it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.analysis import export
from pdepth.analysis.training import Training
from pdepth.compat import faiss
from pdepth.io.atomic import check_ours, replacing, replacing_folder
from pdepth.report.html import page
from pdepth.result import DepthResult

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


def result() -> DepthResult:
    return pdepth.depth_from_embeddings([ROWS, ROWS], [0, 1] * 3, [0, 1] * 3, k=1)


def flat_index() -> Any:
    index = faiss.IndexFlatL2(2)
    index.add(ROWS)
    return index


def training() -> Training:
    votes = np.zeros((2, 6), np.int64)
    return Training(np.arange(2), votes, np.zeros(6, np.int64), np.arange(6))


WRITERS: dict[str, Callable[[Any], object]] = {
    "kept.index": lambda path: pdepth.Index(ROWS).save(path),
    "faiss.index": lambda path: faiss.write_index(flat_index(), path),
    "depth.parquet": lambda path: result().save(path),
    "training.npz": lambda path: training().save(path),
    "table.csv": lambda path: export.write(export.table(result()), path),
    "depth.png": lambda path: pdepth.plot(result(), path),
    "report.html": lambda path: page.write(result(), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_is_no_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir()
    sentence = f"{path}: expected the path of a file, got a folder."
    with pytest.raises(IsADirectoryError) as raised:
        WRITERS[name](path)
    assert str(raised.value) == sentence
    assert [each.name for each in tmp_path.rglob("*")] == [name]  # and nothing is left beside it


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no mkfifo")
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("name", WRITERS)
def test_what_a_rename_would_take_away_is_refused(name: str, linked: bool, tmp_path: Path) -> None:
    """A pipe here, which needs no administrator; /dev/full would be replaced in the same way."""
    path = tmp_path / name
    pipe = tmp_path / "pipe" if linked else path
    os.mkfifo(pipe)
    if linked:
        path.symlink_to(pipe)
    with pytest.raises(FileExistsError, match=f"{name}: expected a regular file or none, got a de"):
        WRITERS[name](path)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert {each.name for each in tmp_path.iterdir()} == {name, pipe.name}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("path", [None, 3, b"x"])
def test_what_is_no_path_is_said(name: str, path: Any) -> None:
    with pytest.raises(TypeError, match=f"^path: expected a path, got {path!r}\\.$"):
        WRITERS[name](path)


@pytest.mark.skipif(os.name != "posix", reason="Windows makes links as administrator")
def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    with replacing(link) as temporary:
        temporary.write_text("after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    hanging = tmp_path / "hanging"
    hanging.symlink_to(tmp_path / "new")
    with replacing(hanging) as temporary:
        temporary.write_text("new")
    assert hanging.is_symlink()
    assert (tmp_path / "new").read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="Windows makes links as administrator")
def test_a_link_to_a_folder_stays_too(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.mkdir()
    (target / "old").touch()
    link.symlink_to(target)
    with replacing_folder(link, lambda path: True) as temporary:
        (temporary / "new").touch()
    assert link.is_symlink()
    assert [each.name for each in target.iterdir()] == ["new"]
    assert {each.name for each in tmp_path.iterdir()} == {"target", "link"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no mkfifo")
def test_a_pipe_is_no_folder_that_may_be_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="pipe: expected a folder, got a device, a pipe"):
        check_ours(tmp_path / "pipe", lambda path: True)


@pytest.mark.parametrize(
    ("path", "error", "sentence"),
    [
        (".", IsADirectoryError, "expected the path of a file, got a folder."),
        (None, TypeError, "path: expected a path, got None."),
    ],
)
def test_an_index_is_loaded_from_a_file(path: Any, error: Any, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        pdepth.Index.load(path)
