"""The demo's images: scikit-learn's digits, each moved to a random place.

Each 8 x 8 digit is placed on a canvas of 12 x 12 pixels. Left where they are, digits are so alike
that their raw pixels already decide 95 % of them and nearly every depth is 0; moved, they need the
network, and its depths separate the easy from the hard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.ensemble import Ensemble
from pdepth.optional import require
from pdepth.result import DepthResult

if TYPE_CHECKING:
    from torch.utils.data import TensorDataset

SUPPORT = 1297  # of 1,797 images; the other 500, the last, come from writers seen less often
CANVAS = 12  # pixels
DATA = "scikit-learn's digits, moved"  # what results say of their data


def moved_digits() -> TensorDataset:
    """Return all 1,797 images (1, 12, 12) float32 in 0..1 with their classes.

    Needs the extra `demo` (scikit-learn and torch).
    """
    torch = require("torch", "The demo", "demo")
    images, classes = _moved_images()
    x, y = torch.from_numpy(images)[:, None], torch.from_numpy(classes)
    moved: TensorDataset = torch.utils.data.TensorDataset(x, y)
    return moved


def result_images(result: DepthResult | Ensemble) -> NDArray[np.float32]:
    """Return the images (N, 12, 12) of a result whose data is `DATA`.

    Those of the support, of the held-out rows, or all of an ensemble.
    """
    images, _ = _moved_images()
    if isinstance(result, Ensemble):
        return images
    return images[:SUPPORT] if result.leave_one_out else images[SUPPORT:]


def _moved_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All images (1797, 12, 12) and their classes."""
    digits = require("sklearn.datasets", "The demo", "demo").load_digits()
    return _move(digits.images / 16), digits.target


def _move(images: NDArray[np.float64]) -> NDArray[np.float32]:
    """Place each image (8, 8) on an empty canvas, at a position drawn with a fixed seed."""
    n, size = len(images), images.shape[1]
    canvases = np.zeros((n, CANVAS, CANVAS), np.float32)
    corners = np.random.default_rng(0).integers(0, CANVAS - size + 1, (n, 2))
    for image, canvas, (top, left) in zip(images, canvases, corners, strict=True):
        canvas[top : top + size, left : left + size] = image
    return canvases
