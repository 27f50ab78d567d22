"""What every benchmark says about where it ran, checks before it speaks, and writes into README."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import __version__, definition, native
from pdepth.io.atomic import replacing

HERE = Path(__file__).resolve().parent
CHECKOUT = (HERE.parent / "csrc").is_dir()  # and no installed copy
HOME = HERE.parent if CHECKOUT else Path("pdepth-bench")  # of what is written
README, PAGE = Path("README.md"), Path("docs", "benchmarks.md")
PICTURE, RESULTS = Path("docs", "bench.png"), Path("bench", "results")
DATA = Path(os.environ.get("PDEPTH_DATA", HERE.parents[1] / "shared" / "data"))


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine(*packages: str) -> dict[str, Any]:
    """Processor, threads, level, versions of `packages`, commit and date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    versions = {"pdepth": __version__, "python": platform.python_version()}
    return {
        "processor": named[0] if named else platform.processor(),
        "system": platform.platform(),
        "threads": native.default_threads(),
        "level": native.simd_level(),
        "versions": versions | {package: version_of(package) for package in packages},
        "commit": commit(),
        "date": date.today().isoformat(),
    }


def commit() -> str:
    """The checkout's commit, "-dirty" if it was changed; or what PDEPTH_COMMIT says, for a copy
    without its history, and for what runs after results have been written. Empty for an installed
    one.
    """
    if not CHECKOUT:
        return ""
    if said := os.environ.get("PDEPTH_COMMIT", ""):
        return said
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return found.stdout.strip()


def where(about: dict[str, Any]) -> str:
    """`machine()` in a line."""
    used = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    at = f"commit {about['commit']}, " if about["commit"] else ""
    return (
        f"{about['threads']} threads of {about['processor']} (level {about['level']}), "
        f"{about['date']}, {at}{used}"
    )


def memory_now() -> int | None:
    """Bytes held now, from which on the peak is counted anew; None where Linux's /proc is not."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, StopIteration):
        return None


def memory_peak() -> int:
    """Most bytes that this process has held since `memory_now`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def definition_votes(
    support: Any,
    labels: NDArray[np.int64],
    queries: Any,
    k: int,
    left_out: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """The definition's votes, a stretch of the support at a time: wide layers fit into memory.

    left_out: (N,) the support row that each query is, if they are such.
    """
    wanted = definition.as_rows(queries)
    step = max(1, 2**24 // wanted.shape[1])
    parts = (definition.as_rows(support[at : at + step]) for at in range(0, len(support), step))
    distances = np.concatenate(
        [[definition.squared_distances(part, query) for query in wanted] for part in parts], axis=1
    )
    classes, codes = np.unique(labels, return_inverse=True)
    own = [None] * len(wanted) if left_out is None else left_out.tolist()
    pairs = zip(distances, own, strict=True)
    near = [codes[definition.nearest(each, k, row)] for each, row in pairs]
    counts = np.stack([np.bincount(each, minlength=len(classes)) for each in near])
    return classes[definition.majority(counts)[0]]


def first_difference(found: NDArray[Any], wanted: NDArray[Any]) -> tuple[int, str]:
    """How many elements (N,) differ, and in words where the first does."""
    wrong = np.flatnonzero(found != wanted)
    if not len(wrong):
        return 0, ""
    first = wrong[0]
    return len(wrong), f", the first at {first}: {found[first]} for {wanted[first]}"


def real_data() -> ModuleType:
    """The reader of CIFAR-10 and its trained network, from the folder of the data."""
    path = DATA / "cifar10.py"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; PDEPTH_DATA names the folder that holds it.")
    spec = importlib.util.spec_from_file_location("cifar10_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def publish(
    name: str,
    measure: Callable[[], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    stored: Path,
    page: Path,
) -> None:
    """A benchmark's command: measure and store, unless --render; then put its table on the page."""
    if sys.argv[1:] != ["--render"]:
        found = measure()
        with replacing(stored) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
    render(name, table(json.loads(stored.read_text())), page)


def render(name: str, text: str, where_to: Path = PAGE) -> None:
    """Put `text` between the marks of the benchmark `name` in a page, made if there is none."""
    page = HOME / where_to
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    old = page.read_text() if page.exists() else f"{begin}{end}\n"
    if begin not in old or end not in old:
        raise ValueError(f"{page} has no marks <!-- {name} --> and <!-- end of {name} -->.")
    head, rest = old.split(begin, 1)
    page.parent.mkdir(parents=True, exist_ok=True)
    with replacing(page) as temporary:
        temporary.write_text(head + begin + text + end + rest.split(end, 1)[1])
