"""DATA as the commands open it: for a network, and through the processor in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from pdepth.inputs import ImageOptions


@dataclass(frozen=True)
class DataSpecs:
    """The options that say which data is read, and how.

    Attributes:
        support, queries: DATA, or None.
        label_column: of tables, and of rows that are mappings.
        image_size, mean, std: of images; None for the network's own.
        as_imagefolder: read folders of images exactly as torchvision does.
        classes: a file of the names of classes, or None.
    """

    support: str | None
    queries: str | None = None
    label_column: str | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    as_imagefolder: bool = False
    classes: Path | None = None


@dataclass(frozen=True)
class OpenedData:
    """What is open.

    Attributes:
        support, queries: a Dataset or DataLoader each, or None.
        images: how images are read.
        processor: of hf:DIR, which prepares rows for the network; or None.
        label_column: the name of the label in rows that are mappings, or None.
        class_names: those of --classes; else the data's or the network's, or None.
    """

    support: Any
    queries: Any
    images: ImageOptions
    processor: Any
    label_column: str | None
    class_names: Sequence[str] | None


def open_data(specs: DataSpecs, model: str | None, network: nn.Module | None) -> OpenedData:
    """Open DATA. Classes are numbered as --classes says, or else as the network's own names.

    Args:
        specs: of the data.
        model, network: MODEL, and what it has opened; None where networks come from elsewhere.

    Raises:
        ValueError: --image-size, --mean or --std beside a processor; classes that differ, or that
            --classes lacks. And what `pdepth.inputs` raises.
    """
    from pdepth import inputs

    processor = None if model is None else _open_processor(model, specs)
    if processor is not None:
        _check_no_image_options(specs, str(model))
        images = inputs.ImageOptions.for_processor(processor)
    else:
        images = inputs.ImageOptions.for_model(network, specs.image_size, specs.mean, specs.std)
    images = replace(images, as_imagefolder=specs.as_imagefolder)
    chosen = None if specs.classes is None else inputs.read_class_names(specs.classes)
    names = chosen or (None if network is None else inputs.network_classes(network))
    opened: dict[str, Any] = {"support": None, "queries": None}
    for what, spec in (("support", specs.support), ("queries", specs.queries)):
        if spec is None:
            continue
        data = inputs.load_data(spec, images, label_column=specs.label_column, class_names=names)
        if chosen is not None:
            _check_classes(what, data, chosen)
        names = chosen or inputs.class_names(data) or names
        opened[what] = data
    support, queries = opened["support"], opened["queries"]
    if support is not None and queries is not None:
        inputs.check_same_classes(support, queries)
    named = support is None or inputs.has_named_rows(support)
    label_column = specs.label_column if named else None
    return OpenedData(support, queries, images, processor, label_column, names)


def _check_classes(what: str, data: Any, chosen: Sequence[str]) -> None:
    """Raise ValueError where --classes does not name all classes of the data."""
    from pdepth import inputs

    names, labels = inputs.class_names(data), inputs.known_labels(data)
    lacking = sorted(set(names or ()) - set(chosen))
    if lacking:
        raise ValueError(
            f"--classes: expected all classes of {what}, got none named {lacking[0]!r}; write it "
            "into the file, in its class's place."
        )
    if names is not None and list(names) != list(chosen):
        raise ValueError(
            f"--classes: expected the order of {what}, which numbers its own classes, got another; "
            f"write {', '.join(names)}."
        )
    if names is None and labels is not None and len(labels) and labels.max() >= len(chosen):
        raise ValueError(
            f"--classes: expected names for the numbers 0 to {labels.max()} of {what}, got "
            f"{len(chosen)}."
        )


def _check_no_image_options(specs: DataSpecs, model: str) -> None:
    for option in ("image_size", "mean", "std"):
        value = getattr(specs, option)
        if value is not None:
            raise ValueError(
                f"--{option.replace('_', '-')}: expected none with {model}, whose processor "
                f"prepares images, got {value}; change preprocessor_config.json there."
            )


def _open_processor(model: str, specs: DataSpecs) -> Any:
    """The processor of hf:DIR; None without one, where code yields the data, ready perhaps."""
    from pdepth import inputs

    if not inputs.is_pretrained(model):
        return None
    data = [spec for spec in (specs.support, specs.queries) if spec is not None]
    try:
        return inputs.load_processor(model)
    except FileNotFoundError:
        if all(map(inputs.runs_code, data)):
            return None
        raise
