"""Compiles every kernel, in each configuration that can be chosen, without a GPU.

    python tests/helpers/gpu_code.py        registers, spills, shared memory, instructions: into docs/gpu.md
    python tests/helpers/gpu_code.py --json 90      each configuration for sm_90, one a line

Types of the user's rows are float32 but where they change what is compiled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pdepth.kernels import (
    bounds,
    centre,
    compact,
    complete,
    differences,
    duplicates,
    exact,
    filter,
    groups,
    lists,
    prepare,
    settle,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"
BEGIN, END = "<!-- tests/helpers/gpu_code.py -->\n", "\n<!-- end of tests/helpers/gpu_code.py -->"
CAPABILITIES = (80, 90)
TYPES = ("fp16", "bf16", "fp32", "fp64", "u8", "i8", "i16", "i32", "i64")
POINTERS = {
    **dict.fromkeys(("packed", "packed_queries", "packed_support"), "fp16"),
    **dict.fromkeys(("half_norms", "norms", "residuals", "cuts"), "fp32"),
    **dict.fromkeys(("query_norms", "query_residuals"), "fp32"),
    **dict.fromkeys(("proven", "bound", "centres", "scales", "scale"), "fp64"),
    **dict.fromkeys(("distances", "lengths", "shares"), "fp64"),
    **dict.fromkeys(("sizes", "codes", "leaves", "wanted", "votes", "found"), "i32"),
    **dict.fromkeys(("firsts", "entries", "counts"), "i32"),
    **dict.fromkeys(("keys", "table", "order", "query_rows", "hashes"), "i64"),
    **dict.fromkeys(("who", "left", "places", "begins", "largest"), "i64"),
    **dict.fromkeys(("left_out", "same"), "i1"),
}
GIVEN = ("source", "support", "queries")  # the user's arrays, which may lie anywhere


def configurations() -> Iterator[tuple[Any, dict[str, Any], dict[str, Any], str]]:
    """Kernel, constants, options, and the type of the user's rows."""
    plain = {"num_warps": 4, "enable_fp_fusion": False}
    for kind in TYPES:
        yield prepare.prepare_kernel, {"ROWS": prepare.ROWS, "BLOCK": prepare.BLOCK}, plain, kind
        sizes = {"ROWS": duplicates.ROWS, "BLOCK": duplicates.BLOCK}
        yield duplicates.hash_kernel, sizes, plain, kind
        yield duplicates.same_kernel, sizes, plain, kind
        sizes = {"ROWS": centre.ROWS, "BLOCK": centre.BLOCK}
        yield centre.lengths_kernel, sizes, plain, kind
        yield centre.means_kernel, sizes, plain, kind
    for capacity, tile in product(lists.CAPACITIES, filter.TILES):
        sizes = {"TILE_Q": tile.queries, "TILE_S": tile.support, "TILE_D": tile.columns}
        options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": False}
        sizes |= {"GROUP": tile.group}
        yield (
            filter.filter_kernel,
            {**sizes, "CAPACITY": capacity, "CHUNK": tile.chunk},
            options,
            "fp32",
        )
    for capacity, warps in lists.CAPACITIES.items():
        for size in {tile.group for tile in filter.TILES}:
            sizes = {"GROUP": size, "BLOCK": groups.BLOCK, "QUERIES": 1}
            yield groups.unpack_kernel, {**sizes, "CAPACITY": capacity}, plain, "fp32"
        tile_q, tile_s = differences.TILE
        sizes = {"CAPACITY": capacity, "TILE_Q": tile_q, "TILE_S": tile_s}
        yield differences.differences_kernel, sizes, plain, "fp32"
        for by_differences in (False, True):
            constants = {"CAPACITY": capacity, "BOUND": bounds.LENGTH, "QUERIES": 1}
            yield (
                lists.tighten_kernel,
                {**constants, "DIFFERENCES": by_differences},
                {"num_warps": warps, "enable_fp_fusion": False},
                "fp32",
            )
            for shape, asked in product(exact.SHAPES, ("votes", "one", "rows")):
                pairs, lanes, depth, least = shape
                most = max(warps, least)
                yield (
                    settle.settle_kernel,
                    {
                        **{"CAPACITY": capacity, "BLOCK": settle.BLOCK},
                        **{"DIFFERENCES": by_differences},
                        **{"ONE": asked == "one", "ROWS": asked == "rows"},
                        **{"PAIRS": pairs, "LANES": lanes, "DEPTH": depth},
                        "BOUND": bounds.LENGTH,
                    },
                    {**plain, "num_warps": most, "maxnreg": lists.REGISTERS[most]},
                    "fp32",
                )
    options = {"num_warps": compact.WARPS, "enable_fp_fusion": False}
    yield compact.compact_kernel, {"BLOCK": compact.BLOCK}, options, "fp32"
    for pairs, lanes, depth, warps in exact.SHAPES:
        constants = {"PAIRS": pairs, "LANES": lanes, "DEPTH": depth}
        yield complete.distances_kernel, constants, {**plain, "num_warps": warps}, "fp32"


