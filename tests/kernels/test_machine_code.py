"""The detectors of tests/helpers/machine_code.py, before code that has what they look for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pdepth.backends import triton as backend

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

from helpers.machine_code import narrow_products, read_before_overwritten

PLANTED = """
import sys, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
sys.path.insert(0, sys.argv[1])
from helpers.machine_code import hazards, narrow_products

@triton.jit
def kernel(a, b, c, width):
    place = tl.arange(0, 128)
    row = tl.program_id(0) * width
    value = tl.load(a + row + place) * tl.load(b + place) + tl.load(c + place)
    tl.store(c + place, tl.exp2(value))

@triton.jit
def plain(a, b, c, width):
    place = tl.arange(0, 128)
    row = tl.program_id(0).to(tl.int64) * width
    tl.store(c + place, tl.load(a + row + place) * tl.load(b + place) + tl.load(c + place))

signature = {"a": "*fp32", "b": "*fp32", "c": "*fp32", "width": "i32"}
for which, fusion in ((kernel, True), (plain, False)):
    made = triton.compile(
        ASTSource(fn=which, signature=signature), target=GPUTarget("cuda", 90, 32),
        options={"enable_fp_fusion": fusion},
    ).asm
    print(hazards(made["ptx"]), narrow_products(made["ttir"]))
"""


def test_contraction_approximation_and_narrow_products_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "planted.py"  # Triton reads a kernel's source
    path.write_text(PLANTED)
    environment = {name: value for name, value in os.environ.items() if name != backend.INTERPRET}
    call = [sys.executable, str(path), str(Path(__file__).parents[1])]
    said = subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout
    planted, plain = said.splitlines()
    assert "'contracted'" in planted
    assert "'approximate'" in planted
    assert "computed * program" in planted
    assert plain == "[] set()"


def test_a_missing_barrier_is_seen() -> None:
    load, store = "ld.global.v2.b64 {%rd1};", "st.global.b64 [%rd2], %rd1;"
    assert read_before_overwritten(f"{load}\nbar.sync 0;\n{store}")
    assert not read_before_overwritten(f"bar.sync 0;\n{load}\n{store}\nbar.sync 0;")
    assert read_before_overwritten(f"{store}\n{load}")
    assert read_before_overwritten(f"ld.global.b32 %r1;\n{store}")


def test_a_product_that_was_widened_first_is_none() -> None:
    narrow = (
        "%0 = tt.get_program_id x : i32 loc(#loc1)\n"
        "%1 = arith.muli %0, %arg3 : i32 loc(#loc2)\n"
        "%2 = tt.addptr %arg0, %1 : !tt.ptr<f32>, i32 loc(#loc3)\n"
    )
    assert narrow_products(narrow) == {"computed * program"}
    wide = narrow.replace("arith.muli %0, %arg3 : i32", "arith.muli %0, %arg3 : i64")
    assert narrow_products(wide) == set()
