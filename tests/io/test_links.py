"""Stores and runs that were moved, copied or are reached by a link."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import pdepth

from helpers.spans import QUERIES, K, depth, same

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows makes links as administrator")

WAYS: dict[str, Callable[[Path, Path], object]] = {
    "copy": shutil.copytree,
    "move": shutil.move,
    "link": lambda path, other: other.symlink_to(path),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_store_elsewhere_is_the_same(way: str, tmp_path: Path) -> None:
    expected = depth(queries=QUERIES, keep_embeddings=tmp_path / "kept")
    WAYS[way](tmp_path / "kept", tmp_path / "other")
    store = pdepth.open_store(tmp_path / "other")
    store.verify()
    same(pdepth.depth_from_embeddings(store, k=K), expected)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_elsewhere_is_the_same(way: str, tmp_path: Path) -> None:
    options = {"queries": QUERIES, "early_exit": False}
    expected = depth(run_dir=tmp_path / "run", **options)
    WAYS[way](tmp_path / "run", tmp_path / "other")
    reading = (tmp_path / "other" / "reading.npz").stat().st_mtime_ns
    same(depth(run_dir=tmp_path / "other", **options), expected)
    assert (tmp_path / "other" / "reading.npz").stat().st_mtime_ns == reading  # not begun anew
