"""Whether what does not fit into memory goes to disk: both ways priced, as measured here."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pdepth.arrays.memory import human, readings
from pdepth.embeddings.capture import footprint
from pdepth.embeddings.collect import Job
from pdepth.embeddings.forward import forward
from pdepth.embeddings.spans import SpanPlanner
from pdepth.io.spill_folder import DiskSpeed, SpillFolder, disk_speed, existing, is_memory
from pdepth.progress import fastest, format_seconds

AUTO = "auto"


@dataclass(frozen=True)
class Spill:
    """What it takes to write to disk, once, what does not fit, and to search it from there.

    Attributes:
        folder: where. first: the number of the first probe that memory holds; those before are
            written.
        written, read: bytes of embeddings, at most. free: bytes that the disk has.
        passes: spans of probes that are computed without it, at least a forward pass each.
        forward_seconds, disk_seconds, again_seconds: of the one forward pass, of writing and
            reading, and of all forward passes without it; None where they were not measured.
        obstacle: why the disk cannot be used, in words; or "".
        taken: whether it is done.
    """

    folder: SpillFolder
    first: int
    written: int
    read: int
    free: int
    passes: int
    forward_seconds: float | None = None
    disk_seconds: float | None = None
    again_seconds: float | None = None
    obstacle: str = ""
    taken: bool = False

    @property
    def seconds(self) -> float | None:
        """Of the one forward pass and the disk."""
        if self.forward_seconds is None or self.disk_seconds is None:
            return None
        return self.forward_seconds + self.disk_seconds

    @property
    def cheaper(self) -> bool:
        """Whether it can be done and takes less time, as far as that was measured."""
        if self.obstacle or self.seconds is None or self.again_seconds is None:
            return False
        return self.seconds < self.again_seconds

    def __str__(self) -> str:
        """In one line, which says why."""
        text = f"{human(self.written)} to {self.folder.disk}, read from there: 1 forward pass in "
        text += f"place of {self.passes}"
        if self.seconds is not None and self.again_seconds is not None:
            times = format_seconds(self.seconds), format_seconds(self.again_seconds)
            text += f"; {times[0]} with the disk, {times[1]} without"
        if self.taken:
            return text
        return f"not taken, {text}" + (f"; {self.obstacle}" if self.obstacle else "")


def check_spill(
    spill: str | os.PathLike[str] | None,
    keep_embeddings: str | os.PathLike[str] | None,
    here: bool = True,
) -> Path | None:
    """The folder of spill=DIR; None for "auto" and None.

    here: whether it is this process that spills, and not others, on machines of theirs.
    Raises TypeError, FileNotFoundError or NotADirectoryError for what is no folder, and ValueError
    beside `keep_embeddings`.
    """
    if spill is None:
        return None
    if not isinstance(spill, str | os.PathLike):
        raise TypeError(f"spill: expected a folder, 'auto' or None, got a {type(spill).__name__}.")
    if keep_embeddings is not None:
        raise ValueError(
            "spill: expected None beside keep_embeddings, which writes all embeddings to disk, got "
            f"{os.fspath(spill)!r}."
        )
    if spill == AUTO:
        return None
    folder = Path(spill)
    if not here:
        return folder
    if not folder.exists():
        raise FileNotFoundError(
            f"spill: expected an existing folder or 'auto', got {folder}; make it, or pass 'auto'."
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"spill: expected a folder, got the file {folder}.")
    return folder


def spill_folder(
    spill: str | os.PathLike[str] | None, run_dir: str | os.PathLike[str] | None
) -> SpillFolder:
    """Where `spill` has it: in that folder; of "auto", in `run_dir` or else in the system's folder
    for temporary files."""
    asked = None if spill == AUTO else spill
    return SpillFolder.of(Path(asked or run_dir or tempfile.gettempdir()), run_dir)


def choose_spill(
    job: Job,
    spill: str | os.PathLike[str] | None,
    folder: SpillFolder,
    search_rate: float | None,
    asked: int | None = None,
) -> Spill | None:
    """How what does not fit goes to disk, if `spill` asks for it and, of "auto", it is cheaper; a
    note says why, or why not. asked: as of `SpanPlanner`.

    Raises OSError for a folder that lacks room.
    """
    if spill is None or job.fits:
        return None
    seconds = row_seconds_of(job, runs=1) if spill == AUTO else None
    cost = priced(job, spill, folder, seconds, search_rate, asked)
    job.note(f"spill: {cost}")
    return cost if cost.taken else None


def priced(
    job: Job,
    spill: str | os.PathLike[str] | None,
    folder: SpillFolder,
    row_seconds: Sequence[float] | None,
    search_rate: float | None,
    asked: int | None = None,
) -> Spill:
    """What spilling costs a job whose embeddings do not fit, and whether `spill` asks for it.

    row_seconds: of a row's forward pass until each probe, see `row_seconds_of`; None: not measured.
    Raises OSError for a folder, not for "auto", that lacks room.
    """
    planner = SpanPlanner(job, job.rows or [], search_rate=search_rate, asked=asked)
    cost = _cost(job, planner, folder, row_seconds)
    if spill not in (None, AUTO):
        if cost.written > cost.free:
            raise OSError(
                f"spill: expected {human(cost.written)} free in {folder.disk}, got "
                f"{human(cost.free)}; use a folder on another disk, or spill=None."
            )
        return replace(cost, obstacle="", taken=True)
    return replace(cost, taken=spill == AUTO and (cost.cheaper or cost.folder.holds_store))


def _cost(
    job: Job, planner: SpanPlanner, folder: SpillFolder, row_seconds: Sequence[float] | None
) -> Spill:
    """What spilling costs, and what computing anew does, while all queries are active."""
    layout, rows, memory = job.layout, job.rows, job.budget.size
    assert rows is not None
    assert memory is not None
    if row_seconds is not None:
        planner.forward_rate = 1 / row_seconds[-1]
    first, spans = planner.held_first(len(layout.probes), rows[-1]), planner.all()
    written = read = 0
    for number in range(first):
        size = footprint(layout, 1, probes=[number])
        worked = footprint(layout, 1, job.metric, [number])
        times = readings(memory, rows[-1], worked, job.k)
        written += sum(rows) * size
        read += (times * rows[0] + rows[-1]) * size
    cost = Spill(folder, first, written, read, folder.free, len(spans))
    disk = existing(folder.disk)
    if written > cost.free:
        obstacle = f"{human(cost.free)} are free"
        return replace(cost, obstacle=obstacle)
    if is_memory(disk):
        cost = replace(cost, obstacle=f"{disk} is itself in memory")
    if row_seconds is None:
        return cost
    try:
        speed: DiskSpeed = disk_speed(disk)
    except OSError as error:
        return replace(cost, obstacle=f"{disk} cannot be written to: {error.strerror}")
    again = sum(planner.forwarded(span) * row_seconds[span.end - 1] for span in spans)
    return replace(
        cost,
        forward_seconds=sum(rows) * row_seconds[-1],
        disk_seconds=written / speed.write + read / speed.read,
        again_seconds=again,
    )


def row_seconds_of(job: Job, runs: int = 3) -> list[float]:
    """Seconds that a row's forward pass takes until it has reached each probe, every probe copied,
    over the first batch; the last are those of the whole. runs: of which the fastest counts."""
    every = range(len(job.layout.probes))
    held: dict[int, torch.Tensor] = {}
    reached = [0.0] * (len(every) + 1)  # the last of them: the end
    begin = 0.0

    def put(number: int, _: int, values: torch.Tensor) -> None:
        held[number] = values.to("cpu", copy=True)
        reached[number] = time.perf_counter() - begin

    def once() -> None:
        nonlocal begin
        begin = time.perf_counter()
        batches = [(0, job.readers[0].first)]
        for _ in forward(job.layout, "support", batches, every, put, predict=True):
            pass
        reached[-1] = time.perf_counter() - begin

    a_row = fastest(once, runs) / len(job.readers[0].first.labels)
    return [a_row * each / reached[-1] for each in reached[:-2]] + [a_row]
