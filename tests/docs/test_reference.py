"""The reference has every public name, with a docstring, and examples in docstrings are true."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import pdepth

from ..test_public_names import NAMES
from .pages import ROOT

REFERENCE = {
    name
    for page in (ROOT / "docs" / "reference").glob("*.md")
    for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
}
BY_ANOTHER_NAME = {"pdepth.backends": "pdepth.backends.availability"}
# What is public elsewhere: under names of pdepth itself, or of the modules that take it from there.
ELSEWHERE = {"pdepth.analysis.forward_pass", "pdepth.compat.shared.parallel_knn"}
SOURCES = sorted((ROOT / "pdepth").rglob("*.py"))
WITH_EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text()]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def says_what_is_public(path: Path) -> bool:
    """Whether a module has `__all__`."""
    return any(
        isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        for node in ast.parse(path.read_text()).body
    )


@pytest.mark.parametrize("name", pdepth.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    full = f"pdepth.{name}"
    assert BY_ANOTHER_NAME.get(full, full) in REFERENCE
    value = getattr(pdepth, name)
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        methods = {n: m for n, m in vars(value).items() if callable(m) and not n.startswith("_")}
        assert [n for n, method in methods.items() if not inspect.getdoc(method)] == []


def test_every_public_module_of_analysis_and_drop_ins_is_in_the_reference() -> None:
    public = {
        module_of(path)
        for path in SOURCES
        if module_of(path).startswith(("pdepth.analysis.", "pdepth.compat."))
        and says_what_is_public(path)
    }
    assert len(public) > 30
    assert {m for m in public - ELSEWHERE if m not in REFERENCE} == set()


def test_every_name_that_was_documented_is_in_the_reference() -> None:
    """A name, its module, or the class that it is of."""
    moved = importlib.import_module("pdepth.moved").MOVED
    for module, names in NAMES.items():
        if module == "pdepth":
            continue
        now = moved.get(module, module)
        for name in names:
            assert {now, f"{now}.{name}"} & REFERENCE, f"{now}.{name}"


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_of)
def test_examples_in_docstrings_are_true(path: Path) -> None:
    module = importlib.import_module(module_of(path))
    done = doctest.testmod(module, extraglobs={"pdepth": pdepth, "np": np})
    assert done.attempted > 0
    assert done.failed == 0


def test_the_functions_over_arrays_have_examples() -> None:
    for name in ("probe_votes", "kneighbors", "depth_from_votes", "depth_from_embeddings"):
        assert ">>> " in (inspect.getdoc(getattr(pdepth, name)) or "")
