"""Images as a dataset: how a file becomes a tensor, and how an input is looked at again."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.inputs.pixels import as_eight_bits, as_mode, decode, resize, to_array, to_bytes
from pdepth.inputs.texts import IMAGE, LABEL
from pdepth.optional import require

if TYPE_CHECKING:
    from torch import Tensor, nn

# Numbers of errors that say nothing of a file: another one would fail in its place.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Unreadable(ValueError):
    """A row whose image cannot be read; it may be skipped."""


class OtherSize(ValueError):
    """A row whose image has another size than the first; skipping it would hide a wrong option."""


@dataclass(frozen=True)
class ImageOptions:
    """How an image becomes a tensor (C, H, W) float32.

    Attributes:
        size: the shorter side is resized to `size` (bilinear, antialiased) and the middle
            `size` x `size` cut out, as torchvision's Resize and CenterCrop do; None leaves images
            as they are, all of one size.
        mean, std: of the pixels in 0..1, one number per channel. One channel means grey, three
            mean RGB; images are converted to that.
        raw: leave all to a processor: a row is {"image": PIL image, label column: class}.
        as_imagefolder: read a folder of images exactly as torchvision's ImageFolder does: hidden
            files and folders are taken, EXIF's orientation is not, and greys of 16 bits saturate.
    """

    size: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    raw: bool = False
    as_imagefolder: bool = False

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return len(self.mean)

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


class ImageDataset:
    """Images that are read when they are indexed, as (tensor (C, H, W) float32, class).

    With `ImageOptions.raw` a row is {"image": PIL image, label_column: class} instead.

    Args:
        read: row -> a PIL image, not yet decoded perhaps.
        labels: (N,) int64.
        row_name: row -> its name in an error ("Image data/a.jpg", "Row 7 of data.parquet").
        options: how an image becomes a tensor.
        class_names: a name by class, or None.
        label_column: the name of the label in a row that is a mapping.
        paths: (N,) names of the rows' files, where each has one, as the file system has them.
    """

    label_column: str
    paths: Sequence[str] | None
    labels: NDArray[np.int64]
    options: ImageOptions
    class_names: Sequence[str] | None

    def __init__(
        self,
        read: Callable[[int], Any],
        labels: NDArray[np.int64],
        row_name: Callable[[int], str],
        options: ImageOptions,
        class_names: Sequence[str] | None = None,
        label_column: str = LABEL,
        paths: Sequence[str] | None = None,
    ) -> None:
        self.label_column, self.paths = label_column, paths
        self.labels, self.options, self.class_names = labels, options, class_names
        self._read, self._row_name = read, row_name

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int] | dict[str, Any]:
        row = range(len(self))[row]
        if self.options.raw:
            with self._naming(row):
                image = as_eight_bits(self._decoded(row), self.options.channels)
            return {IMAGE: image, self.label_column: int(self.labels[row])}
        pixels = self._pixels(row)
        first, size = self._first
        if pixels.shape[:2] != size:
            raise OtherSize(
                f"{self._row_name(row)}: expected {_size_text(size)} pixels as in "
                f"{self._row_name(first)}, got {_size_text(pixels.shape)}; pass --image-size to "
                "bring all images to one size."
            )
        torch = require("torch", "A row of images", "torch")
        values = torch.from_numpy(pixels)
        values = values.float().div_(255) if values.dtype == torch.uint8 else values
        mean = torch.tensor(self.options.mean, device="cpu")
        std = torch.tensor(self.options.std, device="cpu")
        return ((values - mean) / std).permute(2, 0, 1).contiguous(), int(self.labels[row])

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the image as the network sees it, but for mean and std: (H, W, C) uint8.

        More than 8 bits a value are rounded. Of a raw one, what the processor is called with.
        Raises ValueError for an image that cannot be read.
        """
        return to_bytes(self._pixels(range(len(self))[row]))

    def original(self, row: int) -> NDArray[np.uint8]:
        """Return the whole image in its own size: (H, W, C) or (H, W) uint8.

        Raises ValueError for an image that cannot be read.
        """
        row = range(len(self))[row]
        with self._naming(row):
            return np.asarray(as_eight_bits(self._decoded(row), self.options.channels))

    def _pixels(self, row: int) -> NDArray[Any]:
        """Pixels (H, W, C): uint8, or float32 of 0 to 1 where the file has more than 8 bits."""
        options = self.options
        with self._naming(row):
            image = self._decoded(row)
            if options.size is not None and not options.raw:
                image = resize(image, options.size)
            return to_array(image, options.channels)

    def _decoded(self, row: int) -> Any:
        """The PIL image of a row, of mode L, RGB or F."""
        image, channels = self._read(row), self.options.channels
        return as_mode(image, channels) if self.options.as_imagefolder else decode(image, channels)

    @contextmanager
    def _naming(self, row: int) -> Iterator[None]:
        """Turn whatever Pillow raises on a row's file, of many kinds, into a sentence."""
        try:
            yield
        except ImportError:
            raise
        except MemoryError:
            raise MemoryError(
                f"{self._row_name(row)}: expected an image that fits into memory, got a larger one."
            ) from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
            raise Unreadable(
                f"{self._row_name(row)} cannot be read as an image: {_reason(error)}."
            ) from None

    @cached_property
    def _first(self) -> tuple[int, tuple[int, int]]:
        """The first row that can be read, and its height and width, which all have to have."""
        for row in range(len(self)):
            with suppress(Unreadable):
                height, width = self._pixels(row).shape[:2]
                return row, (height, width)
        raise Unreadable(f"{self._row_name(0)} and all others cannot be read as images.")


class DatasetImages(Sequence[Any]):
    """The inputs of a dataset, or of some of its rows, as images, each read when it is indexed."""

    def __init__(self, dataset: Any, rows: NDArray[np.int64] | None = None) -> None:
        self._dataset = dataset
        self._rows: Sequence[int] = range(len(dataset)) if rows is None else rows.tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        row = self._rows[place]
        if isinstance(self._dataset, ImageDataset):
            return self._dataset.image(row)
        return input_of(self._dataset[row])

    def original(self, place: int) -> Any:
        """The image in its own size, where the dataset reads it from a file; else as above."""
        if isinstance(self._dataset, ImageDataset):
            return self._dataset.original(self._rows[place])
        return self[place]


def input_of(row: Any) -> Any:
    """The input of a row: the first of a pair; of a mapping its image, or None."""
    if not isinstance(row, Mapping):
        return row[0]
    image = row.get(IMAGE, row.get("pixel_values"))
    return np.asarray(image) if hasattr(image, "convert") else image  # a PIL image


def _reason(error: Exception) -> str:
    """What is wrong with a file, in words, without a dot at the end."""
    text = " ".join(str(error).split()).rstrip(".")
    if type(error).__name__ == "UnidentifiedImageError":
        return "Pillow knows no image in it"  # its own words name an address in memory
    if type(error).__name__ == "DecompressionBombError":
        return f"{text}; shrink it, or set PIL.Image.MAX_IMAGE_PIXELS = None in Python"
    return text or type(error).__name__


def _size_text(shape: Sequence[int]) -> str:
    """Width x height, of a shape (H, W, ...)."""
    return f"{shape[1]} x {shape[0]}"
