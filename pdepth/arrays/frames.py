"""Tables as rows: the DataFrames of pandas, polars and their like."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_frame(value: object) -> bool:
    """Whether `value` is a DataFrame; imports no library."""
    return not isinstance(value, type) and all(
        hasattr(value, name) for name in ("columns", "dtypes", "to_numpy")
    )


def frame_values(frame: Any) -> NDArray[Any]:
    """(n, columns) of a DataFrame of numbers, in the type that NumPy takes for all of its columns.

    Raises TypeError that names a column of anything else, ValueError for a frame without columns.
    """
    named = frame.items() if hasattr(frame, "items") else zip(frame.columns, frame, strict=True)
    columns = []
    for name, column in named:
        values = column.to_numpy()
        if values.dtype.kind not in "iufb":
            raise TypeError(
                f"expected a DataFrame of numbers, got elements of type {values.dtype} in column "
                f"{name!r}."
            )
        columns.append(values)
    if not columns:
        raise ValueError(
            f"expected at least one row and column, got a DataFrame of shape {tuple(frame.shape)}."
        )
    return np.column_stack(columns)
