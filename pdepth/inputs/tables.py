"""Tables of images or texts with labels: Parquet, CSV, JSON lines, and datasets saved to disk."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.inputs.images import ImageDataset, ImageOptions
from pdepth.inputs.labels import check_labels, number_names, renumber
from pdepth.inputs.parquet import Images, ParquetTable, readable
from pdepth.inputs.pixels import open_image
from pdepth.inputs.texts import IMAGE_COLUMNS, LABEL, LABEL_COLUMNS, TEXT_COLUMNS, TextDataset
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


@dataclass(frozen=True)
class Table:
    """A table before its columns are chosen.

    types: Arrow's, by column. read: names of columns -> an Arrow table. features: what `datasets`
    noted of columns. images: column -> its entries, of Parquet.
    """

    types: Mapping[str, Any]
    read: Callable[[list[str]], Any]
    features: Mapping[str, Any] = field(default_factory=dict)
    images: Callable[[str], Images] | None = None

    def of_kind(self, kind: str) -> list[str]:
        """The columns whose feature is of a kind ("Image", "ClassLabel")."""
        return [n for n, f in self.features.items() if f.get("_type") == kind and n in self.types]


def open_table(kind: str, path: Path, options: TableOptions) -> ImageDataset | TextDataset:
    """Open files of images (Parquet only) or texts.

    Raises:
        ValueError: it cannot be read, lacks a column, or holds other values.
        FileNotFoundError: no such file. ImportError: pyarrow is missing.
    """
    source = _table(kind, path)
    image = _image_column(source, path)
    names = list(source.types)
    texts = [name for name in names if _is_text(source.types[name])]
    if kind == "parquet" and image is None and not texts:
        raise ValueError(
            f"{path}: expected a column {IMAGE_COLUMNS[0]!r}, or {TEXT_COLUMNS[0]!r}, got "
            f"{', '.join(names)}."
        )
    label = _label_column(names, path, options.label_column, source.of_kind("ClassLabel"))
    values = () if image is not None else _text_columns(texts, label, path, names)
    table = source.read([*values, label])
    for name in (label, *values):
        if table[name].null_count:
            raise ValueError(
                f"{path}, column {name!r}: expected no empty entries, got {table[name].null_count}."
            )
    named = source.features.get(label, {}).get("names")
    with readable(path, kind):  # Arrow notices what is no UTF-8 as it becomes text
        labels, class_names = _labels(
            table[label], f"{path}, column {label!r}", options.class_names, named
        )
        columns = [table[name].to_pylist() for name in values]
    if image is None:
        row_names = _row_names(values)
        return TextDataset(
            lambda row: {name: col[row] for name, col in zip(row_names, columns, strict=True)},
            labels,
            options.row_label,
            class_names,
        )
    assert source.images is not None
    images = source.images(image)
    return ImageDataset(
        lambda row: open_image(io.BytesIO(images[row])),
        labels,
        lambda row: (
            f"Row {row} of {path}" + (f", {images.where(row)}," if images.is_sharded else "")
        ),
        options.images,
        class_names,
        options.row_label,
    )


def open_saved_dataset(path: Path, options: TableOptions) -> ImageDataset | TextDataset:
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
    classes = [n for n, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    label = _label_column(list(features), path, options.label_column, classes)
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    texts = [n for n, kind in features.items() if getattr(kind, "dtype", "").endswith("string")]
    values = (
        (_only_image(images, path),)
        if images
        else _text_columns(texts, label, path, list(features))
    )
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
        lambda row: rows[row][values[0]],
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


def _table(kind: str, path: Path) -> Table:
    if kind == "parquet":
        parquet = ParquetTable(path)
        return Table(parquet.types, parquet.read, parquet.features, parquet.images)
    block = min(path.stat().st_size + 1, BLOCK)
    with readable(path, kind):
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
        return Table(dict(zip(table.column_names, table.schema.types, strict=True)), table.select)


def _image_column(table: Table, path: Path) -> str | None:
    """The column of images, or None: by its feature, or by its name in a Parquet file."""
    if table.images is None:
        return None
    if noted := table.of_kind("Image"):
        return _only_image(noted, path)
    return next((name for name in IMAGE_COLUMNS if name in table.types), None)


def _only_image(columns: Sequence[str], path: Path) -> str:
    """The one column of images, or that of several that is called so."""
    usual = [name for name in IMAGE_COLUMNS if name in columns]
    if len(columns) > 1 and not usual:
        raise ValueError(
            f"{path}: expected one column of images, got {', '.join(columns)}; rename the one to "
            f"read to {IMAGE_COLUMNS[0]!r}."
        )
    return (*usual, *columns)[0]


def _label_column(
    names: Sequence[str], path: Path, label_column: str | None, classes: Sequence[str] = ()
) -> str:
    """The column of labels; `classes`: those that are noted as such."""
    expected = LABEL_COLUMNS if label_column is None else (label_column,)
    for name in expected:
        if name in names:
            return name
    if label_column is None and len(classes) == 1:
        return classes[0]
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
    column: Any, source: str, class_names: Sequence[str] | None, named: Any = None
) -> tuple[NDArray[np.int64], list[str] | None]:
    """Labels (N,) int64, and the names of classes where the column, or its feature, has names.

    named: a feature's names by number, or None.
    """
    pa = _arrow("DATA:")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_text(column.type):
        return number_names(column.to_pylist(), source, class_names)
    values = column.to_numpy()
    if pa.types.is_boolean(column.type):
        values = values.astype(np.int64)
    labels = check_labels(values, source, len(column))
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        return labels, None
    if labels.max() >= len(named):
        raise ValueError(
            f"{source}: expected numbers of the {len(named)} classes that its features name, got "
            f"{labels.max()}."
        )
    return renumber(labels, named, class_names)


def _is_text(kind: Any) -> bool:
    """Whether a type of Arrow is one of strings."""
    pa = _arrow("DATA:")
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _arrow(what: str) -> Any:
    return require("pyarrow", what, "tables")
