"""From a wheel to the demo where nothing but Python is: how long each step takes, and its size.

    python bench/studies/install.py dist/NAME.whl   measure, store, render into docs/install.md
    python bench/studies/install.py --render        the page's table, as stored

A new environment of this interpreter, for which the wheel has to be; no compiler or other program
is in PATH, and pip has kept nothing from before. Answers are compared with the definition's. Of a
wheel that another commit made, PDEPTH_COMMIT names that.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.pages import publish_of_wheel

NAME, STORED, PAGE = (
    "bench/studies/install.py",
    HOME / RESULTS / "install.json",
    Path("docs", "install.md"),
)
SEARCH = """
import numpy as np
import pdepth
from pdepth import definition

rng = np.random.default_rng(0)
support, queries = (rng.standard_normal((rows, 128), np.float32) for rows in (20_000, 1_000))
distances, rows = pdepth.Index(support).kneighbors(queries, k=30)
expected = definition.kneighbors(support, queries[:50], k=30)
assert (distances[:50] == expected[0]).all()
assert (rows[:50] == expected[1]).all()
"""
CLASSIFIER = """
from pdepth import definition
from pdepth.compat.sklearn import KNeighborsClassifier
from sklearn.datasets import load_digits

images, labels = load_digits(return_X_y=True)
classifier = KNeighborsClassifier(5).fit(images[:1_200], labels[:1_200])
expected = definition.probe_votes(images[:1_200], labels[:1_200], images[1_200:], k=5)
assert (classifier.predict(images[1_200:]) == expected.votes).all()
"""


def steps(wheel: Path) -> dict[str, list[str]]:
    """What each step is called, and what Python is given for it."""
    pip = ["-m", "pip", "install", "-q", "--no-cache-dir"]
    return {
        "`pip install` of the wheel": [*pip, str(wheel)],
        "`pdepth.Index`: 1,000 queries among 20,000 rows of 128": ["-c", SEARCH],
        "`pip install`, extra `sklearn`": [*pip, f"{wheel}[sklearn]"],
        "scikit-learn's drop-in on the digits": ["-c", CLASSIFIER],
        "`pip install`, extra `demo`, with torch": [*pip, f"{wheel}[demo]"],
        "`pdepth demo`": ["-m", "pdepth", "demo", "--out", "demo"],
    }


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def measure(wheel: Path) -> dict[str, Any]:
    """The steps in turn, each with nothing in PATH."""
    about = machine()  # of the commit that is here now
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "environment")
        subprocess.run([sys.executable, "-m", "venv", made], check=True)
        rows, before = [], size(made)
        for name, given in steps(wheel.resolve()).items():
            begin = time.perf_counter()
            subprocess.run(
                [made / "bin" / "python", *given],
                cwd=folder,
                env={"PATH": "/nonexistent", "HOME": folder},
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds = round(time.perf_counter() - begin, 2)
            rows.append({"step": name, "seconds": seconds, "bytes": size(made) - before})
        assert Path(folder, "demo", "depth.parquet").exists()
    return {"machine": about, "wheel": wheel.name, "rows": rows}


def table(stored: dict[str, Any]) -> str:
    """A line a step."""
    lines = ["| step | seconds | MB installed |", "| --- | ---: | ---: |"]
    for row in stored["rows"]:
        lines.append(f"| {row['step']} | {row['seconds']:.1f} | {row['bytes'] / 1e6:,.0f} |")
    return "\n".join([*lines, "", f"`{stored['wheel']}`, {describe(stored['machine'])}."])


if __name__ == "__main__":
    publish_of_wheel(sys.argv[1:], NAME, measure, table, STORED, PAGE)
