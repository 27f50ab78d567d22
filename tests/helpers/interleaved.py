"""What Triton's interpreter hides: it runs one program after the other, in their order.

`watched` runs the programs of each launch in a random order, several at once, each until its next
load, store or atomic operation, and a store in two halves; and notes what a GPU would not forgive.
"""

from __future__ import annotations

import gc
import inspect
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from triton.runtime import interpreter

BUILDER = interpreter.interpreter_builder
AT_ONCE = 5  # programs
Addresses = NDArray[np.uint64]
Program = tuple[int, int, int]


@dataclass(frozen=True)
class Access:
    """One operation of a program."""

    program: Program
    place: str  # file and line
    addresses: Addresses


@dataclass
class Findings:
    """What was noted, a sentence each, and how much was looked at.

    Attributes:
        conflicts: a program wrote, without an atomic operation, what another one of the launch read
            or wrote.
        outside: accesses beyond any array.
        twice: one store, two values for one address.
        overwritten: kernels of which a program wrote another value where it had read or written:
            on a device some of its threads may be late, so that there has to be a barrier.
    """

    conflicts: set[str] = field(default_factory=set)
    outside: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)
    overwritten: set[str] = field(default_factory=set)
    launches: int = 0
    switches: int = 0
    accesses: int = 0


class _Launch:
    """A launch while its programs run."""

    def __init__(self, name: str, findings: Findings) -> None:
        self.name, self.findings = name, findings
        self.reads: list[Access] = []
        self.writes: list[Access] = []
        self.atomics: list[Access] = []
        self._begins, self._ends = _live()

    def note(self, to: list[Access], pointers: Any, mask: Any) -> Access:
        addresses = _masked(pointers.data, pointers, mask).astype(np.uint64)
        access = Access(BUILDER.grid_idx, _place(), addresses)
        self.findings.accesses += len(addresses)
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        own = np.searchsorted(self._begins, addresses, side="right").astype(np.int64) - 1
        inside = (own >= 0) & (addresses + np.uint64(size) <= self._ends[own.clip(0)])
        if not inside.all():
            self.findings.outside.add(f"{self.name}: {access.place}")
        to.append(access)
        return access

    def store(self, pointers: Any, value: Any, mask: Any, before: NDArray[Any]) -> None:
        """Note a store, whose addresses held `before`."""
        earlier = [*self.reads, *self.writes]
        access = self.note(self.writes, pointers, mask)
        values = _masked(value.data, pointers, mask)
        order = np.argsort(access.addresses, kind="stable")
        same = access.addresses[order][1:] == access.addresses[order][:-1]
        if (values[order][1:] != values[order][:-1])[same].any():
            self.findings.twice.add(f"{self.name}: {access.place}")
        changed = access.addresses[(before != values) & ((before == before) | (values == values))]
        own = [each.addresses for each in earlier if each.program == access.program]
        if any(np.isin(changed, addresses).any() for addresses in own):
            self.findings.overwritten.add(self.name)

    def end(self) -> None:
        """Look for conflicts between programs."""
        programs = {each.program for each in (*self.reads, *self.writes, *self.atomics)}
        number = {program: i for i, program in enumerate(sorted(programs))}
        written, by, at = _flat(self.writes, number)
        order = np.argsort(written, kind="stable")
        written, by, at = written[order], by[order], at[order]
        for i in np.flatnonzero((written[1:] == written[:-1]) & (by[1:] != by[:-1]))[:3]:
            self._conflict(self.writes[at[i]], self.writes[at[i + 1]])
        if not len(written):
            return
        for others, atomic in ((self.reads, False), (self.atomics, True)):
            addresses, whose, which = _flat(others, number)
            i = np.searchsorted(written, addresses).clip(max=len(written) - 1)
            hit = (written[i] == addresses) & ((by[i] != whose) | atomic)
            for j in np.flatnonzero(hit)[:3]:
                self._conflict(self.writes[at[i[j]]], others[which[j]])

    def _conflict(self, store: Access, other: Access) -> None:
        self.findings.conflicts.add(f"{self.name}: {store.place} and {other.place}")


