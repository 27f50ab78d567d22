"""Files of images and arrays with bytes changed, and what is right to happen as they are read.

A seed names a file: its form and the changes. `python tests/helpers/broken_files.py SECONDS` reads
others for that long, and prints the seeds that end otherwise than they should.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pdepth.inputs import ImageOptions, load_data

ALLOWED = (ValueError, TypeError, OSError, MemoryError)
MOST_CHANGES = 4
KINDS = ("flip", "byte", "cut", "drop", "repeat", "zeros", "integer")


def _image(mode: str) -> Any:
    from PIL import Image

    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (12, 10, 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16)[..., 0] * 257)
    if mode == "F":
        return Image.fromarray((values[..., 0] / 255).astype(np.float32))
    channels = {"L": 0, "RGB": slice(3), "RGBA": slice(4), "LA": slice(2)}
    if mode == "P":
        return Image.fromarray(values[..., :3]).quantize(16)
    if mode == "CMYK":
        return Image.fromarray(values[..., :3]).convert("CMYK")
    return Image.fromarray(values[..., channels[mode]])


def _encoded(form: str, mode: str, **options: Any) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[274], exif[0x010E] = 6, "what it shows"
    if form in ("png", "jpeg", "tiff", "webp", "avif"):
        options["exif"] = exif
    buffer = io.BytesIO()
    _image(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _npz(compressed: bool, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def _parquet(columns: dict[str, Any], **options: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    noted = (
        b'{"info": {"features": {"image": {"_type": "Image"}, '
        b'"label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}}}'
    )
    buffer = io.BytesIO()
    table = pa.table(columns).replace_schema_metadata({b"huggingface": noted})
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def _images_of_a_table() -> dict[str, Any]:
    small = [_encoded("png", "RGB"), _encoded("jpeg", "L"), _encoded("png", "P")]
    return {
        "image": [{"bytes": content, "path": "a"} for content in small],
        "label": [0, 1, 2],
    }


def forms() -> dict[str, Callable[[], bytes]]:
    """The whole files, by name; the ending is that of the file."""
    pixels = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    y = np.arange(3)
    images = {
        f"{mode}.{form}": lambda form=form, mode=mode: _encoded(form, mode)
        for form, modes in {
            "png": ("L", "RGB", "RGBA", "LA", "P", "I;16"),
            "jpeg": ("L", "RGB", "CMYK"),
            "tiff": ("L", "RGB", "I;16", "F", "CMYK"),
            "webp": ("RGB", "RGBA"),
            "avif": ("RGB",),
            "bmp": ("RGB", "P"),
            "ppm": ("RGB", "L"),
            "gif": ("P",),
        }.items()
        for mode in modes
    }
    return images | {
        "lzw.tiff": lambda: _encoded("tiff", "RGB", compression="tiff_lzw"),
        "progressive.jpeg": lambda: _encoded("jpeg", "RGB", progressive=True),
        "plain.npz": lambda: _npz(False, x=pixels, y=y),
        "compressed.npz": lambda: _npz(True, x=pixels, y=y),
        "floats.npz": lambda: _npz(False, x=pixels / 255, y=y.astype(np.uint8)),
        "images.parquet": lambda: _parquet(_images_of_a_table()),
        "checked.parquet": lambda: _parquet(_images_of_a_table(), write_page_checksum=True),
        "texts.parquet": lambda: _parquet({"text": ["a", "b b", "c"], "label": [2, 1, 0]}),
        "zstd.parquet": lambda: _parquet(
            {"image": [c["bytes"] for c in _images_of_a_table()["image"]], "label": [0, 1, 2]},
            compression="zstd", row_group_size=2,
        ),
        "rows.csv": lambda: b"text,label\na,1\n\"b, b\",0\nc,2\n",
        "rows.jsonl": lambda: b'{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n',
    }  # fmt: skip


def changed(content: bytes, seed: int) -> bytes:
    """A file with one to `MOST_CHANGES` changes, by a seed."""
    rng = np.random.default_rng(seed)
    data = bytearray(content)
    for _ in range(rng.integers(1, MOST_CHANGES + 1)):
        if not data:
            break
        kind, at = KINDS[rng.integers(len(KINDS))], int(rng.integers(len(data)))
        length = int(min(len(data) - at, 2 ** rng.integers(0, 7)))
        if kind == "flip":
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == "byte":
            data[at] = int(rng.choice([0, 1, 127, 128, 254, 255, rng.integers(256)]))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "zeros":
            data[at : at + length] = bytes(length)
        else:  # a number of four bytes, at the edges of its types
            edge = int(rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFF, 0xFFFF]))
            data[at : at + 4] = edge.to_bytes(4, "little" if rng.integers(2) else "big")
    return bytes(data)


def read_all(path: Path) -> None:
    """Read every row of a file as the command line does. Raises whatever that raises."""
    kind = path.suffix[1:]
    if kind in ("npz", "parquet", "csv", "jsonl"):
        data = load_data(f"{kind}:{path}", ImageOptions())
    else:
        data = load_data(f"imagefolder:{path.parent.parent}", ImageOptions(size=6))
    for row in range(len(data)):  # type: ignore[arg-type]
        data[row]


def fault(name: str, content: bytes, folder: Path) -> str:
    """What is wrong with the way in which a file is read; "" where nothing is."""
    ending = name.rpartition(".")[2].replace("gif", "png")  # Pillow goes by the content
    path = folder / "c" / f"broken.{ending}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_all(path)
        except ALLOWED as error:
            return "" if path.name in str(error) else f"unnamed {type(error).__name__}: {error}"
        except Exception as error:
            return f"raw {type(error).__name__}: {error}"
        finally:
            path.unlink()
    return ""


def main(seconds: float) -> None:
    contents = {name: make() for name, make in forms().items()}
    names, seed, tried = list(contents), int(time.time()), 0
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            name, seed = names[seed % len(names)], seed + 1
            if what := fault(name, changed(contents[name], seed), Path(folder)):
                print(f"{name} {seed}: {what[:300]}", flush=True)
            tried += 1
    print(f"{tried:,} files read")


if __name__ == "__main__":
    main(float(sys.argv[1]))
