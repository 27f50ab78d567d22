"""Tokenizers, image processors and other callables, applied to a batch's columns."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pdepth.embeddings.stacking import Column, Refused, is_audio, is_encoded_image, is_image, stack
from pdepth.inputs.pixels import as_eight_bits, upright
from pdepth.optional import require

# Columns that are the two texts of one row, beside those that a number or letter tells apart.
PAIRS = {
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "document"),
    ("query", "passage"),
    ("text", "text_pair"),
}


def check_processor(processor: Any) -> None:
    """Raises TypeError unless it is None or can be called."""
    if processor is not None and not callable(processor):
        raise TypeError(
            "processor: expected a tokenizer, an image processor, a feature extractor or another "
            f"callable, got a {type(processor).__name__}."
        )


def process(processor: Any, inputs: Any, stacked_here: bool) -> Any:
    """A batch's inputs after `processor`, see `dataset.DataOptions`.

    stacked_here: whether rows came one by one, and not from a loader's own collation.
    Raises Refused where there is nothing for it to take, and for an error of its own.
    """
    columns = _columns(inputs)
    try:
        return _process(processor, columns, inputs, stacked_here)
    except Refused:
        raise
    except Exception as error:
        raise Refused(
            f"expected rows that the processor takes, got an error of "
            f"{type(processor).__name__}: {first_line(error)}; call it on the inputs of one row to "
            "see where."
        ) from error


def refuse_columns(inputs: Any) -> None:
    """Raises Refused for inputs that need a processor: text, images, arrays of unequal shapes.

    Text and images beside inputs made of them already are no inputs, and let pass.
    """
    columns = _columns(inputs)
    for name, column in columns.items():
        if _is_ragged(column):
            raise _unequal(name, column)
    if any(isinstance(column, Tensor) and column.ndim > 1 for column in columns.values()):
        return
    for name, column in columns.items():
        if _is_text(column):
            raise Refused(
                f"expected tensors as inputs, got text{_in(name)}; pass processor=tokenizer, the "
                "network's."
            )
        if _is_images(column):
            raise Refused(
                f"expected tensors as inputs, got images{_in(name)} that are not decoded to "
                "tensors; pass processor=image_processor, the network's, or set dataset.transform "
                "= torchvision.transforms.ToTensor()."
            )
        if _is_sounds(column):
            raise Refused(
                f"expected tensors as inputs, got sounds{_in(name)}; pass "
                "processor=feature_extractor, the network's."
            )


def decode_images(processor: Any, row: Any) -> None:
    """Decode the images of a row, as `process` will; raises whatever a broken file does.

    Encoded images are decoded where a processor takes images: bytes may be of sounds, too.
    """
    kinds = ("convert_tokens_to_ids", "sampling_rate")
    takes_images = hasattr(processor, "image_processor") or (
        processor is not None and not any(hasattr(processor, name) for name in kinds)
    )
    values = row if isinstance(row, tuple | list) else [row]
    for value in row.values() if isinstance(row, Mapping) else values:
        if is_image(value) and (takes_images or not is_encoded_image(value)):
            _opened(value).load()


def first_line(error: Exception) -> str:
    """An exception's type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _process(processor: Any, columns: Mapping[str, Any], inputs: Any, stacked_here: bool) -> Any:
    texts = [name for name, column in columns.items() if _is_text(column)]
    others = any(_is_images(column) or _is_sounds(column) for column in columns.values())
    tokenizer = _part(processor, "tokenizer", hasattr(processor, "convert_tokens_to_ids"))
    if tokenizer is processor or (tokenizer is not None and not others):
        names = [name for name in tokenizer.model_input_names if name in columns]
        if names or (not texts and _is_ids(inputs)):
            ids = {name: columns[name] for name in names} or {
                tokenizer.model_input_names[0]: inputs
            }
            return _padded(tokenizer, ids, stacked_here) or inputs
        if texts:
            pair = [list(columns[name]) for name in _one_or_pair(texts)]
            return dict(tokenizer(*pair, padding=True, truncation=True, return_tensors="pt"))
    is_image = "pixel_values" in getattr(processor, "model_input_names", ())
    if (images := _part(processor, "image_processor", is_image)) is not None:
        return _images(images, columns)
    is_sound = hasattr(processor, "sampling_rate")
    if (sounds := _part(processor, "feature_extractor", is_sound)) is not None:
        return _sounds(sounds, columns)
    if tokenizer is not None:
        raise _nothing_for(tokenizer, "text or token ids under 'input_ids'", columns)
    return _called(processor, columns, texts)


