"""The study of planted wrong labels: its measures, its table, and how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cleanlab")
pytest.importorskip("sklearn")

from pdepth.bench.studies import label_issues as study


def found(cell: study.Cell) -> dict[str, Any]:
    """What networks might give: clusters of 200 rows, and labels of which some are wrong."""
    rng = np.random.default_rng(cell.seed)
    truth = rng.integers(0, 10, 200)
    labels = study.planted(truth, cell)
    hidden = np.eye(10)[truth] + 0.1 * rng.standard_normal((200, 10))
    neighbors = np.argsort(((hidden[:, None] - hidden) ** 2).sum(axis=2), axis=1)[:, 1:31]
    held_out = np.exp(4 * hidden)
    return {
        "labels": labels,
        "truth": truth,
        "predictions": labels,
        "neighbors": np.stack([neighbors, neighbors]),
        "hidden": hidden,
        "held_out": held_out / held_out.sum(axis=1, keepdims=True),
        "seconds": np.array(30.0),
    }


def test_precision_at_the_planted_number_counts_equals_in_any_order() -> None:
    wrong = np.array([True, False, True, False, True])
    assert study.at_planted(np.array([3.0, 2, 2, 2, 1]), wrong) == pytest.approx((1 + 2 / 3) / 3)
    assert study.at_planted(np.array([3.0, 0, 2, 0, 1]), wrong) == 1


def test_planted_labels_are_as_many_as_said() -> None:
    truth = np.arange(1000) % 10
    uniform = study.planted(truth, study.Cell("digits", study.UNIFORM, 0.2, 0))
    assert (uniform != truth).sum() == 200
    flipped = study.planted(truth, study.Cell("digits", study.PAIRS, 0.1, 1))
    changed = flipped != truth
    assert changed.sum() == 100
    assert (flipped[changed] == (truth[changed] + 1) % 10).all()


def test_an_interrupted_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[study.Cell] = []

    def observed(cell: study.Cell) -> dict[str, Any]:
        calls.append(cell)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return found(cell)

    texts: list[str] = []
    monkeypatch.setattr(study, "STORED", tmp_path / "cells.json")
    monkeypatch.setattr(study, "SEEDS", 2)
    monkeypatch.setattr(study, "observed", observed)
    monkeypatch.setattr(study, "render", lambda name, text, page: texts.append(text))
    with pytest.raises(KeyboardInterrupt):
        study.main(["digits"])
    assert len(study.load(study.STORED)["cells"]) == 2
    study.main(["digits"])
    digits = [cell for cell in study.cells() if cell.data == "digits"]
    assert calls[3:] == digits[2:]
    (text,) = texts
    assert "| % | digits, 20 % uniform | digits, 20 % pair-flips |" in text
    assert "Not measured yet: 2 of cifar10, 20 % uniform; 2 of cifar10, 20 % pair-flips" in text
    assert "digits, 20 % uniform;" not in text
    row = next(line for line in text.splitlines() if line.startswith(f"| {study.CLEANLAB} | "))
    assert len(row.split("|")) == 8
    study.main(["--render"])
    assert texts[1] == text
