"""Decisions about the rows of a run, applied to its dataset; and those of another one, refused."""

from __future__ import annotations

from collections import namedtuple
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import pdepth
from pdepth import DepthResult
from pdepth.embeddings.dataset import Batches, DataOptions
from pdepth.inputs.decided import DecidedRows, label_of, with_label
from pdepth.io.decisions import Decision, Decisions, RunRows
from pdepth.report.decisions import decide, issue_decisions, run_of
from pdepth.report.opening import OpenedData

from helpers.rows import LABELS, WORDS, tokenizer
from helpers.same import same_votes
from helpers.spans import blobs, network

DATA = blobs(60)
ENTRIES = (Decision(3, "relabel", 2, given=0), Decision(5, "keep"), Decision(7, "drop", given=1))
LEFT = np.delete(np.arange(60), 7)


class Listed(Dataset[Any]):
    """Rows of a list."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Any:
        return self.rows[row]


def run(folder: Path, data: Any = DATA, **options: Any) -> DepthResult:
    """A run that takes checksums of inputs."""
    result = pdepth.prediction_depth(
        network(), data, k=5, run_dir=folder / "run", progress=False, **options
    )
    assert isinstance(result, DepthResult)
    return result


def relabelled(dataset: TensorDataset, changes: dict[int, int], rows: Any) -> TensorDataset:
    x, y = dataset.tensors[0], dataset.tensors[1].clone()
    for row, label in changes.items():
        y[row] = label
    return TensorDataset(x[rows], y[rows])


def test_a_run_of_what_is_left(tmp_path: Path) -> None:
    """Votes are those of a dataset made by hand; rows keep their numbers."""
    decisions = Decisions(run_of(run(tmp_path)), ENTRIES)
    decisions.save(tmp_path / "d.json")
    view = pdepth.apply_decisions(DATA, tmp_path / "d.json")
    assert (len(view), view.rows.tolist()) == (59, LEFT.tolist())
    assert repr(view) == "DecidedRows(59 of 60 rows, 1 relabelled)"
    assert [int(view[place][1]) for place in (3, 7)] == [2, int(DATA[8][1])]
    assert int(DATA[3][1]) == 0  # as it was
    (tmp_path / "after").mkdir()
    after = run(tmp_path / "after", view, early_exit=False)
    by_hand = pdepth.prediction_depth(
        network(), relabelled(DATA, {3: 2}, LEFT), k=5, early_exit=False, progress=False
    )
    np.testing.assert_array_equal(after.votes, by_hand.votes)
    np.testing.assert_array_equal(after.labels, by_hand.labels)
    assert after.row_numbers.tolist() == LEFT.tolist()
    assert after.skipped == {"support": {7: "dropped by decision"}}
    assert after.relabelled == {"support": {3: 2}}


def test_decisions_after_decisions(tmp_path: Path) -> None:
    """Those of a run without the dropped rows say so, and go by the numbers of the dataset."""
    first = Decisions(run_of(run(tmp_path)), ENTRIES)
    view = pdepth.apply_decisions(DATA, first)
    (tmp_path / "second").mkdir()
    described = run_of(run(tmp_path / "second", view))
    assert (described.rows, described.skipped, described.dropped) == (60, (7,), (7,))
    second = Decisions(described, (Decision(3, "drop"), Decision(9, "relabel", 1)))
    both = pdepth.apply_decisions(view, second)
    assert both.rows.tolist() == np.delete(np.arange(60), [3, 7]).tolist()
    assert both.relabelled == {9: 1}  # row 3 is not there
    assert repr(both) == "DecidedRows(58 of 60 rows, 1 relabelled)"
    assert both.reasons == dict.fromkeys((7, 3), "dropped by decision")
    without = pdepth.apply_decisions(view, Decisions(described, (Decision(3, "drop"),)))
    third = Decisions(described, (Decision(11, "drop"),))  # of the run in between: row 3 had 2
    without = pdepth.apply_decisions(without, third)
    assert without.rows.tolist() == np.delete(np.arange(60), [3, 7, 11]).tolist()
    with pytest.raises(ValueError, match=r"without the rows that the run had dropped, got row 7"):
        pdepth.apply_decisions(DATA, second)
    with pytest.raises(ValueError, match="arrays keep no row numbers: pass the dataset"):
        pdepth.apply_decisions((DATA.tensors[0], DATA.tensors[1]), second)


def test_arrays(tmp_path: Path) -> None:
    x, y = DATA.tensors
    decisions = Decisions(run_of(run(tmp_path)), ENTRIES)
    rows, labels = pdepth.apply_decisions((x.numpy(), y.numpy()), decisions)
    expected = relabelled(DATA, {3: 2}, LEFT).tensors
    np.testing.assert_array_equal(rows, expected[0].numpy())
    np.testing.assert_array_equal(labels, expected[1].numpy(), strict=True)
    of_torch = pdepth.apply_decisions((x, y), decisions)
    assert all(torch.equal(mine, other) for mine, other in zip(of_torch, expected, strict=True))
    with pytest.raises(ValueError, match="got others in row 3, 1 in place of 0"):
        pdepth.apply_decisions((x, y + 1), decisions)
    embeddings = pdepth.depth_from_embeddings([x.numpy()], y.numpy(), y.numpy(), k=3)
    assert run_of(embeddings) == RunRows(60, (), decisions.run.labels)
    votes = pdepth.probe_votes(rows, labels, k=3)
    same_votes(votes, pdepth.probe_votes(expected[0].numpy(), expected[1].numpy(), k=3))


Pair = namedtuple("Pair", ["x", "label"])


@pytest.mark.parametrize(
    "row",
    [
        (1.0, 4, "more"),
        [1.0, 4],
        Pair(1.0, 4),
        {"x": 1.0, "label": 4},
        {"x": 1.0, "labels": 4},
        SimpleNamespace(y=torch.tensor([4])),
        (1.0, torch.tensor(4, dtype=torch.int32)),
        (1.0, np.int16(4)),
        {"label": np.array(4)},
    ],
)
def test_rows_of_every_kind(row: Any) -> None:
    changed = with_label(row, 9)
    assert (label_of(row), label_of(changed), type(changed)) == (4, 9, type(row))
    if type(row) is tuple:
        assert type(changed[1]) is type(row[1])
        assert getattr(changed[1], "dtype", None) == getattr(row[1], "dtype", None)


def test_rows_without_labels() -> None:
    with pytest.raises(
        ValueError, match="label_column: expected the label of rows under 'fine', g"
    ):
        with_label({"label": 4}, 9, "fine")
    with pytest.raises(TypeError, match="dataset: expected rows .*, got a float"):
        label_of(1.0)


@pytest.fixture(scope="module")
def decisions(tmp_path_factory: pytest.TempPathFactory) -> Decisions:
    return Decisions(run_of(run(tmp_path_factory.mktemp("run"))), ENTRIES)


def test_another_dataset_is_refused(decisions: Decisions) -> None:
    with pytest.raises(
        ValueError, match="expected those of a dataset of 59 rows, as this one has, "
    ):
        pdepth.apply_decisions(Subset(DATA, range(59)), decisions)
    x, y = DATA.tensors
    others = x.clone()
    others[50] += 1
    with pytest.raises(
        ValueError, match="expected the inputs of the run's rows, got others of the "
    ):
        pdepth.apply_decisions(TensorDataset(others, y), decisions)
    view = pdepth.apply_decisions(TensorDataset(others, y), decisions, check_inputs=False)
    assert len(view) == 59
    moved = TensorDataset(x, y.roll(1))
    for check in (True, False):
        with pytest.raises(
            ValueError, match=r"expected the labels of the run's rows, got others in"
        ):
            pdepth.apply_decisions(moved, decisions, check_inputs=check)
    rows = Listed([moved[row] for row in range(60)])  # no labels are known without reading
    with pytest.raises(ValueError, match="expected label 0 in row 3, as in the run, got 2"):
        pdepth.apply_decisions(rows, decisions, check_inputs=False)
    rows.targets = moved.tensors[1].tolist()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"got others in row 3, 2 in place of 0"):
        pdepth.apply_decisions(rows, decisions, check_inputs=False)


def test_labels_that_a_dataset_transforms_are_read(decisions: Decisions) -> None:
    """`targets` are not the labels that a run reads, or no labels at all."""
    rows: Any = Listed([DATA[row] for row in range(60)])
    rows.targets, rows.target_transform = [9] * 60, lambda label: label - 9
    assert len(pdepth.apply_decisions(rows, decisions, check_inputs=False)) == 59
    boxes: Any = Listed(rows.rows)
    boxes.targets = [[0] * (row % 3) for row in range(60)]
    assert len(pdepth.apply_decisions(boxes, decisions, check_inputs=False)) == 59


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from ()


def test_what_is_no_dataset(decisions: Decisions) -> None:
    loader: Any = DataLoader(DATA)
    with pytest.raises(TypeError, match="expected a dataset, got a DataLoader; pass its .dataset"):
        pdepth.apply_decisions(loader, decisions)
    for value in (Stream(), {"x": 1}, "imagefolder:train", 3):
        with pytest.raises(
            TypeError, match="expected a dataset whose rows have numbers, or a pair"
        ):
            pdepth.apply_decisions(value, decisions)
    with pytest.raises(FileNotFoundError):
        pdepth.apply_decisions(DATA, "none.json")


def of(decisions: Decisions, *entries: Decision) -> Decisions:
    return Decisions(decisions.run, entries)


def test_a_label_without_a_class(decisions: Decisions) -> None:
    wrong = of(decisions, Decision(3, "relabel", 3))
    for data in (DATA, (DATA.tensors[0], DATA.tensors[1])):
        with pytest.raises(
            ValueError, match="a label from 0 to 2 for row 3, as the dataset has cl"
        ):
            pdepth.apply_decisions(data, wrong)
    named = TensorDataset(*DATA.tensors)
    named.classes = ["ant", "bee", "cat", "dog"]  # type: ignore[attr-defined]
    assert pdepth.apply_decisions(named, wrong)[3][1] == 3
    with pytest.raises(
        ValueError, match="label 2 of row 3 to be 'cat', as in this dataset, got 'do"
    ):
        pdepth.apply_decisions(named, of(decisions, Decision(3, "relabel", 2, "dog")))


def test_files_of_other_names(decisions: Decisions) -> None:
    data = TensorDataset(*DATA.tensors)
    data.samples = [(f"root/a/{row}.png", 0) for row in range(60)]  # type: ignore[attr-defined]
    entries = Decision(3, "drop", id="elsewhere\\a\\3.png"), Decision(4, "drop", id="5.png")
    pdepth.apply_decisions(data, of(decisions, entries[0]))
    with pytest.raises(
        ValueError, match=r"row 4 to be the file 4.png, as in this dataset, got 5.png"
    ):
        pdepth.apply_decisions(data, of(decisions, *entries))


def test_unreadable_rows_stay_out(tmp_path: Path) -> None:
    """A run that skipped rows has decisions about the others, by their numbers."""

    class Broken(Listed):
        def __getitem__(self, row: int) -> Any:
            if row == 2:
                raise OSError("no such file")
            return self.rows[row]

    data = Broken([DATA[row] for row in range(60)])
    with pytest.warns(UserWarning, match="skipped 1 of 60 rows"):
        result = run(tmp_path, data, skip_unreadable=True)
    described = run_of(result)
    assert (described.rows, described.skipped, described.dropped) == (60, (2,), ())
    view = pdepth.apply_decisions(data, Decisions(described, ENTRIES))
    (tmp_path / "after").mkdir()
    with pytest.warns(UserWarning, match="skipped 1 of 59 rows"):
        after = run(tmp_path / "after", view, skip_unreadable=True)
    assert after.row_numbers.tolist() == np.delete(np.arange(60), [2, 7]).tolist()
    assert after.skipped["support"] == {2: "no such file", 7: "dropped by decision"}


def test_label_issues_as_decisions(decisions: Decisions) -> None:
    issues = pdepth.label_issues(
        pdepth.probe_votes(
            [DATA.tensors[0].numpy()], DATA.tensors[1].numpy(), k=5, return_counts=True
        ),
        DATA.tensors[1].numpy(),
    )
    found = issue_decisions(issues, decisions.run)
    flagged = np.flatnonzero(issues.is_issue)
    assert 0 < len(flagged) < 60
    assert [entry.row for entry in found.entries] == flagged.tolist()
    assert [entry.label for entry in found.entries] == issues.suggested[flagged].tolist()
    assert [entry.given for entry in found.entries] == issues.label[flagged].tolist()
    view = pdepth.apply_decisions(DATA, found)
    assert [int(view[row][1]) for row in flagged] == issues.suggested[flagged].tolist()
    dropped = issue_decisions(issues, decisions.run, "drop")
    assert len(pdepth.apply_decisions(DATA, dropped)) == 60 - len(flagged)
    with pytest.raises(ValueError, match="decision: expected one of relabel, drop, got 'keep'"):
        issue_decisions(issues, decisions.run, "keep")


def test_issues_of_a_result_or_its_store(tmp_path: Path) -> None:
    result = run(tmp_path, keep_embeddings=tmp_path / "kept")
    issues = pdepth.label_issues(result, store=tmp_path / "kept", k=5)
    expected = issue_decisions(issues, run_of(result))
    assert len(expected)
    for source in (result, pdepth.open_store(tmp_path / "kept")):
        assert issue_decisions(issues, source) == expected
    with pytest.raises(ValueError, match="run: expected that of the issues, which are of row 59"):
        issue_decisions(issues, RunRows(50))


class Counted(Listed):
    """How often each row was read."""

    def __init__(self, rows: list[Any]) -> None:
        super().__init__(rows)
        self.reads = np.zeros(len(rows), int)

    def __getitem__(self, row: int) -> Any:
        self.reads[row] += 1
        return super().__getitem__(row)


def opened(support: Any, queries: Any = None, processor: Any = None) -> OpenedData:
    return OpenedData(support, queries, None, processor, None, None)  # type: ignore[arg-type]


def test_several_files_take_one_reading_of_each_dataset(tmp_path: Path) -> None:
    support, queries = (
        Counted([DATA[row] for row in rows]) for rows in (range(60), range(60)[::-1])
    )
    first = run(tmp_path, support)
    Decisions(run_of(first), ENTRIES).save(tmp_path / "1.json")
    (tmp_path / "second").mkdir()
    second = run(tmp_path / "second", pdepth.apply_decisions(support, tmp_path / "1.json"))
    Decisions(run_of(second), (Decision(3, "drop"), Decision(9, "relabel", 1))).save(
        tmp_path / "2.json"
    )
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    support.reads[:] = queries.reads[:] = 0
    found = decide(opened(support, queries), files, batch_size=10)
    assert found.support.rows.tolist() == np.delete(np.arange(60), [3, 7]).tolist()
    assert found.support.relabelled == {9: 1}
    assert found.queries is queries
    for data in (support, queries):  # a first batch is read twice, to see whether it changes
        assert data.reads.tolist() == [2] * 10 + [1] * 50


def test_checksums_that_depend_on_the_rows_beside(tmp_path: Path) -> None:
    """Padded texts, whose batches are others in a run without some of the rows."""
    words = tokenizer()
    rows = zip(WORDS, LABELS, strict=True)
    texts = Listed([{"text": text, "label": label} for text, label in rows])

    def described(data: Any, skipped: tuple[int, ...]) -> RunRows:
        rows = Batches(data, "support", 2, DataOptions(processor=words)).read_rows()
        checksum = blake2b(rows.checksums.tobytes(), digest_size=8).hexdigest()
        return RunRows(6, skipped, None, checksum, skipped)

    Decisions(described(texts, ()), (Decision(0, "drop"),)).save(tmp_path / "1.json")
    view = pdepth.apply_decisions(texts, tmp_path / "1.json", processor=words, batch_size=2)
    Decisions(described(view, (0,)), (Decision(4, "drop"),)).save(tmp_path / "2.json")
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    found = decide(opened(texts, processor=words), files, batch_size=2)
    assert found.support.rows.tolist() == [1, 2, 3, 5]


NOT_DECODED = r"images that are not decoded.*; or check_inputs=False \(--no-check-inputs\), which "


def test_images_that_are_no_tensors_yet(decisions: Decisions) -> None:
    """A folder of images without a transform: what its rows are cannot be compared."""
    pil = pytest.importorskip("PIL.Image")
    data = Listed([(pil.new("L", (4, 4), row), int(DATA[row][1])) for row in range(60)])
    with pytest.raises(ValueError, match=NOT_DECODED):
        pdepth.apply_decisions(data, decisions)
    assert len(pdepth.apply_decisions(data, decisions, check_inputs=False)) == 59


def test_a_store_has_the_rows_of_its_run(tmp_path: Path) -> None:
    result = run(tmp_path, keep_embeddings=tmp_path / "kept")
    assert run_of(pdepth.open_store(tmp_path / "kept")) == run_of(result)


def test_a_view_goes_to_other_processes() -> None:
    view = DecidedRows(DATA, LEFT, {3: 2}, {7: "dropped by decision"})
    loader = DataLoader(view, batch_size=20, num_workers=1)
    labels = torch.cat([label for _, label in loader])
    assert torch.equal(labels, relabelled(DATA, {3: 2}, LEFT).tensors[1])
