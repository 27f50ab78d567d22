"""Replace other libraries' classes and functions by pdepth's, in all modules, and undo it.

_PATCH = Patch(replacements)
patch, unpatch = _PATCH.apply, _PATCH.undo
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any

Replacements = list[tuple[Any, Any]]
"""Pairs of a library's class or function and pdepth's."""


class Patch:
    """Replacements that are in place between `apply` and `undo`.

    Args:
        replacements: called when the patch is applied.
    """

    def __init__(self, replacements: Callable[[], Replacements]) -> None:
        self._replacements = replacements
        self._applied: Replacements | None = None
        self._imported: set[tuple[str, str]] = set()  # modules and names that had pdepth's before

    def apply(self) -> ExitStack:
        """Put pdepth's classes and functions where the library has its own, in all loaded modules.

        Code that imports them later gets these, and so does what has imported them before.
        Instances remain what they are, and so do names that begin with an underscore. Twice is as
        once. As a context manager, `with patch():`, it ends with the block, unless it was in place
        before. Raises ImportError where the library is not installed.
        """
        stack = ExitStack()
        if self._applied is None:
            self._applied = self._replacements()
            present = [(new, new) for _, new in self._applied]
            self._imported = {(module.__name__, name) for module, name, _ in _places(present)}
            for module, name, new in _places(self._applied):
                setattr(module, name, new)
            stack.callback(self.undo)
        return stack

    def original(self, replacement: Any) -> Any:
        """Return what is replaced by `replacement` now; None where nothing is."""
        return next((old for old, new in self._applied or () if new is replacement), None)

    def undo(self) -> None:
        """Undo `patch`; nothing where nothing is patched."""
        back = [(new, old) for old, new in self._applied or ()]
        for module, name, old in _places(back):
            if (module.__name__, name) not in self._imported:
                setattr(module, name, old)
        self._applied = None


def _places(replacements: Replacements) -> Iterator[tuple[ModuleType, str, Any]]:
    """Yield the modules and public names that are bound to an old object, and the new one.

    pdepth's own modules remain as they are, and a class where it is defined: its pickles are looked
    up there.
    """
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or module.__name__.startswith("pdepth."):
            continue
        for name, value in list(vars(module).items()):
            for old, new in replacements:
                defined_here = isinstance(old, type) and module.__name__ == old.__module__
                if value is old and not defined_here and name[0] != "_":
                    yield module, name, new
