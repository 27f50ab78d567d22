"""Named arrays in one file: back as they were, or a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdepth.io import array_bundle
from pdepth.io.array_bundle import ALIGNMENT, read_bundle, write_bundle

ARRAYS: dict[str, Any] = {
    "rows": np.arange(35, dtype=np.float32).reshape(5, 7),
    "none": np.empty((0, 4), np.int64),
    "bytes": np.arange(3, dtype=np.uint8),
    "every other": np.arange(20)[::2],
}


def test_arrays_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 1 << 24):  # chunks of a row, and whole arrays
        monkeypatch.setattr(array_bundle, "CHUNK_BYTES", size)
        write_bundle(tmp_path / "file", {"name": "as it is", "number": 3}, ARRAYS)
        about, arrays = read_bundle(tmp_path / "file")
        assert about == {"name": "as it is", "number": 3}
        assert list(arrays) == list(ARRAYS)
        for name, array in arrays.items():
            assert array.dtype == ARRAYS[name].dtype
            assert np.array_equal(array, ARRAYS[name])
            if array.size:
                assert array.ctypes.data % ALIGNMENT == 0
                assert not array.flags.writeable
    assert os.path.getsize(tmp_path / "file") % ALIGNMENT == 0


def test_a_file_that_is_replaced_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header and the arrays are those of one file."""
    file, read_header = tmp_path / "file", array_bundle._read_header
    write_bundle(file, {}, {"rows": np.zeros(50)})

    def meanwhile(*given: Any) -> Any:
        found = read_header(*given)
        write_bundle(file, {}, {"rows": np.ones(50)})
        return found

    monkeypatch.setattr(array_bundle, "_read_header", meanwhile)
    assert (read_bundle(file)[1]["rows"] == 0).all()
    monkeypatch.undo()
    assert (read_bundle(file)[1]["rows"] == 1).all()


@pytest.mark.skipif(os.name == "nt", reason="Windows cuts no file that is mapped")
def test_a_map_that_is_cut_short_while_it_is_written(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones(100_000))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    write_bundle(tmp_path / "file", {}, {"rows": np.zeros(3)})
    os.truncate(tmp_path / "rows.npy", 4096)
    with pytest.raises(ValueError, match=r"file \(rows\): .*rows.npy became shorter"):
        write_bundle(tmp_path / "file", {}, {"rows": rows})
    assert (read_bundle(tmp_path / "file")[1]["rows"] == 0).all()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an existing folder"):
        write_bundle(tmp_path / "none" / "file", {}, ARRAYS)
    with pytest.raises(FileNotFoundError):
        read_bundle(tmp_path / "file")
