"""A griffe extension: paragraphs `name: text` of a docstring are sections of the reference."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from griffe import Class, Extension, Function, Object

ENTRY = re.compile(r"^[a-z_]\w*(, [a-z_]\w*)*: ")  # at the margin: an argument, or several
GOOGLE = ("Args:", "Attributes:", "Attributes, after `fit`:")


class Paragraphs(Extension):
    """Read pdepth's short docstrings, which name arguments at the margin, as Google's sections."""

    def on_function(self, *, func: Function, **_: Any) -> None:
        _sectioned(func, "Args:")

    def on_class(self, *, cls: Class, **_: Any) -> None:
        _sectioned(cls, "Attributes:")


def _sectioned(thing: Object, title: str) -> None:
    docstring = thing.docstring
    if docstring is None or any(name in docstring.value for name in GOOGLE):
        return
    docstring.value = sections(docstring.value, title)


def sections(text: str, title: str) -> str:
    """`text` with each run of entries under a `title` of its own, indented."""
    lines, entry = [], False
    for line in text.splitlines():
        entry = bool(ENTRY.match(line)) or (entry and line.startswith(" "))
        lines.append((entry, line))
    parts: list[str] = []
    for is_entry, group in groupby(lines, key=lambda pair: pair[0]):
        run = [line for _, line in group]
        parts += ["", title, *(f"    {line}" for line in run), ""] if is_entry else run
    return "\n".join(parts)
