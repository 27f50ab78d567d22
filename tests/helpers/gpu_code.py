"""Compiles every kernel, in each configuration that can be chosen, without a GPU.

    python tests/helpers/gpu_code.py             registers, spills, shared memory, instructions of
                                                 all: a table in docs/gpu.md, and the figures that
                                                 tests compare, of the installed Triton
    python tests/helpers/gpu_code.py --json 90   each configuration for sm_90, one a line
    python tests/helpers/gpu_code.py --json --few 90          some of them

Types of the user's rows are float32 but where they change what is compiled.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pdepth.kernels import (
    bounds,
    bundles,
    complete,
    differences,
    duplicates,
    exact,
    filter,
    lists,
    measure,
    prepare,
    settle,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script
from helpers import machine_code

FIGURES = Path(__file__).resolve().parent / "figures"  # a file for each version of Triton
PAGE = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"
BEGIN, END = "<!-- tests/helpers/gpu_code.py -->\n", "\n<!-- end of tests/helpers/gpu_code.py -->"
CAPABILITIES = (80, 90)
TYPES = ("fp16", "bf16", "fp32", "fp64", "u8", "i8", "i16", "i32", "i64")
MOVED = ("fp32", "fp64", "i16", "i32", "i64")  # those whose rows are centred
POINTERS = {
    **dict.fromkeys(("packed", "packed_queries", "packed_support"), "fp16"),
    **dict.fromkeys(("half_norms", "norms", "residuals", "cuts"), "fp32"),
    **dict.fromkeys(("query_norms", "query_residuals"), "fp32"),
    **dict.fromkeys(("proven", "bound", "centres", "scales", "scale"), "fp64"),
    **{"distances": "fp64"},
    **dict.fromkeys(("sizes", "codes", "target", "votes", "own"), "i32"),
    **dict.fromkeys(("firsts", "entries", "counts"), "i32"),
    **dict.fromkeys(("keys", "table", "order", "query_rows", "hashes"), "i64"),
    **dict.fromkeys(("places", "constants", "positions"), "i64"),
    **dict.fromkeys(("left_out", "same"), "i1"),
}
ANYWHERE = ("source", "support", "queries")  # the user's arrays, at any address


def configurations() -> Iterator[tuple[Any, dict[str, Any], dict[str, Any], str]]:
    """Kernel, constants, options, and the type of the user's rows."""
    plain = {"num_warps": 4, "enable_fp_fusion": False}
    for kind in TYPES:
        moved: dict[str, Any] = {} if kind in MOVED else {"centres": None}
        sizes = {"ROWS": prepare.ROWS, "BLOCK": prepare.BLOCK, "BOUND": bounds.LENGTH}
        sizes |= {"TINY": prepare.NEGLIGIBLE, "MOVED": kind in MOVED, **moved}
        for inner in (False, True):
            yield prepare.prepare_kernel, {**sizes, "INNER": inner}, plain, kind
        sizes = {"ROWS": measure.ROWS, "BLOCK": measure.BLOCK, "BOUND": bounds.LENGTH}
        sizes |= {"SAMPLE": measure.SAMPLE, "SLICE": measure.SLICE}
        options = {**plain, "maxnreg": measure.REGISTERS}
        yield measure.measure_kernel, {**sizes, **moved}, options, kind  # of large supports
        yield measure.measure_kernel, {**sizes, **moved, "hashes": None}, options, kind  # of small
        if not moved:  # of narrow layers of large supports
            yield measure.measure_kernel, {**sizes, "centres": None}, options, kind
        sizes = {"ROWS": duplicates.ROWS, "BLOCK": duplicates.BLOCK}
        yield duplicates.same_kernel, sizes, plain, kind
    for capacity, tile in [
        *product(lists.CAPACITIES, filter.TILES),
        *((capacity, filter.WHOLE) for capacity in lists.CAPACITIES if capacity <= lists.WHOLE),
    ]:
        sizes = {"TILE_Q": tile.queries, "TILE_S": tile.support, "TILE_D": tile.columns}
        options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": False}
        sizes |= {"BUNDLE": tile.bundle, "DESCRIPTORS": tile.descriptors}
        yield (
            filter.filter_kernel,
            {**sizes, "CAPACITY": capacity, "SECTION": tile.section},
            options,
            "fp32",
        )
    for capacity in lists.CAPACITIES:
        for size in {tile.bundle for tile in filter.TILES}:
            sizes = {"BUNDLE": size, "BLOCK": bundles.BLOCK, "QUERIES": 1}
            yield bundles.unpack_kernel, {**sizes, "CAPACITY": capacity}, plain, "fp32"
        tile_q, tile_s = differences.TILE
        sizes = {"CAPACITY": capacity, "TILE_Q": tile_q, "TILE_S": tile_s}
        yield differences.differences_kernel, sizes, plain, "fp32"
        for by_differences in (False, True):
            constants = {"CAPACITY": capacity, "WINDOW": capacity // 2, "BOUND": bounds.LENGTH}
            yield (
                lists.tighten_kernel,
                {**constants, "QUERIES": 1, "DIFFERENCES": by_differences},
                {"num_warps": lists.warps_for(capacity), "enable_fp_fusion": False},
                "fp32",
            )
            inner = (False,) if by_differences else (False, True)
            for by, answers, of_products in product(exact.SHAPES, ("votes", "one", "rows"), inner):
                if by is exact.SHAPES[-1] and not by_differences:
                    continue  # beyond the filter's columns
                warps = lists.warps_for(capacity)
                yield (
                    settle.settle_kernel,
                    {
                        **{"CAPACITY": capacity, "BLOCK": settle.BLOCK, "WARPS": warps},
                        **{"DIFFERENCES": by_differences},
                        **{"ONE": answers == "one", "ROWS": answers == "rows"},
                        **{"PAIRS": by.pairs, "LANES": by.lanes, "HALVINGS": by.halvings},
                        **{"BOUND": bounds.LENGTH, "INNER": of_products},
                    },
                    {**plain, "num_warps": warps, "maxnreg": settle.registers_for(warps, by)},
                    "fp32",
                )
    for by, inner in product(exact.SHAPES, (False, True)):
        sizes = {"PAIRS": complete.WARPS * by.pairs, "LANES": by.lanes, "HALVINGS": by.halvings}
        options = {**plain, "num_warps": complete.WARPS, "maxnreg": complete.REGISTERS}
        yield complete.distances_kernel, {**sizes, "INNER": inner}, options, "fp32"


def representative() -> Iterator[tuple[Any, dict[str, Any], dict[str, Any], str]]:
    """One configuration of each of the largest kernels; of settlement one for the widest rows."""
    most = exact.SHAPES[-2].halvings  # of those that the filter serves
    chosen: dict[str, tuple[Any, dict[str, Any], dict[str, Any], str]] = {}
    for configuration in configurations():
        kernel, constants, _, kind = configuration
        name = kernel.__name__.removesuffix("_kernel")
        wide = constants.get("SECTION", 1) > 0 and not constants.get("DESCRIPTORS")
        wide = wide and constants.get("HALVINGS", most) == most
        wide = wide and not constants.get("DIFFERENCES")
        if name in ("filter", "settle", "prepare") and kind == "fp32" and wide:
            chosen.setdefault(name, configuration)
    yield from chosen.values()


def compiled(
    kernel: Any, constants: dict[str, Any], options: dict[str, Any], kind: str, capability: int
) -> dict[str, Any]:
    """Registers, spilled bytes, shared memory, matrix instructions and atomics of one kernel."""
    signature, aligned = {}, {}
    anywhere = {each.name for each in kernel.params if each.do_not_specialize_on_alignment}
    anywhere |= set(ANYWHERE)
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name == "members":
            signature[name] = "*i64" if kernel is filter.filter_kernel else "*fp32"
            aligned[(i,)] = [["tt.divisibility", 16]]
        elif name in ANYWHERE or name in POINTERS:
            signature[name] = "*" + POINTERS.get(name, kind)
            if name not in anywhere:
                aligned[(i,)] = [["tt.divisibility", 16]]
        elif name == "selves":
            signature[name] = "*i32" if kernel is lists.tighten_kernel else "*i64"
        else:
            signature[name] = "i32"
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    binary = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()

        def dumped(what: str) -> str:
            call = [str(tool), what, file.name]
            return subprocess.run(call, capture_output=True, text=True, check=True).stdout

        usage = dumped("--dump-resource-usage")
        # Disassembling takes longer than compiling; the others' matrix instructions show in PTX.
        code = (
            dumped("--dump-sass") if kernel is filter.filter_kernel else binary.asm["ptx"].upper()
        )
    held = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "kernel": kernel.__name__.removesuffix("_kernel"),
        "capability": capability,
        "rows": kind,
        "constants": constants,
        "warps": options["num_warps"],
        "registers": held["REG"],
        "spilled": held["STACK"] + held["LOCAL"],
        "shared": binary.metadata.shared,
        "HGMMA": len(re.findall(r"\b(HGMMA|WGMMA)\b", code)),
        "HMMA": len(re.findall(r"\b(HMMA|MMA)\b", code)),
        "atomics": len(re.findall(r"\b(atom|red)\.", binary.asm["ptx"])),
        "hazards": machine_code.hazards(binary.asm["ptx"]),
        "narrow": sorted(machine_code.narrow_products(binary.asm["ttir"])),
        "reads first": machine_code.read_before_overwritten(binary.asm["ptx"]),
    }


