"""The images and class names of results: noted by a run, found again by a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import inputs
from pdepth.analysis.ensemble import Ensemble
from pdepth.analysis.ensemble_file import ROWS
from pdepth.report.folder import Results
from pdepth.report.images import UNREADABLE
from pdepth.result import DepthResult

SAMPLED = 64  # rows whose labels are compared where an input has to be read for each
CLASS_NAMES, IMAGE_SIZE = "class_names", "image_size"  # in the meta of results
LABEL_COLUMN, AS_IMAGEFOLDER = "label_column", "as_imagefolder"  # likewise

BuiltIn = Mapping[str, Callable[[DepthResult | Ensemble], Any]]


@dataclass(frozen=True)
class Images:
    """images: N pictures, or None; names: of the classes, or None; note: why there are none. texts:
    N texts in their place, where the data has such."""

    images: Any = None
    names: Sequence[str] | None = None
    note: str = ""
    texts: Any = None


class Texts(ValueError):
    """Data that has no images to show, but texts."""

    def __init__(self, sentence: str, texts: TextRows) -> None:
        super().__init__(sentence)
        self.texts = texts


class TextRows:
    """The texts of some rows of a dataset, each read when it is indexed."""

    def __init__(self, dataset: inputs.TextDataset, numbers: NDArray[np.int64]) -> None:
        self._dataset, self._numbers = dataset, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, example: int) -> str:
        row = self._dataset[int(self._numbers[example])]
        return " / ".join(
            str(text) for name, text in row.items() if name != self._dataset.label_column
        )


def image_meta(
    data: inputs.Data,
    options: inputs.ImageOptions,
    label_column: str | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, str]:
    """Return what the meta of a result keeps of its data, so that its images are found again.

    names: of the classes, where the data has none.
    """
    names = inputs.class_names(data) or names
    meta = {CLASS_NAMES: json.dumps(list(names))} if names else {}
    if options.size:
        meta[IMAGE_SIZE] = str(options.size)
    if options.as_imagefolder:
        meta[AS_IMAGEFOLDER] = "yes"
    if label_column is not None:
        meta[LABEL_COLUMN] = label_column
    return meta


def find_images(
    results: Results, spec: str | None = None, built_in: BuiltIn | None = None
) -> Images:
    """Open the images of results: those of `spec`, or of the data that the results name.

    Data that the results name is no reason to fail: a note says why it cannot be opened. Nor is
    Python code run that a file of results names.

    Args:
        results: as `pdepth.report.folder.read_results` returns them.
        spec: DATA as in `pdepth.inputs.load_data`.
        built_in: functions from a result to its images, by the data that it names.

    Raises:
        ValueError: `spec` has other rows or labels, or its inputs are no images; and what
            `pdepth.inputs.load_data` raises.
    """
    result = next(iter(results.values())) if isinstance(results, Mapping) else results
    names = class_names_of(result)
    if spec is not None:
        opened = _open(spec, names, result)
        return Images(opened.images, names or opened.names)
    spec = named_data(result)
    if spec is None:
        return Images(names=names)
    if built_in is not None and spec in built_in:
        return Images(built_in[spec](result), names)
    try:
        if inputs.runs_code(spec):
            note = (
                f"The pictures come from Python code, which a report runs only for --images {spec}."
            )
            return Images(names=names, note=note)
        opened = _open(spec, names, result)
        return Images(opened.images, names or opened.names)
    except Texts as error:
        return Images(names=names, texts=error.texts)
    except (ValueError, TypeError, OSError, ImportError) as error:
        note = f"There are no pictures: {error}"
        if not isinstance(error, ImportError):
            note += " Pass --images DATA to say where they are now."
        return Images(names=names, note=note)


def class_names_of(result: DepthResult | Ensemble) -> list[str] | None:
    """The names of classes that a result notes, or None."""
    return json.loads(result.meta[CLASS_NAMES]) if CLASS_NAMES in result.meta else None


def named_data(result: DepthResult | Ensemble) -> str | None:
    """The data that a result names as its own."""
    meta = result.meta
    if isinstance(result, DepthResult):
        own = "support" if result.leave_one_out else "queries"
        return meta.get(own) or meta.get("data") or None
    return meta.get("data") or None


def open_data(
    spec: str, names: Sequence[str] | None, result: DepthResult | Ensemble, what: str = "images"
) -> inputs.Data:
    """Open DATA, whose rows and labels are those of a result, as the run that measured it did.

    Args:
        names: of the classes, or None.
        what: the argument that an error names.

    Raises:
        ValueError: it has other rows or labels; and what `pdepth.inputs.load_data` raises.
    """
    size = int(result.meta[IMAGE_SIZE]) if IMAGE_SIZE in result.meta else None
    data = inputs.load_data(
        spec,
        inputs.ImageOptions(size, as_imagefolder=AS_IMAGEFOLDER in result.meta),
        label_column=result.meta.get(LABEL_COLUMN),
        class_names=names,
        compare=False,
    )
    dataset = inputs.unwrap_loader(data)
    count = data_rows(result)
    if hasattr(dataset, "__len__") and len(dataset) != count:
        raise ValueError(f"{what}: expected {count} rows in {spec}, got {len(dataset)}.")
    if result.labels is not None:
        numbers = _read_rows(result)
        examples, labels = _labels(data, numbers)
        differing = numbers[examples[labels != result.labels[examples]]]
        if isinstance(result, DepthResult):
            differing = np.setdiff1d(differing, [*result.relabelled.get(_measured(result), ())])
        if len(differing):
            raise ValueError(
                f"{what}: expected the labels of the results in {spec}, got others in "
                f"{len(differing)} of {len(examples)} rows, the first of them row {differing[0]}."
            )
    return data


def _open(spec: str, names: Sequence[str] | None, result: DepthResult | Ensemble) -> Images:
    """The images of DATA, whose rows and labels are those of a result; `names`: of its classes."""
    data = open_data(spec, names, result)
    dataset = inputs.unwrap_loader(data)
    if isinstance(dataset, inputs.TextDataset):
        raise Texts(
            f"images: expected images in {spec}, got texts; leave out --images.",
            TextRows(dataset, _read_rows(result)),
        )
    images = result_images(result, data)
    if images is None:
        raise ValueError(
            f"images: expected images (H, W, C) or (C, H, W) of 1 or 3 channels in {spec}, got "
            "other inputs."
        )
    return Images(images, inputs.class_names(data))


def data_rows(result: DepthResult | Ensemble) -> int:
    """How many rows the data has that a result is of, those that were skipped included."""
    if not isinstance(result, DepthResult):
        return int(result.meta.get(ROWS, len(result.labels)))
    return len(result) + len(result.skipped.get(_measured(result), ()))


def _measured(result: DepthResult) -> str:
    """Which data a result's examples are of."""
    return "support" if result.leave_one_out else "queries"


def result_images(result: DepthResult | Ensemble, data: inputs.Data) -> Any:
    """The images (N,) of a result's examples in its data, or None; see `dataset_images`."""
    count, numbers = data_rows(result), _read_rows(result)
    return inputs.dataset_images(data, count, None if len(numbers) == count else numbers)


def _read_rows(result: DepthResult | Ensemble) -> NDArray[np.int64]:
    """The numbers of a result's rows in its data."""
    if isinstance(result, DepthResult):
        return result.row_numbers
    return result.ids if ROWS in result.meta else np.arange(len(result.labels))


def _labels(
    data: inputs.Data, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Examples and their labels: all where no input has to be read for them, else some.

    numbers: of the examples' rows in the data.
    """
    known = inputs.known_labels(data)
    if known is not None:
        return np.arange(len(numbers)), known[numbers]
    dataset = inputs.unwrap_loader(data)
    examples, labels = [], []
    for example in np.unique(np.linspace(0, len(numbers) - 1, SAMPLED).round().astype(np.int64)):
        with suppress(*UNREADABLE, TypeError, IndexError):  # a broken picture, or no label
            labels.append(int(dataset[int(numbers[example])][1]))
            examples.append(example)
    return np.array(examples, np.int64), np.array(labels, np.int64)
