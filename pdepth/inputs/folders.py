"""A folder of images for each class, and how torchvision's ImageFolder would read it."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.inputs.images import ImageDataset, ImageOptions
from pdepth.inputs.labels import SHOWN, renumber
from pdepth.inputs.pixels import is_deep, open_image, orientation
from pdepth.inputs.texts import LABEL
from pdepth.optional import require

# Of files that are images: those that torchvision takes, and more.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
MORE_ENDINGS = (".avif",)
# Where a PNG says its orientation; only a file with one of these needs decoding to know it.
SAYS_ORIENTATION = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
TURNED, DEEP = "turned", "deep"
THREADS = 8  # that wait for files


def open_image_folder(
    root: Path,
    options: ImageOptions,
    class_names: Sequence[str] | None = None,
    row_label: str = LABEL,
    *,
    compare: bool = True,
) -> ImageDataset:
    """Open a folder of images; files are listed, and not read but for the comparison.

    Rows are in the order of ImageFolder. Names that begin with a dot are of no class and no image,
    unless `options.as_imagefolder`; a class folder may be empty.

    Args:
        root: a folder for each class.
        options: how an image becomes a tensor.
        class_names: how classes are numbered, where all that have images are among these.
        row_label: the name of the label in a row that is a mapping.
        compare: warn where ImageFolder reads other images, pixels or classes; it opens every file.

    Raises:
        FileNotFoundError: no class folder, or no image in any; of as_imagefolder, in one of them.
        ImportError: torchvision is missing, where its reading is asked for or compared with.
    """
    if options.as_imagefolder or compare:
        folders = require("torchvision.datasets", "DATA imagefolder:", "vision")
    if options.as_imagefolder:
        try:
            theirs = folders.ImageFolder(str(root))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"DATA imagefolder: {str(error).rstrip('.')}; ImageFolder takes no empty folders, "
                "leave out --as-imagefolder."
            ) from None
        files = [file for file, _ in theirs.samples]
        labels = np.array([label for _, label in theirs.samples], np.int64)
        names: list[str] = theirs.classes
    else:
        files, labels, names = _listed(root)
        _warn_of_empty(root, labels, names)
        if compare:
            _warn_of_differences(root, files, labels, folders)
    labels, names = renumber(labels, [printable(name) for name in names], class_names)

    def read(row: int) -> Any:
        if options.as_imagefolder:
            return theirs.loader(files[row])
        return open_image(io.BytesIO(Path(files[row]).read_bytes()))

    return ImageDataset(
        read, labels, lambda row: f"Image {printable(files[row])}", options, names, row_label, files
    )


def printable(name: str) -> str:
    """A name with the bytes that are no UTF-8 written out, so that every file can hold it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _listed(root: Path) -> tuple[list[str], NDArray[np.int64], list[str]]:
    """Files in the order of ImageFolder, their labels and the names of all classes."""
    names = sorted(e.name for e in os.scandir(root) if e.is_dir() and e.name[0] != ".")
    if not names:
        raise FileNotFoundError(
            f"DATA imagefolder: expected at least one class folder in {root}, got none; put the "
            "images of each class into a folder of its name."
        )
    endings = (*ENDINGS, *MORE_ENDINGS)

    def is_image(file: str) -> bool:
        return file.lower().endswith(endings) and f"{os.sep}." not in file[len(str(root)) :]

    files: list[str] = []
    labels: list[int] = []
    for number, name in enumerate(names):
        for folder, _, found in sorted(os.walk(os.path.join(root, name), followlinks=True)):
            files += filter(is_image, [os.path.join(folder, file) for file in sorted(found)])
        labels += [number] * (len(files) - len(labels))
    if not files:
        raise FileNotFoundError(
            f"DATA imagefolder: expected images ({', '.join(endings)}) in the class folders of "
            f"{root}, got none."
        )
    return files, np.array(labels, np.int64), names


def _warn_of_empty(root: Path, labels: NDArray[np.int64], names: Sequence[str]) -> None:
    empty = [printable(names[number]) for number in np.setdiff1d(np.arange(len(names)), labels)]
    if empty:
        more = ", ..." if len(empty) > SHOWN else ""
        warnings.warn(
            f"DATA imagefolder: no images in {len(empty)} of {len(names)} class folders of {root}: "
            f"{', '.join(empty[:SHOWN])}{more}; their numbers are kept.",
            stacklevel=2,
        )


def _warn_of_differences(
    root: Path, files: Sequence[str], labels: NDArray[np.int64], folders: Any
) -> None:
    """Say for how many rows torchvision's ImageFolder reads something else."""
    theirs = dict(
        folders.folder.make_dataset(
            str(root),
            folders.folder.find_classes(str(root))[1],
            extensions=folders.folder.IMG_EXTENSIONS,
            allow_empty=True,
        )
    )
    own = dict(zip(files, labels.tolist(), strict=True))
    with ThreadPoolExecutor(THREADS) as pool:
        ways = dict(zip(files, pool.map(_read_otherwise, files), strict=True))
    differing = {
        "hidden images that it takes": theirs.keys() - own.keys(),
        "images of an ending that it leaves out": own.keys() - theirs.keys(),
        "images to which it gives another class's number": {
            file for file in own.keys() & theirs.keys() if theirs[file] != own[file]
        },
        "images that EXIF turns": {file for file, way in ways.items() if way == TURNED},
        "images of more than 8 bits a value": {file for file, way in ways.items() if way == DEEP},
    }
    listed = [f"{what} ({len(rows):,})" for what, rows in differing.items() if rows]
    if listed:
        warnings.warn(
            f"DATA imagefolder: torchvision's ImageFolder reads {root} otherwise in "
            f"{len(set().union(*differing.values())):,} rows: {', '.join(listed)}; for a network "
            "that was trained on it pass --as-imagefolder (ImageOptions(as_imagefolder=True)).",
            stacklevel=2,
        )


def _read_otherwise(file: str) -> str:
    """Why ImageFolder reads other pixels from a file: `TURNED`, `DEEP`, or "" if it does not."""
    try:
        with open(file, "rb") as opened:
            image = open_image(opened)
            if is_deep(image):
                return DEEP
            if image.format == "TIFF":  # which Pillow turns by itself as it decodes it
                return ""
            if image.format == "PNG":  # which Pillow decodes to the end to know its EXIF
                begin = opened.tell()
                opened.seek(0)
                if not any(mark in opened.read() for mark in SAYS_ORIENTATION):
                    return ""
                opened.seek(begin)
            return TURNED if orientation(image) > 1 else ""
    except Exception:  # of broken files, which are named where they are read
        return ""