def _flat(
    accesses: list[Access], number: dict[Program, int]
) -> tuple[Addresses, NDArray[np.int64], NDArray[np.int64]]:
    """Addresses of some accesses side by side, the programs' numbers and the accesses' own."""
    sizes = [len(each.addresses) for each in accesses]
    if not accesses:
        nothing = np.empty(0, np.int64)
        return nothing.astype(np.uint64), nothing, nothing
    programs = np.repeat([number[each.program] for each in accesses], sizes)
    addresses = np.concatenate([each.addresses for each in accesses])
    return addresses, programs, np.repeat(np.arange(len(accesses)), sizes)


def _masked(values: Any, pointers: Any, mask: Any) -> NDArray[Any]:
    shape = pointers.data.shape
    chosen = np.broadcast_to(np.asarray(mask.data, bool), shape)
    return np.asarray(np.broadcast_to(values, shape)[chosen].ravel())


def _place() -> str:
    """File and line of the kernel that is at work."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(os.path.dirname(interpreter.__file__)[: -len("runtime")]) and (
            name != __file__
        ):
            return f"{os.path.basename(name)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "?"


def _live() -> tuple[Addresses, Addresses]:
    """Where the memory of each array begins and ends, in ascending order, not overlapping."""
    spans = []
    for each in gc.get_objects():
        # Others, such as torch's fake tensors, have no memory.
        if type(each) in (torch.Tensor, torch.nn.Parameter) and each.layout == torch.strided:
            storage = each.untyped_storage()
            spans.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))
    merged: list[list[int]] = []
    for begin, end in sorted(set(spans)):
        if merged and begin < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        elif end > begin:
            merged.append([begin, end])
    table = np.array(merged, dtype=np.uint64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


class _Turns:
    """Programs of a launch in threads, of which one runs at a time: that whose turn it is."""

    def __init__(self, run: Callable[[], Any], rng: random.Random, findings: Findings) -> None:
        self._run, self._rng, self._findings = run, rng, findings
        self._begun: list[Program] = []
        self._turn: Program | None = None
        self._changed = threading.Condition()
        self._errors: list[BaseException] = []

    def all(self, programs: list[Program]) -> None:
        """Run them to their ends, some at once."""
        self._waiting = self._rng.sample(programs, len(programs))
        with self._changed:
            for _ in range(min(AT_ONCE, len(programs))):
                self._begin()
            self._next()
            while self._begun:
                self._changed.wait()
        if self._errors:
            raise self._errors[0]

    def switch(self) -> None:
        """Half of the times, let another program go on."""
        own = BUILDER.grid_idx
        if len(self._begun) < 2 or self._rng.random() < 0.5:
            return
        self._findings.switches += 1
        with self._changed:
            self._next()
            while self._turn != own:
                self._changed.wait()
        BUILDER.grid_idx = own

    def _begin(self) -> None:
        program = self._waiting.pop()
        self._begun.append(program)
        threading.Thread(target=self._whole, args=(program,), daemon=True).start()

    def _next(self) -> None:
        self._turn = self._rng.choice(self._begun) if self._begun else None
        self._changed.notify_all()

    def _whole(self, program: Program) -> None:
        with self._changed:
            while self._turn != program:
                self._changed.wait()
        BUILDER.grid_idx = program
        try:
            self._run()
        except BaseException as error:
            self._errors.append(error)
        with self._changed:
            self._begun.remove(program)
            if self._waiting:
                self._begin()
            self._next()


class _Watch:
    """The interpreter's loads, stores, atomics and launches, in place of its own."""

    def __init__(self, seed: int) -> None:
        self.findings = Findings()
        self._rng = random.Random(seed)
        self._launch: _Launch | None = None
        self._turns: _Turns | None = None
        self._load = BUILDER.create_masked_load
        self._store = BUILDER.create_masked_store
        self._rmw = BUILDER.create_atomic_rmw

    def load(self, pointers: Any, mask: Any, *rest: Any) -> Any:
        if self._launch is not None and self._turns is not None:
            self._turns.switch()
            self._launch.note(self._launch.reads, pointers, mask)
        return self._load(pointers, mask, *rest)

    def store(self, pointers: Any, value: Any, mask: Any, *rest: Any) -> None:
        if self._launch is None or self._turns is None:
            self._store(pointers, value, mask, *rest)
            return
        self._turns.switch()
        held = self._load(pointers, mask, *[None] * (len(_parameters(self._load)) - 2))
        self._launch.store(pointers, value, mask, _masked(held.data, pointers, mask))
        whole = np.broadcast_to(np.asarray(mask.data, bool), pointers.data.shape)
        first = np.random.default_rng(self._rng.randrange(1 << 30)).random(whole.shape) < 0.5
        for half in (whole & first, whole & ~first):
            self._store(pointers, value, interpreter.TensorHandle(half, mask.dtype), *rest)
            self._turns.switch()

    def rmw(self, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        if self._launch is not None and self._turns is not None:
            self._turns.switch()
            self._launch.note(self._launch.atomics, pointers, mask)
        return self._rmw(operation, pointers, value, mask, *rest)

    def gathered(self, kernel: Any) -> Any:
        """A kernel that waits until all programs of its launch have been called."""
        programs: list[Program] = []

        def program(given: dict[str, Any]) -> None:
            programs.append(BUILDER.grid_idx)
            if len(programs) == int(np.prod(BUILDER.grid_dim)):
                self._together(kernel, given, programs)

        def twin(**given: Any) -> None:
            program(given)

        # The interpreter looks for triton.language among a kernel's globals.
        gathering = FunctionType(
            twin.__code__, kernel.__globals__, kernel.__name__, None, twin.__closure__
        )
        gathering.__signature__ = inspect.signature(kernel)  # type: ignore[attr-defined]
        gathering.__annotations__ = inspect.get_annotations(kernel)
        return gathering

    def _together(self, kernel: Any, given: dict[str, Any], programs: list[Program]) -> None:
        self.findings.launches += 1
        self._launch = _Launch(kernel.__name__, self.findings)
        self._turns = _Turns(lambda: kernel(**given), self._rng, self.findings)
        try:
            self._turns.all(programs)
            self._launch.end()
        finally:
            self._launch = self._turns = None


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@contextmanager
def watched(seed: int) -> Iterator[Findings]:
    """Launches within are interleaved and looked at."""
    watch = _Watch(seed)
    begin = interpreter.GridExecutor.__init__

    def gather(self: Any, kernel: Any, *rest: Any) -> None:
        begin(self, kernel, *rest)
        self.fn = watch.gathered(kernel)

    with (
        mock.patch.object(BUILDER, "create_masked_load", watch.load),
        mock.patch.object(BUILDER, "create_masked_store", watch.store),
        mock.patch.object(BUILDER, "create_atomic_rmw", watch.rmw),
        mock.patch.object(interpreter.GridExecutor, "__init__", gather),
    ):
        yield watch.findings


@contextmanager
def one_query_a_program() -> Iterator[set[str]]:
    """As on a device, where the interpreter takes several; gives the kernels that have such."""
    run = interpreter.InterpretedFunction.run
    seen: set[str] = set()

    def one(self: Any, *given: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        if "QUERIES" in options:
            seen.add(self.fn.__name__)
            grid = (grid[0] * options["QUERIES"], *grid[1:])
            options["QUERIES"] = 1
        return run(self, *given, grid=grid, warmup=warmup, **options)

    with mock.patch.object(interpreter.InterpretedFunction, "run", one):
        yield seen
