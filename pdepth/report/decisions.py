"""Apply what somebody decided of a run's rows to the dataset that it was of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import check_choice, check_integers
from pdepth.arrays.convert import to_numpy
from pdepth.arrays.rows import is_array
from pdepth.io.decisions import DROPPED, Decision, Decisions, RunRows
from pdepth.io.embedding_store import EmbeddingStore
from pdepth.result import DepthResult

if TYPE_CHECKING:
    from pdepth.analysis.label_errors import LabelIssues
    from pdepth.embeddings.dataset import Rows
    from pdepth.inputs.decided import DecidedRows
    from pdepth.report.opening import OpenedData

LABELS_ALONE = "or check_inputs=False (--no-check-inputs), which compares labels alone."


def run_of(source: DepthResult | EmbeddingStore) -> RunRows:
    """Which rows of which data the examples of a result or a store are.

    Files of decisions and of selections keep it, so that they are not applied to other data.
    """
    skipped: dict[int, str] = {}
    if isinstance(source, DepthResult):
        skipped = source.skipped.get("support" if source.leave_one_out else "queries", {})
        rows, labels, checksums = len(source), source.labels, source.checksums
    else:
        asked = source.asked
        rows, labels, checksums = len(asked.labels), asked.labels, asked.checksums
    return RunRows(
        rows=rows + len(skipped),
        skipped=tuple(sorted(skipped)),
        labels=None if labels is None else _digest(labels.astype(np.int64)),
        inputs=None if checksums is None else _digest(checksums),
        dropped=tuple(sorted(row for row, why in skipped.items() if why == DROPPED)),
    )


def apply_decisions(
    dataset: Any,
    decisions: Decisions | str | os.PathLike[str],
    *,
    label_column: str | None = None,
    processor: Any = None,
    batch_size: int = 256,
    check_inputs: bool = True,
) -> Any:
    """The dataset without the rows that are dropped, and with the new labels of relabelled ones.

    Args:
        dataset: that whose rows the run measured, in the same order: a dataset with a length and
            rows (input, label), mappings or graphs; or a pair of arrays, rows and labels (N,),
            NumPy or torch. A view that this function returned takes further decisions, by the row
            numbers of the dataset behind it.
        decisions: a file that the report's page or `pdepth label-issues --decisions` wrote, or
            `pdepth.Decisions`.
        label_column, processor, batch_size: of the run, as in `pdepth.prediction_depth`.
        check_inputs: read all rows, and compare their inputs with the run's; false where the
            dataset transforms them in another way, as with random crops. Of arrays, and of a run
            that took no checksums, labels alone are compared.

    Returns:
        A view of the dataset, with the attribute `rows` (n,) int64: the numbers of those that are
        left; its pixels are read as they are asked for. Of arrays a pair of arrays.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: what `pdepth.Decisions.read` raises; another number of rows, or other labels,
            files or inputs than the run's; rows that are no inputs; a label that the dataset has no
            class for.
        TypeError: another kind of data.
    """
    if not isinstance(decisions, Decisions):
        decisions = Decisions.read(decisions)
    if isinstance(dataset, tuple) and len(dataset) == 2 and all(map(is_array, dataset)):
        return _of_arrays(*dataset, decisions)
    view = _as_view(dataset, label_column)
    reading = _Reading(view, processor, batch_size) if check_inputs else None
    return _of_view(view, decisions, reading)


def decide(
    opened: OpenedData,
    files: Sequence[str | os.PathLike[str]],
    *,
    batch_size: int = 256,
    check_inputs: bool = True,
) -> OpenedData:
    """The data of a run after decisions, one file after the other.

    Each is applied to the data that it is of: the queries, where there are some and it fits them,
    else the support. batch_size, check_inputs: as in `apply_decisions`; each row is read once,
    however many files there are.

    Raises as `apply_decisions`; where it fits neither, with both sentences.
    """
    decided: dict[str, Any] = {}
    readings: dict[str, _Reading] = {}
    for file in files:
        decisions, refused = Decisions.read(file), []
        for what in ("queries", "support"):
            data = decided.get(what, getattr(opened, what))
            if data is None:
                continue
            view = _as_view(data, opened.label_column)
            if check_inputs and what not in readings:
                readings[what] = _Reading(view, opened.processor, batch_size)
            try:
                decided[what] = _of_view(view, decisions, readings.get(what))
            except ValueError as error:
                refused.append((what, error))
                continue
            break
        else:
            if len(refused) == 1:
                raise refused[0][1]
            raise ValueError(" ".join(f"Of {what}: {error}" for what, error in refused))
    return replace(opened, **decided)


def describe_decisions(opened: OpenedData) -> Iterator[str]:
    """What decisions have changed, a sentence for the support and for the queries."""
    from pdepth.inputs.decided import DecidedRows

    for what, data in (("support", opened.support), ("queries", opened.queries)):
        if isinstance(data, DecidedRows):
            relabelled, dropped = len(data.relabelled), len(data.dataset) - len(data)
            yield f"{what}: decisions relabel {relabelled:,} rows and drop {dropped:,}."


def issue_decisions(
    issues: LabelIssues,
    run: RunRows | DepthResult | EmbeddingStore,
    decision: str = "relabel",
) -> Decisions:
    """Decisions about the labels that are likely wrong, as `pdepth.label_issues` finds them.

    Args:
        issues: which labels are.
        run: the result or the store that they are of, or its `pdepth.run_of`.
        decision: of every issue, "relabel", as suggested, or "drop".

    Raises:
        ValueError: another decision; issues of more rows than the run has.
    """
    check_choice(decision, "decision", ("relabel", "drop"))
    run = run if isinstance(run, RunRows) else run_of(run)
    if len(issues) and int(issues.rows.max()) >= run.rows:
        raise ValueError(
            f"run: expected that of the issues, which are of row {int(issues.rows.max()):,}, too, "
            f"got one of {run.rows:,} rows."
        )
    entries = []
    for place in np.flatnonzero(issues.is_issue & (issues.suggested != issues.label)).tolist():
        new = int(issues.suggested[place]) if decision == "relabel" else None
        entries.append(
            Decision(
                row=int(issues.rows[place]),
                decision=decision,
                label=new,
                name=None if new is None or not issues.class_names else issues.name_of(new),
                given=int(issues.label[place]),
                id=None if issues.paths is None else issues.paths[place],
            )
        )
    return Decisions(run, tuple(sorted(entries, key=lambda entry: entry.row)))


class _Reading:
    """Labels and checksums of inputs of a dataset's own rows, without decisions, as they are read.

    A checksum may depend on the rows beside it, of padded texts and of graphs: what one reading
    gives of some of its rows is tried first, then one of these rows alone, as the run read them.
    """

    def __init__(self, view: DecidedRows, processor: Any, batch_size: int) -> None:
        self._view, self._processor, self._batch_size = view, processor, batch_size
        rows = len(view.dataset)
        self._labels, self._checksums = np.zeros(rows, np.int64), np.zeros(rows, np.uint64)
        self._known = np.zeros(rows, bool)
        self._whole: dict[bytes, Rows] = {}

    def of(self, numbers: NDArray[np.int64]) -> Iterator[Rows]:
        """Those of some rows, by their ascending numbers, each way that they may have been read.

        Raises TypeError or ValueError for what is no input, or no integer label.
        """
        from pdepth.embeddings.dataset import Rows

        key = numbers.tobytes()
        if key not in self._whole:
            if self._known[numbers].all():
                yield Rows(self._labels[numbers], self._checksums[numbers])
            self._whole[key] = self._read(numbers)
        yield self._whole[key]

    def _read(self, numbers: NDArray[np.int64]) -> Rows:
        from pdepth.embeddings.dataset import Batches, DataOptions
        from pdepth.inputs.decided import DecidedRows

        view = self._view
        rows = DecidedRows(view.dataset, numbers, {}, {}, view.label_column)
        options = DataOptions(view.label_column, self._processor)
        try:
            found = Batches(rows, "dataset", self._batch_size, options).read_rows()
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{str(error).rstrip('.')}; {LABELS_ALONE}") from error
        self._labels[numbers], self._checksums[numbers] = found.labels, found.checksums
        self._known[numbers] = True
        return found


def _of_view(view: DecidedRows, decisions: Decisions, reading: _Reading | None) -> DecidedRows:
    """A view after decisions; reading: of its dataset, with which inputs are compared."""
    _check_rows(decisions.run, len(view.dataset))
    _check_earlier(decisions.run, view.reasons, "apply the decisions of that run first")
    _check_names(decisions, view.dataset)
    labels = _checked_labels(view, decisions, reading)
    _check_new_labels(decisions, view.dataset, labels)
    return _decided(view, decisions)


def _of_arrays(rows: Any, labels: Any, decisions: Decisions) -> tuple[Any, Any]:
    """Rows (N, ...) and labels (N,) after decisions, arrays of the same kinds."""
    _check_rows(decisions.run, len(rows))
    _check_earlier(decisions.run, {}, "arrays keep no row numbers: pass the dataset")
    given = check_integers(labels, "labels", len(rows))
    _check_labels(decisions, _read_of(given, decisions.run))
    _check_new_labels(decisions, None, given)
    left = np.setdiff1d(np.arange(len(given)), decisions.dropped)
    changed = given.copy()
    for row, label in decisions.relabelled.items():
        changed[row] = label
    new = labels.copy() if isinstance(labels, np.ndarray) else labels.clone()
    new[...] = changed if isinstance(labels, np.ndarray) else new.new_tensor(changed)
    return rows[left], new[left]


def _as_view(dataset: Any, label_column: str | None) -> DecidedRows:
    """A dataset as a view of all of its rows. Raises TypeError for data without row numbers."""
    from pdepth.inputs.datasets import is_torchs
    from pdepth.inputs.decided import DecidedRows

    if isinstance(dataset, DecidedRows):
        return dataset
    if is_torchs(dataset, "DataLoader"):
        raise TypeError("dataset: expected a dataset, got a DataLoader; pass its .dataset.")
    numbered = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    numbered &= not is_torchs(dataset, "IterableDataset")
    if not numbered or isinstance(dataset, Mapping | str):
        raise TypeError(
            "dataset: expected a dataset whose rows have numbers, or a pair of arrays, got a "
            f"{type(dataset).__name__}."
        )
    return DecidedRows(dataset, np.arange(len(dataset)), {}, {}, label_column)


def _decided(view: DecidedRows, decisions: Decisions) -> DecidedRows:
    """The view after decisions; later ones are in the place of earlier ones."""
    from pdepth.inputs.decided import DecidedRows

    reasons = {int(row): DROPPED for row in decisions.dropped}
    return DecidedRows(
        view.dataset,
        np.setdiff1d(view.rows, decisions.dropped),
        view.labels | decisions.relabelled,
        view.reasons | reasons,
        view.label_column,
    )


def _check_rows(run: RunRows, rows: int) -> None:
    if rows != run.rows:
        raise ValueError(
            f"decisions: expected those of a dataset of {rows:,} rows, as this one has, got those "
            f"of one of {run.rows:,} rows; pass the dataset whose rows the run measured."
        )


def _check_earlier(run: RunRows, reasons: Mapping[int, str], advice: str) -> None:
    """Raise ValueError where the run had dropped rows that are still there."""
    lacking = [row for row in run.dropped if reasons.get(row) != DROPPED]
    if lacking:
        raise ValueError(
            f"decisions: expected a dataset without the rows that the run had dropped, got row "
            f"{lacking[0]} and {len(lacking) - 1:,} more; {advice}."
        )


def _check_names(decisions: Decisions, dataset: Any) -> None:
    """Raise ValueError where a row's file has another name than the decision says."""
    from pdepth import inputs

    paths = inputs.row_paths(dataset)
    for entry in decisions.entries if paths is not None else ():
        assert paths is not None
        if entry.id is not None and _name(entry.id) != _name(paths[entry.row]):
            raise ValueError(
                f"decisions: expected row {entry.row} to be the file {_name(paths[entry.row])}, as "
                f"in this dataset, got {_name(entry.id)}; pass the dataset whose rows the run "
                "measured."
            )


