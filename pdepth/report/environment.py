"""What a machine and an installation have: for reports of bugs, and to see which level runs."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pdepth import __version__, backends, native
from pdepth.arrays.memory import free_bytes, human

LIBRARIES = ("numpy", "torch", "triton")
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extras>[\w,.-]+)\])?(?P<rest>.*)")
OF_EXTRA = re.compile(r"""(?:;|\band) *extra *== *["']([\w-]+)["'] *$""")
OF_SYSTEM = re.compile(r"""; *platform_system *== *["'](\w+)["']""")


@dataclass(frozen=True)
class Environment:
    """What pdepth finds here.

    Attributes:
        pdepth, python, system, processor: versions and names.
        folder: of the package.
        levels: instruction sets of the cpu backend that this build has, and whether they run here.
        level: the one in use, or why there is none.
        threads: of a search, where the caller does not say. memory: bytes that are free, or None.
        backends: each one, and "available" or why it is not.
        libraries: versions of NumPy, torch and Triton; None where one is not installed.
        gpus: CUDA devices that torch sees, by name.
        extras: optional parts, and what each lacks; empty where nothing is missing.
    """

    pdepth: str
    folder: str
    python: str
    system: str
    processor: str
    levels: dict[str, bool]
    level: str
    threads: int
    memory: int | None
    backends: dict[str, str]
    libraries: dict[str, str | None]
    gpus: list[str] = field(default_factory=list)
    extras: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def here(cls) -> Environment:
        """Of this process. torch is imported, if it is installed, for its devices."""
        try:
            level = native.simd_level()
        except ValueError as error:  # of PDEPTH_SIMD
            level = str(error)
        return cls(
            pdepth=__version__,
            folder=str(Path(__file__).parents[1]),
            python=f"{platform.python_version()} ({platform.python_implementation()})",
            system=platform.platform(),
            processor=processor_name(),
            levels=native.simd_levels(),
            level=level,
            threads=native.default_threads(),
            memory=free_bytes(),
            backends=backends(),
            libraries={name: version_of(name) for name in LIBRARIES},
            gpus=_gpus(),
            extras={name: [*dict.fromkeys(_missing(name))] for name in _extras()},
        )

    def to_dict(self) -> dict[str, Any]:
        """By name, in numbers, strings, lists and dicts, as JSON has them."""
        return asdict(self)

    def __str__(self) -> str:
        levels = [name if runs else f"{name} (not here)" for name, runs in self.levels.items()]
        ready = [name for name, missing in self.extras.items() if not missing]
        lacking = [name for name, missing in self.extras.items() if missing]
        lines = [
            ("pdepth", f"{self.pdepth}, {self.folder}"),
            ("python", self.python),
            ("system", self.system),
            ("processor", self.processor),
            ("level", self.level),
            ("levels", ", ".join(levels)),
            ("threads", str(self.threads)),
            ("memory", "unknown" if self.memory is None else f"{human(self.memory)} free"),
            *((f"backend {name}", state) for name, state in self.backends.items()),
            *((name, version or "not installed") for name, version in self.libraries.items()),
            ("GPU", ", ".join(self.gpus) or "none that torch sees"),
            ("extras", ", ".join(ready) or "none"),
            ("not installed", ", ".join(lacking) or "none"),
        ]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def processor_name() -> str:
    """The processor, as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    if find_spec("torch") is None:
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _extras() -> list[str]:
    """The extras of this installation; none of a checkout that is not installed."""
    try:
        return metadata.metadata("pdepth").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []


def _missing(extra: str) -> Iterator[str]:
    """What an extra requires that is not installed, whatever its version."""
    for requirement in metadata.requires("pdepth") or []:
        condition = OF_EXTRA.search(requirement)
        system = OF_SYSTEM.search(requirement)
        if condition is None or condition[1] != extra:
            continue
        match = REQUIREMENT.match(requirement)
        assert match is not None
        if system is not None and system[1] != platform.system():
            continue
        if match["name"] == "pdepth":
            for other in match["extras"].split(","):
                yield from _missing(other)
        elif version_of(match["name"]) is None:
            yield match["name"]
