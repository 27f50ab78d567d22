"""What a GPU would not forgive and the interpreter does not show; each detector sees its fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pdepth.backends import triton as backend

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)
if not backend.interpreted():
    pytest.skip("where they are interpreted", allow_module_level=True)

import triton
import triton.language as tl

import pdepth
from pdepth import definition
from pdepth.kernels import lists

from helpers.cases import activations, first_difference
from helpers.interleaved import Findings, one_query_a_program, watched

# They move within a list what they have read: between reading and writing they have a barrier.
OVERWRITES = {"tighten_kernel", "unpack_kernel", "settle_kernel"}


@triton.jit
def racing_kernel(total, SIZE: tl.constexpr):
    """Adds without an atomic operation."""
    place = tl.arange(0, SIZE)
    tl.store(total + place, tl.load(total + place) + 1)


@triton.jit
def counting_kernel(total, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.atomic_add(total + place, 1, sem="relaxed")


@triton.jit
def reaching_kernel(source, to, SIZE: tl.constexpr):
    """Reads beyond the end."""
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(to + place, tl.load(source + place + 1))


@triton.jit
def shifting_kernel(values, SIZE: tl.constexpr):
    """Writes where other threads of the same program may still have to read."""
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    value = tl.load(values + place)
    tl.store(values + place, tl.sum(value, axis=0) + value)


@triton.jit
def colliding_kernel(to, SIZE: tl.constexpr):
    """Stores two values to one address."""
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(to + place // 2, place)


def launched(kernel: Any, programs: int, *given: Any) -> Findings:
    with watched(1) as findings:
        kernel[(programs,)](*given, SIZE=4)
    assert findings.launches == 1
    assert findings.accesses
    return findings


def whole(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int32)


def test_additions_that_are_not_atomic_are_seen() -> None:
    total = whole(4)
    findings = launched(racing_kernel, 40, total)
    assert findings.conflicts
    assert findings.switches
    assert (total < 40).all()  # some were lost, as on a device
    total = whole(4)
    assert not launched(counting_kernel, 40, total).conflicts
    assert (total == 40).all()


def test_an_access_beyond_an_array_is_seen() -> None:
    source, to = whole(1 << 22), whole(8)  # far larger than what lies beside each other by chance
    assert not launched(reaching_kernel, 2, source, to).outside
    assert launched(reaching_kernel, 2, source[-8:], to).outside


def test_values_that_are_overwritten_after_they_were_read_are_seen() -> None:
    values = torch.arange(8, dtype=torch.int32)
    findings = launched(shifting_kernel, 2, values)
    assert findings.overwritten == {"shifting_kernel"}
    assert not findings.conflicts  # each program has its own
    assert not launched(counting_kernel, 2, whole(4)).overwritten


def test_two_values_for_one_address_are_seen() -> None:
    findings = launched(colliding_kernel, 2, whole(8))
    assert findings.twice
    assert not launched(shifting_kernel, 2, whole(8)).twice


def problem(width: int, kind: str) -> tuple[Any, Any, Any]:
    """Support, labels, queries: small, with ties or without."""
    rng = np.random.default_rng(width)
    values = activations(rng, 153, width).astype("f4")
    if kind == "ties":
        values = np.rint(values).astype("f4")
    return values[:150], rng.integers(0, 5, 150), values[150:]


@pytest.mark.slow
@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("kind", ["none", "ties"])
@pytest.mark.parametrize("width", [5, 40, 100, 300, 1100])
def test_programs_in_any_order_and_at_once_give_the_same_votes(
    width: int, kind: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(lists, "WHOLE", 0)
    support, labels, queries = problem(width, kind)
    with watched(width) as findings, one_query_a_program() as seen:
        found = pdepth.probe_votes(support, labels, queries, k=7, backend="triton")
    wanted = definition.probe_votes(support, labels, queries, k=7)
    assert first_difference(found.votes, wanted.votes) is None
    assert first_difference(found.tied, wanted.tied) is None
    assert findings.conflicts == set()
    assert findings.outside == set()
    assert findings.twice == set()
    assert findings.overwritten <= OVERWRITES
    assert findings.switches > 100
    assert seen == {"tighten_kernel"} | ({"unpack_kernel"} if large and width > 16 else set())


@pytest.mark.slow
@pytest.mark.usefixtures("large_supports")
def test_a_list_that_is_reserved_without_an_atomic_operation_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernels themselves with a fault planted."""
    support, labels, queries = problem(5, "none")

    def torn(pointer: Any, value: Any, mask: Any = None, **_: Any) -> Any:
        old = tl.load(pointer, mask=mask, other=0)
        tl.store(pointer, old + value, mask=mask)
        return old

    monkeypatch.setattr(tl, "atomic_add", torn)
    with watched(3) as findings:
        pdepth.probe_votes(support, labels, queries, k=7, backend="triton")
    assert any("differences_kernel" in line for line in findings.conflicts)
