"""Small pictures of examples: in a page, and in a folder beside it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pdepth.io.atomic import check_ours, replacing_folder
from pdepth.optional import require
from pdepth.report.figures.examples import picture_of, value_range
from pdepth.report.html.story import Int, Story

UNREADABLE = (OSError, ValueError, SyntaxError)  # SyntaxError: a broken PNG, says Pillow
KINDS = ("sample", "all", "none")
SIDE = 96  # pixels at most
EACH = 24  # of a sheet that are in the page
OF_CLASS = 6  # of a sheet and class
EMBEDDED = 5_000  # examples in the page
BUDGET = 12 << 20  # bytes that they may take together
LOOKED_AT = 64  # pictures that tell what is black and what is white
EXACT = 1024  # values up to which a picture is small enough for PNG
FOLDER = 1000  # files a folder: file systems and people list no more gladly


@dataclass(eq=False)
class Thumbnails:
    """What a page has of its pictures.

    Attributes:
        suffix: "png" or "jpg".
        embedded: by row, the bytes of a file.
        unreadable: rows whose picture was tried and cannot be read.
        tried: how many were tried.
        folder: the name of the folder beside the page that has the others, or "".
    """

    suffix: str = "png"
    embedded: dict[int, bytes] = field(default_factory=dict, repr=False)
    unreadable: list[int] = field(default_factory=list)
    tried: int = 0
    folder: str = ""


def chosen(story: Story) -> Int:
    """(n,) distinct rows: the ends of each sheet, of all examples and of each class; then a sample.

    The sheets are interleaved, and of equal examples a fixed shuffle chooses.
    """
    shuffled = np.random.default_rng(0).permutation(story.count)
    of = story.columns[story.image_class].values
    ends: list[list[Int]] = [[], []]
    for sheet in story.sheets:
        rows = sheet.rows(story.columns, shuffled)
        ends[0].append(rows[:EACH])
        # A stable sort by class leaves each class's first ones together, in their order.
        grouped = rows[np.argsort(of[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(of[grouped], prepend=-1))
        place = np.arange(len(grouped)) - np.repeat(starts, np.diff(starts, append=len(grouped)))
        ends[1].append(grouped[place < OF_CLASS])
    order = np.concatenate([*(_interleaved(each) for each in ends), shuffled])
    _, first = np.unique(order, return_index=True)
    return order[np.sort(first)][:EMBEDDED]


def _interleaved(parts: list[Int]) -> Int:
    rank = np.concatenate([np.arange(len(part)) for part in parts] or [np.empty(0, np.int64)])
    rows = np.concatenate(parts or [np.empty(0, np.int64)])
    found: Int = rows[np.argsort(rank, kind="stable")].astype(np.int64)
    return found


def make(story: Story, images: Any, kind: str, page: Path) -> tuple[Thumbnails, Any]:
    """The thumbnails of a page, and a context manager that puts the folder of the others there.

    images: N pictures; an unreadable one raises OSError or ValueError when it is indexed.
    """
    if images is None or kind == "none":
        return Thumbnails(), _nothing()
    require("PIL", "pdepth.report", "report")
    rows = chosen(story)
    encoder = _Encoder.of(images, rows)
    found = Thumbnails(encoder.suffix)
    size = 0
    for row, file in encoder.files(rows, found):
        size += len(file)
        if size > BUDGET:
            break
        found.embedded[row] = file
    if kind == "sample" or len(found.embedded) + len(found.unreadable) == story.count:
        return found, _nothing()
    found.folder = folder_of(page).name
    left = np.setdiff1d(np.arange(story.count), [*found.embedded, *found.unreadable])
    return found, _writing(folder_of(page), encoder, left, found)


def folder_of(page: Path) -> Path:
    """Where the thumbnails beside a page are. Raises FileExistsError where other things are."""
    folder = page.with_name(f"{page.stem}-thumbnails")
    check_ours(folder, _ours)
    return folder


def _ours(file: Path) -> bool:
    return file.is_dir() and file.name.isdigit()


@dataclass(eq=False)
class _Encoder:
    """Pictures as files of one kind, with one black and one white."""

    images: Any
    low: float
    high: float
    suffix: str

    @classmethod
    def of(cls, images: Any, rows: Int) -> _Encoder:
        pictures = []
        for row in rows[:LOOKED_AT]:
            try:
                pictures.append(picture_of(images[int(row)]))
            except UNREADABLE:
                continue
        low, high = value_range(pictures)
        small = all(picture.size <= EXACT for picture in pictures)
        return cls(images, low, high, "png" if small else "jpg")

    def files(self, rows: Iterable[Any], found: Thumbnails) -> Iterator[tuple[int, bytes]]:
        """Each row with its file; those that cannot be read are noted."""
        for row in map(int, rows):
            found.tried += 1
            try:
                yield row, self.file(row)
            except UNREADABLE:
                found.unreadable.append(row)

    def file(self, row: int) -> bytes:
        from PIL import Image

        picture = picture_of(self.images[row])
        picture = picture[..., :3] if picture.ndim == 3 else picture
        if picture.dtype != np.uint8 or (self.low, self.high) != (0, 255):
            scaled = (picture.astype(np.float64) - self.low) / (self.high - self.low)
            picture = (255 * np.clip(np.nan_to_num(scaled), 0, 1)).round().astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(picture))
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        if self.suffix == "png":
            image.save(file, "PNG")
        else:
            image.save(file, "JPEG", quality=85)
        return file.getvalue()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _writing(folder: Path, encoder: _Encoder, rows: Int, found: Thumbnails) -> Iterator[None]:
    """Write a folder of files; it takes its name when the block succeeds."""
    with replacing_folder(folder, _ours) as temporary:
        for row, file in encoder.files(rows, found):
            path = temporary / str(row // FOLDER) / f"{row}.{found.suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file)
        yield
