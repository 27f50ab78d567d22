"""npz archives: images of bytes, or any floats, with their labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.inputs.images import ImageDataset, ImageOptions
from pdepth.inputs.labels import check_labels
from pdepth.inputs.texts import LABEL
from pdepth.optional import require

if TYPE_CHECKING:
    from torch.utils.data import TensorDataset


def open_archive(
    path: Path, options: ImageOptions, row_label: str = LABEL
) -> ImageDataset | TensorDataset:
    """Open an npz file of `x` and `y`; see `load_data`.

    Raises ValueError for a file or arrays of another kind; MemoryError, naming the file.
    """
    pil = require("PIL.Image", "DATA npz:", "vision")
    arrays = _read(path)
    x = np.atleast_1d(arrays["x"])
    labels = check_labels(arrays["y"], f"{path}, array 'y'", len(x))
    if x.dtype.kind == "f":
        torch = require("torch", "DATA npz: of floats", "torch")
        rows: TensorDataset = torch.utils.data.TensorDataset(
            torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels)
        )
        return rows
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
        options,
        label_column=row_label,
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as archive:
            names = list(archive.files)
            arrays = {name: archive[name] for name in names if name in ("x", "y")}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a member that is no array comes as bytes")
    except PermissionError:
        raise
    except MemoryError:
        raise MemoryError(
            f"{path}: expected arrays that fit into memory, got larger ones."
        ) from None
    except Exception:  # of NumPy and zipfile, on files of other kinds and broken ones
        raise ValueError(
            f"DATA npz: expected an npz file of plain arrays, got {path}; write one with "
            "numpy.savez(path, x=x, y=y)."
        ) from None
    for name in ("x", "y"):
        if name not in arrays:
            raise ValueError(f"{path}: expected an array {name!r}, got {', '.join(names)}.")
    return arrays
