"""Embeddings on disk: one array a probe, and a manifest that is written when all of them are there.

DIR/support/00.npy ...    one a probe, then labels.npy and predictions.npy
DIR/queries/00.npy ...    likewise, where queries were held out
DIR/manifest.json         what they are; without it the store is not finished
DIR/.pdepth-unfinished    there from the first byte to the last: the directory is pdepth's
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.rows import Rows, numpy_type, raw_bytes, rows_of
from pdepth.io.atomic import disk, replacing

KIND, VERSION = "pdepth embeddings", 1  # raised when an older pdepth could not read it
MANIFEST, UNFINISHED, PARTS = "manifest.json", ".pdepth-unfinished", ("support", "queries")
NOTHING_KEPT = "nothing was kept"
CHUNK_BYTES = 1 << 24  # bytes that are written, or checked, at a time


@dataclass(frozen=True, eq=False)
class Part:
    """What one reading of a dataset through the network left: all of it memory maps.

    Attributes:
        embeddings: (n, D) by probe's name: NumPy's maps, or torch tensors over them for bfloat16.
        labels, predictions: (n,) int64, the dataset's classes and the network's own.
        fingerprint: of the dataset's inputs and labels, in their order.
    """

    embeddings: dict[str, Any]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    fingerprint: str


@dataclass(frozen=True, eq=False)
class EmbeddingStore:
    """A finished store, see `open_store`.

    Attributes:
        path: its directory. probes: their names, in forward order.
        support: the rows that vote. queries: held-out rows; None where they are the support's own.
        fingerprint: of the network's state dict.
        meta: free text by name, as in `DepthResult`.
    """

    path: Path
    probes: tuple[str, ...]
    support: Part
    queries: Part | None
    fingerprint: str
    meta: dict[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> Part:
        """The rows whose depths are searched: the queries, or else the support."""
        return self.support if self.queries is None else self.queries

    def __repr__(self) -> str:
        rows = f"{len(self.support.labels)} support rows"
        if self.queries is not None:
            rows += f", {len(self.queries.labels)} queries"
        return f"EmbeddingStore({str(self.path)!r}, {rows}, {len(self.probes)} probes)"

    def verify(self) -> None:
        """Read every array and compare its checksum (CRC-32) with the manifest's.

        Raises ValueError that names the first file that has changed since it was written.
        """
        for about in _files(_manifest(self.path)):
            crc = 0
            with (self.path / about["file"]).open("rb") as file:
                while block := file.read(CHUNK_BYTES):
                    crc = zlib.crc32(block, crc)
            if crc != about["crc32"]:
                raise ValueError(
                    f"{self.path / about['file']}: expected checksum {about['crc32']:08x} as it "
                    f"was written, got {crc:08x}."
                )


def open_store(path: str | os.PathLike[str]) -> EmbeddingStore:
    """The embeddings that `prediction_depth(..., keep_embeddings=path)` kept, as memory maps.

    `depth_from_embeddings(store)` gives the same depths, of any k, without the network.

    Raises:
        FileNotFoundError: no such directory.
        ValueError: a directory that is no store, an unfinished store, one of a newer pdepth, or
            one with a file that is missing or of another size.
    """
    path = Path(path)
    manifest = _manifest(path)
    try:
        for about in _files(manifest):
            _check_size(path / about["file"], about["bytes"])
        parts = {
            name: Part(
                {about["probe"]: _mapped(path, about) for about in part["arrays"]},
                _mapped(path, part["labels"]),
                _mapped(path, part["predictions"]),
                part["fingerprint"],
            )
            for name, part in manifest["parts"].items()
        }
        return EmbeddingStore(
            path,
            tuple(manifest["probes"]),
            parts["support"],
            parts.get("queries"),
            manifest["model"],
            manifest["meta"],
        )
    except (LookupError, TypeError, AttributeError):
        raise _foreign(path) from None


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a directory holds a finished store."""
    return (Path(path) / MANIFEST).is_file()


