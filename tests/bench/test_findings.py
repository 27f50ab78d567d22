"""The study of the paper's findings, on small problems."""

from __future__ import annotations

import json

import numpy as np
import pytest
from torch.utils.data import Subset

pytest.importorskip("matplotlib")

from pdepth.analysis.network import AgainstDepth
from pdepth.analysis.training import OverTraining
from pdepth.bench.data import DATA, real_data
from pdepth.bench.studies import findings


def check(result: AgainstDepth, *names: str) -> None:
    for name in names:
        _, sign = findings.CLAIMS[name]
        trend = result.trend[name]
        assert trend.statistic * sign > 0, name
        assert trend.p_value < findings.SIGNIFICANT, name


@pytest.mark.slow
def test_on_the_demos_digits() -> None:
    result = findings.demo()
    check(result, "accuracy", "confidence", "entropy", "output_margin", "input_margin")


@pytest.mark.slow
def test_on_cifar10() -> None:
    if not (DATA / "cifar10.py").is_file():
        pytest.skip(f"needs CIFAR-10 in {DATA}; PDEPTH_DATA names another folder")
    test = real_data().dataset("test")  # a fifth of what the training set takes to read
    result = findings.of_resnet18(Subset(test, range(60, 210)), test, 60)
    check(result, "entropy", "output_margin", "input_margin", "step_learned")


def test_what_is_stored_is_restored() -> None:
    over = OverTraining(
        np.array([0, 9]), ("input", "softmax"), np.array([[0.5, np.nan], [0.5, 0.75]]),
        np.ones((2, 2)), np.ones(2), np.array([np.nan, 1]), np.zeros(2),
    )  # fmt: skip
    stored = json.loads(json.dumps(findings._plain(findings.asdict(over))))
    again = findings.restored(OverTraining, stored)
    for name in ("steps", "accuracy", "kept", "network", "mean_depth", "undefined"):
        np.testing.assert_array_equal(getattr(again, name), getattr(over, name))
    assert (again.converged() == over.converged()).all()