def name_of(kernel: dict[str, Any]) -> str:
    """A configuration in words: what `stored_figures` knows it by."""
    constants = " ".join(f"{name}={value}" for name, value in sorted(kernel["constants"].items()))
    return f"{kernel['kernel']} sm_{kernel['capability']} {kernel['rows']} {constants}"


def sources() -> str:
    """A digest of what is compiled: the kernels without docstrings, comments and line breaks."""
    digest = hashlib.sha256()
    for path in sorted(Path(settle.__file__).parent.glob("*.py")):
        text = path.read_text()
        for statement in ast.parse(text).body:
            code = ast.get_source_segment(text, statement) or ""
            decorators = [ast.unparse(d) for d in getattr(statement, "decorator_list", [])]
            if "triton.jit" not in " ".join(decorators) and "tl.constexpr(" not in code:
                continue
            for token in tokenize.generate_tokens(io.StringIO(code).readline):
                words = token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER)
                if words or (token.type == tokenize.STRING and token.string[:3] != '"""'):
                    digest.update(token.string.encode() + b" ")
    return digest.hexdigest()[:16]


def stored_figures() -> dict[str, list[int]] | None:
    """Registers, spilled bytes and shared memory of each configuration by the installed Triton.

    None where no figures of this version are stored, or those of other kernels.
    """
    path = FIGURES / f"triton-{triton.__version__}.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    figures: dict[str, list[int]] = stored.get("figures", {})
    return figures if stored.get("sources") == sources() else None