def compiled(
    kernel: Any, constants: dict[str, Any], options: dict[str, Any], kind: str, capability: int
) -> dict[str, Any]:
    """Registers, spilled bytes, shared memory, matrix instructions and atomics of one kernel."""
    signature, aligned = {}, {}
    anywhere = {each.name for each in kernel.params if each.do_not_specialize_on_alignment}
    anywhere |= set(GIVEN)
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name == "members":
            signature[name] = "*i64" if kernel is filter.filter_kernel else "*fp32"
            aligned[(i,)] = [["tt.divisibility", 16]]
        elif name in GIVEN or name in POINTERS:
            signature[name] = "*" + POINTERS.get(name, kind)
            if name not in anywhere:
                aligned[(i,)] = [["tt.divisibility", 16]]
        elif name == "count" and kernel is compact.compact_kernel:
            signature[name] = "*i64"
        elif name == "selves":
            signature[name] = "*i64" if kernel is complete.distances_kernel else "*i32"
        else:
            signature[name] = "i32"
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    made = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()

        def dumped(what: str) -> str:
            call = [str(tool), what, file.name]
            return subprocess.run(call, capture_output=True, text=True, check=True).stdout

        usage = dumped("--dump-resource-usage")
        # Disassembling takes longer than compiling; the others' matrix instructions show in PTX.
        code = dumped("--dump-sass") if kernel is filter.filter_kernel else made.asm["ptx"].upper()
    held = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "kernel": kernel.__name__.removesuffix("_kernel"),
        "capability": capability,
        "rows": kind,
        "constants": constants,
        "warps": options["num_warps"],
        "registers": held["REG"],
        "spilled": held["STACK"] + held["LOCAL"],
        "shared": made.metadata.shared,
        "HGMMA": len(re.findall(r"\b(HGMMA|WGMMA)\b", code)),
        "HMMA": len(re.findall(r"\b(HMMA|MMA)\b", code)),
        "atomics": len(re.findall(r"\b(ATOM|RED)G?\.", code)),
    }


def table(found: list[dict[str, Any]]) -> str:
    """One line a kernel and architecture, in Markdown."""
    lines = [
        "| kernel | for | ways | registers | spilled bytes | shared memory | matrix units |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for kernel, capability in dict.fromkeys((e["kernel"], e["capability"]) for e in found):
        own = [e for e in found if (e["kernel"], e["capability"]) == (kernel, capability)]

        def span(name: str, own: list[dict[str, Any]] = own) -> str:
            low, high = min(e[name] for e in own), max(e[name] for e in own)
            return f"{low:,}" if low == high else f"{low:,} - {high:,}"

        units = [f"{span(name)} {name}" for name in ("HGMMA", "HMMA") if any(e[name] for e in own)]
        cells = [kernel, f"sm_{capability}", len(own), span("registers"), span("spilled")]
        cells += [span("shared"), ", ".join(units) or "-"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    wanted = [int(each) for each in sys.argv[1:] if each.isdigit()] or CAPABILITIES
    every = []
    for capability in wanted:
        for configuration in configurations():
            every.append(compiled(*configuration, capability))
            if "--json" in sys.argv:
                print(json.dumps(every[-1]), flush=True)
    if "--json" in sys.argv:
        return
    text = f"Triton {triton.__version__}:\n\n{table(every)}"
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}{text}{END}{rest.split(END)[1]}")
    print(text)


if __name__ == "__main__":
    main()
