"""Module paths of version 0.1 still import, with a warning that names the new one."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

import pdepth.report
from pdepth.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_is_the_new_module(old: str) -> None:
    if old.startswith("pdepth.embeddings"):
        pytest.importorskip("torch")
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {MOVED[old]}; the old path"):
        module = import_module(old)
    assert module is import_module(MOVED[old])
    assert module.__spec__ is not None
    assert module.__spec__.name == module.__name__ == MOVED[old]


def test_from_imports() -> None:
    sys.modules.pop("pdepth.report.page", None)
    vars(pdepth.report).pop("page", None)
    with pytest.warns(DeprecationWarning, match="report.page has moved"):
        from pdepth.report import page
    assert callable(page.write)
    with pytest.raises(ModuleNotFoundError):
        import_module("pdepth.walk")
