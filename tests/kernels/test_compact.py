"""Which queries go on to the layer before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pdepth.backends import triton as backend

from helpers.device import DEVICE, on_device

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

from pdepth.kernels import compact

pytestmark = pytest.mark.usefixtures("poisoned")


def test_compact_is_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "BLOCK", 64)
    rng = np.random.default_rng(15)
    for asked in (1, 63, 64, 200):
        found, expected = (on_device(rng.integers(-1, 2, asked).astype("i4")) for _ in range(2))
        who = on_device(np.sort(rng.permutation(300)[:asked]))
        votes = [torch.full((300,), 7, dtype=torch.int32, device=DEVICE) for _ in range(2)]
        left = compact.compact(found, expected, who, votes[0])
        assert torch.equal(left, compact.compact_reference(found, expected, who, votes[1]))
        assert torch.equal(*votes)
