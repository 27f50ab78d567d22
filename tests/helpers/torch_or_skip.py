"""Tests where torch is not installed: files that are left out, and what skips a single test.

A file that cannot be imported without torch is in `NEED_TORCH`, which tests/test_without_torch.py
compares with what cannot. Any other test file takes `torch` from here.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

HAS_TORCH = find_spec("torch") is not None
NEED_TORCH = [
    f"{room}/test_{name}.py"
    for room, names in {
        ".": "depth plan",
        "analysis": "ensemble_file forward_pass network options_of_probes recorder",
        "backends": "launches processes torch_settings triton",
        "bench": "checks cleaning findings gpu gpu_bound label_issues networks placements studies",
        "cli": "demo pretrained run",
        "cluster": "disk ensemble faults network passing pricing ray traffic",
        "compat": "aucurriculum dino lightly metric_learning oodeel torchdr",
        "docs": "code_blocks",
        "embeddings": """at_rest capture copies dataset families heads loaders networks_equal
            odd_networks placement placement_version pooling processors readable remembered repeats
            resume reused_batches row_errors rows silent_faults spans spill texts_equal trace""",
        "inputs": "datasets folders images models pretrained weights",
        "io": "crashes damaged_files embedding_store links locks",
        "kernels": "distances filter hazards lists prepare rescore search small",
        "report": "decisions explanation label_issues run",
    }.items()
    for name in names.split()
]


class NoTorch:
    """In the place of torch: no value is its `Tensor`; what asks for anything else is skipped."""

    class Tensor:
        """Of no instances."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by whoever looks at a module's names
            raise AttributeError(name)
        pytest.skip("torch is not installed")


if TYPE_CHECKING:
    import torch as torch
elif HAS_TORCH:
    import torch
else:
    torch = NoTorch()


def tensor_of(array: Any) -> torch.Tensor:
    """`torch.from_numpy`, in lists of parameters."""
    return torch.from_numpy(array)
