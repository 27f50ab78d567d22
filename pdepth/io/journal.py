"""The journal of an unfinished run, in a directory: the votes of each probe and query chunk."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.encoded import EncodedVotes
from pdepth.io.atomic import disk, remove_leftovers, replacing
from pdepth.io.locks import LOCK, locked

ABOUT = "about.json"
PROBES = "the list of probes"  # of what a run is
READING = "reading"  # the name of what the first reading of the data gave
KIND, VERSION = "pdepth run", "3"
CHECKSUM, DIGEST_BYTES = "checksum", 16
RUN = "run"  # in votes and lists: the identity of the run that they are of
SHOWN = 25  # characters; longer values are fingerprints and lists, and not shown
CHUNK_BYTES = 1 << 24  # that are checked at a time


class OtherRun(ValueError):
    """A directory holds the journal of another run."""


class Journal:
    """The votes of a run so far; each file is written whole or not at all, with its checksum.

    A process that is killed at any moment leaves a directory from which the same run resumes.
    Votes belong to what was read: those of another reading are as if they were not there.
    """

    def __init__(self, path: str | os.PathLike[str], about: Mapping[str, str]) -> None:
        """Begin in a new or empty directory, or resume in that of the same run.

        about: what a run is, by name; words, for the sentence that says what has changed.

        Raises:
            OtherRun: a directory of another run, or of another version's journal.
            FileExistsError: one that holds anything else.
            FileNotFoundError: its parent is missing.
            BlockingIOError: another process is at work there. `close` releases the directory, and
                so does the end of the process.
        """
        self.path: Path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"run_dir: expected {path} in an existing folder, got none at {self.path.parent}."
            )
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"run_dir: expected a directory, got the file {path}.")
        self.path.mkdir(exist_ok=True)
        self._identity = np.zeros(0, np.uint8)  # until there is a reading
        self._checked: dict[str, tuple[int, ...]] = {}
        self._lock = ExitStack()
        self._lock.enter_context(locked(self.path / LOCK, f"run_dir: {self.path}"))
        try:
            self._begin(about)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._lock.close()

    def _begin(self, about: Mapping[str, str]) -> None:
        """Write what the run is, or compare it."""
        if not (self.path / ABOUT).exists():
            if others := [name for name in os.listdir(self.path) if not name.startswith(".")]:
                raise FileExistsError(
                    "run_dir: expected a new or empty directory or that of a run, got "
                    f"{self.path}, which holds {min(others)}."
                )
            content = {"kind": KIND, "journal": VERSION, **about}
            text = json.dumps(content | {CHECKSUM: _digest(content)}, indent=1)
            with self._disk(), replacing(self.path / ABOUT) as temporary:
                temporary.write_text(text)
            return
        try:
            known = json.loads((self.path / ABOUT).read_bytes())
        except (ValueError, RecursionError):
            known = None
        if not isinstance(known, dict) or known.get("kind") != KIND:
            raise FileExistsError(f"run_dir: {self.path / ABOUT} was not written by pdepth.")
        if known.get("journal") != VERSION:
            raise OtherRun(
                f"run_dir {self.path} holds a journal of version {known.get('journal', '1')}, and "
                f"this pdepth writes version {VERSION}; use another directory to begin anew."
            )
        if known.pop(CHECKSUM, None) != _digest(known):
            raise OtherRun(
                f"run_dir {self.path}: expected {ABOUT} as it was written, got another content; "
                "use another directory to begin anew."
            )
        for name, value in about.items():
            if known.get(name) != value:
                change = f": {known.get(name)} then, {value} now" if len(value) < SHOWN else ""
                raise OtherRun(
                    f"run_dir {self.path} holds a run of which {name} differs{change}; use another "
                    "directory to begin anew."
                )
        remove_leftovers(self.path)

    def write(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write some arrays under a name, in place of earlier ones."""
        path = self.path / f"{name}.npz"
        with self._disk(), replacing(path) as temporary:
            with temporary.open("wb") as file:
                np.savez(file, **{**arrays, RUN: self._identity})  # type: ignore[arg-type]
            digest = _digest_of_file(temporary, temporary.stat().st_size)
            with temporary.open("ab") as file:
                file.write(digest)

    def read(self, name: str, only: Sequence[str] = ()) -> dict[str, NDArray[Any]] | None:
        """The arrays under a name, or only some of them; None where there are none of this run.

        A file that has changed since it was written is set aside, with a warning.
        """
        path = self.path / f"{name}.npz"
        if not path.exists():
            return None
        if not self._is_whole(path):
            self._set_aside(path)
            return None
        with np.load(path) as arrays:
            if not np.array_equal(arrays[RUN], self._identity):
                return None
            return {key: arrays[key] for key in only or arrays if key != RUN}

    def _is_whole(self, path: Path) -> bool:
        """Whether a file is as it was written; lists are read in parts, and checked once."""
        about = path.stat()
        state = about.st_ino, about.st_mtime_ns, about.st_size
        if self._checked.get(path.name) == state:
            return True
        size = about.st_size - DIGEST_BYTES
        with path.open("rb") as file:
            file.seek(max(0, size))
            expected = file.read()
        if size < 0 or _digest_of_file(path, size) != expected:
            return False
        self._checked[path.name] = state
        return True

    def _set_aside(self, path: Path) -> None:
        aside = path.with_name(f".damaged-{path.name}")
        os.replace(path, aside)
        warnings.warn(
            f"run_dir: {path} has changed since it was written; it is set aside as {aside.name}, "
            "and computed again.",
            stacklevel=2,
        )

    def remove(self, name: str) -> None:
        """Remove the arrays under a name, if there are any."""
        (self.path / f"{name}.npz").unlink(missing_ok=True)

    def read_reading(self) -> dict[str, NDArray[Any]] | None:
        """What `write_reading` wrote; votes and lists are those that belong to it."""
        self._identity = np.zeros(0, np.uint8)
        reading = self.read(READING)
        if reading is not None:
            self._identity = _identity_of(reading)
        return reading

    def write_reading(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write what a reading of the data gave. Votes of another reading no longer count."""
        self._identity = np.zeros(0, np.uint8)
        self.write(READING, arrays)
        self._identity = _identity_of(arrays)
        for file in self.path.glob("*.npz"):
            is_part = file.stem != READING and not file.name.startswith(".")
            if is_part and not self._is_of_this_run(file):
                file.unlink()

    def _is_of_this_run(self, path: Path) -> bool:
        try:
            with np.load(path) as arrays:
                return np.array_equal(arrays[RUN], self._identity)
        except Exception:  # of a damaged file, which is named when it is read
            return True

    def write_votes(
        self, probe: int, chunk: int, queries: NDArray[np.int64], votes: list[EncodedVotes]
    ) -> None:
        """Write the votes (1, n) of each k of a query chunk at a probe."""
        arrays = {
            f"{name} {k}": array for k, of_k in enumerate(votes) for name, array in of_k.arrays()
        }
        self.write(_votes_name(probe, chunk), {"queries": queries, **arrays})

    def read_votes(
        self, probe: int, chunk: int, queries: NDArray[np.int64]
    ) -> list[EncodedVotes] | None:
        """What `write_votes` wrote, if it was for these queries."""
        arrays = self.read(_votes_name(probe, chunk))
        if arrays is None or not np.array_equal(arrays.pop("queries"), queries):
            return None
        votes: dict[int, dict[str, NDArray[Any]]] = {}
        for key, array in arrays.items():
            name, k = key.split()
            votes.setdefault(int(k), {})[name] = array
        return [EncodedVotes(**votes[k]) for k in sorted(votes)]

    def _disk(self) -> Any:
        return disk(self.path, "the votes so far are kept, and the same call resumes from them")


def _digest(content: Mapping[str, str]) -> str:
    text = json.dumps(content, sort_keys=True).encode()
    return blake2b(text, digest_size=DIGEST_BYTES).hexdigest()


def _digest_of_file(path: Path, size: int) -> bytes:
    """The checksum of a file's first bytes."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    with path.open("rb") as file:
        while block := file.read(min(CHUNK_BYTES, size)):
            digest.update(block)
            size -= len(block)
    return digest.digest()


def _identity_of(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    digest = blake2b(digest_size=DIGEST_BYTES)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _votes_name(probe: int, chunk: int) -> str:
    return f"votes-{probe:03}-{chunk:05}"
