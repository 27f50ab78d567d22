"""The file of kept neighbours: what comes back, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.arrays.arguments import check_voting
from pdepth.io.array_bundle import write_bundle
from pdepth.io.neighbor_file import KeptNeighbors, neighbors_nbytes, save_neighbors

from helpers.same import same_neighbors

RNG = np.random.default_rng(0)
LAYERS = {name: RNG.standard_normal((40, 5)) for name in ("first", "last")}
LABELS = RNG.integers(0, 4, 40)


def kept(k: Any = 6, **options: Any) -> Any:
    return pdepth.depth_from_embeddings(LAYERS, LABELS, LABELS, k=k, return_neighbors=3, **options)


def test_what_is_saved_comes_back_mapped(tmp_path: Path) -> None:
    neighbors = kept().neighbors
    for name in ("n.pdepth", "n.pdepth"):  # again, in its place
        neighbors.save(tmp_path / name)
    opened = pdepth.open_neighbors(tmp_path / "n.pdepth")
    same_neighbors(opened, neighbors)
    assert isinstance(opened.distances, np.memmap)
    assert [path.name for path in tmp_path.iterdir()] == ["n.pdepth"]


def test_several_k_and_row_numbers(tmp_path: Path) -> None:
    numbers = np.arange(40) * 2
    by_k = {k: replace(r.neighbors, row_numbers=numbers) for k, r in kept([6, 2]).items()}
    save_neighbors(by_k, tmp_path / "n.pdepth")
    for k in (6, 2):
        same_neighbors(pdepth.open_neighbors(tmp_path / "n.pdepth", k), by_k[k])
    assert pdepth.open_neighbors(tmp_path / "n.pdepth").k == 6
    with pytest.raises(ValueError, match=r"k: expected one that .*n.pdepth has \(6, 2\), got 3"):
        pdepth.open_neighbors(tmp_path / "n.pdepth", 3)


@pytest.mark.parametrize(
    ("k", "weights"), [(6, "uniform"), ([6, 2, 300], "uniform"), (6, "distance")]
)
def test_its_size_is_foreseen(k: Any, weights: str, tmp_path: Path) -> None:
    values = RNG.standard_normal((400, 5))
    labels = RNG.integers(0, 4, 400)
    results = pdepth.depth_from_embeddings(
        [values], labels, labels, k=k, weights=weights, return_neighbors=3
    )
    by_k = results if isinstance(results, dict) else {k: results}
    save_neighbors({k: result.neighbors for k, result in by_k.items()}, tmp_path / "n")
    size = neighbors_nbytes(check_voting(k, weights, None, 3), 400, 1, 4)
    labels_and_header = 400 * 4 + 4 * 8 + 4096
    assert size < (tmp_path / "n").stat().st_size < size + labels_and_header


def test_other_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "n.pdepth"
    with pytest.raises(FileNotFoundError):
        pdepth.open_neighbors(path)
    write_bundle(path, {"index": {}}, {"rows": np.arange(3)})
    with pytest.raises(ValueError, match="expected neighbours that pdepth kept, got another file"):
        pdepth.open_neighbors(path)
    write_bundle(path, {"kind": "neighbors", "format": 2}, {"rows": np.arange(3)})
    with pytest.raises(ValueError, match="expected format 1 or older, got 2; a newer pdepth"):
        pdepth.open_neighbors(path)
    kept().neighbors.save(path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"n.pdepth \(counts k6\): was changed"):
        pdepth.open_neighbors(path)
    path.write_bytes(content[:-64])
    with pytest.raises(ValueError, match="cut short"):
        pdepth.open_neighbors(path)


def test_a_result_has_those_of_its_own_shape() -> None:
    result = kept()
    other = replace(result.neighbors, **{n: getattr(result.neighbors, n)[:1] for n in (
        "distances", "rows", "ranked", "counts")})  # fmt: skip
    assert isinstance(other, KeptNeighbors)
    with pytest.raises(ValueError, match="neighbors: expected those of 40 examples and 2 probes"):
        replace(result, neighbors=other)
