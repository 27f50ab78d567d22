"""Damaged files: every change is refused in a sentence that names the file, or changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.bench.studies import mutations
from pdepth.bench.studies.mutations import MASKS, Target, outcome, run_target
from pdepth.io import array_files
from pdepth.io.journal import Journal
from pdepth.result import DepthResult

from helpers.spans import QUERIES, depth, same

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def every_target(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    return list(mutations.targets(tmp_path_factory.mktemp("files")))


def is_right(target: Target, result: str) -> bool:
    return result in ("same", "refused") or (result == "other values" and not target.guarded)


def test_a_sample_of_changes_of_every_file(
    every_target: list[Target], of_tier: Callable[[Any, Any], Any]
) -> None:
    for target in every_target:
        outcomes = run_target(target, of_tier(12, 200), seed=1)
        wrong = {name for name in outcomes if not is_right(target, name)}
        assert not wrong, (target.file.name, outcomes)
        if target.guarded:
            assert outcomes["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["store", "journal", "result", "zipped checkpoint"])
def test_every_byte_of_every_file(kind: str, every_target: list[Target]) -> None:
    for target in every_target:
        if target.kind != kind:
            continue
        content, expected = target.file.read_bytes(), dict(target.read())
        for place in range(len(content)):
            mask = MASKS[place % len(MASKS)]
            target.file.write_bytes(mutations.mutated(content, "flip", place, mask))
            result = outcome(target, expected)
            assert is_right(target, result), (target.file.name, place, mask, result)
        target.file.write_bytes(content)


def test_the_stored_study_found_nothing_wrong() -> None:
    stored = json.loads(mutations.RESULTS.read_text())
    assert stored["changes"] >= 100_000
    for kind, outcomes in stored["outcomes"].items():
        wrong = outcomes.keys() - {"same", "refused"}
        assert not wrong or (wrong == {"other values"} and kind in mutations.WITHOUT_CHECKSUMS)


def test_outcomes_are_what_they_are_called(tmp_path: Path) -> None:
    """The study itself is able to find what it looks for."""
    file = tmp_path / "a"
    file.write_bytes(b"1")

    def of(read: Callable[[], Any]) -> str:
        return outcome(Target("x", file, read, "a.file"), {"x": np.float32([1])})

    def raising(error: Exception) -> Callable[[], Any]:
        def read() -> Any:
            raise error

        return read

    assert of(lambda: {"x": np.float32([1])}) == "same"
    assert of(lambda: {"x": np.float32([-0.0])}) == "other values"
    assert of(lambda: {"x": np.float64([1])}) == "other values"
    assert of(raising(ValueError("a.file: expected"))) == "refused"
    assert of(raising(ValueError("expected"))) == "unnamed ValueError"
    assert of(raising(KeyError("a.file"))) == "raw KeyError"


def test_a_damaged_part_of_a_journal_is_set_aside_and_computed_again(tmp_path: Path) -> None:
    expected = depth(queries=QUERIES)
    options = {"queries": QUERIES, "run_dir": tmp_path / "run"}
    depth(**options)
    for name in ("reading.npz", "votes-002-00000.npz"):
        path = tmp_path / "run" / name
        content = path.read_bytes()
        for changed in (b"", content[:10], content[:-30], content[:200] + b"x" + content[201:]):
            path.write_bytes(changed)
            with pytest.warns(UserWarning, match=f"{name} has changed since it was written; it is"):
                same(depth(**options), expected)
            assert (tmp_path / "run" / f".damaged-{name}").read_bytes() == changed
            assert len(path.read_bytes()) == len(content)


def test_a_damaged_about_is_refused(tmp_path: Path) -> None:
    depth(run_dir=tmp_path / "run")
    path = tmp_path / "run/about.json"
    path.write_text(path.read_text().replace("sqeuclidean", "squuclidean"))
    with pytest.raises(ValueError, match="expected about.json as it was written, got another"):
        depth(run_dir=tmp_path / "run")
    path.write_text("{")
    with pytest.raises(FileExistsError, match="about.json was not written by pdepth"):
        depth(run_dir=tmp_path / "run")


def test_values_of_a_store_are_checked_before_they_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_files, "CHUNK_BYTES", 256)
    options = {"run_dir": tmp_path / "run", "keep_embeddings": tmp_path / "kept"}
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write_votes", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            depth(**options)
    path = tmp_path / "kept/support/01.npy"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    sentence = r"support/01.npy: expected checksum \w{8} as it was written, got \w{8} in bytes 512-"
    with pytest.raises(ValueError, match=sentence):
        pdepth.depth_from_embeddings(pdepth.open_store(tmp_path / "kept"), k=5)
    with pytest.raises(ValueError, match=sentence):
        depth(**options)
    with pytest.raises(ValueError, match=sentence):
        pdepth.open_store(tmp_path / "kept").verify()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_the_type_in_a_header_is_compared_with_the_manifest(tmp_path: Path) -> None:
    depth(keep_embeddings=tmp_path / "kept")
    path = tmp_path / "kept/support/01.npy"
    path.write_bytes(path.read_bytes().replace(b"'<f4'", b"'<i4'"))
    with pytest.raises(ValueError, match="01.npy: expected type float32, got int32"):
        pdepth.open_store(tmp_path / "kept")


@pytest.mark.parametrize("name", ["../outside.npy", "/tmp/outside.npy", "support/../../a.npy"])
def test_a_manifest_cannot_name_files_elsewhere(name: str, tmp_path: Path) -> None:
    manifest = _store_of_version_1(tmp_path)
    manifest["parts"]["support"]["labels"]["file"] = name
    (tmp_path / "kept/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"expected names of files inside the store, got '"):
        pdepth.open_store(tmp_path / "kept")


def _store_of_version_1(folder: Path) -> dict[str, Any]:
    """The manifest of a store, without a checksum of its own, as older ones were."""
    depth(keep_embeddings=folder / "kept")
    manifest: dict[str, Any] = json.loads((folder / "kept/manifest.json").read_text())
    manifest.pop("checksum")
    return manifest | {"version": 1}


def test_a_store_of_version_1_is_not_resumed_from(tmp_path: Path) -> None:
    manifest = _store_of_version_1(tmp_path)
    (tmp_path / "kept/manifest.json").write_text(json.dumps(manifest))
    depth(run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="of which version 1 of the format does not say what it"):
        depth(run_dir=tmp_path / "run", keep_embeddings=tmp_path / "kept")
    pdepth.open_store(tmp_path / "kept")


def test_results_without_a_checksum_still_load(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    result = depth()
    result.save(tmp_path / "new.parquet")
    table = pq.read_table(tmp_path / "new.parquet")
    about = json.loads(table.schema.metadata[b"pdepth"])
    del about["checksum"]
    pq.write_table(
        table.replace_schema_metadata({b"pdepth": json.dumps(about)}), tmp_path / "old.parquet"
    )
    same(DepthResult.load(tmp_path / "old.parquet"), result)
    other = about | {"k": 7, "checksum": "0" * 32}
    pq.write_table(
        table.replace_schema_metadata({b"pdepth": json.dumps(other)}), tmp_path / "other.parquet"
    )
    with pytest.raises(ValueError, match="other.parquet: expected the content that pdepth wrote"):
        DepthResult.load(tmp_path / "other.parquet")


def test_a_checksum_counts_missing_values_and_lists(tmp_path: Path) -> None:
    result = depth(QUERIES)  # with early exit, so that votes are missing
    assert not result.known.all()
    result.save(tmp_path / "a.parquet")
    same(DepthResult.load(tmp_path / "a.parquet"), result)
