"""Tables of images or texts with labels: Parquet, CSV, JSON lines, and datasets saved to disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pdepth.inputs.images import ImageDataset, ImageOptions, open_image
from pdepth.inputs.labels import check_labels, number_names, renumber
from pdepth.inputs.texts import IMAGE, LABEL, LABEL_COLUMNS, TEXT_COLUMNS, TextDataset
from pdepth.optional import require

BLOCK = 1 << 28  # bytes of CSV or JSON from which types are told; no row is longer


@dataclass(frozen=True)
class TableOptions:
    """What rows of a table become.

    Attributes:
        images: how an image becomes a tensor.
        label_column: the column of labels, and the name of the label in a row that is a mapping;
            None for "label", or "labels".
        class_names: how classes are numbered that have names, where all of theirs are among these.
    """

    images: ImageOptions
    label_column: str | None = None
    class_names: Sequence[str] | None = None

    @property
    def row_label(self) -> str:
        """The name of the label in a row."""
        return self.label_column or LABEL


def open_table(kind: str, path: Path, options: TableOptions) -> Dataset[Any]:
    """Open a file of images (Parquet only) or texts.

    Raises:
        ValueError: it cannot be read, lacks a column, or holds other values.
        ImportError: pyarrow is missing.
    """
    pa = _arrow(f"DATA {kind}:")
    try:
        read, types = _reader(kind, path)
        values, label = _choose_columns(kind, path, types, options.label_column)
        table = read([*values, label])
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        form = {"parquet": "Parquet", "csv": "CSV", "jsonl": "JSON lines"}[kind]
        raise ValueError(f"DATA {kind}: expected a readable {form} file, got {path}.") from error
    for name in (label, *values):
        if table[name].null_count:
            raise ValueError(
                f"{path}, column {name!r}: expected no empty entries, got {table[name].null_count}."
            )
    labels, class_names = _labels(table[label], f"{path}, column {label!r}", options.class_names)
    if not (kind == "parquet" and values == (IMAGE,)):
        texts = [table[name].to_pylist() for name in values]
        names = _row_names(values)
        return TextDataset(
            lambda row: {name: column[row] for name, column in zip(names, texts, strict=True)},
            labels,
            options.row_label,
            class_names,
        )
    image = _encoded(table[IMAGE].combine_chunks(), f"{path}, column {IMAGE!r}")
    return ImageDataset(
        lambda row: open_image(image[row].as_py()),
        labels,
        lambda row: f"Row {row} of {path}",
        options.images,
        class_names,
        options.row_label,
    )


def open_saved_dataset(path: Path, options: TableOptions) -> Dataset[Any]:
    """Open a dataset that `datasets` saved with save_to_disk; labels are read, the rest is not.

    Raises:
        ValueError: not such a folder, several splits, or a column is missing.
        ImportError: datasets is missing.
    """
    datasets = require("datasets", "DATA dataset:", "transformers")
    try:
        dataset = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"DATA dataset: expected a folder that save_to_disk of datasets wrote, got {path}; "
            "write one with dataset.save_to_disk(DIR)."
        ) from error
    if isinstance(dataset, dict):
        splits = ", ".join(map(str, dataset))
        raise ValueError(
            f"DATA dataset: expected one split in {path}, got {splits}; pass "
            f"dataset:{path / str(next(iter(dataset), 'train'))}."
        )
    dataset = dataset.with_format(None)
    features = dataset.features
    label = _label_column(list(features), path, options.label_column)
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    texts = [n for n, kind in features.items() if getattr(kind, "dtype", "").endswith("string")]
    values = tuple(images[:1]) or _text_columns(texts, label, path, list(features))
    labels, class_names = _saved_labels(dataset, label, f"{path}, column {label!r}", options)
    rows = dataset.select_columns(list(values))
    if not images:
        names = dict(zip(values, _row_names(values), strict=True))
        return TextDataset(
            lambda row: {names[column]: text for column, text in rows[row].items()},
            labels,
            options.row_label,
            class_names,
        )
    return ImageDataset(
        lambda row: rows[row][images[0]],
        labels,
        lambda row: f"Row {row} of {path}",
        options.images,
        class_names,
        options.row_label,
    )


def _saved_labels(
    dataset: Any, label: str, source: str, options: TableOptions
) -> tuple[NDArray[np.int64], list[str] | None]:
    """As `_labels`, of a dataset of `datasets`, whose features may know the names."""
    values = np.array(list(dataset[label][:]))
    if values.dtype.kind in "UO":
        return number_names(values.tolist(), source, options.class_names)
    labels = check_labels(values, source, len(dataset))
    names = getattr(dataset.features[label], "names", None)
    return (labels, None) if names is None else renumber(labels, names, options.class_names)


def _reader(kind: str, path: Path) -> tuple[Callable[[list[str]], Any], dict[str, Any]]:
    """A function from names of columns to a table of them, and the types of all by name."""
    if kind == "parquet":
        pq = require("pyarrow.parquet", "DATA parquet:", "tables")
        schema = pq.read_schema(path)

        def read(columns: list[str]) -> Any:
            return pq.read_table(path, columns=columns, partitioning=None)

        return read, dict(zip(schema.names, schema.types, strict=True))
    block = min(path.stat().st_size + 1, BLOCK)
    if kind == "csv":
        csv = require("pyarrow.csv", "DATA csv:", "tables")
        table = csv.read_csv(
            path,
            csv.ReadOptions(block_size=block),
            csv.ParseOptions(
                delimiter="\t" if path.suffix == ".tsv" else ",", newlines_in_values=True
            ),
        )
    else:
        json = require("pyarrow.json", "DATA jsonl:", "tables")
        table = json.read_json(path, json.ReadOptions(block_size=block))
    return table.select, dict(zip(table.column_names, table.schema.types, strict=True))


def _choose_columns(
    kind: str, path: Path, types: dict[str, Any], label_column: str | None
) -> tuple[tuple[str, ...], str]:
    """The columns of images or texts, and that of labels."""
    names = list(types)
    if kind == "parquet" and IMAGE in names:
        return (IMAGE,), _label_column(names, path, label_column)
    texts = [name for name in names if _is_text(types[name])]
    if kind == "parquet" and not texts:
        raise ValueError(
            f"{path}: expected a column {IMAGE!r}, or {TEXT_COLUMNS[0]!r}, got {', '.join(names)}."
        )
    label = _label_column(names, path, label_column)
    return _text_columns(texts, label, path, names), label


def _label_column(names: Sequence[str], path: Path, label_column: str | None) -> str:
    expected = LABEL_COLUMNS if label_column is None else (label_column,)
    for name in expected:
        if name in names:
            return name
    raise ValueError(
        f"{path}: expected a column {expected[0]!r}, got {', '.join(names)}; pass "
        "--label-column NAME (label_column=)."
    )


def _text_columns(
    texts: Sequence[str], label: str, path: Path, names: Sequence[str]
) -> tuple[str, ...]:
    """The column of texts, or both of two: the tokenizer knows whether they are a pair."""
    others = [name for name in texts if name != label]
    text, sentence = TEXT_COLUMNS
    if text in others and f"{text}_pair" not in others:
        return (text,)
    if len(others) in (1, 2):
        return tuple(others)
    if sentence in others:
        return (sentence,)
    got = ", ".join(others) if others else f"none of strings but {', '.join(names)}"
    raise ValueError(
        f"{path}: expected a column {text!r}, or only one of strings, got {got}; rename the "
        f"texts' column to {text!r}."
    )


def _row_names(columns: Sequence[str]) -> list[str]:
    """What columns of texts are called in a row."""
    return list(columns) if len(columns) > 1 else [TEXT_COLUMNS[0]]


def _labels(
    column: Any, source: str, class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], list[str] | None]:
    """Labels (N,) int64, and the names of classes where the column holds names."""
    pa = _arrow("DATA:")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_text(column.type):
        return number_names(column.to_pylist(), source, class_names)
    values = column.to_numpy()
    if pa.types.is_boolean(column.type):
        values = values.astype(np.int64)
    return check_labels(values, source, len(column)), None


def _encoded(image: Any, source: str) -> Any:
    """The column of encoded images, of a struct its field `bytes`."""
    pa = _arrow("DATA:")
    if pa.types.is_struct(image.type) and image.type.get_field_index("bytes") >= 0:
        image = image.field("bytes")
    if not (pa.types.is_binary(image.type) or pa.types.is_large_binary(image.type)):
        raise ValueError(
            f"{source}: expected the bytes of image files, or a struct with a field 'bytes', got "
            f"{image.type}."
        )
    if image.null_count:
        raise ValueError(f"{source}: expected no empty entries, got {image.null_count}.")
    return image


def _is_text(kind: Any) -> bool:
    """Whether a type of Arrow is one of strings."""
    pa = _arrow("DATA:")
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _arrow(what: str) -> Any:
    return require("pyarrow", what, "tables")
