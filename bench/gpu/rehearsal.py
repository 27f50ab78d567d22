"""A run where there is no GPU: the same code over kernels that do nothing, and what it would take.

The host's side is that of an H200: its tiles, its programs, and Triton's own binder, which says for
each launch what would be compiled. Kernels leave memory as it is, which is nought, except that each
`tighten` gives up every third query, so that all that is done for those is done too. Answers mean
nothing then; with TRITON_INTERPRET=1 `--rehearse` judges them, at an interpreter's sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from pdepth.backends import room
from pdepth.backends import triton as backend
from pdepth.bench.gpu import budget, specialisations
from pdepth.bench.gpu.equality import cases
from pdepth.bench.gpu.run import Plan, run
from pdepth.bench.gpu.specialisations import Specialisation
from pdepth.bench.gpu.table import KINDS, WIDTHS
from pdepth.kernels import filter, lists

CAPABILITY = 90
PROGRAMS = 4 * 132
SHARED_MEMORY = 232_448  # bytes that a program may have
MEMORY = 110 << 30  # of the device, free
PARTS = ["equality", "bound", "table", "networks", "kernels"]  # what is compiled beforehand
MOST_ALONG = 65_535  # programs along the second and third axis of a launch


@contextmanager
def stubbed(gives_up: bool = True) -> Iterator[set[Specialisation]]:
    """torch's CPU stands for an H200, and kernels do nothing; gathers what would be compiled.

    gives_up: whether some queries overflow their lists.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import JITFunction, create_function_from_signature

    target = make_backend(GPUTarget("cuda", CAPABILITY, 32))
    found: set[Specialisation] = set()
    binders: dict[Any, Any] = {}
    empty = torch.empty

    def launch(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if "QUERIES" in options:
            options["QUERIES"] = 1  # as on a device: an interpreter takes several
        if kernel not in binders:
            binders[kernel] = create_function_from_signature(
                kernel.signature, kernel.params, target
            )
        bound, arguments, others = binders[kernel](*args, **options)
        sizes = grid(bound) if callable(grid) else grid
        name = kernel.fn.__name__
        assert math.prod(sizes) > 0, name
        assert max([0, *sizes[1:]]) <= MOST_ALONG, name
        found.add(Specialisation.of(kernel.fn, arguments, others))
        if name == "tighten_kernel" and gives_up:
            bound["cuts"].flatten()[::3] = -math.inf

    with ExitStack() as stack:
        for place, attribute, value in (
            (JITFunction, "run", launch),
            (torch, "empty", lambda *shape, **options: empty(*shape, **options).zero_()),
            (backend, "unavailable", lambda: None),
            (backend, "_device", lambda problem: torch.device("cpu")),
            (room, "_free", lambda device: MEMORY),
            (filter, "programs", lambda device: PROGRAMS),
            (filter, "_shared_memory", lambda device: SHARED_MEMORY),
            (filter, "_has_descriptors", lambda device: True),
        ):
            stack.enter_context(mock.patch.object(place, attribute, value))
        yield found


def rehearse(plan: Plan, say: Callable[[str], None], *, write: bool) -> int:
    """Run all of it; compare what would be compiled with the list, and the time with `budget.MOST`.

    write: make the list anew.
    """
    plan.tiny = True
    device = torch.device("cpu")
    large = mock.patch.object(lists, "WHOLE", 0)  # tiny supports stand for large ones
    if backend.interpreted():
        with large:
            judged: int = run(plan, device, say)
        return judged
    with stubbed() as found, large:
        plan.stubbed = True
        plan.parts = plan.parts or PARTS
        status = run(plan, device, say)
    if write:
        specialisations.save(found)
    known = specialisations.load()
    missing = sorted(each.line(None) for each in found - set(known))
    for line in missing[:5]:
        say(f"not in {specialisations.FILE.name}: {line}")
    if missing:
        say(
            f"{len(missing)} specialisations are not in the list: "
            "python bench/gpu --rehearse --specialise"
        )
    unused = len(set(known) - found) if plan.parts == PARTS and plan.every == 1 else 0
    if unused:
        say(f"{unused} specialisations of the list are asked for by nothing")
    steps = budget.lines(known, len(cases()), WIDTHS, len(KINDS))
    say(budget.in_words(steps))
    total = sum(each.seconds for each in steps)
    if total > budget.MOST:
        say(f"more than {budget.MOST:.0f} s until the key table is whole")
    return 1 if status or missing or unused or total > budget.MOST else 0
