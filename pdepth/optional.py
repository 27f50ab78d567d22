"""Optional dependencies: imported where they are used, named when they are missing."""

from __future__ import annotations

import importlib
import re
import warnings
from typing import Any


def require(module: str, what: str, extra: str) -> Any:
    """Import `module`, or raise an ImportError that says how to get it.

    `what` is the subject of that sentence ("pdepth.plot"), `extra` the extra of the package
    that installs the module ("plot").
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != top:
            raise  # the module is there; something that it needs is not
        raise ImportError(f"{what} needs {top}: pip install 'pdepth[{extra}]'.", name=top) from None


def require_tested(module: str, what: str, extra: str, oldest: str, before: str) -> Any:
    """`require`, with a warning where the version is not from `oldest` (1.6) to below `before`."""
    library = require(module, what, extra)
    top = module.partition(".")[0]
    version = importlib.import_module(top).__version__
    if not _number(oldest) <= _number(version) < _number(before):
        warnings.warn(
            f"{what} is tested with {top} from {oldest} to below {before}, and {version} is here.",
            stacklevel=3,
        )
    return library


def _number(version: str) -> tuple[int, ...]:
    """Its first two parts, of which releases promise what they keep."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))  # of 0.5rc1, too
