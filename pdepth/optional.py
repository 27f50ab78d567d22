"""Optional dependencies: imported where they are used, named when they are missing."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def require(module: str, what: str, extra: str) -> Any:
    """Import and return `module`, or raise an ImportError that says how to install it.

    Args:
        module: its dotted name ("matplotlib.figure").
        what: the subject of the error ("pdepth.plot").
        extra: the extra of pdepth that installs the module ("plot").
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise  # the module is installed; something that it needs is not
        raise ImportError(
            f"{what} needs {package}: pip install 'pdepth[{extra}]'.", name=package
        ) from None


def check_oldest(module: str, oldest: str) -> None:
    """Raise ImportError where a library of the core is older than "1.26", say."""
    version = str(importlib.import_module(module).__version__)
    if _major_minor(version) < _major_minor(oldest):
        raise ImportError(
            f"pdepth needs {module} {oldest} or later, got {version}: pip install --upgrade "
            f"{module}.",
            name=module,
        )


def imported_later(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package some of whose names are imported when they are first used.

    Args:
        package: its `__name__`. modules: where each name is found.

    The function raises ImportError, which names the extra, for what takes torch where there is
    none.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(importlib.import_module(modules[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "torch":
                require("torch", f"{package}.{name}", "torch")  # which says what brings it
            raise
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    return get


def require_tested(module: str, what: str, extra: str, oldest: str, before: str) -> Any:
    """Import and return `module`, and warn where its version is not among those tested.

    Args:
        module, what, extra: as in `require`.
        oldest: the first version tested ("1.6"). before: the first one that is not ("1.9").
    """
    library = require(module, what, extra)
    package = module.partition(".")[0]
    version = importlib.import_module(package).__version__
    if not _major_minor(oldest) <= _major_minor(version) < _major_minor(before):
        warnings.warn(
            f"{what} is tested with {package} from {oldest} to below {before}, and {version} is "
            "installed.",
            stacklevel=3,
        )
    return library


def _major_minor(version: str) -> tuple[int, ...]:
    """The first two numbers of a version, of 0.5rc1 too."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
