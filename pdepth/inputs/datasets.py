"""DATA: a dataset from a folder, a file or a function in a user's file; what is known of it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pdepth.inputs.images import DatasetImages, ImageDataset, ImageOptions, open_image
from pdepth.inputs.python_files import PYTHON, call_function, split_spec
from pdepth.optional import require

DATA_FORMS = {"imagefolder": "DIR", "parquet": "FILE", "npz": "FILE"}

Data: TypeAlias = "Dataset[Any] | DataLoader[Any]"


def load_data(spec: str, options: ImageOptions | None = None) -> Data:
    """Open the dataset that DATA names; labels are checked, pixels read when they are indexed.

    Args:
        spec: imagefolder:DIR (one folder per class); parquet:FILE (columns `image`, encoded bytes
            or a struct with `bytes`, and `label`); npz:FILE (`x`: uint8 images (N, H, W[, C]), or
            floats (N, ...), taken as float32; `y`: integers); or path/to/file.py:function,
            which returns a Dataset or a DataLoader.
        options: how images become tensors.

    Raises:
        ValueError: an unknown form, or content of another kind.
        TypeError: the function returned something else.
        FileNotFoundError, ImportError: a file or a library is missing.
    """
    options = options or ImageOptions()
    kind, name = split_spec(spec, "DATA", DATA_FORMS)
    if kind == PYTHON:
        data = call_function(spec, "DATA")
        if not isinstance(data, (Dataset, DataLoader)):
            raise TypeError(
                f"DATA: expected a torch Dataset or DataLoader from {spec}, got "
                f"{type(data).__name__}."
            )
        return data
    require("PIL", f"DATA {kind}:", "vision")
    path = Path(name).expanduser()
    if kind == "imagefolder":
        return _image_folder(path, options)
    if not path.is_file():
        raise FileNotFoundError(f"DATA {kind}: expected an existing file, got {path}.")
    return _parquet(path, options) if kind == "parquet" else _npz(path, options)


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
    if isinstance(dataset, ImageDataset):
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
    return None


def check_same_classes(support: Data, queries: Data) -> None:
    """Raise ValueError where two folders of images number their classes differently."""
    expected, names = class_names(support), class_names(queries)
    if expected is None or names is None or list(names) == list(expected):
        return
    differing = sorted(set(names) ^ set(expected)) or sorted(names)
    raise ValueError(
        f"queries: expected the {len(expected)} class folders of support, got {len(names)}, and "
        f"{differing[0]!r} differs; classes are numbered by folder, so both need all folders."
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
    shape = tuple(getattr(images[0], "shape", ()))
    if len(shape) == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3)):
        return images
    return None


def _image_folder(path: Path, options: ImageOptions) -> Dataset[Any]:
    datasets = require("torchvision.datasets", "DATA imagefolder:", "vision")
    if not path.is_dir():
        raise FileNotFoundError(f"DATA imagefolder: expected an existing folder, got {path}.")
    folder = datasets.ImageFolder(str(path))
    files = [file for file, _ in folder.samples]
    labels = np.array([label for _, label in folder.samples], np.int64)
    return ImageDataset(
        lambda row: open_image(Path(files[row]).read_bytes()),
        labels,
        lambda row: f"Image {files[row]}",
        options,
        folder.classes,
    )


def _parquet(path: Path, options: ImageOptions) -> Dataset[Any]:
    pa = require("pyarrow", "DATA parquet:", "tables")
    pq = require("pyarrow.parquet", "DATA parquet:", "tables")
    try:
        names = pq.read_schema(path).names
        for name in ("image", "label"):
            if name not in names:
                raise ValueError(f"{path}: expected a column {name!r}, got {', '.join(names)}.")
        table = pq.read_table(path, columns=["image", "label"], partitioning=None)
    except pa.ArrowInvalid:
        raise ValueError(f"DATA parquet: expected a readable Parquet file, got {path}.") from None
    image, label = table["image"].combine_chunks(), table["label"]
    if pa.types.is_struct(image.type) and image.type.get_field_index("bytes") >= 0:
        image = image.field("bytes")
    if not (pa.types.is_binary(image.type) or pa.types.is_large_binary(image.type)):
        raise ValueError(
            f"{path}, column 'image': expected the bytes of image files, or a struct with a field "
            f"'bytes', got {image.type}."
        )
    for name, column in (("label", label), ("image", image)):
        if column.null_count:
            raise ValueError(
                f"{path}, column {name!r}: expected no empty entries, got {column.null_count}."
            )
    return ImageDataset(
        lambda row: open_image(image[row].as_py()),
        _checked_labels(label.to_numpy(), f"{path}, column 'label'", len(image)),
        lambda row: f"Row {row} of {path}",
        options,
    )


def _npz(path: Path, options: ImageOptions) -> Dataset[Any]:
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
    labels = _checked_labels(arrays["y"], f"{path}, array 'y'", len(x))
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
        lambda row: pil.fromarray(x[row]), labels, lambda row: f"Row {row} of {path}", options
    )


def _checked_labels(labels: NDArray[Any], name: str, count: int) -> NDArray[np.int64]:
    """Return labels as int64. Raises ValueError unless they are (count,) integers, count >= 1."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != count:
        raise ValueError(
            f"{name}: expected integers of shape ({count},), got {labels.dtype} of shape "
            f"{labels.shape}."
        )
    if count == 0:
        raise ValueError(f"{name}: expected at least one example, got none.")
    return labels.astype(np.int64)
