"""The data of benchmarks on real images: a folder beside the repository, or PDEPTH_DATA."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

from pdepth.bench.common import HERE, HOME

DATA = Path(os.environ.get("PDEPTH_DATA", HERE.parents[1] / "shared" / "data"))
CACHE = Path(os.environ.get("PDEPTH_CACHE", HOME / ".cache")) / "networks"  # what git ignores


def real_data() -> ModuleType:
    """The reader of CIFAR-10 and its trained network, a file `cifar10.py` in the folder.

    It has `dataset(split)`, `images(split)` and `resnet18()`; split is "train" or "test".
    """
    path = DATA / "cifar10.py"
    if not path.is_file():
        raise FileNotFoundError(
            f"CIFAR-10: expected a file {path}, found none; set PDEPTH_DATA to the folder with it."
        )
    spec = importlib.util.spec_from_file_location("cifar10_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
