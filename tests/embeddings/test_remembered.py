"""What a run remembers of data and network: nothing stale is reused, and what changed is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from pdepth import depth_from_embeddings, open_store
from pdepth.embeddings import resuming
from pdepth.io.journal import Journal, OtherRun
from pdepth.progress import Event

from helpers.spans import BATCH, QUERIES, ROW, SUPPORT, CountingNetwork, depth, network, same

X, Y = SUPPORT.tensors
LAYERS = {"layers": ["net.0", "net.2", "net.4"]}
MIDDLE = slice(40, 70)  # neither in the first batch nor in the last


def other_labels() -> TensorDataset:
    labels = Y.clone()
    labels[MIDDLE] = (labels[MIDDLE] + 1) % 3
    return TensorDataset(X, labels)


def other_inputs() -> TensorDataset:
    inputs = X.clone()
    inputs[MIDDLE] += 0.5
    return TensorDataset(inputs, Y)


def notes_of(**options: Any) -> tuple[Any, list[str]]:
    """The result of a call, and its notes on what was remembered."""
    notes: list[str] = []

    def observe(event: Event) -> None:
        if event.stage == "note" and event.text.startswith("run_dir"):
            notes.append(event.text.partition(": ")[2])

    return depth(**options, progress=observe), notes


def interrupted(name: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """A run that is interrupted when it has written a file whose name begins so."""
    write = Journal.write

    def cut(self: Journal, file: str, arrays: Any) -> None:
        write(self, file, arrays)
        if file.startswith(name):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Journal, "write", cut)
        depth(**options)


STATES = ["reading", "votes-002", "votes-000", "never"]


@pytest.mark.slow_if(state=["votes-002"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("memory", [None, ROW * 80])
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (other_labels, "labels of support rows 40-69 differ; the run begins anew."),
        (other_inputs, "inputs of support rows 40-69 differ; the run begins anew."),
    ],
)
def test_data_changed_in_the_middle(
    changed: Callable[[], TensorDataset],
    sentence: str,
    memory: int | None,
    state: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"early_exit": False, "memory": memory, "run_dir": tmp_path / "run"}
    interrupted(state, monkeypatch, **options)
    result, notes = notes_of(support=changed(), **options)
    same(result, depth(changed(), early_exit=False))
    assert notes == [sentence]
    again, notes = notes_of(support=changed(), **options)
    same(again, result)
    assert notes == []


@pytest.mark.parametrize("state", STATES)
def test_other_labels_are_searched_from_the_store_without_a_forward_pass(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"run_dir": tmp_path / "run", "keep_embeddings": tmp_path / "kept", **LAYERS}
    interrupted(state, monkeypatch, model=CountingNetwork(), **options)
    model = CountingNetwork()
    result, notes = notes_of(support=other_labels(), model=model, **options)
    same(result, depth(other_labels(), model=CountingNetwork(), **LAYERS))
    kept = tmp_path / "kept"
    assert notes == [f"labels of support rows 40-69 differ; the embeddings in {kept} are searched."]
    assert set(model.rows) <= {"whole", 3, BATCH}
    assert model.rows.count(BATCH) == 2  # of the first batch, for the comparison
    store = open_store(kept)
    store.verify()
    np.testing.assert_array_equal(store.support.labels, other_labels().tensors[1])
    assert len(list((kept / "support").glob("labels*"))) == 1
    np.testing.assert_array_equal(depth_from_embeddings(store, k=5).depth, result.depth)


def test_labels_of_queries(tmp_path: Path) -> None:
    options = {"run_dir": tmp_path / "run", "reference": "label"}
    depth(queries=QUERIES, **options)
    labels = QUERIES.tensors[1].clone()
    labels[[3, 50]] = (labels[[3, 50]] + 1) % 3
    queries = TensorDataset(QUERIES.tensors[0], labels)
    result, notes = notes_of(queries=queries, **options)
    same(result, depth(queries=queries, reference="label"))
    assert notes == ["labels of query rows 3, 50 differ; the run begins anew."]


@pytest.mark.parametrize("state", STATES)
def test_other_inputs_replace_the_runs_own_store(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"run_dir": tmp_path / "run", "keep_embeddings": tmp_path / "kept"}
    interrupted(state, monkeypatch, **options)
    result, notes = notes_of(support=other_inputs(), **options)
    same(result, depth(other_inputs()))
    assert notes == ["inputs of support rows 40-69 differ; the run begins anew."]
    store = open_store(tmp_path / "kept")
    store.verify()
    np.testing.assert_array_equal(store.support.embeddings["input"], other_inputs().tensors[0])


class Stream(IterableDataset[Any]):
    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data[row] for row in range(len(self.data)))


@pytest.mark.parametrize("keep", [False, True])
def test_a_stream_of_other_rows(keep: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"run_dir": tmp_path / "run"}
    if keep:
        options["keep_embeddings"] = tmp_path / "kept"
    depth(Stream(SUPPORT), **options)
    for changed in (other_labels(), other_inputs()):
        result, notes = notes_of(support=Stream(changed), **options)
        same(result, depth(changed))
        assert len(notes) == 1
        assert "of support rows 40-69 differ" in notes[0]


# ---- the network ----


class Activation(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def with_activation(function: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    model = network()
    for place in (1, 3, 5):
        model[place] = Activation(function)
    return model


@pytest.mark.slow_if(state=["reading"])
@pytest.mark.parametrize("state", ["reading", "votes-002", "never"])
@pytest.mark.parametrize("keep", [False, True])
def test_the_same_weights_and_other_code_are_refused(
    keep: bool, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"early_exit": False, "run_dir": tmp_path / "run"}
    if keep:
        options["keep_embeddings"] = tmp_path / "kept"
    relu, other = with_activation(torch.relu), with_activation(lambda x: torch.sin(9 * x))
    interrupted(state, monkeypatch, model=relu, **options)
    sentence = "a run of which the network's values differ, first at probe '2'"
    with pytest.raises(OtherRun, match=sentence):
        depth(model=other, **options)
    same(depth(model=relu, **options), depth(model=relu, early_exit=False))


class Random(nn.Module):
    """Other values at each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.rows = network(), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        return self.net(x + 1e-1 * torch.randn_like(x))


