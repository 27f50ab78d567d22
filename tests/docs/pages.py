"""The pages of README.md and docs/, and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
COMMENT = re.compile(r"^\s*<!-- (?P<text>(?:not run|not compared|run)\b.*?) -->\s*$")
INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: of the page, of the block's first line; counted from 1.
        note: the comment right before the block, such as "not run: needs FiftyOne"; or "".
    """

    language: str
    text: str
    line: int
    note: str

    @property
    def runs(self) -> bool:
        return not self.note.startswith("not run")


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return list(_blocks(page.read_text().splitlines()))


def _blocks(lines: list[str]) -> Iterator[Block]:
    begin: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if begin is None and fence:
            comment = COMMENT.match(lines[number - 1]) if number else None
            begin = number + 1, fence["language"], comment["text"] if comment else ""
        elif begin is not None and line.strip() == "```":
            first, language, note = begin
            yield Block(language, "\n".join(lines[first:number]), first + 1, note)
            begin = None


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.S | re.M)


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks outside of blocks, lines joined."""
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", prose_of(page))
    return INLINE.findall(text)
