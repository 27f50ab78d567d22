"""The journal of an unfinished run, in a directory: the votes of each probe and query chunk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.encoded import EncodedVotes
from pdepth.io.atomic import disk, replacing

ABOUT, LOCK = "about.json", ".lock"
PROBES = "the list of probes"  # of what a run is
READING = "reading"  # the name of what the first reading of the data gave
KIND, VERSION = "pdepth run", "2"
SHOWN = 25  # characters; longer values are fingerprints and lists, and not shown


class OtherRun(ValueError):
    """A directory holds the journal of another run."""


class Journal:
    """The votes of a run so far; each file is written whole or not at all.

    A process that is killed at any moment leaves a directory from which the same run resumes.
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
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"run_dir: expected {path} in an existing folder, got none at {self.path.parent}."
            )
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"run_dir: expected a directory, got the file {path}.")
        self.path.mkdir(exist_ok=True)
        self._lock = _locked(self.path)
        try:
            self._begin(about)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._lock)

    def _begin(self, about: Mapping[str, str]) -> None:
        """Write what the run is, or compare it."""
        if not (self.path / ABOUT).exists():
            if others := [name for name in os.listdir(self.path) if not name.startswith(".")]:
                raise FileExistsError(
                    "run_dir: expected a new or empty directory or that of a run, got "
                    f"{self.path}, which holds {min(others)}."
                )
            with self._disk(), replacing(self.path / ABOUT) as temporary:
                temporary.write_text(
                    json.dumps({"kind": KIND, "journal": VERSION, **about}, indent=1)
                )
            return
        try:
            known = json.loads((self.path / ABOUT).read_text())
        except ValueError:
            known = None
        if not isinstance(known, dict) or known.get("kind") != KIND:
            raise FileExistsError(f"run_dir: {self.path / ABOUT} was not written by pdepth.")
        if known.get("journal") != VERSION:
            raise OtherRun(
                f"run_dir {self.path} holds a journal of version {known.get('journal', '1')}, and "
                f"this pdepth writes version {VERSION}; use another directory to begin anew."
            )
        for name, value in about.items():
            if known.get(name) != value:
                change = f": {known.get(name)} then, {value} now" if len(value) < SHOWN else ""
                raise OtherRun(
                    f"run_dir {self.path} holds a run of which {name} differs{change}; use another "
                    "directory to begin anew."
                )

    def write(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write some arrays under a name, in place of earlier ones."""
        path = self.path / f"{name}.npz"
        with self._disk(), replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]

    def read(self, name: str, only: Sequence[str] = ()) -> dict[str, NDArray[Any]] | None:
        """The arrays under a name, or only some of them; None where there are none."""
        path = self.path / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as arrays:
            return {key: arrays[key] for key in only or arrays}

    def remove(self, name: str) -> None:
        """Remove the arrays under a name, if there are any."""
        (self.path / f"{name}.npz").unlink(missing_ok=True)

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


def _locked(path: Path) -> int:
    """A directory's lock, which the system releases when the process ends, however it does."""
    lock = os.open(path / LOCK, os.O_CREAT | os.O_RDWR)
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BlockingIOError(
                f"run_dir: {path} is in use by another process; wait, or use another directory."
            ) from None
    return lock


def _votes_name(probe: int, chunk: int) -> str:
    return f"votes-{probe:03}-{chunk:05}"
