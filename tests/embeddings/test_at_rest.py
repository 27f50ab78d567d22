"""A network at rest: what was compiled runs eagerly; torch's compiler is not imported for it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import torch
from torch import nn
from torch.utils.data import TensorDataset

import pdepth

from helpers.cases import first_difference

PLAIN_RUN = """
    import sys
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    import pdepth

    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )
    data = TensorDataset(torch.randn(40, 3, 8, 8), torch.arange(40) % 3)
    assert "torch._dynamo" not in sys.modules, "torch imports it by itself"
    result = pdepth.prediction_depth(network, data, k=5, progress=False)
    print(len(result.depth), "torch._dynamo" in sys.modules)
"""


def test_a_plain_run_does_not_import_the_compiler() -> None:
    """It takes two seconds of a processor."""
    command = [sys.executable, "-c", textwrap.dedent(PLAIN_RUN)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["40", "False"]


def test_code_that_was_compiled_before_runs_eagerly() -> None:
    """A backend that counts its calls sees those before and after, and none of the run."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    data = TensorDataset(torch.randn(40, 6), torch.arange(40) % 3)
    expected = pdepth.prediction_depth(network, data, k=5, progress=False)
    calls = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> object:
        return lambda *inputs: calls.append(1) or graph.forward(*inputs)  # type: ignore[func-returns-value]

    compiled = torch.compile(network, backend=backend)
    network[0].compile(backend=backend)
    compiled(data.tensors[0])
    before = len(calls)
    assert before > 0
    result = pdepth.prediction_depth(compiled, data, k=5, progress=False)
    assert len(calls) == before
    compiled(data.tensors[0])
    assert len(calls) > before
    assert first_difference(result.depth, expected.depth) is None
    assert first_difference(result.votes, expected.votes) is None