def _part(processor: Any, name: str, is_it: bool) -> Any:
    """A joint processor's part `name`; the processor where `is_it`; else None."""
    return getattr(processor, name, processor if is_it else None)


def _padded(tokenizer: Any, ids: dict[str, Any], stacked_here: bool) -> dict[str, Any] | None:
    """Token ids padded to the longest row; None where a loader has padded them before.

    Rows of one length have a mask too, so that every batch has the same arguments.
    """
    ragged = any(isinstance(column, Column) for column in ids.values())
    if not ragged and not (stacked_here and "attention_mask" not in ids):
        return dict(ids) if stacked_here else None
    lists = {name: [row.tolist() for row in column] for name, column in ids.items()}
    return dict(tokenizer.pad(lists, padding=True, return_tensors="pt"))


def _images(processor: Any, columns: Mapping[str, Any]) -> Any:
    names = [name for name, column in columns.items() if _is_images(column)]
    names = names or [name for name, column in columns.items() if _is_pixels(column)]
    processed = columns.get("pixel_values")
    if isinstance(processed, Tensor) and processed.is_floating_point():
        return {"pixel_values": processed}
    if not names:
        raise _nothing_for(processor, "images", columns)
    column = columns[_only(names, "images")]
    if _is_images(column):
        means = getattr(processor, "image_mean", None)
        channels = len(means) if isinstance(means, Sequence) else None
        images = [_opened(image) for image in column]
        if channels in (1, 3):
            images = [as_eight_bits(image, channels) for image in images]
    else:
        images = list(column)
        if images[0].is_floating_point():
            raise Refused(
                f"expected images as bytes 0 to 255 for {type(processor).__name__}, got "
                f"{images[0].dtype}, which a transform has scaled; leave out the processor or the "
                "transform."
            )
    return dict(processor(images=images, return_tensors="pt"))


def _sounds(extractor: Any, columns: Mapping[str, Any]) -> Any:
    names = [name for name, column in columns.items() if _is_sounds(column)]
    names = names or [name for name, column in columns.items() if _is_series(column)]
    if not names:
        raise _nothing_for(extractor, "sounds", columns)
    column = columns[_only(names, "sounds")]
    options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
    if not _is_sounds(column):
        return dict(extractor([row.numpy() for row in column], **options))
    rates = sorted({int(sound["sampling_rate"]) for sound in column})
    if len(rates) > 1:
        raise Refused(
            f"expected sounds of one sampling rate, got {rates[0]} and {rates[-1]} Hz; resample: "
            "dataset.cast_column('audio', datasets.Audio(sampling_rate=...))."
        )
    sounds = [torch.as_tensor(sound["array"], device="cpu").numpy() for sound in column]
    return dict(extractor(sounds, sampling_rate=rates[0], **options))


def _called(processor: Any, columns: Mapping[str, Any], texts: list[str]) -> Any:
    """Any other callable: on all texts of a batch, else on each row's image or array by itself."""
    if texts:
        result = processor(*[list(columns[name]) for name in _one_or_pair(texts)])
    else:
        names = [name for name, column in columns.items() if _is_images(column)]
        names = names or [name for name, column in columns.items() if column is not None]
        column = columns[_only(names, "inputs")]
        decode = _opened if _is_images(column) else _same
        result = [processor(decode(row)) for row in column]
    if isinstance(result, list | tuple) and not hasattr(result, "_fields"):
        result = stack(result)
    if _is_ragged(result):
        raise _unequal("", result)
    return dict(result) if isinstance(result, Mapping) else result


def _columns(inputs: Any) -> dict[str, Any]:
    """Inputs by name: a dict's keys, a tuple's places, "a.b" of nested ones, "" of a single."""
    if isinstance(inputs, Mapping):
        entries = {str(name): value for name, value in inputs.items()}
    elif isinstance(inputs, tuple | list) and not isinstance(inputs, Column):
        entries = {str(place): value for place, value in enumerate(inputs)}
    else:
        return {"": inputs}
    return {
        f"{name}.{inner}" if inner else name: column
        for name, value in entries.items()
        for inner, column in _columns(value).items()
    }


