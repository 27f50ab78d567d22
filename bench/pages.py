"""Stored results, and the pages that show their tables between marks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pdepth.bench import common
from pdepth.io.atomic import replacing


def save(results: dict[str, Any], path: Path) -> None:
    """Store results as JSON; the file is complete or the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Stored results."""
    results: dict[str, Any] = json.loads(path.read_text())
    return results


def render(name: str, text: str, page: Path = common.PAGE) -> Path:
    """Put `text` between the marks of the benchmark `name`.

    Args:
        name: of the benchmark; the marks are `<!-- name -->` and `<!-- end of name -->`.
        text: Markdown.
        page: relative to `common.HOME`; made if there is none.

    Returns:
        The page's path.

    Raises:
        ValueError: the page has no such marks; it stays as it is.
    """
    path: Path = common.HOME / page
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    old = path.read_text() if path.exists() else f"{begin}{end}\n"
    if begin not in old or end not in old:
        raise ValueError(
            f"{path}: expected the marks <!-- {name} --> and <!-- end of {name} -->, got none."
        )
    head, rest = old.split(begin, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(head + begin + text + end + rest.split(end, 1)[1])
    return path


def publish(
    arguments: Sequence[str],
    name: str,
    measure: Callable[[], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    stored: Path,
    page: Path,
) -> None:
    """Run a study: measure and store, unless `arguments` is --render; then render its table."""
    if list(arguments) not in ([], ["--render"]):
        raise SystemExit(f"{name}: expected no argument or --render, got {' '.join(arguments)}.")
    if not arguments:
        save(measure(), stored)
    render(name, table(load(stored)), page)


def publish_of_wheel(
    arguments: Sequence[str],
    name: str,
    measure: Callable[[Path], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    stored: Path,
    page: Path,
) -> None:
    """The same of a study that is told which wheel to measure."""
    if list(arguments) == ["--render"]:
        publish(arguments, name, dict, table, stored, page)
        return
    if len(arguments) != 1 or Path(arguments[0]).suffix != ".whl":
        raise SystemExit(f"{name}: expected NAME.whl or --render, got {' '.join(arguments)}.")
    publish([], name, lambda: measure(Path(arguments[0])), table, stored, page)