def _name(path: str) -> str:
    return PurePath(path.replace("\\", "/")).name


def _checked_labels(
    view: DecidedRows, decisions: Decisions, reading: _Reading | None
) -> NDArray[np.int64] | None:
    """All labels that the run has read, if they are known, after they were compared with the run's.

    Where no label is known without reading inputs, and inputs are not read, those of the rows that
    decisions are about are compared.
    """
    run = decisions.run
    if reading is not None and run.inputs is not None:
        return _compared_inputs(view, decisions, reading)
    known = known_labels(view)
    if known is not None:
        labels = _read_of(known, run)
        _check_labels(decisions, labels)
        return labels
    from pdepth.inputs.decided import label_of

    for entry in decisions.entries:
        if entry.given is None:
            continue
        label = view.labels.get(entry.row)
        if label is None:
            label = label_of(view.dataset[entry.row], view.label_column)
        if label != entry.given:
            raise ValueError(
                f"decisions: expected label {entry.given} in row {entry.row}, as in the run, got "
                f"{label}; pass the dataset whose rows the run measured."
            )
    return None


def _compared_inputs(
    view: DecidedRows, decisions: Decisions, reading: _Reading
) -> NDArray[np.int64]:
    """The labels of all rows that the run has read, after they and the inputs were compared."""
    numbers = np.setdiff1d(np.arange(decisions.run.rows), decisions.run.skipped)
    for rows in reading.of(numbers):
        labels = _relabelled(rows.labels, numbers, view)
        _check_labels(decisions, labels)
        if _digest(rows.checksums) == decisions.run.inputs:
            return labels
    raise ValueError(
        "decisions: expected the inputs of the run's rows, got others of the same labels; pass the "
        f"dataset as the run read it, {LABELS_ALONE}"
    )


