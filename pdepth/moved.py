"""Module paths of version 0.1 that moved: importing one gives the new module, and a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

MOVED = {
    "pdepth.sources": "pdepth.arrays.sources",
    "pdepth.bench.engines": "pdepth.bench.suite.engines",
    "pdepth.embeddings.store": "pdepth.io.embedding_store",
    "pdepth.engine": "pdepth.votes",
    "pdepth.report.network": "pdepth.report.figures.network",
    "pdepth.report.page": "pdepth.report.html.page",
    "pdepth.report.plots": "pdepth.report.figures.depth",
    "pdepth.report.training": "pdepth.report.figures.training",
}
"""New paths by old ones, which will be removed in version 0.3."""


class _MovedFinder:
    """Finds the old paths, which no other finder knows, and loads what is there now.

    Of the kinds that importlib.abc describes: to import that takes longer than all of this module.
    """

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, cast("Loader", self)) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(
            f"{spec.name} has moved to {new}; the old path will be removed in version 0.3.",
            DeprecationWarning,
            stacklevel=2,
        )
        module = import_module(new)
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has run under its new name; the import system has set another spec."""
        assert module.__spec__ is not None
        module.__spec__ = self._specs[module.__spec__.name]


def register() -> None:
    """Let the old paths be imported."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())