class Writer:
    """A store that is being written, see `writing`."""

    def __init__(self, path: Path) -> None:
        self.path, self.finished = path, False
        self.parts: dict[str, Any] = {}

    def add(
        self,
        name: str,
        embeddings: Mapping[str, Any],
        labels: Any,
        predictions: Any,
        fingerprint: str,
    ) -> int:
        """Write the part "support" or "queries"; returns how many bytes that were."""
        first = next(iter(embeddings.values()))
        rows = {probe: rows_of(array[:1], probe) for probe, array in embeddings.items()}
        shapes = {probe: (of_probe.type, of_probe.width) for probe, of_probe in rows.items()}
        part = self.growing(name, shapes, len(first))
        for number, array in enumerate(embeddings.values()):
            part.put(number, array)
        return part.finish(labels, predictions, fingerprint)

    def growing(self, name: str, probes: Mapping[str, tuple[str, int]], rows: int) -> Growing:
        """A part whose rows come chunk by chunk; probes: types and widths."""
        (self.path / name).mkdir()
        return Growing(self, name, probes, rows)

    def finish(self, probes: Sequence[str], model: str, meta: Mapping[str, str]) -> None:
        """Write the manifest, which makes the store a finished one."""
        manifest = {"kind": KIND, "version": VERSION, "probes": list(probes), "model": model}
        manifest |= {"meta": dict(meta), "parts": self.parts}
        _sync_folder(self.path)
        text = json.dumps(manifest, indent=1).encode()
        with disk(self.path, NOTHING_KEPT), replacing(self.path / MANIFEST) as temporary:
            temporary.write_bytes(text)
        _sync_folder(self.path)
        self.finished = True
        (self.path / UNFINISHED).unlink()


class Growing:
    """A part of a store while its rows are written, in their order."""

    def __init__(
        self, writer: Writer, name: str, probes: Mapping[str, tuple[str, int]], rows: int
    ) -> None:
        self._writer, self._name, self._rows = writer, name, rows
        self._files = [
            _File(writer.path, f"{name}/{number:02}.npy", kind, (rows, width))
            for number, (kind, width) in enumerate(probes.values())
        ]
        self._probes = list(probes)

    def put(self, number: int, values: Any) -> None:
        """The next rows (n, ...) of a probe, by its number."""
        self._files[number].write(rows_of(values, self._probes[number]))

    def finish(self, labels: Any, predictions: Any, fingerprint: str) -> int:
        """Write labels and predictions after all rows; returns how many bytes the part takes."""
        path = self._writer.path
        part: dict[str, Any] = {"fingerprint": fingerprint}
        part["arrays"] = [
            {"probe": probe} | file.close()
            for probe, file in zip(self._probes, self._files, strict=True)
        ]
        for what, values in (("labels", labels), ("predictions", predictions)):
            numbers = Rows(np.asarray(values, np.int64), "int64")
            file = _File(path, f"{self._name}/{what}.npy", "int64", (self._rows,))
            file.write(numbers)
            part[what] = file.close()
        _sync_folder(path / self._name)
        self._writer.parts[self._name] = part
        return sum(about["bytes"] for about in _files({"parts": {self._name: part}}))


