"""Embeddings on disk: one array a probe, and a manifest that is written when all of them are there.

DIR/support/00.npy ...    one a probe, then labels.npy, predictions.npy and, of the rows' inputs,
                          checksums.npy
DIR/queries/00.npy ...    likewise, where queries were held out
DIR/manifest.json         what they are; without it the store is not finished
DIR/.pdepth-unfinished    there from the first byte to the last: the directory is pdepth's
DIR/.lock                 of the process that writes
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.rows import Rows, raw_bytes, rows_of
from pdepth.arrays.shards import Shards
from pdepth.io.array_files import NOTHING_KEPT, ArrayFile, check_content, loaded, mapped, source
from pdepth.io.atomic import disk, remove_leftovers, replacing
from pdepth.io.locks import LOCK, locked

KIND, VERSION = "pdepth embeddings", 2  # raised when an older pdepth could not read it
MANIFEST, UNFINISHED, PARTS = "manifest.json", ".pdepth-unfinished", ("support", "queries")
CHECKSUM = "checksum"  # of the manifest's other entries


@dataclass(frozen=True)
class Origin:
    """What embeddings are of, beside their data.

    Attributes:
        network: fingerprint of the network's state dict.
        layout: what decides the values at the probes, in words.
        first: checksums of the first rows' values, see `resuming`; none where they were not taken.
        meta: free text by name, as in `DepthResult`.
    """

    network: str = ""
    layout: str = ""
    first: tuple[int, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Part:
    """What one reading of a dataset through the network left: all of it memory maps.

    Attributes:
        embeddings: (n, D) by probe's name: NumPy's maps, or torch tensors over them for bfloat16.
        labels, predictions: (n,) int64, the dataset's classes and the network's own.
        fingerprint: of the dataset's inputs and labels, in their order.
        checksums: (n,) uint64, of each row's inputs; None in a store of version 1.
    """

    embeddings: dict[str, Any]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    fingerprint: str
    checksums: NDArray[np.uint64] | None = None


@dataclass(frozen=True, eq=False)
class EmbeddingStore:
    """A finished store, see `open_store`.

    Attributes:
        path: its directory. probes: their names, in forward order.
        support: the rows that vote. queries: held-out rows; None where they are the support's own.
        fingerprint: of the network's state dict.
        meta: free text by name, as in `DepthResult`.
        origin: what the embeddings are of; None in a store of version 1.
    """

    path: Path
    probes: tuple[str, ...]
    support: Part
    queries: Part | None
    fingerprint: str
    meta: dict[str, str] = field(default_factory=dict)
    origin: Origin | None = None
    _checked: set[str] = field(default_factory=set)

    @property
    def asked(self) -> Part:
        """The rows whose depths are searched: the queries, or else the support."""
        return self.support if self.queries is None else self.queries

    def __repr__(self) -> str:
        rows = f"{len(self.support.labels)} support rows"
        if self.queries is not None:
            rows += f", {len(self.queries.labels)} queries"
        return f"EmbeddingStore({str(self.path)!r}, {rows}, {len(self.probes)} probes)"

    @property
    def parts(self) -> list[Part]:
        """Support and, where they were held out, queries."""
        return [self.support] if self.queries is None else [self.support, self.queries]

    def sources(self, probe: str) -> list[Shards]:
        """A probe's values of each part, to be read slice by slice: a map's pages would count as
        this process's memory."""
        files = _files(manifest_of(self.path))
        return [source(self.path, about) for about in files if about.get("probe") == probe]

    def check(self, probe: str) -> None:
        """Compare a probe's values with the manifest's checksums, once.

        `depth_from_embeddings(store)` does so for each probe before it is searched.
        Raises ValueError that names the file that has changed.
        """
        if probe not in self._checked:
            self._check(lambda about: about.get("probe") == probe)
            self._checked.add(probe)

    def verify(self) -> None:
        """Read every array and compare its checksums (CRC-32) with the manifest's.

        For those who map the files, or take `support.embeddings`, themselves: what is searched as a
        store is checked as it is read.

        Raises ValueError that names the first file that has changed since it was written.
        """
        self._check(lambda about: True)

    def _check(self, which: Callable[[dict[str, Any]], bool]) -> None:
        for about in filter(which, _files(manifest_of(self.path))):
            check_content(self.path / about["file"], about)


