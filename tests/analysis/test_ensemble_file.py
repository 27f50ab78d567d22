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
from torch.utils.data import Dataset, Subset, TensorDataset

import pdepth
from pdepth.analysis.ensemble import Ensemble, Member
from pdepth.analysis.ensemble_file import (
    EnsembleSettings,
    add_networks,
    merge_ensembles,
    read_networks,
    resume_ensemble,
)
from pdepth.analysis.networks import measure_all, readable_rows, train_all

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
    images = replace(SETTINGS, image_size=8, as_imagefolder=True, skip_unreadable=True).meta()
    assert images.items() - SETTINGS.meta().items() == {
        ("image_size", "8"), ("as_imagefolder", "True"), ("skip_unreadable", "True"),
    }  # fmt: skip


class Broken(Dataset[Any]):
    """`data`, some rows of which cannot be read."""

    def __init__(self, *broken: int) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 30

    def __getitem__(self, row: int) -> Any:
        if row in self.broken:
            raise OSError(f"row {row} is broken")
        return data()[row]


@pytest.mark.filterwarnings("ignore:data. skipped 3 of 30 rows")
def test_rows_that_cannot_be_read_are_no_examples(tmp_path: Path) -> None:
    """The networks' own numbers of rows are those of the data; the rest is as if they were not."""
    broken = Broken(0, 13, 29)
    kept = np.setdiff1d(np.arange(30), broken.broken)
    whole = data()
    alone = TensorDataset(*(tensor[kept] for tensor in whole.tensors))

    def positions() -> Iterator[tuple[nn.Module, Any]]:
        for network, rows in pairs():
            yield network, np.flatnonzero(np.isin(kept, rows))

    expected = Ensemble(LABELS[kept].numpy(), ids=kept)
    for member in measure_all(
        ((number, *pair) for number, pair in enumerate(positions())), alone, k=3, progress=False
    ):
        expected.add(member)
    source = partial(read_networks, pairs, range(3))
    meta = replace(SETTINGS, skip_unreadable=True).meta()
    results = [
        add_networks(
            None, source, broken, range(3), tmp_path / "a.parquet", meta, k=3, progress=False,
            skip_unreadable=True,
        ),
        add_networks(
            None, source, broken, range(3), tmp_path / "b.parquet", meta, k=3, progress=False,
            rows=kept,
        ),
        Ensemble.load(tmp_path / "a.parquet"),
    ]  # fmt: skip
    for result in results:
        assert result.ids.tolist() == kept.tolist()
        assert (result.labels == expected.labels).all()
        assert (result.depths == expected.depths).all()
        assert (result.predicted == expected.predicted).all()
        assert result.meta["rows"] == "30"
    with pytest.raises(FileExistsError, match=r"a\.parquet: expected networks of the 28 rows that"):
        add_networks(
            results[0], source, Broken(0, 29), range(4), tmp_path / "a.parquet", meta, k=3,
            progress=False, rows=np.arange(1, 29),
        )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.* skipped")
def test_results_without_some_rows_are_not_put_in_their_places() -> None:
    network, rows = next(pairs())
    support, held_out = Subset(Broken(13), range(10, 30)), Subset(Broken(), rows)
    options: dict[str, Any] = {"k": 3, "skip_unreadable": True, "progress": False}
    of_support = pdepth.prediction_depth(network, support, **options)
    of_others = pdepth.prediction_depth(network, support, held_out, **options)
    with pytest.raises(ValueError, match="expected results of all their rows, got some without 2"):
        Member.from_results(of_support, of_others, rows, 0)


@pytest.mark.filterwarnings("ignore:data. skipped")
def test_networks_are_trained_on_rows_that_can_be_read() -> None:
    broken = Broken(0, 13)
    rows = readable_rows(broken).rows
    seen: list[set[int]] = []

    def train(support: Any, seed: int) -> nn.Module:
        seen.append(set(support.indices))
        return nn.Linear(4, 2)

    for (_, _, held_out), support in zip(
        train_all(train, broken, range(4), held_out=0.25, rows=rows), seen, strict=False
    ):
        assert len(held_out) == 7
        assert support | set(held_out.tolist()) == set(range(30)) - {0, 13}
        assert not support & set(held_out.tolist())
    assert len(seen) == 4
    for wrong in ([30], [-1], []):
        with pytest.raises(ValueError, match="rows: expected rows from 0 to 29, got"):
            next(train_all(train, broken, range(1), rows=np.array(wrong, int)))


def test_networks_of_another_placement_are_not_added(tmp_path: Path) -> None:
    ensemble, meta = Ensemble(np.arange(4)), SETTINGS.meta()
    ensemble.meta = {name: text for name, text in meta.items() if name != "placement version"}
    ensemble.add(Member(np.zeros(4, int), np.arange(4), np.arange(4) < 2, 3, 0, np.arange(4)))
    ensemble.save(tmp_path / "old.parquet")
    with pytest.raises(FileExistsError, match="networks with placement version 2, got unset; pass"):
        resume_ensemble(tmp_path / "old.parquet", meta)
