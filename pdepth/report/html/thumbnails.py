"""Thumbnails of examples' images: in a page, and in a folder beside it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pdepth.io.atomic import check_ours, replacing_folder
from pdepth.optional import require
from pdepth.report.html.content import Int, PageContent
from pdepth.report.html.neighbors import EXPLAINED, MAX_PICTURES
from pdepth.report.images import UNREADABLE, image_array, value_range

KINDS = ("sample", "all", "none")
MAX_SIDE = 96  # pixels
PER_SHEET = 24  # images of a sheet that are in the page
PER_CLASS = 6  # images of a sheet and class
MAX_EMBEDDED = 5_000  # images in the page
MAX_BYTES = 12 << 20  # of all images in the page
RANGE_SAMPLE = 64  # images that black and white are determined from
MAX_PNG = 1024  # values up to which an image is saved as PNG
AT_ONCE = 1000  # rows that are read in the order of their data, which need not be fast in another
PER_FOLDER = 1000  # files; larger folders are slow to list
SUPPORT = "support"  # where the thumbnails of its rows are, in a folder or on a server


@dataclass(eq=False)
class Thumbnails:
    """The thumbnails of a page.

    Attributes:
        suffix: "png" or "jpg".
        embedded: files in the page, as bytes by row.
        unreadable: rows whose image was tried and cannot be read.
        tried: number of images that were tried.
        folder: name of the folder beside the page with the other thumbnails, or "".
        support: likewise of the support's rows, where neighbours are shown that are no examples.
    """

    suffix: str = "png"
    embedded: dict[int, bytes] = field(default_factory=dict, repr=False)
    unreadable: list[int] = field(default_factory=list)
    tried: int = 0
    folder: str = ""
    support: Thumbnails | None = None


def choose_rows(content: PageContent) -> Int:
    """Distinct rows (n,) whose thumbnails are to be in the page, the most important first."""
    return order_rows(content)[:MAX_EMBEDDED]


def order_rows(content: PageContent) -> Int:
    """All rows (N,), the most important first.

    First the ends of each sheet, over all examples and over each class, with the sheets
    interleaved; then a sample. A fixed shuffle orders equal examples.
    """
    shuffled = np.random.default_rng(0).permutation(content.count)
    classes = content.columns[content.image_class].values
    overall: list[Int] = []
    by_class: list[Int] = []
    for sheet in content.sheets:
        rows = sheet.rows(content.columns, shuffled)
        overall.append(rows[:PER_SHEET])
        # A stable sort by class leaves each class's first rows together, in their order.
        grouped = rows[np.argsort(classes[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(classes[grouped], prepend=-1))
        place = np.arange(len(grouped)) - np.repeat(starts, np.diff(starts, append=len(grouped)))
        by_class.append(grouped[place < PER_CLASS])
    order = np.concatenate([_interleave(overall), _interleave(by_class), shuffled])
    _, first = np.unique(order, return_index=True)
    return order[np.sort(first)]


def _interleave(lists: list[Int]) -> Int:
    """The first entry of every list, then the second, and so on."""
    empty = np.empty(0, np.int64)
    rank = np.concatenate([empty, *(np.arange(len(rows)) for rows in lists)])
    order: Int = np.concatenate([empty, *lists])[np.argsort(rank, kind="stable")].astype(np.int64)
    return order


def make_thumbnails(
    content: PageContent, images: Any, kind: str, page: Path, support_images: Any = None
) -> tuple[Thumbnails, Any]:
    """The thumbnails of a page, and a context manager that writes the folder of the others.

    First come the ends of the sheets, then the neighbours of these, in half of the room that is
    left at most, then other examples.

    Args:
        images: N images; an unreadable one raises OSError or ValueError when it is indexed.
        kind: one of `KINDS`.
        page: path of the page.
        support_images: M images of the support, where its rows are no examples.
    """
    if images is None or kind == "none":
        return Thumbnails(), nullcontext()
    require("PIL", "pdepth.report", "report")
    rows = choose_rows(content)
    examples = _Album.of(images, rows, np.arange(content.count))
    albums = {"": examples}
    near = content.neighbors
    shown = rows[:0] if near is None else near.nearest(rows[:EXPLAINED])[:MAX_PICTURES]
    if near is not None and not near.own and support_images is not None:
        albums[SUPPORT] = _Album.of(support_images, shown, near.all_rows())
        examples.thumbnails.support = albums[SUPPORT].thumbnails
    room = examples.embed(rows[:EXPLAINED], MAX_BYTES)
    of_near = albums.get("" if near is not None and near.own else SUPPORT)
    if of_near is not None:
        room -= room // 2 - of_near.embed(shown, room // 2)
    examples.embed(rows[EXPLAINED:], room)
    if kind == "sample" or not any(len(album.others()) for album in albums.values()):
        return examples.thumbnails, nullcontext()
    for name, album in albums.items():
        album.thumbnails.folder = str(PurePosixPath(folder_of(page).name, name))
    return examples.thumbnails, _write_folder(folder_of(page), albums)


@dataclass(eq=False)
class _Album:
    """Images, their thumbnails, and the rows whose thumbnails are wanted."""

    encoder: Encoder
    thumbnails: Thumbnails
    rows: Int

    @classmethod
    def of(cls, images: Any, sample: Int, rows: Int) -> _Album:
        encoder = Encoder.for_images(images, sample)
        return cls(encoder, Thumbnails(encoder.suffix), rows)

    def embed(self, rows: Int, room: int) -> int:
        """Put thumbnails of rows, the most important first, into the page while there is room, in
        bytes; return what is left."""
        done = {*self.thumbnails.embedded, *self.thumbnails.unreadable}
        new = [row for row in rows.tolist() if row not in done]
        for begin in range(0, len(new), AT_ONCE):
            some = new[begin : begin + AT_ONCE]
            found = dict(self.encoder.encode(sorted(some), self.thumbnails))
            for row in some:
                if len(found.get(row, b"")) > room:
                    return room
                if row in found:
                    room -= len(found[row])
                    self.thumbnails.embedded[row] = found[row]
        return room

    def others(self) -> Int:
        """Wanted rows that were not tried, or had no room."""
        return np.setdiff1d(self.rows, [*self.thumbnails.embedded, *self.thumbnails.unreadable])


def folder_of(page: Path) -> Path:
    """The folder for thumbnails beside a page; FileExistsError where it holds other files."""
    folder = page.with_name(f"{page.stem}-thumbnails")
    check_ours(folder, _is_ours)
    return folder


def _is_ours(file: Path) -> bool:
    return file.is_dir() and (file.name.isdigit() or file.name == SUPPORT)


@dataclass(eq=False)
class Encoder:
    """Encode images as files of one format, with common black and white."""

    images: Any
    low: float
    high: float
    suffix: str

    @classmethod
    def for_images(cls, images: Any, rows: Int) -> Encoder:
        """Determine format and range from the first readable of some rows."""
        sample = []
        for row in rows[:RANGE_SAMPLE]:
            try:
                sample.append(image_array(images[int(row)]))
            except UNREADABLE:
                continue
        low, high = value_range(sample)
        small = all(image.size <= MAX_PNG for image in sample)
        return cls(images, low, high, "png" if small else "jpg")

    def encode(self, rows: Iterable[Any], thumbnails: Thumbnails) -> Iterator[tuple[int, bytes]]:
        """Yield each readable row with its file; note the unreadable ones in `thumbnails`."""
        for row in map(int, rows):
            thumbnails.tried += 1
            try:
                yield row, self.thumbnail(row)
            except UNREADABLE:
                thumbnails.unreadable.append(row)

    def thumbnail(self, row: int) -> bytes:
        """A small image, as a file. Raises one of `UNREADABLE`."""
        return self._file(self.images[row], MAX_SIDE)

    def original(self, row: int) -> bytes:
        """The image in its own size, where its data know it, as a file. Raises as `thumbnail`."""
        read = getattr(self.images, "original", self.images.__getitem__)
        return self._file(read(row))

    def _file(self, image: Any, side: int | None = None) -> bytes:
        """side: of the square that a larger image is made to fit into."""
        from PIL import Image

        array = image_array(image)
        array = array[..., :3] if array.ndim == 3 else array
        if array.dtype != np.uint8 or (self.low, self.high) != (0, 255):
            scaled = (array.astype(np.float64) - self.low) / (self.high - self.low)
            array = (255 * np.clip(np.nan_to_num(scaled), 0, 1)).round().astype(np.uint8)
        picture = Image.fromarray(np.ascontiguousarray(array))
        if side is not None:
            picture.thumbnail((side, side))
        file = io.BytesIO()
        if self.suffix == "png":
            picture.save(file, "PNG")
        else:
            picture.save(file, "JPEG", quality=85 if side is not None else 95)
        return file.getvalue()


@contextmanager
def _write_folder(folder: Path, albums: Mapping[str, _Album]) -> Iterator[None]:
    """Write a folder of thumbnails; it replaces an older one when the block succeeds."""
    with replacing_folder(folder, _is_ours) as temporary:
        for name, album in albums.items():
            for row, file in album.encoder.encode(album.others(), album.thumbnails):
                path = temporary / name / str(row // PER_FOLDER)
                path.mkdir(parents=True, exist_ok=True)
                (path / f"{row}.{album.thumbnails.suffix}").write_bytes(file)
        yield