def _relabelled(
    labels: NDArray[np.int64], numbers: NDArray[np.int64], view: DecidedRows
) -> NDArray[np.int64]:
    """The labels of rows, by their ascending numbers, after a view's decisions."""
    changed: NDArray[np.int64] = labels.copy()
    rows = np.array([*view.labels], np.int64)
    _, there, of_labels = np.intersect1d(numbers, rows, return_indices=True)
    changed[there] = np.array([*view.labels.values()], np.int64)[of_labels]
    return changed


def known_labels(view: DecidedRows) -> NDArray[np.int64] | None:
    """The labels (N,) of all rows behind a view, as it has them, where no input is read for them.

    They are those that `pdepth.inputs` opens, or `targets` or `labels`, as torchvision has them,
    unless its `target_transform` makes others of them.
    """
    from pdepth import inputs

    labels = inputs.known_labels(view.dataset)
    if labels is None and getattr(view.dataset, "target_transform", None) is None:
        for name in ("targets", "labels"):
            try:
                values = np.asarray(to_numpy(getattr(view.dataset, name, None)))
            except ValueError:  # lists of different lengths, as of boxes
                continue
            if values.shape == (len(view.dataset),) and values.dtype.kind in "iu":
                labels = values.astype(np.int64)
                break
    if labels is None:
        return None
    return _relabelled(np.array(labels, np.int64), np.arange(len(labels)), view)