class _File:
    """One array's file, written from its first row to its last; bfloat16 as its bits."""

    def __init__(self, folder: Path, name: str, kind: str, shape: tuple[int, ...]) -> None:
        self.folder, self.name, self.kind, self.shape = folder, name, kind, shape
        self.size, self.crc = 0, 0
        header = io.BytesIO()
        about = {
            "descr": np.lib.format.dtype_to_descr(numpy_type(kind)),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(header, about)
        with disk(folder, NOTHING_KEPT):
            self.file = (folder / name).open("wb")
            self._put(header.getvalue())

    def write(self, rows: Rows) -> None:
        array: NDArray[Any] = rows.on_host().array
        step = max(1, CHUNK_BYTES // (array[:1].nbytes or 1))
        with disk(self.folder, NOTHING_KEPT):
            for begin in range(0, len(array), step):
                self._put(array[begin : begin + step].tobytes())

    def close(self) -> dict[str, Any]:
        """Write all to the disk; returns the manifest's entry."""
        with disk(self.folder, NOTHING_KEPT), self.file:
            self.file.flush()
            os.fsync(self.file.fileno())
        about = {"file": self.name, "dtype": self.kind, "shape": list(self.shape)}
        return about | {"bytes": self.size, "crc32": self.crc}

    def _put(self, block: bytes) -> None:
        self.file.write(block)
        self.size, self.crc = self.size + len(block), zlib.crc32(block, self.crc)


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


def _check_target(path: Path) -> bool:
    """Whether the directory is new. Raises where its content may not be replaced."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"keep_embeddings: expected {path} in an existing folder, got none at {path.parent}."
        )
    if not path.exists():
        return True
    if not path.is_dir():
        raise NotADirectoryError(f"keep_embeddings: expected a directory, got the file {path}.")
    held = set(os.listdir(path))
    if MANIFEST in held:
        raise FileExistsError(
            f"keep_embeddings: expected a new or empty directory, got {path}, which holds a "
            "finished store or another manifest."
        )
    foreign = {name for name in held - {UNFINISHED, *PARTS} if not _is_temporary(name)}
    if held and (UNFINISHED not in held or foreign):
        raise FileExistsError(
            f"keep_embeddings: expected a new or empty directory, got {path}, which holds "
            f"{min(foreign or held)}."
        )
    return False


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


def _manifest(path: Path) -> dict[str, Any]:
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
        manifest = json.loads((path / MANIFEST).read_text())
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise _foreign(path)
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{path}: expected version {VERSION} of the format, got {manifest.get('version')}, of "
            "another pdepth."
        )
    try:
        outside = [about["file"] for about in _files(manifest) if not _is_inside(about["file"])]
    except (LookupError, TypeError, AttributeError):
        raise _foreign(path) from None
    if outside:
        raise ValueError(
            f"{path / MANIFEST}: expected names of files inside the store, got {outside[0]!r}."
        )
    return manifest


def _is_inside(name: str) -> bool:
    """Whether a file's name leads to no other folder: neither from the root nor upwards."""
    steps = PureWindowsPath(name)  # its separators are those of all systems
    return not steps.anchor and ".." not in steps.parts


def _foreign(path: Path) -> ValueError:
    return ValueError(
        f"{path / MANIFEST}: expected a manifest that pdepth wrote, got another file."
    )


def _files(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The manifest's entry of each file."""
    for part in manifest["parts"].values():
        yield from (*part["arrays"], part["labels"], part["predictions"])


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: expected a file of {size} bytes, got none.")
    if (actual := path.stat().st_size) != size:
        raise ValueError(f"{path}: expected {size} bytes, got {actual}.")


def _mapped(path: Path, about: Mapping[str, Any]) -> Any:
    """A file's array as a memory map whose changes stay in memory."""
    try:
        array = np.load(path / about["file"], mmap_mode="c")
    except ValueError:
        raise ValueError(
            f"{path / about['file']}: expected a .npy file, got one that cannot be read."
        ) from None
    if list(array.shape) != about["shape"]:
        raise ValueError(
            f"{path / about['file']}: expected shape {tuple(about['shape'])}, got {array.shape}."
        )
    if about["dtype"] != "bfloat16":
        return array
    import torch

    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


class Fingerprint:
    """The fingerprint of a dataset's inputs and labels, in their order.

    The same whatever the batches' size, unless that changes the inputs, as the padding of text.
    """

    def __init__(self) -> None:
        self._hashes: list[Any] = []
        self._kinds: list[str] = []

    def __call__(self, batch: Sequence[Any]) -> None:
        """Add (inputs, labels) of equal length: a tensor, or all those that `inputs` names."""
        inputs, labels = batch
        named = [("", inputs)]
        if hasattr(inputs, "tensors"):
            named = sorted(inputs.tensors(), key=lambda entry: entry[0])
        tensors = [*(tensor for _, tensor in named), labels]
        kinds = [f"{tensor.dtype} {tuple(tensor.shape[1:])}" for tensor in tensors]
        if len(named) != 1:
            names = [*(name for name, _ in named), "labels"]
            kinds = [f"{name} {kind}" for name, kind in zip(names, kinds, strict=True)]
        if not self._kinds:
            self._kinds = kinds
            self._hashes = [hashlib.blake2b(digest_size=16) for _ in tensors]
        if len(tensors) != len(self._hashes):
            raise ValueError(
                f"inputs: expected {len(self._hashes) - 1} tensors in every batch, got "
                f"{len(tensors) - 1}."
            )
        for digest, tensor, kind, first in zip(
            self._hashes, tensors, kinds, self._kinds, strict=True
        ):
            if kind != first:
                digest.update(kind.encode())
            digest.update(raw_bytes(tensor))

    def hexdigest(self) -> str:
        text = " ".join([*self._kinds, *(digest.hexdigest() for digest in self._hashes)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