def _one_or_pair(texts: list[str]) -> list[str]:
    """The columns that are one row's text, or its two. Raises Refused where that is not plain."""
    if len(texts) == 1 or (len(texts) == 2 and (_is_pair(*texts) or texts == ["0", "1"])):
        return texts
    if len(texts) == 2 and _is_pair(*reversed(texts)):
        return texts[::-1]
    raise Refused(
        f"expected one column of text, or two like text and text_pair, got {_listed(texts)}; keep "
        f"the one to read: dataset.select_columns([{texts[0]!r}, 'label'])."
    )


def _is_pair(first: str, second: str) -> bool:
    """Whether names are of a pair, as premise and hypothesis, or sentence1 and sentence2."""
    if (first.lower(), second.lower()) in PAIRS:
        return True
    stems = [re.fullmatch(r"(.*?)_?([12ab])", name.lower()) for name in (first, second)]
    left, right = stems
    if left is None or right is None or left[1] != right[1]:
        return False
    return (left[2], right[2]) in {("1", "2"), ("a", "b")}


def _only(names: list[str], kind: str) -> str:
    if len(names) > 1:
        raise Refused(
            f"expected one column of {kind}, got {_listed(names)}; keep the one to read: "
            f"dataset.select_columns([{names[0]!r}, 'label'])."
        )
    return names[0]


def _opened(image: Any) -> Any:
    """A decoded PIL image; an encoded one is turned as its EXIF says, as `datasets` does."""
    if not is_encoded_image(image):
        return image
    pil = require("PIL.Image", "rows of encoded images:", "vision")
    data = image if isinstance(image, bytes) else image["bytes"]
    return upright(pil.open(image["path"] if data is None else io.BytesIO(data)))


def _same(value: Any) -> Any:
    return value


def _is_text(column: Any) -> bool:
    return isinstance(column, Column) and isinstance(column[0], str)


def _is_images(column: Any) -> bool:
    return isinstance(column, Column) and is_image(column[0])


def _is_sounds(column: Any) -> bool:
    return isinstance(column, Column) and is_audio(column[0])


def _is_ragged(column: Any) -> bool:
    return isinstance(column, Column) and isinstance(column[0], Tensor)


def _is_arrays(column: Any) -> bool:
    return isinstance(column, Tensor) or _is_ragged(column)


def _is_ids(inputs: Any) -> bool:
    """Whether each row is a list of integers."""
    return _is_arrays(inputs) and inputs[0].ndim == 1 and not inputs[0].is_floating_point()


def _is_series(column: Any) -> bool:
    return _is_arrays(column) and column[0].ndim == 1 and column[0].is_floating_point()


def _is_pixels(column: Any) -> bool:
    return _is_arrays(column) and column[0].ndim in (2, 3)


def _nothing_for(processor: Any, kind: str, columns: Mapping[str, Any]) -> Refused:
    entries = ", ".join(f"{_kind(column)}{_in(name)}" for name, column in columns.items())
    return Refused(
        f"expected {kind} for {type(processor).__name__}, got {entries}; pass the processor of "
        "such rows, or none."
    )


def _unequal(name: str, column: Column) -> Refused:
    """The refusal of arrays of several shapes, with the way to one shape."""
    if _is_ids(column):
        lengths = sorted({len(row) for row in column})
        return Refused(
            f"expected rows of one length in a batch, got {lengths[0]} to {lengths[-1]} token ids"
            f"{_in(name)}; pass processor=tokenizer, which pads them."
        )
    shapes = sorted({tuple(row.shape) for row in column})
    smallest, *_, largest = shapes
    return Refused(
        f"expected rows of one shape in a batch, got {smallest} and {largest}{_in(name)}; resize "
        "or pad them in the dataset, or pass a DataLoader with a collate_fn that pads."
    )


def _kind(column: Any) -> str:
    if _is_text(column):
        return "text"
    if _is_images(column):
        return "images"
    if _is_arrays(column):
        return f"rows of shape {tuple(column[0].shape)}"
    return f"{type(column[0] if isinstance(column, Column) else column).__name__}"


def _in(name: str) -> str:
    return f" in {name!r}" if name else ""


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))
