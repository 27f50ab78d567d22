"""A griffe extension: paragraphs `name: text` of a docstring are sections of the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from griffe import Class, Extension, Function, Module, Object

ENTRY = re.compile(r"^[a-z_]\w*(, [a-z_]\w*)*:( |$)")  # at the margin: an argument, or several
GOOGLE = ("Args:", "Attributes:", "Attributes, after `fit`:")


class Paragraphs(Extension):
    """Read pdepth's short docstrings, which name arguments at the margin, as Google's sections."""

    def on_function(self, *, func: Function, **_: Any) -> None:
        _sectioned(func, "Args:")

    def on_class(self, *, cls: Class, **_: Any) -> None:
        _sectioned(cls, "Attributes:")

    def on_module(self, *, mod: Module, **_: Any) -> None:
        if mod.docstring is not None:
            mod.docstring.value = bullets(mod.docstring.value)


def _sectioned(thing: Object, title: str) -> None:
    docstring = thing.docstring
    if docstring is None or any(name in docstring.value for name in GOOGLE):
        return
    docstring.value = sections(docstring.value, title)


def sections(text: str, title: str) -> str:
    """`text` with each run of entries under a `title` of its own, indented."""
    parts: list[str] = []
    for is_entry, lines in _runs(text):
        parts += ["", title, *(f"    {line}" for line in lines), ""] if is_entry else lines
    return "\n".join(parts)


def bullets(text: str) -> str:
    """`text` with its entries as a list."""
    parts: list[str] = []
    for is_entry, lines in _runs(text):
        items = [re.sub(r"^(\w[^:]*):", r"- **\1**:", line) for line in lines]
        parts += ["", *items, ""] if is_entry else lines
    return "\n".join(parts)


def _runs(text: str) -> Iterator[tuple[bool, list[str]]]:
    """Lines that belong to entries, and those that do not, in turn."""
    marked, entry, begins = [], False, True
    for line in text.splitlines():
        entry = (entry and line.startswith(" ")) or ((begins or entry) and bool(ENTRY.match(line)))
        begins = not line.strip()
        marked.append((entry, line))
    for is_entry, run in groupby(marked, key=lambda pair: pair[0]):
        yield is_entry, [line for _, line in run]
