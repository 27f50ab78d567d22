"""An ensemble's file, from Python: it grows network by network, and only by networks alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pdepth.analysis.ensemble import Ensemble, Member
from pdepth.analysis.ensemble_file import (
    EnsembleSettings,
    add_networks,
    merge_ensembles,
    read_networks,
    resume_ensemble,
)

pytest.importorskip("pyarrow")

SETTINGS = EnsembleSettings("random rows", k=3, read="networks")


def data() -> TensorDataset:
    return TensorDataset(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), LABELS)


LABELS = torch.arange(30) % 2


def pairs() -> Iterator[tuple[nn.Module, range]]:
    for number in range(3):
        torch.manual_seed(number)
        yield nn.Sequential(nn.Linear(4, 2)), range(10 * number, 10 * number + 10)


def grow(path: Path, numbers: Sequence[int], **options: Any) -> Ensemble:
    source = partial(read_networks, pairs, range(3))
    before = resume_ensemble(path, SETTINGS.meta())
    return add_networks(
        before, source, data(), numbers, path, SETTINGS.meta(), k=3, progress=False, **options
    )


def test_it_grows_and_two_files_add_up(tmp_path: Path) -> None:
    members: list[Member] = []
    whole = grow(tmp_path / "new" / "whole.parquet", range(3), on_member=members.append)
    assert [member.name for member in members] == list(whole.names) == [0, 1, 2]
    grow(tmp_path / "a.parquet", [0, 1])
    again: list[Member] = []
    grow(tmp_path / "a.parquet", range(3), on_member=again.append)
    assert [member.name for member in again] == [2]
    grow(tmp_path / "b.parquet", [0])
    grow(tmp_path / "c.parquet", [1, 2])
    both = merge_ensembles([tmp_path / "b.parquet", tmp_path / "c.parquet"])
    for other in (Ensemble.load(tmp_path / "a.parquet"), both):
        assert (other.depths == whole.depths).all()
        assert (other.predicted == whole.predicted).all()


def test_another_setting_or_too_few_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(ValueError, match=r"expected 5 networks, got 3 \(no network 3\)"):
        add_networks(
            None, partial(read_networks, pairs, range(5)), data(), range(5), path,
            SETTINGS.meta(), k=3, progress=False,
        )  # fmt: skip
    assert Ensemble.load(path).names == (0, 1, 2)  # those that came are kept
    other = EnsembleSettings("random rows", k=5, read="networks").meta()
    with pytest.raises(FileExistsError, match="expected networks with k 5, got 3; pass --over"):
        resume_ensemble(path, other)
    assert resume_ensemble(path, other, overwrite=True) is None
    assert resume_ensemble(tmp_path / "none.parquet", other) is None
    with pytest.raises(TypeError, match=r"pairs: expected \(network, rows .*, got int"):
        list(read_networks(lambda: iter([7]), range(1), range(1)))  # type: ignore[list-item]


def test_settings_keep_what_applies() -> None:
    assert EnsembleSettings("d", held_out=0.2).meta() == {
        "data": "d", "layers": "auto", "k": "30", "held_out": "0.2", "seed": "0",
        "placement version": "2",
    }  # fmt: skip
    assert set(SETTINGS.meta()) == {"data", "layers", "k", "read", "placement version"}
    probes = replace(SETTINGS, pool={"0": "mean"}, input=False, max_width=64, output="found").meta()
    assert probes.items() - SETTINGS.meta().items() == {
        ("pool", "{'0': 'mean'}"), ("input", "False"), ("max_width", "64"), ("output", "found"),
    }  # fmt: skip


def test_networks_of_another_placement_are_not_added(tmp_path: Path) -> None:
    ensemble, meta = Ensemble(np.arange(4)), SETTINGS.meta()
    ensemble.meta = {name: text for name, text in meta.items() if name != "placement version"}
    ensemble.add(Member(np.zeros(4, int), np.arange(4), np.arange(4) < 2, 3, 0, np.arange(4)))
    ensemble.save(tmp_path / "old.parquet")
    with pytest.raises(FileExistsError, match="networks with placement version 2, got unset; pass"):
        resume_ensemble(tmp_path / "old.parquet", meta)
