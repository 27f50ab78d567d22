"""A store whose embeddings several processes write at once, each some of the rows.

Whoever begins it makes each file in its whole size, and whoever has rows writes them where they
belong and says what their checksums are: the same bytes as of one process.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdepth.arrays.rows import rows_of
from pdepth.io.array_files import (
    NOTHING_KEPT,
    Piece,
    PieceWriter,
    byte_of,
    check_content,
    entry_of,
    header_of,
    joined,
    mapped,
    source,
)
from pdepth.io.atomic import disk
from pdepth.io.embedding_store import UNFINISHED, Writer, manifest_of, seal_of


@dataclass(frozen=True)
class SharedPart:
    """The part "support" or "queries": its rows, and by probe the files' types and widths."""

    name: str
    rows: int
    probes: Mapping[str, tuple[str, int]]

    @property
    def files(self) -> list[tuple[str, str, tuple[int, int]]]:
        """Names, types and shapes."""
        return [
            (f"{self.name}/{number:02}.npy", kind, (self.rows, width))
            for number, (kind, width) in enumerate(self.probes.values())
        ]


@dataclass(frozen=True)
class SharedStore:
    """A store as all processes know it.

    mark: what each finds in the directory, if it is the same: while it is written in its mark, and
    then as the seal of its manifest.
    """

    path: Path
    parts: dict[str, SharedPart]
    mark: str
    finished: bool = False

    @classmethod
    def begun(cls, writer: Writer, parts: Sequence[SharedPart]) -> SharedStore:
        """A new one, all of whose files are there."""
        path, mark = writer.path, secrets.token_hex(16)
        with disk(path, NOTHING_KEPT):
            (path / UNFINISHED).write_text(mark)
            for part in parts:
                (path / part.name).mkdir()
                for name, kind, shape in part.files:
                    with (path / name).open("wb") as file:
                        file.write(header_of(kind, shape))
                        file.truncate(byte_of(kind, shape, part.rows))
        return cls(path.resolve(), {part.name: part for part in parts}, mark)

    @classmethod
    def of(cls, path: Path) -> SharedStore:
        """One that is finished."""
        return cls(path.resolve(), {}, seal_of(manifest_of(path)), finished=True)

    @property
    def is_here(self) -> bool:
        """Whether this process sees the directory that is meant."""
        try:
            if self.finished:
                return seal_of(manifest_of(self.path)) == self.mark
            return (self.path / UNFINISHED).read_text() == self.mark
        except (OSError, ValueError):
            return False

    def writer_of(self, part: str, first: int) -> RowsWriter:
        """Of rows from number `first` on."""
        return RowsWriter(self.path, self.parts[part], first)

    def entries(self, part: str, written: Sequence[Sequence[Piece]]) -> list[dict[str, Any]]:
        """The manifest's entries of a part's arrays, by the pieces that each process wrote."""
        files = self.parts[part].files
        return [
            entry_of(name, kind, shape, joined(header_of(kind, shape), pieces))
            for (name, kind, shape), pieces in zip(files, zip(*written, strict=True), strict=True)
        ]

    def opened(self, part: str) -> dict[str, StoredRows]:
        """The embeddings of a finished store's part, by probe."""
        arrays = manifest_of(self.path)["parts"][part]["arrays"]
        return {about["probe"]: StoredRows(self.path, about) for about in arrays}


@dataclass(frozen=True)
class StoredRows:
    """A probe's values in a finished store: a file, by the manifest's entry."""

    path: Path
    about: Mapping[str, Any]

    def check(self, rows: slice) -> None:
        """Compare some rows with the manifest's checksums. Raises ValueError as `check_content`."""
        check_content(self.path / self.about["file"], self.about, rows)

    def mapped(self, rows: slice) -> Any:
        """Some rows, as a map of the file."""
        return mapped(self.path, self.about)[rows]

    def source(self, rows: slice) -> Any:
        """Some rows, read slice by slice."""
        return source(self.path, self.about, rows)


class RowsWriter:
    """Writes some rows of a part, those of each probe in their order."""

    def __init__(self, path: Path, part: SharedPart, first: int) -> None:
        self._path, self._names = path, list(part.probes)
        self._files: list[PieceWriter] = []
        for name, kind, shape in part.files:
            # Not to be read: a network's file system would else write whole pages, others' bytes
            # in them.
            handle = os.open(path / name, os.O_WRONLY | getattr(os, "O_BINARY", 0))
            self._files.append(PieceWriter(os.fdopen(handle, "wb"), byte_of(kind, shape, first)))

    def put(self, number: int, values: Any) -> None:
        """The next rows (n, ...) of a probe, by its number."""
        with disk(self._path, NOTHING_KEPT):
            self._files[number].write_rows(rows_of(values, self._names[number]))

    def close(self) -> list[Piece]:
        """Have all on the disk."""
        with disk(self._path, NOTHING_KEPT):
            return [file.close() for file in self._files]
