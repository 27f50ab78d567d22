"""The work of `pdepth report`: where the pictures and the class names of results come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import demo, inputs
from pdepth.analysis.ensemble import Ensemble
from pdepth.report.folder import Results
from pdepth.report.images import UNREADABLE
from pdepth.result import DepthResult

COMPARED = 64  # rows whose labels are compared where each has to be read
CLASS_NAMES, IMAGE_SIZE = "class_names", "image_size"  # what a run notes of its data


@dataclass(frozen=True)
class Images:
    """images: N pictures, or None; names: of the classes, or None; note: why there are none."""

    images: Any = None
    names: Sequence[str] | None = None
    note: str = ""


def noted(data: inputs.Data, options: inputs.ImageOptions) -> dict[str, str]:
    """What a run keeps of its data, so that its pictures are found again."""
    names = inputs.class_names(data)
    return ({CLASS_NAMES: json.dumps(list(names))} if names else {}) | (
        {IMAGE_SIZE: str(options.size)} if options.size else {}
    )


def pictures_of(found: Results, images: str | None) -> Images:
    """The pictures of results: of the data that `images` names, or of what the results say.

    Data that the results name is no reason to fail: a note says what is the matter with it. Nor is
    Python code run that a file of results names.

    Raises:
        ValueError: `images` names data of other rows or labels, or whose inputs are no images; and
            what `inputs.load_data` raises.
    """
    result = next(iter(found.values())) if isinstance(found, Mapping) else found
    meta = result.meta
    names = json.loads(meta[CLASS_NAMES]) if CLASS_NAMES in meta else None
    size = int(meta[IMAGE_SIZE]) if IMAGE_SIZE in meta else None
    if images is not None:
        given = _opened(images, size, result)
        return Images(given.images, names or given.names)
    spec = _data_of(result)
    if spec is None:
        return Images(names=names)
    if spec == demo.DATA:
        return Images(_digits(result), names)
    try:
        if inputs.is_code(spec):
            note = (
                f"The pictures come from Python code, which a report runs only for --images {spec}."
            )
            return Images(names=names, note=note)
        given = _opened(spec, size, result)
        return Images(given.images, names or given.names)
    except (ValueError, TypeError, OSError, ImportError) as error:
        note = f"There are no pictures: {error} --images DATA says where they are now."
        return Images(names=names, note=note)


def _data_of(result: DepthResult | Ensemble) -> str | None:
    """The data that a result says it is of."""
    meta = result.meta
    if isinstance(result, DepthResult):
        asked = "support" if result.leave_one_out else "queries"
        return meta.get(asked) or meta.get("data") or None
    return meta.get("data") or None


def _opened(spec: str, size: int | None, result: DepthResult | Ensemble) -> Images:
    data = inputs.load_data(spec, inputs.ImageOptions(size))
    dataset = inputs.dataset_of(data)
    count = len(result if isinstance(result, DepthResult) else result.labels)
    if hasattr(dataset, "__len__") and len(dataset) != count:
        raise ValueError(f"{spec} holds {len(dataset)} rows, and the results {count}.")
    if result.labels is not None:
        rows, labels = _labels(data, count)
        differ = rows[labels != result.labels[rows]]
        if len(differ):
            raise ValueError(
                f"{spec} has other labels than the results in {len(differ)} of {len(rows)} rows, "
                f"the first of them row {differ[0]}: it is not what was asked."
            )
    pictures = inputs.pictures(data, count)
    if pictures is None:
        raise ValueError(f"{spec} holds no images (H, W, C) or (C, H, W) of 1 or 3 channels.")
    return Images(pictures, inputs.class_names(data))


def _labels(data: inputs.Data, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows, and their labels: all where reading no inputs tells them, else some."""
    found = inputs.labels_of(data)
    if found is not None:
        return np.arange(count), found
    dataset = inputs.dataset_of(data)
    rows, labels = [], []
    for row in np.unique(np.linspace(0, count - 1, COMPARED).round().astype(np.int64)):
        with suppress(*UNREADABLE, TypeError, IndexError):  # a broken picture, or no label
            labels.append(int(dataset[int(row)][1]))
            rows.append(row)
    return np.array(rows, np.int64), np.array(labels, np.int64)


def _digits(result: DepthResult | Ensemble) -> Any:
    """The demo's images: all, those of its support, or those held out."""
    images = demo.moved_digits().tensors[0][:, 0].numpy()
    if isinstance(result, Ensemble):
        return images
    return images[: demo.SUPPORT] if result.leave_one_out else images[demo.SUPPORT :]
