"""From the rows of a run to bench/results/ and the table in docs/gpu.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdepth.bench import common
from pdepth.bench.gpu.rows import NAME, read
from pdepth.bench.gpu.run import PARTS, stored_name
from pdepth.bench.gpu.table import markdown
from pdepth.bench.pages import render, save

PAGE = Path("docs", "gpu.md")


def store(folder: Path) -> str:
    """Store the rows of a run and render its table; returns what was done.

    Raises:
        ValueError: the folder has no rows of a GPU.
    """
    path = folder / NAME
    values = read(path) if path.exists() else {}
    about = values.get(("about", ""), {})
    if not about.get("driver"):
        raise ValueError(f"store: expected a folder with the {NAME} of a GPU's run, got {folder}.")
    parts: dict[str, dict[str, Any]] = {}
    for (part, name), value in values.items():
        if part in PARTS:
            parts.setdefault(part, {})[name or "end"] = value
    target = common.HOME / common.RESULTS / stored_name(about["device"])
    save({"about": about, "parts": parts}, target)
    rows = [value for name, value in parts.get("table", {}).items() if name != "end"]
    text = f"{about['device']}, driver {about['driver']}; {common.describe(about)}.\n\n"
    text += "Effective TFLOP/s, k = 30.\n\n" + markdown(rows)
    page = render("bench/gpu", text, PAGE)
    return f"{target} and {page}: {len(rows)} rows of the table, parts {', '.join(parts)}."