def open_store(path: str | os.PathLike[str]) -> EmbeddingStore:
    """The embeddings that `prediction_depth(..., keep_embeddings=path)` kept, as memory maps.

    `depth_from_embeddings(store)` gives the same depths, of any k, without the network.

    The manifest, the files' headers, labels and predictions are checked here; values are checked
    when they are searched, or by `verify`.

    Raises:
        FileNotFoundError: no such directory.
        ValueError: a directory that is no store, an unfinished store, one of a newer pdepth, or
            one with a file that is missing or has changed.
    """
    path = Path(path)
    manifest = manifest_of(path)
    try:
        parts = {name: _part(path, part) for name, part in manifest["parts"].items()}
        origin = None
        if manifest["version"] > 1:
            origin = Origin(
                manifest["model"], manifest["layout"], tuple(manifest["first"]), manifest["meta"]
            )
        return EmbeddingStore(
            path,
            tuple(manifest["probes"]),
            parts["support"],
            parts.get("queries"),
            manifest["model"],
            manifest["meta"],
            origin,
        )
    except (LookupError, TypeError, AttributeError):
        raise _foreign(path) from None


def _part(path: Path, part: Mapping[str, Any]) -> Part:
    values = {about["probe"]: mapped(path, about) for about in part["arrays"]}
    labels, predictions = (loaded(path, part[name]) for name in ("labels", "predictions"))
    checksums = loaded(path, part["checksums"]) if "checksums" in part else None
    return Part(values, labels, predictions, part["fingerprint"], checksums)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a directory holds a finished store."""
    return (Path(path) / MANIFEST).is_file()


class Writer:
    """A store that is being written, see `writing`."""

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self.finished: bool = False
        self.parts: dict[str, Any] = {}

    def add(
        self,
        name: str,
        embeddings: Mapping[str, Any],
        labels: Any,
        predictions: Any,
        checksums: Any,
        fingerprint: str,
    ) -> int:
        """Write the part "support" or "queries"; returns how many bytes that were."""
        first = next(iter(embeddings.values()))
        rows = {probe: rows_of(array[:1], probe) for probe, array in embeddings.items()}
        shapes = {probe: (of_probe.type, of_probe.width) for probe, of_probe in rows.items()}
        part = self.growing(name, shapes, len(first))
        for number, array in enumerate(embeddings.values()):
            part.put(number, array)
        return part.finish(labels, predictions, checksums, fingerprint)

    def growing(self, name: str, probes: Mapping[str, tuple[str, int]], rows: int) -> Growing:
        """A part whose rows come chunk by chunk; probes: types and widths."""
        (self.path / name).mkdir()
        return Growing(self, name, probes, rows)

    def finish_part(
        self,
        name: str,
        probes: Sequence[str],
        arrays: Sequence[dict[str, Any]],
        numbers: Sequence[Any],
        fingerprint: str,
    ) -> int:
        """End a part whose arrays are written; returns how many bytes it takes.

        arrays: the entry of each probe's. numbers: labels, predictions and checksums (n,).
        """
        entries = [{"probe": probe} | about for probe, about in zip(probes, arrays, strict=True)]
        part: dict[str, Any] = {"fingerprint": fingerprint, "arrays": entries}
        for what, values in zip(("labels", "predictions", "checksums"), numbers, strict=True):
            kind = "uint64" if what == "checksums" else "int64"
            part[what] = _numbers(self.path, f"{name}/{what}.npy", values, kind)
        _sync_folder(self.path / name)
        self.parts[name] = part
        return sum(about["bytes"] for about in _files({"parts": {name: part}}))

    def finish(self, probes: Sequence[str], origin: Origin) -> None:
        """Write the manifest, which makes the store a finished one."""
        _sync_folder(self.path)
        manifest = {"kind": KIND, "version": VERSION, "probes": list(probes)}
        manifest |= {"model": origin.network, "layout": origin.layout, "first": list(origin.first)}
        _write_manifest(self.path, manifest | {"meta": dict(origin.meta), "parts": self.parts})
        self.finished = True
        (self.path / UNFINISHED).unlink()


class Growing:
    """A part of a store while its rows are written, in their order."""

    def __init__(
        self, writer: Writer, name: str, probes: Mapping[str, tuple[str, int]], rows: int
    ) -> None:
        self._writer, self._name, self._rows = writer, name, rows
        self._files = [
            ArrayFile(writer.path, f"{name}/{number:02}.npy", kind, (rows, width))
            for number, (kind, width) in enumerate(probes.values())
        ]
        self._probes = list(probes)

    def put(self, number: int, values: Any) -> None:
        """The next rows (n, ...) of a probe, by its number."""
        self._files[number].write(rows_of(values, self._probes[number]))

    def finish(self, labels: Any, predictions: Any, checksums: Any, fingerprint: str) -> int:
        """Write what rows have one of, after all rows; returns how many bytes the part takes."""
        arrays = [file.close() for file in self._files]
        numbers = labels, predictions, checksums
        return self._writer.finish_part(self._name, self._probes, arrays, numbers, fingerprint)


def _numbers(path: Path, name: str, values: Any, kind: str = "int64") -> dict[str, Any]:
    """Write a file (n,); returns the manifest's entry."""
    array = np.asarray(values, kind)
    file = ArrayFile(path, name, kind, array.shape)
    file.write(Rows(array, kind))
    return file.close()