def store_figures(kernels: list[dict[str, Any]], version: str = triton.__version__) -> None:
    lines = [
        f"{json.dumps(name_of(k))}: {[k['registers'], k['spilled'], k['shared']]}" for k in kernels
    ]
    text = f'{{"sources": "{sources()}",\n"figures": {{\n' + ",\n".join(sorted(lines)) + "\n}}\n"
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"triton-{version}.json").write_text(text)


def table(kernels: list[dict[str, Any]]) -> str:
    """One line a kernel and architecture, in Markdown."""
    lines = [
        "| kernel | for | ways | registers | spilled bytes | shared memory | matrix units |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for kernel, capability in dict.fromkeys((k["kernel"], k["capability"]) for k in kernels):
        own = [k for k in kernels if (k["kernel"], k["capability"]) == (kernel, capability)]

        def span(name: str, own: list[dict[str, Any]] = own) -> str:
            low, high = min(k[name] for k in own), max(k[name] for k in own)
            return f"{low:,}" if low == high else f"{low:,} - {high:,}"

        units = [f"{span(name)} {name}" for name in ("HGMMA", "HMMA") if any(k[name] for k in own)]
        cells = [kernel, f"sm_{capability}", len(own), span("registers"), span("spilled")]
        cells += [span("shared"), ", ".join(units) or "-"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    capabilities = [int(word) for word in sys.argv[1:] if word.isdigit()] or CAPABILITIES
    kernels = []
    for capability in capabilities:
        for configuration in representative() if "--few" in sys.argv else configurations():
            if configuration[1].get("DESCRIPTORS") and capability != 90:
                continue  # chosen on Hopper alone
            kernels.append(compiled(*configuration, capability))
            if "--json" in sys.argv:
                figures = stored_figures()
                name = name_of(kernels[-1])
                stored = None if figures is None else figures.get(name)
                print(json.dumps({**kernels[-1], "name": name, "stored": stored}), flush=True)
    if "--json" in sys.argv:
        return
    store_figures(kernels)
    text = f"Triton {triton.__version__}:\n\n{table(kernels)}"
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}{text}{END}{rest.split(END)[1]}")
    print(text)


if __name__ == "__main__":
    main()
