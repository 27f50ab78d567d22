"""DATA: a dataset from a folder, a file or a function in a user's file; what is known of it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pdepth.inputs.images import DatasetImages, ImageDataset, ImageOptions, open_image
from pdepth.inputs.labels import check_labels, renumber
from pdepth.inputs.python_files import PYTHON, call_function, split_spec
from pdepth.inputs.tables import TableOptions, open_saved_dataset, open_table
from pdepth.inputs.texts import LABEL_COLUMNS, TextDataset
from pdepth.optional import require

TABLES = ("parquet", "csv", "jsonl")
FOLDERS = ("imagefolder", "dataset")
DATA_FORMS = {"imagefolder": "DIR", "npz": "FILE"} | dict.fromkeys(TABLES, "FILE")
DATA_FORMS["dataset"] = "DIR"

Data: TypeAlias = "Dataset[Any] | DataLoader[Any]"


def load_data(
    spec: str,
    options: ImageOptions | None = None,
    *,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Data:
    """Open the dataset that DATA names; labels are checked, pixels read when they are indexed.

    Args:
        spec: imagefolder:DIR (one folder per class); parquet:FILE (a column `image`, encoded bytes
            or a struct with `bytes`, or one of texts, and `label`); csv:FILE and jsonl:FILE (a
            column `text`, or only one of strings, and `label`); dataset:DIR (as `datasets` saves
            them to disk, of images or texts); npz:FILE (`x`: uint8 images (N, H, W[, C]), or
            floats (N, ...), taken as float32; `y`: integers); or path/to/file.py:function,
            which returns a Dataset, a DataLoader or a LightningDataModule.
        options: how images become tensors.
        label_column: the column of labels in a table; None for "label" or "labels". In rows that
            are mappings, {"text": str, label_column: class}, it keeps its name.
        class_names: how classes are numbered that have names, where all of theirs are among
            these; otherwise names are numbered as they are sorted.

    Raises:
        ValueError: an unknown form, or content of another kind.
        TypeError: the function returned something else.
        FileNotFoundError, ImportError: a file or a library is missing.
    """
    options = options or ImageOptions()
    table = TableOptions(options, label_column, class_names)
    kind, name = split_spec(spec, "DATA", DATA_FORMS)
    if kind == PYTHON:
        return _users_data(spec)
    path = Path(name).expanduser()
    if kind in FOLDERS and not path.is_dir():
        raise FileNotFoundError(f"DATA {kind}: expected an existing folder, got {path}.")
    if kind == "dataset":
        return open_saved_dataset(path, table)
    if kind not in ("csv", "jsonl"):
        require("PIL", f"DATA {kind}:", "vision")
    if kind == "imagefolder":
        return _image_folder(path, table)
    if not path.is_file():
        raise FileNotFoundError(f"DATA {kind}: expected an existing file, got {path}.")
    return open_table(kind, path, table) if kind in TABLES else _npz(path, table)


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
    return data.dataset if isinstance(data, DataLoader) else data


def known_labels(data: Data) -> NDArray[np.int64] | None:
    """Return the labels (N,) of a dataset where no input has to be read for them, or None."""
    dataset = unwrap_loader(data)
    if isinstance(dataset, ImageDataset | TextDataset):
        return dataset.labels
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        labels: NDArray[np.int64] = dataset.tensors[1].cpu().numpy()
        return labels
    return None


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
    return not isinstance(dataset, TensorDataset)


def check_same_classes(support: Data, queries: Data) -> None:
    """Raise ValueError where names say that two datasets number their classes differently."""
    expected, names = class_names(support), class_names(queries)
    if expected is None or names is None or list(names) == list(expected):
        return
    differing = sorted(set(names) ^ set(expected)) or sorted(names)
    raise ValueError(
        f"queries: expected the {len(expected)} classes of support, got {len(names)}, and "
        f"{differing[0]!r} differs; take out the queries of other classes."
    )


def dataset_images(data: Data, rows: int) -> DatasetImages | None:
    """Return the images of a dataset for `pdepth.plot`, or None where its inputs are no images.

    None, too, where the dataset has not `rows` rows: a sampler chose, or it is only iterable.
    """
    dataset = unwrap_loader(data)
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return None
    if len(dataset) != rows:
        return None
    images = DatasetImages(dataset)
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
    readable = isinstance(data, Dataset | DataLoader) or hasattr(data, "train_dataloader")
    if not readable and package != "datasets":
        raise TypeError(
            f"DATA: expected a torch Dataset or DataLoader from {spec}, got {type(data).__name__}."
        )
    opened: Data = data
    return opened


def _image_folder(path: Path, options: TableOptions) -> Dataset[Any]:
    datasets = require("torchvision.datasets", "DATA imagefolder:", "vision")
    folder = datasets.ImageFolder(str(path))
    files = [file for file, _ in folder.samples]
    labels = np.array([label for _, label in folder.samples], np.int64)
    labels, class_names = renumber(labels, folder.classes, options.class_names)
    return ImageDataset(
        lambda row: open_image(Path(files[row]).read_bytes()),
        labels,
        lambda row: f"Image {files[row]}",
        options.images,
        class_names,
        options.row_label,
    )


def _npz(path: Path, options: TableOptions) -> Dataset[Any]:
    pil = require("PIL.Image", "DATA npz:", "vision")
    try:
        archive = np.load(path)
        arrays = {name: archive[name] for name in archive.files if name in ("x", "y")}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile):
        raise ValueError(
            f"DATA npz: expected an npz file of plain arrays, got {path}; write one with "
            "numpy.savez(path, x=x, y=y)."
        ) from None
    for name in ("x", "y"):
        if name not in arrays:
            raise ValueError(f"{path}: expected an array {name!r}, got {', '.join(archive.files)}.")
    x = np.atleast_1d(arrays["x"])
    labels = check_labels(arrays["y"], f"{path}, array 'y'", len(x))
    if x.dtype.kind == "f":
        values = torch.from_numpy(x.astype(np.float32))
        return TensorDataset(values, torch.from_numpy(labels))
    if x.dtype != np.uint8 or not (x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3, 4))):
        raise ValueError(
            f"{path}, array 'x': expected uint8 images (N, H, W) or (N, H, W, C) with 1, 3 or 4 "
            f"channels, or floats, got {x.dtype} of shape {x.shape}."
        )
    if x.ndim == 4 and x.shape[-1] == 1:
        x = x[..., 0]
    return ImageDataset(
        lambda row: pil.fromarray(x[row]),
        labels,
        lambda row: f"Row {row} of {path}",
        options.images,
        label_column=options.row_label,
    )