def relabel(store: EmbeddingStore, labels: Sequence[Any], fingerprints: Sequence[str]) -> None:
    """Replace the labels (n,) of each part, and the fingerprints of the data; all or none."""
    manifest = manifest_of(store.path)
    for part, values, fingerprint in zip(PARTS, labels, fingerprints, strict=False):
        entry = manifest["parts"][part]
        name = f"{part}/labels-{fingerprint[:8]}.npy"
        if entry["labels"]["file"] == name:  # of data that had the same fingerprint, begun with
            continue
        entry["labels"] = _numbers(store.path, name, values)
        entry["fingerprint"] = fingerprint
        _sync_folder(store.path / part)
    _write_manifest(store.path, manifest)
    tidy(store.path)


def tidy(path: Path) -> None:
    """Remove what a writer leaves in a finished store that is killed at the very end."""
    manifest = manifest_of(path)
    (path / UNFINISHED).unlink(missing_ok=True)
    remove_leftovers(path)
    used = {about["file"] for about in _files(manifest)}
    for file in path.glob("*/labels*.npy"):
        if f"{file.parent.name}/{file.name}" not in used:
            file.unlink()


@contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Hold a store's directory, made here if it is new; nothing in it is changed.

    Raises as `writing`, but not for a finished store; BlockingIOError where another process holds
    it.
    """
    path = Path(path)
    is_new = _check_target(path, finished=True)
    path.mkdir(exist_ok=True)
    try:
        with locked(path / LOCK, f"keep_embeddings: {path}"):
            _check_target(path, finished=True)
            if is_store(path):
                tidy(path)
            yield path
    finally:
        if is_new and not os.listdir(path):
            path.rmdir()


def reopen(path: Path) -> None:
    """Make a finished store an unfinished one, which may be written anew."""
    (path / UNFINISHED).touch()
    (path / MANIFEST).unlink()


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Writer]:
    """A new store in the directory `path`: made here, empty, or of a store left unfinished.

    Unless the writer has finished, nothing stays when the block ends.
    Before anything is written, raises FileExistsError for a finished store and for a directory
    that holds anything else, NotADirectoryError for a file, FileNotFoundError without a parent.
    """
    path = Path(path)
    is_new = _check_target(path)
    path.mkdir(exist_ok=True)
    writer = Writer(path)
    try:
        with disk(path, NOTHING_KEPT):
            (path / UNFINISHED).touch()
        _clear(path)
        yield writer
    finally:
        if not writer.finished:
            _clear(path)
            (path / UNFINISHED).unlink(missing_ok=True)
            if is_new:
                path.rmdir()


def _check_target(path: Path, finished: bool = False) -> bool:
    """Whether the directory is new. Raises where its content may not be replaced.

    finished: whether a finished store is let pass.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"keep_embeddings: expected {path} in an existing folder, got none at {path.parent}."
        )
    if not path.exists():
        return True
    if not path.is_dir():
        raise NotADirectoryError(f"keep_embeddings: expected a directory, got the file {path}.")
    held = set(os.listdir(path)) - {LOCK}
    if MANIFEST in held:
        if finished:
            return False
        raise holds_store(path)
    foreign = {name for name in held - {UNFINISHED, *PARTS} if not _is_temporary(name)}
    if held and (UNFINISHED not in held or foreign):
        raise FileExistsError(
            f"keep_embeddings: expected a new or empty directory, got {path}, which holds "
            f"{min(foreign or held)}."
        )
    return False