@pytest.mark.parametrize("memory", [None, ROW * 80])
@pytest.mark.parametrize("state", STATES)
def test_a_network_that_does_not_repeat_resumes_from_a_store_in_the_directory(
    state: str, memory: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"run_dir": tmp_path / "run", "early_exit": False, "memory": memory, **LAYERS}
    interrupted(state, monkeypatch, model=Random(), **options)
    store = open_store(tmp_path / "run" / resuming.INNER)
    model = Random()
    result = depth(model=model, **options)
    assert model.rows < len(SUPPORT)
    expected = depth_from_embeddings(store, k=5, early_exit=False)
    np.testing.assert_array_equal(result.votes, expected.votes)
    np.testing.assert_array_equal(result.predictions, expected.predictions)
    changed, notes = notes_of(model=Random(), support=other_labels(), **options)
    inner = tmp_path / "run" / resuming.INNER
    assert notes == [
        f"labels of support rows 40-69 differ; the embeddings in {inner} are searched."
    ]
    np.testing.assert_array_equal(changed.predictions, result.predictions)
    np.testing.assert_array_equal(changed.labels, other_labels().tensors[1])


def test_a_network_that_does_not_repeat_and_has_no_room_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        resuming.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})
    )
    texts: list[str] = []
    options: dict[str, Any] = {"run_dir": tmp_path / "run", "early_exit": False, **LAYERS}
    interrupted(
        "votes-002",
        monkeypatch,
        model=Random(),
        progress=lambda event: texts.append(event.text),
        **options,
    )
    (text,) = [text for text in texts if "cannot be resumed" in text]
    assert text.endswith(f"would go to {tmp_path / 'run'}, which has 100 bytes free")
    model = Random()
    depth(model=model, **options)
    assert model.rows > len(SUPPORT)


# ---- a store that is given on resume ----


def test_a_store_of_another_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    other = nn.Sequential(*[type(m)(*_sizes(m)) for m in network()])
    depth(model=other, keep_embeddings=tmp_path / "other")
    before = (tmp_path / "other/manifest.json").read_bytes()
    interrupted("reading", monkeypatch, run_dir=tmp_path / "run", keep_embeddings=tmp_path / "own")
    with pytest.raises(ValueError, match="other, of which the network differs; use another run_"):
        depth(run_dir=tmp_path / "run", keep_embeddings=tmp_path / "other")
    with pytest.raises(FileExistsError, match="which holds a finished store"):
        depth(run_dir=tmp_path / "new", keep_embeddings=tmp_path / "other")
    assert (tmp_path / "other/manifest.json").read_bytes() == before
    same(depth(run_dir=tmp_path / "run", keep_embeddings=tmp_path / "own"), depth())


def _sizes(module: nn.Module) -> tuple[Any, ...]:
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else ()


@pytest.mark.parametrize(
    ("made", "difference"),
    [
        ({"support": other_inputs()}, "the data differ: inputs of support rows 40-69 differ"),
        ({"pool": {"0": "max"}, "layers": ["0", "2"]}, "the list of probes differs"),
        ({"queries": QUERIES}, "the number of queries differs"),
        ({"model": with_activation(lambda x: torch.sin(9 * x))}, "the network's values differ"),
    ],
)
def test_a_store_of_other_data_or_probes_is_refused(
    made: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    model = with_activation(torch.relu)
    depth(**{"model": model} | made, run_dir=tmp_path / "a", keep_embeddings=tmp_path / "kept")
    depth(model=model, run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=f"kept, of which {difference}"):
        depth(model=model, run_dir=tmp_path / "run", keep_embeddings=tmp_path / "kept")
    open_store(tmp_path / "kept").verify()


def test_a_new_store_may_be_named_when_a_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network runs again; the votes stay."""
    interrupted("votes-002", monkeypatch, run_dir=tmp_path / "run")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("votes*")}
    same(depth(run_dir=tmp_path / "run", keep_embeddings=tmp_path / "kept"), depth())
    assert {file: file.stat().st_mtime_ns for file in before} == before
    open_store(tmp_path / "kept").verify()


def test_a_cut_between_store_and_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"run_dir": tmp_path / "run", "keep_embeddings": tmp_path / "kept"}
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write_reading", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            depth(**options)
    same(depth(**options), depth())
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write_reading", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            depth(other_labels(), **options)
    same(depth(other_labels(), **options), depth(other_labels()))


def _interrupt(*args: Any) -> None:
    raise KeyboardInterrupt
