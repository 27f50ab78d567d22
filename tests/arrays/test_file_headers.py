"""Headers of .npy and .safetensors files: what is right is read, anything else is refused."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth

from helpers.sources import GRID, check, refused

NEW_FILE = "expected a .npy file, got one that cannot be read."


def npy(path: Path, header: bytes, version: tuple[int, int] = (1, 0)) -> Path:
    """A .npy file with that header, before the bytes of GRID."""
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    path.write_bytes(b"\x93NUMPY" + bytes(version) + length + header + GRID.tobytes())
    return path


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy_is_read(version: tuple[int, int], tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, GRID, version=version)
    check(tmp_path / "a.npy", GRID)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (150, 6",  # tokenize.TokenError
        b"{'descr': '<f4',\n 'shape': (\n  150,\n 6\n",
        b"-" * 9_000 + b"1",  # RecursionError
        b"(" * 4_000,  # MemoryError of some parsers
        b"[" * 90 + b"]" * 90,
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1e999, 6), }",
        b"{'descr': '<f99999999999999999999', 'fortran_order': False, 'shape': (150, 6), }",
        b"{'descr': ('<f4', (2**70,)), 'fortran_order': False, 'shape': (150, 6), }",
        b"{'descr': ('<f4', (-1,)), 'fortran_order': False, 'shape': (150, 6), }",
        b"{'descr': ['<f4'], 'fortran_order': False, 'shape': (150, 6), }",
        b"{'descr': '<f4', 'fortran_order': 2, 'shape': (150, 6), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': 150, }",
        b"{'descr': '<f4', 'fortran_order': False}",
        b"{[]: 1, 'descr': '<f4', 'fortran_order': False, 'shape': (150, 6)}",
        b"\xff\xfe\x00",
        b"\x00" * 50,
        b"",
        b"\t{\n 1 }\n  2",
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (3, 0)])
@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # NumPy's, of headers that Python 2 wrote
def test_a_header_that_is_none(header: bytes, version: tuple[int, int], tmp_path: Path) -> None:
    path = npy(tmp_path / "a.npy", header, version)
    sentence = re.escape(f"support (probe 0): {path}: {NEW_FILE}")
    with pytest.raises(ValueError, match=sentence):
        pdepth.kneighbors(path, k=3)


@pytest.mark.parametrize("version", [(0, 0), (1, 1), (4, 0), (255, 255)])
def test_a_version_that_is_none(version: tuple[int, int], tmp_path: Path) -> None:
    path = npy(tmp_path / "a.npy", b"{}", version)
    refused(ValueError, f"a.npy: {NEW_FILE}", path)


@pytest.mark.parametrize("shape", ["(-150, 6)", "(-150, -6)", "(0, -1)"])
def test_a_negative_length(shape: str, tmp_path: Path) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    path = npy(tmp_path / "a.npy", header.encode())
    sentence = f"a.npy: expected a shape without negative lengths, got {shape}."
    refused(ValueError, sentence, path)


def tensors(path: Path, header: Any) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + GRID.tobytes())
    return path


def entry(begin: Any, end: Any, shape: Any = (150, 6), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BYTES = GRID.nbytes
HALF = entry(0, BYTES // 2, (75, 6))


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ({"e": entry(0, BYTES // 2)}, f"'e' at bytes 0 to {BYTES} by its shape"),
        ({"e": entry(8, BYTES + 8)}, f"'e' at bytes 0 to {BYTES} by its shape"),
        ({"e": entry(BYTES, 0)}, f"'e' at bytes 0 to {BYTES} by its shape"),
        ({"e": entry(0, BYTES, (150, 5))}, f"'e' at bytes 0 to {150 * 5 * 4} by its shape"),
        ({"e": entry(0, BYTES, (150, 6), "F64")}, f"'e' at bytes 0 to {2 * BYTES} by its shape"),
        ({"e": entry(0, BYTES, (2**40, 2**40))}, f"'e' at bytes 0 to {2**82} by its shape"),
        ({"a": HALF, "e": HALF}, f"'e' at bytes {BYTES // 2} to {BYTES} by its shape"),
        (
            {"a": HALF, "e": entry(BYTES // 2 - 24, BYTES - 24, (75, 6))},
            f"'e' at bytes {BYTES // 2} to {BYTES} by its shape",
        ),
        ({"z": entry(9, 4, (), "F8_E4M3")}, "'z' at bytes 0 to 0 by its shape"),
    ],
)
def test_tensors_whose_places_contradict_their_shapes(
    header: Any, sentence: str, tmp_path: Path
) -> None:
    path = tensors(tmp_path / "a.safetensors", header)
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected tensor {sentence}")):
        pdepth.open_source(path, "e" if "e" in header else None)


@pytest.mark.parametrize(
    "header",
    [
        {"e": entry(-8, BYTES - 8)},  # bytes of the header would become embeddings
        {"e": entry(0, BYTES, (-150, -6))},
        {"e": entry(0.0, BYTES)},
        {"e": entry(False, BYTES)},
        {"e": entry("0", BYTES)},
        {"e": entry(0, BYTES, (150.0, 6))},
        {"e": entry(0, BYTES, ("150", 6))},
        {"e": entry(0, BYTES, 900)},
        {"e": entry(0, BYTES, None)},
        {"e": entry(0, BYTES, (150, 6), ["F32"])},
        {"e": entry(0, float("nan"))},
        {"e": {"dtype": "F32", "shape": [150, 6], "data_offsets": [0]}},
        {"e": {"dtype": "F32", "shape": [150, 6], "data_offsets": [0, 1, 2]}},
        {"e": {"dtype": "F32", "shape": [150, 6]}},
        {"e": None},
        b'{"e": 1, "e": 2}',
        b'{"e": {"dtype": "F32", "dtype": "F32", "shape": [150, 6], "data_offsets": [0, 3600]}}',
        b"[" * 100_000,  # RecursionError
        b'{"e": ' * 5_000,
        b"9" * 5_000,
        b"\xff\xfe",
    ],
)
def test_a_header_of_tensors_that_is_none(header: Any, tmp_path: Path) -> None:
    path = tensors(tmp_path / "a.safetensors", header)
    sentence = "a.safetensors: expected a .safetensors file, got one that cannot be read."
    refused(ValueError, sentence, path)


def test_tensors_one_after_the_other_in_any_order_of_the_header(tmp_path: Path) -> None:
    header = {
        "e": entry(BYTES // 2, BYTES, (75, 6)),
        "empty": entry(BYTES // 2, BYTES // 2, (0, 6)),
        "": HALF,
        "scalar": entry(0, 0, (0,)),
    }
    path = tensors(tmp_path / "a.safetensors", header)
    assert np.array_equal(pdepth.open_source(path, "e")[0:75], GRID[75:])
    assert np.array_equal(pdepth.open_source(path, "")[0:75], GRID[:75])
