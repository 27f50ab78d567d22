"""The file of a map: what comes back, and what is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.io.array_bundle import write_bundle
from pdepth.io.map_file import KeptMap, map_nbytes

RNG = np.random.default_rng(0)


def kept(**changed: Any) -> KeptMap:
    queries = RNG.standard_normal((7, 3, 2)).astype(np.float32)
    queries[2, :2] = np.nan
    whole = KeptMap("pca", ("a", "b", "c"), queries, RNG.random((3, 2)), np.array([1, 2.0**-90, 1]))
    return replace(whole, **changed)


HELD_OUT = {
    "support": RNG.standard_normal((9, 3, 2)).astype(np.float32),
    "support_labels": np.arange(9),
    "support_rows": np.arange(9) * 2,
}


@pytest.mark.parametrize("more", [{}, HELD_OUT])
def test_what_is_saved_comes_back_mapped(more: dict[str, Any], tmp_path: Path) -> None:
    written = kept(**more)
    written.save(tmp_path / "map.pdepth")
    opened = pdepth.open_map(tmp_path / "map.pdepth")
    assert isinstance(opened.queries, np.memmap)
    for name in (field.name for field in fields(KeptMap)):
        mine, others = getattr(written, name), getattr(opened, name)
        assert type(mine) is type(others) or isinstance(others, np.memmap)
        np.testing.assert_array_equal(mine, others)
    assert opened.searched.T.tolist()[2] == [False, False, True]
    assert opened.nbytes == written.nbytes
    assert repr(opened) == repr(written)


def test_its_size_is_foreseen() -> None:
    held_out = kept(**HELD_OUT)
    assert held_out.support is not None
    assert map_nbytes(7, 9, 3) == held_out.queries.nbytes + held_out.support.nbytes


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.pdepth"
    with pytest.raises(FileNotFoundError):
        pdepth.open_map(path)
    write_bundle(path, {"kind": "neighbors", "format": 1}, {})
    with pytest.raises(ValueError, match="expected a map that pdepth kept, got another file of it"):
        pdepth.open_map(path)
    write_bundle(path, {"kind": "map", "format": 2}, {})
    with pytest.raises(ValueError, match="expected format 1 or older, got 2"):
        pdepth.open_map(path)
    kept().save(path)
    content = bytearray(path.read_bytes())
    content[-50] ^= 1  # before the padding at the end
    path.write_bytes(content)
    with pytest.raises(ValueError, match="was changed"):
        pdepth.open_map(path)
    path.write_bytes(content[:-10])
    with pytest.raises(ValueError, match="cut short"):
        pdepth.open_map(path)
