"""DATA: a dataset from a folder, a file or a function in a user's file; what is known of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pdepth.inputs.archives import open_archive
from pdepth.inputs.decided import DecidedRows
from pdepth.inputs.folders import open_image_folder, printable
from pdepth.inputs.images import DatasetImages, ImageDataset, ImageOptions
from pdepth.inputs.python_files import PYTHON, call_function, split_spec
from pdepth.inputs.tables import TableOptions, open_saved_dataset, open_table
from pdepth.inputs.texts import LABEL_COLUMNS, TextDataset
from pdepth.optional import require

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset

TABLES = ("parquet", "csv", "jsonl")
FOLDERS = ("imagefolder", "dataset")
DATA_FORMS = {
    "imagefolder": "DIR",
    "npz": "FILE",
    "parquet": "FILE",
    "csv": "FILE",
    "jsonl": "FILE",
    "dataset": "DIR",
}

Data: TypeAlias = "Dataset[Any] | DataLoader[Any] | ImageDataset | TextDataset"


def load_data(
    spec: str,
    options: ImageOptions | None = None,
    *,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
    compare: bool = True,
) -> Data:
    """Open the dataset that DATA names; labels are checked, pixels read when they are indexed.

    Args:
        spec: imagefolder:DIR (one folder per class); parquet:FILE (a column `image` or `img`,
            encoded bytes or a struct with `bytes`, or one of texts, and `label`), a folder of such
            files or a pattern; csv:FILE and jsonl:FILE (a column `text`, or only one of strings,
            and `label`); dataset:DIR (as `datasets` saves them to disk, of images or texts);
            npz:FILE (`x`: uint8 images (N, H, W[, C]), or floats (N, ...), taken as float32; `y`:
            integers); or path/to/file.py:function, which returns a Dataset, a DataLoader or a
            LightningDataModule.
        options: how images become tensors.
        label_column: the column of labels in a table; None for "label" or "labels". In rows that
            are mappings, {"text": str, label_column: class}, it keeps its name.
        class_names: how classes are numbered that have names, where all of theirs are among
            these; otherwise names are numbered as they are sorted, or as the data's features do.
            Labels that are numbers without names have these, where there are enough of them.
        compare: of imagefolder, warn where torchvision's ImageFolder reads something else; it
            opens every file.

    Raises:
        ValueError: an unknown form, or content of another kind.
        TypeError: the function returned something else.
        FileNotFoundError, ImportError: a file or a library is missing.
    """
    options = options or ImageOptions()
    kind, name = split_spec(spec, "DATA", DATA_FORMS)
    if options.as_imagefolder and kind != "imagefolder":
        raise ValueError(
            f"--as-imagefolder (as_imagefolder=True): expected DATA imagefolder:DIR, got {spec}; "
            "leave it out."
        )
    if kind == PYTHON:
        return _users_data(spec)
    path = Path(name).expanduser()
    if kind in FOLDERS and not path.is_dir():
        raise FileNotFoundError(f"DATA {kind}: expected an existing folder, got {path}.")
    if kind in ("csv", "jsonl", "npz") and not path.is_file():
        raise FileNotFoundError(f"DATA {kind}: expected an existing file, got {path}.")
    if kind in ("imagefolder", "parquet", "npz"):
        require("PIL", f"DATA {kind}:", "vision")
    table = TableOptions(options, label_column, class_names)
    if kind == "imagefolder":
        return open_image_folder(path, options, class_names, table.row_label, compare=compare)
    data: Data
    if kind == "dataset":
        data = open_saved_dataset(path, table)
    elif kind == "npz":
        data = open_archive(path, options, table.row_label)
    else:
        data = open_table(kind, path, table)
    _name_classes(data, class_names)
    return data


def _name_classes(data: Any, names: Sequence[str] | None) -> None:
    """Give a dataset's numbers their names, where it has none and there are enough."""
    if names is None or class_names(data) is not None:
        return
    labels = known_labels(data)
    if labels is not None and len(labels) and labels.max() < len(names):
        data.class_names = list(names)


def absolute_spec(spec: str) -> str:
    """Return DATA with an absolute path, which names the same from every folder."""
    kind, name = split_spec(spec, "DATA", DATA_FORMS)
    file, colon, function = name.rpartition(":") if kind == PYTHON else (name, "", "")
    path = Path(file).expanduser().absolute()
    return f"{path}{colon}{function}" if kind == PYTHON else f"{kind}:{path}"


def runs_code(spec: str) -> bool:
    """Whether opening DATA runs a Python file."""
    return split_spec(spec, "DATA", DATA_FORMS)[0] == PYTHON


def unwrap_loader(data: Data) -> Any:
    """Return the dataset, whose rows are in their own order, whatever a loader does with them."""
    loader: Any = data
    return loader.dataset if is_torchs(data, "DataLoader") else data


