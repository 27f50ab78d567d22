"""Which kernels a run compiles: a list made beforehand, so that all can be compiled at once.

A specialisation is what Triton compiles apart: a kernel, its constants and options, the types of
its arguments, and which of them are multiples of 16 or one. `specialisations.jsonl` holds one a
line, with the seconds of processor time that compiling it took; `python bench/gpu --rehearse
--specialise` makes it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("specialisations.jsonl")
CONSTANT = "constexpr"  # Triton's word, for constants and for an argument that is 1
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")


@dataclass(frozen=True)
class Specialisation:
    """One kernel as it is compiled.

    Attributes:
        kernel: its module, and its name there.
        arguments: of each its type and what else is known: "D" for a multiple of 16; of a
            constant its value.
        options: of the launch.
    """

    kernel: str
    arguments: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]

    @classmethod
    def of(
        cls, function: Any, arguments: Iterable[Any], options: Mapping[str, Any]
    ) -> Specialisation:
        """As Triton's own binder puts a call of the kernel."""
        return cls(
            f"{function.__module__}:{function.__name__}",
            tuple(
                (kind, known or None if kind != CONSTANT else known) for kind, known in arguments
            ),
            tuple((name, options[name]) for name in OPTIONS if name in options),
        )

    def line(self, seconds: float | None) -> str:
        """One line of the file."""
        return json.dumps([self.kernel, self.arguments, dict(self.options), seconds])

    @classmethod
    def read(cls, line: str) -> tuple[Specialisation, float | None]:
        """Of a line, and its seconds."""
        kernel, arguments, options, seconds = json.loads(line)
        return cls(kernel, tuple(map(tuple, arguments)), tuple(options.items())), seconds

    @property
    def name(self) -> str:
        return self.kernel.rpartition(":")[2].removesuffix("_kernel")

    @property
    def function(self) -> Any:
        """The kernel itself."""
        module, name = self.kernel.split(":")
        return getattr(importlib.import_module(module), name)

    @property
    def constants(self) -> dict[str, Any]:
        """By name."""
        pairs = zip(self.function.params, self.arguments, strict=True)
        return {each.name: known for each, (_, known) in pairs if each.is_constexpr}

    def warm(self) -> Any:
        """Compile it into Triton's cache, as the installed Triton would at a launch."""
        kernel = self.function
        arguments = {
            parameter.name: known if kind == CONSTANT else _stand_in(kind, known)
            for parameter, (kind, known) in zip(kernel.params, self.arguments, strict=True)
        }
        compiled = kernel.warmup(grid=(1,), **arguments, **dict(self.options))
        driver = importlib.import_module("triton.backends.nvidia.driver")
        if hasattr(driver, "make_launcher"):  # Triton 3.6: C code for each signature, by cc
            driver.CudaLauncher(compiled.src, compiled.metadata)
        return compiled


class _Tensor:
    """What Triton looks at of a tensor."""

    def __init__(self, kind: str, aligned: bool) -> None:
        import torch

        names = {"fp": "float", "bf": "bfloat", "i": "int", "u": "uint"}
        word, bits = kind.rstrip("0123456789"), kind.lstrip("fpbiu")
        self.dtype = torch.bool if kind == "i1" else getattr(torch, names[word] + bits)
        self._address = 0 if aligned else 8

    def data_ptr(self) -> int:
        return self._address


def _stand_in(kind: str, known: str | None) -> Any:
    """An argument that Triton takes for one of this type."""
    aligned = known == "D"
    if kind.startswith("*"):
        return _Tensor(kind[1:], aligned)
    if kind == "i64":
        return 1 << 40 if aligned else (1 << 40) + 3
    if kind == "i32":
        return 16 if aligned else 3
    raise ValueError(f"argument: expected a pointer, i32 or i64, got {kind}.")


def load(path: Path = FILE) -> dict[Specialisation, float | None]:
    """The stored ones, with the seconds that each took."""
    return dict(map(Specialisation.read, path.read_text().splitlines())) if path.exists() else {}


def save(
    found: Iterable[Specialisation],
    path: Path = FILE,
    seconds: Mapping[Specialisation, float | None] | None = None,
) -> None:
    """Store these, with new seconds or those that were known."""
    known = load(path) | dict(seconds or {})
    path.write_text("".join(sorted(f"{each.line(known.get(each))}\n" for each in found)))


def seconds_of(known: Mapping[Specialisation, float | None]) -> dict[Specialisation, float]:
    """Of those that were not measured the mean of their kernel's, or of all."""
    measured: dict[str, list[float]] = {}
    for each, seconds in known.items():
        if seconds is not None:
            measured.setdefault(each.name, []).append(seconds)
    every = [seconds for values in measured.values() for seconds in values] or [2.0]
    means = {each.name: measured.get(each.name, every) for each in known}
    return {
        each: sum(means[each.name]) / len(means[each.name]) if seconds is None else seconds
        for each, seconds in known.items()
    }
