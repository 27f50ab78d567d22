"""DATA as the commands open it: for a network, and through the processor in its folder."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    support: str | None
    queries: str | None = None
    label_column: str | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class OpenedData:
    """What is open.

    Attributes:
        support, queries: a Dataset or DataLoader each, or None.
        images: how images are read.
        processor: of hf:DIR, which prepares rows for the network; or None.
        label_column: the name of the label in rows that are mappings, or None.
    """

    support: Any
    queries: Any
    images: ImageOptions
    processor: Any
    label_column: str | None


def open_data(specs: DataSpecs, model: str | None, network: nn.Module | None) -> OpenedData:
    """Open DATA. Classes are numbered as the network's own names, where it has names.

    Args:
        specs: of the data.
        model, network: MODEL, and what it has opened; None where networks come from elsewhere.

    Raises:
        ValueError: --image-size, --mean or --std beside a processor; or classes that differ. And
            what `pdepth.inputs` raises.
    """
    from pdepth import inputs

    processor = None if model is None else _open_processor(model, specs)
    if processor is not None:
        _check_no_image_options(specs, str(model))
        images = inputs.ImageOptions.for_processor(processor)
    else:
        images = inputs.ImageOptions.for_model(network, specs.image_size, specs.mean, specs.std)
    names = None if network is None else inputs.network_classes(network)
    support = queries = None
    if specs.support is not None:
        support = inputs.load_data(
            specs.support, images, label_column=specs.label_column, class_names=names
        )
        names = inputs.class_names(support) or names
    if specs.queries is not None:
        queries = inputs.load_data(
            specs.queries,
            images,
            label_column=specs.label_column,
            class_names=names,
        )
    if support is not None and queries is not None:
        inputs.check_same_classes(support, queries)
    named = support is None or inputs.has_named_rows(support)
    label_column = specs.label_column if named else None
    return OpenedData(support, queries, images, processor, label_column)


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
