"""Names in other libraries' modules, bound to pdepth's classes and functions and back.

_PATCH = Patch(pairs)
patch, unpatch = _PATCH.begin, _PATCH.end
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any

Pairs = list[tuple[Any, Any]]


class Patch:
    """Of each pair the first, theirs, replaced by the second, ours, in all loaded modules.

    pairs: called when the patch begins.
    """

    def __init__(self, pairs: Callable[[], Pairs]) -> None:
        self._pairs = pairs
        self._begun: Pairs | None = None
        self._own: set[tuple[str, str]] = set()  # modules and names that had ours all along

    def begin(self) -> ExitStack:
        """Put pdepth's classes and functions where the library has its own, in all loaded modules.

        Code that imports them later gets these, and so does what has imported them before.
        Instances remain what they are, and so do names that begin with an underscore. Twice is as
        once. As a context manager, `with patch():`, it ends with the block, unless it was begun
        before. Raises ImportError where the library is not installed.
        """
        ends = ExitStack()
        if self._begun is None:
            self._begun = self._pairs()
            ours = [(our, our) for _, our in self._begun]
            self._own = {(module.__name__, name) for module, name, _ in _places(ours)}
            for module, name, our in _places(self._begun):
                setattr(module, name, our)
            ends.callback(self.end)
        return ends

    def theirs(self, ours: Any) -> Any:
        """What ours stands for, while it does; else None."""
        return next((their for their, our in self._begun or () if our is ours), None)

    def end(self) -> None:
        """Undo `patch`; nothing where nothing is patched."""
        back = [(our, their) for their, our in self._begun or ()]
        for module, name, their in _places(back):
            if (module.__name__, name) not in self._own:
                setattr(module, name, their)
        self._begun = None


def _places(pairs: Pairs) -> Iterator[tuple[ModuleType, str, Any]]:
    """Where a module has the first of a pair under a public name, and the second.

    pdepth's own modules remain as they are, and a class where it is defined: its pickles are looked
    up there.
    """
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or module.__name__.startswith("pdepth."):
            continue
        for name, value in list(vars(module).items()):
            for old, new in pairs:
                kept = isinstance(old, type) and module.__name__ == old.__module__
                if value is old and not kept and name[0] != "_":
                    yield module, name, new
