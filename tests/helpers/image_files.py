"""Folders and files of images, as `pdepth.inputs` opens them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def pixels(*shape: int) -> np.ndarray:
    """Random uint8 values."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def encoded(image: np.ndarray) -> bytes:
    """A PNG file of an image (H, W) or (H, W, C)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def image_folder(root: Path, images: Mapping[str, Sequence[np.ndarray]]) -> Path:
    """Write a folder for each class, of files 0.png, 1.png, ...; return `root`."""
    for name, of_class in images.items():
        (root / name).mkdir(parents=True)
        for row, image in enumerate(of_class):
            (root / name / f"{row}.png").write_bytes(encoded(image))
    return root


def parquet(path: Path, **columns: Any) -> str:
    """Write a Parquet file of these columns; return its DATA."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return f"parquet:{path}"


def npz(path: Path, **arrays: Any) -> str:
    """Write an npz file of these arrays; return its DATA."""
    np.savez(path, **arrays)
    return f"npz:{path}"
