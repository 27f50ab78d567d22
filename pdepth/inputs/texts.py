"""Texts as a dataset: rows of a table or of a saved dataset, as a tokenizer takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXT_COLUMNS = ("text", "sentence")  # taken before others
LABEL_COLUMNS = ("label", "labels")
IMAGE_COLUMNS = ("image", "img")
IMAGE, LABEL = "image", "label"  # the entries of a row


class TextDataset:
    """Texts that are read when they are indexed, as {"text": str, label_column: class}.

    Rows of two texts have them under their own names, such as premise and hypothesis.

    Args:
        read: row -> its texts by name.
        labels: (N,) int64.
        label_column: the name of the label in a row.
        class_names: a name by class, or None.
    """

    labels: NDArray[np.int64]
    label_column: str
    class_names: Sequence[str] | None

    def __init__(
        self,
        read: Callable[[int], dict[str, str]],
        labels: NDArray[np.int64],
        label_column: str = LABEL,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.labels, self.label_column, self.class_names = labels, label_column, class_names
        self._read = read

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**self._read(row), self.label_column: int(self.labels[row])}
