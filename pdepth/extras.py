"""Optional dependencies: imported where they are used, named when they are missing."""

from __future__ import annotations

import importlib
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
