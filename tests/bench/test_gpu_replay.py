"""The clock of bench/gpu/replay.py, over code whose time can be told by hand."""

from __future__ import annotations

import pytest

from pdepth.bench.gpu import replay
from pdepth.bench.gpu.replay import Instruction, loops, parse


def code(*lines: tuple[str, int, int, int]) -> list[Instruction]:
    """Text, stall, the scoreboard that it sets and those that it waits for."""
    return [
        Instruction(16 * number, text, stall, sets, 7, waits)
        for number, (text, stall, sets, waits) in enumerate(lines)
    ]


LOOP = code(
    ("IADD3 R0, R0, 1, RZ", 4, 7, 0),
    ("LDG.E R2, [R4]", 2, 0, 0),  # sets scoreboard 0
    ("FADD R2, R2, R2", 5, 7, 1),  # waits for it
    ("@P0 BRA 0x10", 1, 7, 0),
    ("EXIT", 1, 7, 0),
    ("BRA 0x50", 1, 7, 0),  # every program's last
)


def test_a_loop_takes_its_trips() -> None:
    assert loops(LOOP) == {16: 48}
    once, thrice = replay.replay(LOOP, [1]), replay.replay(LOOP, [3])
    assert once.clocks == 4 + 450 + 5 + 1 + 1  # the load's latency hides its stall
    assert once.instructions == 5
    more = thrice.less(once)
    assert more.clocks == 2 * (450 + 5 + 1)
    assert more.instructions == 6
    assert dict(more.pipes) == {"LSU": 8, "FMA": 2, "control": 2, "issue": 6, "ALU": 0}
    assert more.floor(warps=8) == 16
    with pytest.raises(ValueError, match="expected 1 of them, got 2"):
        replay.replay(LOOP, [1, 1])


def test_a_loop_without_trips_is_jumped_over() -> None:
    around = [
        Instruction(0, "@P1 BRA 0x50", 1, 7, 7, 0),
        Instruction(16, "IADD3 R0, R0, 1, RZ", 4, 7, 7, 0),
        Instruction(32, "IADD3 R1, R0, 1, RZ", 4, 7, 7, 0),
        Instruction(48, "IADD3 R1, R0, 1, RZ", 4, 7, 7, 0),
        Instruction(64, "@P0 BRA 0x10", 1, 7, 7, 0),
        Instruction(80, "EXIT", 1, 7, 7, 0),
    ]
    assert replay.replay(around, [0]).instructions == 2
    assert replay.replay(around, [2]).instructions == 1 + 2 * 4 + 1


def test_programs_at_once_are_those_of_the_scarcest() -> None:
    assert replay.programs_at_once(registers=128, shared=40_000, warps=8) == 2  # by registers
    assert replay.programs_at_once(registers=128, shared=140_000, warps=8) == 1
    assert replay.programs_at_once(registers=16, shared=0, warps=8) == 8  # by warps


def test_control_words_are_read_as_the_tool_prints_them() -> None:
    control = 5 | 2 << 5 | 7 << 8 | 0b101 << 11
    sass = (
        "        /*0010*/              @!P0 LDG.E R2, [R4] ;    /* 0x0000000004027981 */\n"
        f"                                              /* 0x{control << 41:016x} */\n"
    )
    (found,) = parse(sass)
    assert found == Instruction(16, "@!P0 LDG.E R2, [R4]", 5, 2, 7, 0b101)
    assert found.operation == "LDG"
    assert found.target is None
