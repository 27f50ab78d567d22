"""Rows that can be read: known before a run, which then reads no others."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Subset

from pdepth.embeddings.loaders import Source
from pdepth.embeddings.processors import decode_images
from pdepth.inputs.decided import DecidedRows
from pdepth.inputs.images import EXHAUSTED, OtherSize

SHOWN = 10  # rows that a warning lists
DECODERS = ("PIL", "torchvision", "cv2", "datasets")  # whose errors, of any kind, are of a file


@dataclass(frozen=True, eq=False)
class Readable:
    """rows: (n,) int64, the numbers of those rows of the data that are read, ascending.

    reasons: why each of the others is not, by its number. relabelled: the labels that were decided
    in place of the data's own, by the rows' numbers.
    """

    rows: NDArray[np.int64]
    reasons: Mapping[int, str]
    relabelled: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of_decided(cls, dataset: Any) -> Readable | None:
        """Those of a dataset after decisions; None of any other."""
        if not isinstance(dataset, DecidedRows):
            return None
        return cls(dataset.rows, dataset.reasons, dataset.relabelled)

    def some(self, others: Readable) -> Readable:
        """Those of them that others, which are numbered by their places here, have left."""
        reasons = {int(self.rows[place]): why for place, why in others.reasons.items()}
        return Readable(self.rows[others.rows], {**self.reasons, **reasons}, self.relabelled)


def keep_readable(source: Source, what: str, processor: Any) -> tuple[Source, Readable]:
    """Read all rows once, and leave out of a source those that cannot be read, with a warning.

    A row cannot be read where the dataset, or the decoding of its images, raises an error of a
    file: OSError, SyntaxError, EOFError, ValueError, and whatever Pillow raises. Other errors are
    those of code, and are raised here.

    Args:
        source: whose rows have numbers.
        what: the argument's name in sentences.
        processor: of the rows, or None.

    Raises:
        ValueError: rows without numbers, or none that can be read.
    """
    if source.rows is None:
        raise ValueError(
            f"{what}: expected a dataset whose rows have numbers for skip_unreadable=True "
            "(--skip-unreadable), got a stream or whole batches; leave it out."
        )
    tried = replace(source, dataset=_Tried(source.dataset, processor))
    found = [reason for batch in tried.read(list) for reason in batch]
    reasons = {row: reason for row, reason in enumerate(found) if reason is not None}
    readable = Readable(np.setdiff1d(np.arange(len(found)), [*reasons]), reasons)
    if not reasons:
        return source, readable
    first = next(iter(reasons.values())).rstrip(".")
    if not len(readable.rows):
        raise ValueError(
            f"{what}: expected rows that can be read, got none among {len(found):,}; the first: "
            f"{first}."
        )
    listed = ", ".join(map(str, list(reasons)[:SHOWN])) + (", ..." if len(reasons) > SHOWN else "")
    warnings.warn(
        f"{what}: skipped {len(reasons):,} of {len(found):,} rows, which cannot be read: "
        f"{listed}; the first: {first}.",
        stacklevel=2,
    )
    kept = Subset(source.dataset, readable.rows.tolist())
    return replace(source, dataset=kept), readable


class _Tried(Dataset[str | None]):
    """Why each row of a dataset cannot be read; None of one that can."""

    def __init__(self, dataset: Any, processor: Any) -> None:
        self._dataset, self._processor = dataset, processor

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> str | None:
        try:
            decode_images(self._processor, self._dataset[row])
        except OtherSize:  # it can be read, and is refused in a sentence of its own
            return None
        except Exception as error:
            if not _is_of_a_file(error):
                raise
            text = " ".join(str(error).split()) or type(error).__name__
            return text.encode("utf-8", "backslashreplace").decode()
        return None


def _is_of_a_file(error: Exception) -> bool:
    """Whether an error says that a row's file is broken, and not that code is, or the machine."""
    if isinstance(error, OSError):
        return error.errno not in EXHAUSTED
    if isinstance(error, SyntaxError | EOFError | ValueError):
        return True
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return str(innermost.f_globals.get("__name__", "")).partition(".")[0] in DECODERS
