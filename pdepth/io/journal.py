"""How far a run has come, in a directory: what was found of each probe and block of queries."""

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
KIND = "pdepth run"
SHOWN = 25  # characters of what is told; longer values are fingerprints and lists


class OtherRun(ValueError):
    """A directory holds what another run has found."""


class Journal:
    """What a run has found so far; each file is written whole or not at all.

    A process that is killed at any moment leaves a directory from which the same run goes on.
    """

    def __init__(self, path: str | os.PathLike[str], about: Mapping[str, str]) -> None:
        """Begin in a new or empty directory, or go on in that of the same run.

        about: what a run is, by name; words, for the sentence that says what has changed.

        Raises OtherRun for a directory of another run, FileExistsError for one that holds anything
        else, FileNotFoundError where its parent is missing, and BlockingIOError while another
        process is at work there. `close` lets others in; so does the end of the process.
        """
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"run_dir is {path}; there is no folder {self.path.parent}.")
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
        """Write down what the run is, or compare it."""
        if not (self.path / ABOUT).exists():
            if others := [name for name in os.listdir(self.path) if not name.startswith(".")]:
                raise FileExistsError(
                    f"run_dir is {self.path}, which holds {min(others)} and no run of pdepth; "
                    "a new or empty directory is wanted."
                )
            with self._disk(), replacing(self.path / ABOUT) as temporary:
                temporary.write_text(json.dumps({"kind": KIND, **about}, indent=1))
            return
        try:
            known = json.loads((self.path / ABOUT).read_text())
        except ValueError:
            known = None
        if not isinstance(known, dict) or known.get("kind") != KIND:
            raise FileExistsError(f"{self.path / ABOUT} is not what pdepth has written.")
        for name, value in about.items():
            if known.get(name) != value:
                then = f": {known.get(name)} then, {value} now" if len(value) < SHOWN else ""
                raise OtherRun(
                    f"run_dir {self.path} holds a run of which {name} was another{then}; "
                    "another directory begins anew."
                )

    def note(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write down some arrays."""
        path = self.path / f"{name}.npz"
        with self._disk(), replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]

    def noted(self, name: str, only: Sequence[str] = ()) -> dict[str, NDArray[Any]] | None:
        """The arrays that were written down under that name, or only some."""
        path = self.path / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as arrays:
            return {key: arrays[key] for key in only or arrays}

    def forget(self, name: str) -> None:
        """Of what was written down under that name, if it was."""
        (self.path / f"{name}.npz").unlink(missing_ok=True)

    def keep(
        self, probe: int, block: int, who: NDArray[np.int64], found: list[EncodedVotes]
    ) -> None:
        """What a block of queries voted at a probe, of each k (1, n)."""
        arrays = {f"{name} {k}": a for k, each in enumerate(found) for name, a in each.given()}
        self.note(_name(probe, block), {"who": who, **arrays})

    def votes(self, probe: int, block: int, who: NDArray[np.int64]) -> list[EncodedVotes] | None:
        """What `keep` was given, if it was of these queries."""
        arrays = self.noted(_name(probe, block))
        if arrays is None or not np.array_equal(arrays.pop("who"), who):
            return None
        found: dict[int, dict[str, NDArray[Any]]] = {}
        for key, array in arrays.items():
            name, k = key.split()
            found.setdefault(int(k), {})[name] = array
        return [EncodedVotes(**found[k]) for k in sorted(found)]

    def _disk(self) -> Any:
        return disk(self.path, "what was found so far is kept, and the same call goes on from it")


def _locked(path: Path) -> int:
    """A directory's lock, which the system lets go of when the process ends, however it does."""
    lock = os.open(path / LOCK, os.O_CREAT | os.O_RDWR)
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BlockingIOError(
                f"run_dir is {path}, where another process is at work; one at a time is wanted."
            ) from None
    return lock


def _name(probe: int, block: int) -> str:
    return f"votes-{probe:03}-{block:05}"