def _read_of(labels: NDArray[np.int64], run: RunRows) -> NDArray[np.int64]:
    """The labels of those rows that the run has read."""
    return np.delete(labels, np.array(run.skipped, np.int64))


def _check_labels(decisions: Decisions, labels: NDArray[np.int64]) -> None:
    """Raise ValueError where the labels (n,) of all rows that the run read are others."""
    if decisions.run.labels in (None, _digest(labels)):
        return
    read = np.setdiff1d(np.arange(decisions.run.rows), decisions.run.skipped)
    found, where = dict(zip(read.tolist(), labels.tolist(), strict=False)), "some rows"
    for entry in decisions.entries:
        label = found.get(entry.row)
        if None not in (label, entry.given) and label != entry.given:
            where = f"row {entry.row}, {label} in place of {entry.given}"
            break
    raise ValueError(
        f"decisions: expected the labels of the run's rows, got others in {where}; pass the "
        "dataset whose rows the run measured, with the labels that it had."
    )


def _check_new_labels(decisions: Decisions, dataset: Any, labels: NDArray[np.int64] | None) -> None:
    """Raise ValueError for a new label that the dataset has no class for."""
    names: Sequence[str] | None = None
    if dataset is not None:
        from pdepth import inputs

        names = inputs.class_names(dataset)
    largest = None if labels is None or not len(labels) else int(labels.max())
    if names is not None:
        largest = len(names) - 1
    for entry in decisions.entries:
        if entry.label is None:
            continue
        if largest is not None and entry.label > largest:
            raise ValueError(
                f"decisions: expected a label from 0 to {largest} for row {entry.row}, as the "
                f"dataset has classes, got {entry.label}."
            )
        if names is not None and entry.name is not None and names[entry.label] != entry.name:
            raise ValueError(
                f"decisions: expected label {entry.label} of row {entry.row} to be "
                f"{names[entry.label]!r}, as in this dataset, got {entry.name!r}."
            )


def _digest(values: NDArray[Any]) -> str:
    """A checksum of numbers of 64 bits, in their order."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return blake2b(little.tobytes(), digest_size=8).hexdigest()
