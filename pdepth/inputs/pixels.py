"""Pixels: what an image's file says, upright, in grey or RGB, and brought to one size.

- EXIF's orientation is applied.
- Alpha is left out: colours are as the file holds them, transparent or not. Palettes, CMYK and
  others become RGB, or grey, as Pillow's `convert` makes them.
- 8 bits a value are 0 to 255. Greys of 12 and 16 bits are scaled by 4095 and 65,535, and keep their
  bits; floats are taken where all are 0 to 1. Others are refused: what is black and white in them
  is not known.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

ORIENTATION, BITS, PHOTOMETRIC = 274, 258, 262  # tags of EXIF and TIFF
WHITE_IS_ZERO = 0
# Names of PIL.Image.Transpose, by EXIF's orientation.
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
FLOATS = "F"
INTEGERS = "I"
SIXTEEN_BITS = "I;16"  # with the order of bytes behind it, perhaps
READ_AS_INTEGERS = ("PNG", "PPM")  # formats whose 16 bits Pillow may open with 32


def open_image(file: BinaryIO) -> Any:
    """Open an encoded image (PNG, JPEG, ...) with Pillow; its pixels are decoded later."""
    from PIL import Image

    return Image.open(file)


def orientation(image: Any) -> int:
    """EXIF's orientation of a PIL image, 1 to 8; 1 where it has none that can be read."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # of a broken EXIF, beside sound pixels; of many kinds
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def is_deep(image: Any) -> bool:
    """Whether a PIL image has more than 8 bits a value, which `convert` would make white."""
    return image.mode in (FLOATS, INTEGERS) or str(image.mode).startswith(SIXTEEN_BITS)


def upright(image: Any) -> Any:
    """Decode a PIL image, and turn it as its EXIF says."""
    image.load()
    return _turned(image, orientation(image))


def decode(image: Any, channels: int) -> Any:
    """Decode a PIL image: upright, of mode L or RGB by its channels, or F (grey, 0 to 1).

    Raises ValueError for values of an unknown range, and whatever Pillow raises on broken files.
    """
    from PIL import Image

    image.load()
    way = orientation(image)  # which a converted image may no longer say
    image = Image.fromarray(_scaled(image)) if is_deep(image) else as_mode(image, channels)
    return _turned(image, way)


def as_mode(image: Any, channels: int) -> Any:
    """A PIL image of 8 bits a value in mode L or RGB."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; Pillow warns of the direct way
    return image.convert("L" if channels == 1 else "RGB")


def as_eight_bits(image: Any, channels: int) -> Any:
    """A decoded PIL image in mode L or RGB; more than 8 bits a value are scaled and rounded."""
    if is_deep(image):
        from PIL import Image

        image = Image.fromarray(to_bytes(_scaled(image)))
    return as_mode(image, channels)


def to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels of 0 to 1 as 0 to 255; bytes as they are."""
    if values.dtype == np.uint8:
        return values
    rounded: NDArray[np.uint8] = np.rint(values * np.float32(255)).astype(np.uint8)
    return rounded


def resize(image: Any, size: int) -> Any:
    """torchvision's Resize(size) and CenterCrop(size), which do this by Pillow, too: bilinear and
    antialiased, the longer side rounded down."""
    from PIL import Image

    short, long = sorted(image.size)
    longer = int(size * long / short)
    width, height = (size, longer) if image.width <= image.height else (longer, size)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return scaled.crop((left, top, left + size, top + size))


def to_array(image: Any, channels: int) -> NDArray[Any]:
    """Pixels (H, W, C) of what `decode` returned: uint8, or float32 of 0 to 1."""
    values = np.array(image).reshape(image.height, image.width, -1)
    return values.repeat(channels, axis=2) if values.shape[2] < channels else values


def _turned(image: Any, way: int) -> Any:
    from PIL import Image

    return image.transpose(Image.Transpose[TURNS[way]]) if way in TURNS else image


def _scaled(image: Any) -> NDArray[np.float32]:
    """Grey values (H, W) of more than 8 bits as 0 to 1."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode == FLOATS:
        if not ((values >= 0) & (values <= 1)).all():  # nor NaN
            raise ValueError(
                f"expected floats from 0 to 1, got {values.min():g} to {values.max():g}; scale "
                "them, or save 16 bits a value"
            )
        scaled = values.astype(np.float32)
    elif image.mode == INTEGERS and image.format not in READ_AS_INTEGERS:
        raise ValueError(
            "expected 8 or 16 bits a value, or floats from 0 to 1, got 32-bit or signed integers; "
            "save them as floats, divided by the value of white"
        )
    else:
        top = 4095 if tags.get(BITS) == (12,) else 65535
        scaled = (values / top).astype(np.float32)
    return 1 - scaled if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else scaled
