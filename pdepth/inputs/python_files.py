"""Specifications: `kind:NAME`, or `path/to/file.py:function`, a function in a user's file."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "pdepth_user_"  # of the names of users' files as modules
PYTHON = "py"  # the kind of a specification that names a function


def split_spec(spec: str, argument: str, forms: Mapping[str, str]) -> tuple[str, str]:
    """Split a specification into its kind and its name.

    Args:
        spec: "kind:NAME" of one of the forms, or "path/to/file.py:function".
        argument: named in the error.
        forms: what follows each kind, such as {"npz": "FILE"}.

    Returns:
        (kind, name); of a function in a file, (`PYTHON`, the whole specification).
    """
    kind, _, name = spec.partition(":")
    if kind in forms and name:
        return kind, name
    file, _, function = spec.rpartition(":")
    if file.endswith(".py") and function:
        return PYTHON, spec
    expected = ", ".join(f"{kind}:{name}" for kind, name in forms.items())
    raise ValueError(f"{argument}: expected {expected} or path/to/file.py:function, got {spec!r}.")


def load_function(spec: str, argument: str) -> Callable[..., Any]:
    """Import a user's file and return the function that `path/to/file.py:function` names.

    A file is imported once, and anew where its text has changed; what it imports itself stays as
    Python has it. Its folder is on `sys.path` then, as `python file.py` would have it.

    Args:
        spec: path/to/file.py:function.
        argument: named in errors.

    Raises:
        ValueError: another form, or no such function. FileNotFoundError: no such file.
        RuntimeError: the file failed while it was imported; the cause is the user's own error.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name:
        raise ValueError(f"{argument}: expected path/to/file.py:function, got {spec!r}.")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: expected an existing file, got {path}.")
    function: Callable[..., Any] | None = getattr(_import(path), name, None)
    if not callable(function):
        raise ValueError(f"{argument}: expected a function of {path.name}, got {name!r}.")
    return function


def call_function(spec: str, argument: str) -> Any:
    """Call the function that `path/to/file.py:function` names, without arguments.

    Raises as `load_function`; RuntimeError, too, where the function fails: the cause is the user's
    own error, and keeps its traceback.
    """
    function = load_function(spec, argument)
    try:
        return function()
    except Exception as error:
        raise RuntimeError(f"{argument}: {spec} failed; it is called without arguments.") from error


def imported_files() -> list[ModuleType]:
    """The users' files that were imported: no other process finds them by their names."""
    return [module for name, module in list(sys.modules.items()) if name.startswith(PREFIX)]


def _import(path: Path) -> ModuleType:
    try:
        return _module_of(path, path.read_bytes())
    except Exception as error:
        raise RuntimeError(f"{path} failed while it was imported.") from error


def _module_of(path: Path, source: bytes) -> ModuleType:
    digest = hashlib.sha256(b"\0".join([os.fsencode(path), source])).hexdigest()
    name = f"{PREFIX}{path.stem}_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module  # for pickles and dataclasses of that file
    try:
        # Not by the loader: it takes stored byte code for that of any file as old and as long.
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    except BaseException:  # an interrupt, too: half a module is none
        del sys.modules[name]
        raise
    return module
