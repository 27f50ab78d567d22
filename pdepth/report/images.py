"""Images of examples as arrays, and the values that are shown as black and white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.convert import to_numpy

UNREADABLE = (OSError, ValueError, SyntaxError)  # SyntaxError: what Pillow raises for a broken PNG


def image_array(image: Any) -> NDArray[Any]:
    """One image as (H, W) or (H, W, 3 or 4), with its own values.

    Args:
        image: array or tensor (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels.

    Raises:
        ValueError: another shape.
    """
    array = np.asarray(to_numpy(image))
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise ValueError(
            "images: expected shape (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, got "
            f"{array.shape}."
        )
    return array[..., 0] if array.shape[-1] == 1 and array.ndim == 3 else array


def value_range(images: list[NDArray[Any]]) -> tuple[float, float]:
    """The values to be shown as black and white, common to all images."""
    if all(image.dtype == np.uint8 for image in images):
        return 0.0, 255.0
    low = min((float(image.min()) for image in images), default=0.0)
    high = max((float(image.max()) for image in images), default=1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1