def holds_store(path: Path) -> FileExistsError:
    return FileExistsError(
        f"keep_embeddings: expected a new or empty directory, got {path}, which holds a "
        "finished store or another manifest."
    )


def _is_temporary(name: str) -> bool:
    """Whether a file is what a process left that was killed while it wrote the manifest."""
    return name.startswith(f".{MANIFEST}.") and name.endswith(".tmp")


def _clear(path: Path) -> None:
    """Remove what an unfinished store holds, but for its mark."""
    for name in os.listdir(path):
        if name in PARTS:
            shutil.rmtree(path / name)
        elif _is_temporary(name):
            (path / name).unlink()


def _sync_folder(path: Path) -> None:
    """Write a directory's names to the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def manifest_of(path: Path) -> dict[str, Any]:
    """A finished store's manifest, checked. Raises as `open_store`."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected a store of embeddings, got no directory.")
    if not (path / MANIFEST).is_file():
        if (path / UNFINISHED).exists():
            raise ValueError(
                f"{path}: expected a finished store, got one whose writing was interrupted; run "
                "the same command again."
            )
        raise ValueError(
            f"{path}: expected a store of embeddings, got a directory without {MANIFEST}."
        )
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise _foreign(path)
    version = manifest.get("version")
    if version not in (1, VERSION):
        raise ValueError(
            f"{path}: expected version 1 or {VERSION} of the format, got {version}, of another "
            "pdepth."
        )
    try:
        outside = [about["file"] for about in _files(manifest) if not _is_inside(about["file"])]
    except (LookupError, TypeError, AttributeError):
        raise _foreign(path) from None
    if outside:
        raise ValueError(
            f"{path / MANIFEST}: expected names of files inside the store, got {outside[0]!r}."
        )
    if version == VERSION and manifest.pop(CHECKSUM, None) != seal_of(manifest):
        raise ValueError(
            f"{path / MANIFEST}: expected the content that pdepth wrote, got one whose checksum "
            "differs."
        )
    return manifest


def _is_inside(name: str) -> bool:
    """Whether a file's name leads to no other folder: neither from the root nor upwards."""
    steps = PureWindowsPath(name)  # its separators are those of all systems
    return not steps.anchor and ".." not in steps.parts


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps({**manifest, CHECKSUM: seal_of(manifest)}, indent=1).encode()
    with disk(path, NOTHING_KEPT), replacing(path / MANIFEST) as temporary:
        temporary.write_bytes(text)
    _sync_folder(path)


def seal_of(manifest: Mapping[str, Any]) -> str:
    """The checksum of a manifest's other entries."""
    text = json.dumps(manifest, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _foreign(path: Path) -> ValueError:
    return ValueError(
        f"{path / MANIFEST}: expected a manifest that pdepth wrote, got another file."
    )


def _files(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The manifest's entry of each file."""
    for part in manifest["parts"].values():
        yield from part["arrays"]
        yield from (part[name] for name in ("labels", "predictions", "checksums") if name in part)


def fingerprint_of(state: Mapping[str, Any]) -> str:
    """The fingerprint of a state dict: its names, types, shapes and values."""
    whole = hashlib.blake2b(digest_size=16)
    for name, value in sorted(state.items()):
        if hasattr(value, "detach"):
            whole.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            whole.update(raw_bytes(value))
        else:  # what a module keeps beside its tensors
            whole.update(f"{name} {value!r} ".encode())
    return whole.hexdigest()
