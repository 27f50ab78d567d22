"""Images as a dataset: how a file becomes a tensor, and how an input is looked at again."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from pdepth.inputs.texts import IMAGE, LABEL

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BILINEAR = 2  # of PIL.Image.Resampling; it averages over what it shrinks


@dataclass(frozen=True)
class ImageOptions:
    """How an image becomes a tensor (C, H, W) float32.

    Attributes:
        size: the shorter side is resized to `size` (bilinear, antialiased) and the middle
            `size` x `size` cut out; None leaves images as they are, all of one size.
        mean, std: of the pixels in 0..1, one number per channel. One channel means grey, three
            mean RGB; images are converted to that.
        raw: leave all to a processor: a row is {"image": PIL image, label column: class}.
    """

    size: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    raw: bool = False

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ValueError(
                "mean and std: expected 1 number each (grey) or 3 each (RGB), got "
                f"{len(self.mean)} and {len(self.std)}."
            )
        if not min(self.std) > 0:
            raise ValueError(f"std: expected positive numbers, got {self.std}.")
        if self.size is not None and self.size < 1:
            raise ValueError(f"image size: expected an integer >= 1, got {self.size}.")

    @classmethod
    def for_processor(cls, processor: Any) -> ImageOptions:
        """Options for an image processor of transformers, which does all but grey and RGB."""
        mean = getattr(processor, "image_mean", None)
        grey = isinstance(mean, list | tuple) and len(mean) == 1
        return cls(raw=True, mean=(0.5,), std=(0.5,)) if grey else cls(raw=True)

    @classmethod
    def for_model(
        cls,
        model: nn.Module | None,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> ImageOptions:
        """Options for a network: the arguments; else a timm model's own; else ImageNet's.

        A timm model's size is taken only where it accepts no other (vision transformers).
        """
        own = getattr(model, "pretrained_cfg", None) or {}
        if size is None and own.get("fixed_input_size"):
            size = own["input_size"][-1]
        return cls(
            size=size,
            mean=tuple(mean or own.get("mean") or IMAGENET_MEAN),
            std=tuple(std or own.get("std") or IMAGENET_STD),
        )


class ImageDataset(Dataset[Any]):
    """Images that are read when they are indexed, as (tensor (C, H, W) float32, class).

    With `ImageOptions.raw` a row is {"image": PIL image, label_column: class} instead.

    Args:
        read: row -> a PIL image, not yet decoded perhaps.
        labels: (N,) int64.
        row_name: row -> its name in an error ("Image data/a.jpg", "Row 7 of data.parquet").
        options: how an image becomes a tensor.
        class_names: a name by class, or None.
        label_column: the name of the label in a row that is a mapping.
    """

    def __init__(
        self,
        read: Callable[[int], Any],
        labels: NDArray[np.int64],
        row_name: Callable[[int], str],
        options: ImageOptions,
        class_names: Sequence[str] | None = None,
        label_column: str = LABEL,
    ) -> None:
        self.label_column = label_column
        self.labels, self.options, self.class_names = labels, options, class_names
        self._read, self._row_name = read, row_name

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int] | dict[str, Any]:
        if self.options.raw:
            return {IMAGE: self._opened(row), self.label_column: int(self.labels[row])}
        image = self.image(row)
        if image.shape[:2] != self._size:
            raise ValueError(
                f"{self._row_name(row)}: expected {_size_text(self._size)} pixels as in "
                f"{self._row_name(0)}, got {_size_text(image.shape)}; pass --image-size to bring "
                "all images to one size."
            )
        pixels = torch.from_numpy(image).float().div_(255)
        mean, std = torch.tensor(self.options.mean), torch.tensor(self.options.std)
        return ((pixels - mean) / std).permute(2, 0, 1).contiguous(), int(self.labels[row])

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the image as the network sees it, but for mean and std: (H, W, C) uint8.

        Of a raw one, what the processor is called with. Raises ValueError for an image that cannot
        be read.
        """
        image = self._opened(row)
        if self.options.size is not None and not self.options.raw:
            image = _resize(image, self.options.size)
        return np.array(image).reshape(*image.size[::-1], len(self.options.mean))

    def _opened(self, row: int) -> Any:
        """The PIL image of a row, grey or RGB."""
        try:
            return self._read(row).convert("L" if len(self.options.mean) == 1 else "RGB")
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on broken files
            raise ValueError(f"{self._row_name(row)} cannot be read as an image: {error}") from None

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Height and width of the first image, which all have to have."""
        height, width = self.image(0).shape[:2]
        return height, width


class DatasetImages(Sequence[Any]):
    """The inputs of a dataset as images, each read when it is indexed."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(self._dataset, ImageDataset):
            return self._dataset.image(row)
        return input_of(self._dataset[row])


def input_of(row: Any) -> Any:
    """The input of a row: the first of a pair; of a mapping its image, or None."""
    if not isinstance(row, Mapping):
        return row[0]
    image = row.get(IMAGE, row.get("pixel_values"))
    return np.asarray(image) if hasattr(image, "convert") else image  # a PIL image


def open_image(content: bytes) -> Any:
    """Open an encoded image (PNG, JPEG, ...) with Pillow; its pixels are decoded later."""
    from PIL import Image

    return Image.open(io.BytesIO(content))


def _resize(image: Any, size: int) -> Any:
    width, height = image.size
    scale = size / min(width, height)
    image = image.resize((round(width * scale), round(height * scale)), BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _size_text(shape: Sequence[int]) -> str:
    """Width x height, of a shape (H, W, ...)."""
    return f"{shape[1]} x {shape[0]}"
