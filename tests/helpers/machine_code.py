"""Hazards that show in what Triton makes of a kernel: PTX, and its first intermediate code."""

from __future__ import annotations

import re
from collections.abc import Iterator

CONTRACTED = re.compile(r"\bfma\.rn(?:\.ftz)?\.f(?:32|64)\b")
FLUSHED = re.compile(r"\.ftz\b")
APPROXIMATE = re.compile(r"\.approx\b|\.full\.f32\b")
# Operations through which a narrow product reaches an address.
THROUGH = {
    *("arith.addi", "arith.subi", "arith.muli", "arith.minsi", "arith.maxsi", "arith.select"),
    *("arith.shli", "arith.trunci", "tt.splat", "tt.broadcast", "tt.expand_dims", "tt.reshape"),
}
Operation = tuple[str, list[str], str]  # its name, operands and the type of its result
SAME = {"tt.splat", "tt.broadcast", "tt.expand_dims", "arith.extsi"}
WORDS = {
    **{"arith.constant": "constant", "tt.make_range": "range", "tt.load": "load"},
    **{"tt.get_program_id": "program", "tt.get_num_programs": "programs"},
}
# What is known to stay below 2^31: 128 rows of a tile, of 2^24 columns at most; a launch's programs
# times the rows of each; and columns.
BOUNDED = {
    "prepare": {"computed * constant"},
    "measure": {"computed * constant"},
    "filter": {"computed * constant", "computed * range"},
    "differences": {"computed * constant", "constant * program"},
    # "computed * computed": in exact.py half of a width, or none of it, by a halving's bit.
    "settle": {"constant * program", "computed * computed"},
    "distances": {"constant * program"},
}


def hazards(ptx: str) -> list[str]:
    """Products and sums in one rounding, numbers that are flushed to nought, approximations."""
    kinds = {"contracted": CONTRACTED, "flushed": FLUSHED, "approximate": APPROXIMATE}
    return [name for name, pattern in kinds.items() if pattern.search(ptx)]


def read_before_overwritten(ptx: str) -> bool:
    """Whether a barrier lies between the first load from memory and the last store to it, of words
    of each size: of a kernel that writes where it has read, as its code is written."""
    operations = re.findall(r"\b(?:ld|st)\.global(?:\.\w+)*?\.b(?:32|64)|\bbar\.sync", ptx)
    for size in ("b32", "b64"):
        loads = [i for i, each in enumerate(operations) if _is(each, "ld", size)]
        stores = [i for i, each in enumerate(operations) if _is(each, "st", size)]
        between = operations[loads[0] : stores[-1]] if loads and stores else []
        if between and "bar.sync" not in between:
            return False
    return True


def _is(operation: str, what: str, size: str) -> bool:
    return operation.startswith(what) and operation.endswith(size)


def narrow_products(ttir: str) -> set[str]:
    """Products in 32 bits that reach an address, "a * b": each has to be known to stay below 2^31.

    Those of a constant and a number within a tile are left out.
    """
    operations: dict[str, Operation] = {}
    offsets: list[str] = []
    for line in ttir.splitlines():
        if found := re.match(r"\s*(%[\w:]+) = \"?([\w.]+)\"?(.*)", line):
            operands = re.findall(r"%\w+", found[3].split(" : ")[0])
            kind = found[3].split(" : ")[-1].split(" loc(")[0]
            operations[found[1].split(":")[0]] = found[2], operands, kind
        if found := re.search(r"tt\.addptr %\w+, (%\w+) : .*, (?:tensor<[^>]*x)?i32", line):
            offsets.append(found[1])
    return {product for offset in offsets for product in _products(operations, offset)}


def _products(operations: dict[str, Operation], offset: str) -> Iterator[str]:
    waiting, seen = [offset], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in operations:
            continue
        seen.add(name)
        kind, operands, result = operations[name]
        if kind == "arith.muli" and "i64" not in result:
            words = sorted(_described(operations, each) for each in operands)
            if not {"constant", "range"} >= set(words):
                yield " * ".join(words)
        if kind in THROUGH:
            waiting += operands


def _described(operations: dict[str, Operation], name: str) -> str:
    """What a number is: a constant, a number within a tile or of a program, or computed."""
    kind, operands, _ = operations.get(name, ("", [], ""))
    if kind in SAME and operands:
        return _described(operations, operands[0])
    return WORDS.get(kind, "computed")