def undecided(data: Data) -> Any:
    """Return the dataset behind decisions, whose rows have their own numbers and labels."""
    dataset = unwrap_loader(data)
    return dataset.dataset if isinstance(dataset, DecidedRows) else data


def known_labels(data: Data) -> NDArray[np.int64] | None:
    """Return the labels (N,) of a dataset where no input has to be read for them, or None."""
    dataset = unwrap_loader(data)
    if isinstance(dataset, ImageDataset | TextDataset):
        return dataset.labels
    if is_torchs(dataset, "TensorDataset") and len(dataset.tensors) == 2:
        labels: NDArray[np.int64] = dataset.tensors[1].cpu().numpy()
        return labels
    return None


def row_paths(data: Data) -> Sequence[str] | None:
    """Return the files (N,) of a dataset's rows, where each is a file of its own, or None.

    Those of folders of images, torchvision's ImageFolder and DatasetFolder among them.
    """
    dataset = unwrap_loader(data)
    if isinstance(dataset, ImageDataset):
        return None if dataset.paths is None else [printable(path) for path in dataset.paths]
    samples = getattr(dataset, "samples", None)  # (path, class) each; others name them so, too
    if isinstance(samples, list) and len(samples) == len(dataset) and all(map(_is_file, samples)):
        return [printable(os.fspath(path)) for path, _ in samples]
    return None


def _is_file(sample: Any) -> bool:
    """Whether a sample is (path, class)."""
    return (
        isinstance(sample, tuple) and len(sample) == 2 and isinstance(sample[0], str | os.PathLike)
    )


def class_names(data: Data) -> Sequence[str] | None:
    """Return the names of the classes, a dataset's `class_names` or `classes`, or None."""
    dataset = getattr(data, "dataset", data)
    for attribute in ("class_names", "classes"):
        names = getattr(dataset, attribute, None)
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            return names
    features = getattr(dataset, "features", None)  # of a dataset of `datasets`
    if isinstance(features, Mapping):
        for column in LABEL_COLUMNS:
            named: Sequence[str] | None = getattr(features.get(column), "names", None)
            if named:
                return named
    return None


def has_named_rows(data: Data) -> bool:
    """Whether rows may be mappings: not those of a file that are (input, label)."""
    dataset = unwrap_loader(data)
    if isinstance(dataset, ImageDataset):
        return dataset.options.raw
    return not is_torchs(dataset, "TensorDataset")


def check_same_classes(support: Data, queries: Data) -> None:
    """Raise ValueError where names say that two datasets number their classes differently."""
    expected, names = class_names(support), class_names(queries)
    if expected is None or names is None or list(names) == list(expected):
        return
    differing = sorted(set(names) ^ set(expected)) or sorted(names)
    advice = "take out the queries of other classes"
    if set(names) <= set(expected):
        advice = "open them with load_data(..., class_names=class_names(support))"
    raise ValueError(
        f"queries: expected the {len(expected)} classes of support, got {len(names)}, and "
        f"{differing[0]!r} differs; {advice}."
    )


def dataset_images(
    data: Data, rows: int, numbers: NDArray[np.int64] | None = None
) -> DatasetImages | None:
    """Return the images of a dataset for `pdepth.plot`, or None where its inputs are no images.

    None, too, where the dataset has not `rows` rows: a sampler chose, or it is only iterable.
    numbers: of the rows whose images these are; None for all.
    """
    dataset = unwrap_loader(data)
    if is_torchs(dataset, "IterableDataset") or not hasattr(dataset, "__len__"):
        return None
    if len(dataset) != rows:
        return None
    images = DatasetImages(dataset, numbers)
    if isinstance(dataset, ImageDataset):
        return images
    if isinstance(dataset, TextDataset):
        return None
    shape = tuple(getattr(images[0], "shape", ()))
    if len(shape) == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3)):
        return images
    return None


def _users_data(spec: str) -> Data:
    data: Any = call_function(spec, "DATA")
    package = type(data).__module__.partition(".")[0]
    if package == "datasets" and isinstance(data, dict):
        raise TypeError(
            f"DATA: expected one split from {spec}, got a {type(data).__name__} of "
            f"{', '.join(map(str, data))}; return one of them, such as data['train']."
        )
    readable = isinstance(data, ImageDataset | TextDataset) or hasattr(data, "train_dataloader")
    readable |= is_torchs(data, "Dataset", "DataLoader")
    if not readable and package != "datasets":
        raise TypeError(
            f"DATA: expected a torch Dataset or DataLoader from {spec}, got {type(data).__name__}."
        )
    opened: Data = data
    return opened


def is_torchs(value: object, *classes: str) -> bool:
    """Whether a value is of one of these classes of torch.utils.data; imports nothing, since who
    has such a value has imported it."""
    module = sys.modules.get("torch.utils.data")
    return isinstance(value, tuple(getattr(module, name) for name in classes if module is not None))
