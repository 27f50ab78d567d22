"""The command line's MODEL and DATA, from a word to a module and a dataset."""

from __future__ import annotations

import difflib
import importlib.util
import io
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pdepth.optional import require

MODEL_FORMS = {"torchvision": "NAME", "timm": "NAME"}  # and path/to/file.py:function, as is DATA
DATA_FORMS = {"imagefolder": "DIR", "parquet": "FILE", "npz": "FILE"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BILINEAR = 2  # of PIL.Image.Resampling; it averages over what it shrinks
NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the weights
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before each name

Data: TypeAlias = "Dataset[Any] | DataLoader[Any]"


@dataclass(frozen=True)
class ImageOptions:
    """How an image becomes a tensor (C, H, W) float32.

    Attributes:
        size: the shorter side is resized to `size` (bilinear, antialiased) and the middle
            `size` x `size` cut out; None leaves images as they are, all of one size.
        mean, std: of the pixels in 0..1, one number per channel. One channel means grey, three
            mean RGB; images are converted to that.
    """

    size: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ValueError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}; one each (grey) or "
                "three each (RGB) were wanted."
            )
        if not min(self.std) > 0:
            raise ValueError(f"std {self.std} holds a number that is not positive.")
        if self.size is not None and self.size < 1:
            raise ValueError(f"image size {self.size} is not positive.")

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> ImageOptions:
        """What is given; else what a timm model says of itself; else ImageNet's mean and std.

        A timm model's size is taken only where it accepts no other (vision transformers).
        """
        own = getattr(model, "pretrained_cfg", None) or {}
        if size is None and own.get("fixed_input_size"):
            size = own["input_size"][-1]
        return cls(
            size=size,
            mean=tuple(mean or own.get("mean") or IMAGENET_MEAN),
            std=tuple(std or own.get("std") or IMAGENET_STD),
        )


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images that are read when asked for, as (tensor (C, H, W) float32, class).

    Args:
        read: row -> a PIL image, not yet decoded perhaps.
        labels: (N,) int64.
        where: row -> what to call it in an error ("image data/a.jpg", "row 7 of data.parquet").
        options: how an image becomes a tensor.
        class_names: a name by class, or None.
    """

    def __init__(
        self,
        read: Callable[[int], Any],
        labels: NDArray[np.int64],
        where: Callable[[int], str],
        options: ImageOptions,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.labels, self.options, self.class_names = labels, options, class_names
        self._read, self._where = read, where

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        picture = self.picture(row)
        if picture.shape[:2] != self._size:
            raise ValueError(
                f"{self._where(row)} is {_by(picture)} and {self._where(0)} "
                f"{_by(self.picture(0))}; give --image-size to bring all images to one size."
            )
        pixels = torch.from_numpy(picture).float().div_(255)
        mean, std = torch.tensor(self.options.mean), torch.tensor(self.options.std)
        return ((pixels - mean) / std).permute(2, 0, 1).contiguous(), int(self.labels[row])

    def picture(self, row: int) -> NDArray[np.uint8]:
        """(H, W, C) uint8: the image as the network sees it, but for mean and std.

        Raises ValueError for an image that cannot be read.
        """
        try:
            image = self._read(row).convert("L" if len(self.options.mean) == 1 else "RGB")
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on broken files
            raise ValueError(f"{self._where(row)} cannot be read as an image: {error}") from None
        if self.options.size is not None:
            image = _resize(image, self.options.size)
        return np.array(image).reshape(*image.size[::-1], len(self.options.mean))

    @cached_property
    def _size(self) -> tuple[int, int]:
        """What all images have to be: the first one's height and width."""
        height, width = self.picture(0).shape[:2]
        return height, width


def load_model(
    spec: str, weights: str | os.PathLike[str] | None = None, *, untrained: bool = False
) -> nn.Module:
    """Build the model that MODEL names, with the weights of a file.

    Args:
        spec: torchvision:NAME, timm:NAME or path/to/file.py:function (called without arguments).
        weights: a state dict (.pt, .pth or .safetensors; plain, or in a checkpoint). The number
            of classes is read from it. file.py:function may bring its own instead.
        untrained: allow a library's model without weights, to look at its structure.

    Raises:
        ValueError: an unknown spec or name, no weights, or weights that do not fit.
        FileNotFoundError, ImportError, TypeError: what the sentence says.
    """
    kind, name = _parse(spec, "MODEL", MODEL_FORMS)
    state = None if weights is None else _strip(read_state(weights))
    if kind == "py":
        model = call_file(spec, name)
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"{spec} returned {type(model).__name__}; a torch.nn.Module was wanted."
            )
    elif state is None and not untrained:
        raise ValueError(
            f"MODEL {spec} needs --weights FILE: random weights would say nothing about the data."
        )
    else:
        model = _zoo_model(kind, name, state or {})
    if state is not None:
        _fit(model, state, spec, weights)
    return model


def load_data(spec: str, options: ImageOptions | None = None) -> Data:
    """Open the data that DATA names; images and labels are checked, pixels read when asked for.

    Args:
        spec: imagefolder:DIR (one folder per class); parquet:FILE (columns `image`, encoded bytes
            or a struct with `bytes`, and `label`); npz:FILE (`x`: uint8 images (N, H, W[, C]), or
            floats (N, ...) that pass as float32; `y`: integers); or path/to/file.py:function,
            which returns a Dataset or a DataLoader.
        options: how images become tensors.

    Raises:
        ValueError, TypeError, FileNotFoundError, ImportError: what the sentence says.
    """
    options = options or ImageOptions()
    kind, name = _parse(spec, "DATA", DATA_FORMS)
    if kind == "py":
        data = call_file(spec, name)
        if not isinstance(data, (Dataset, DataLoader)):
            raise TypeError(
                f"{spec} returned {type(data).__name__}; a torch Dataset or DataLoader was wanted."
            )
        return data
    require("PIL", f"DATA {kind}:", "vision")
    path = Path(name).expanduser()
    if kind == "imagefolder":
        return _image_folder(path, options)
    if not path.is_file():
        raise FileNotFoundError(f"DATA {spec}: there is no file {path}.")
    return _parquet(path, options) if kind == "parquet" else _npz(path, options)


def absolute(spec: str) -> str:
    """DATA that names the same from every folder."""
    kind, name = _parse(spec, "DATA", DATA_FORMS)
    file, colon, function = name.rpartition(":") if kind == "py" else (name, "", "")
    path = Path(file).expanduser().absolute()
    return f"{path}{colon}{function}" if kind == "py" else f"{kind}:{path}"


def is_code(spec: str) -> bool:
    """Whether opening DATA runs a Python file."""
    return _parse(spec, "DATA", DATA_FORMS)[0] == "py"


def dataset_of(data: Data) -> Any:
    """The rows in their own order, whatever a loader does with them."""
    return data.dataset if isinstance(data, DataLoader) else data


def labels_of(data: Data) -> NDArray[np.int64] | None:
    """(N,) the labels of a dataset, where they are known without reading its inputs."""
    dataset = dataset_of(data)
    if isinstance(dataset, ImageDataset):
        return dataset.labels
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        labels: NDArray[np.int64] = dataset.tensors[1].cpu().numpy()
        return labels
    return None


def check_same_classes(support: Data, queries: Data) -> None:
    """Raise ValueError where two folders of images number their classes differently."""
    names = [class_names(data) for data in (support, queries)]
    if names[0] is not None and names[1] is not None and list(names[0]) != list(names[1]):
        odd = sorted(set(names[0]) ^ set(names[1]))[0]
        raise ValueError(
            f"--queries has {len(names[1])} class folders and --support {len(names[0])}, and "
            f"{odd!r} is in one of them only; classes are numbered by folder, so both need all."
        )


def class_names(data: Data) -> Sequence[str] | None:
    """The names of the classes, from the dataset's `class_names` or `classes`, or None."""
    dataset = getattr(data, "dataset", data)
    for attribute in ("class_names", "classes"):
        names = getattr(dataset, attribute, None)
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            return names
    return None


class Pictures(Sequence[Any]):
    """The inputs of a dataset that can be looked at, each read when asked for."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(self._dataset, ImageDataset):
            return self._dataset.picture(row)
        return self._dataset[row][0]


def pictures(data: Data, rows: int) -> Pictures | None:
    """The images of a dataset for `pdepth.plot`, or None where its inputs are no images.

    None, too, where the dataset has not `rows` rows: a sampler chose, or it is only iterable.
    """
    dataset = dataset_of(data)
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return None
    if len(dataset) != rows:
        return None
    if isinstance(dataset, ImageDataset):
        return Pictures(dataset)
    shape = tuple(getattr(Pictures(dataset)[0], "shape", ()))
    if len(shape) == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3)):
        return Pictures(dataset)
    return None


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict from .pt, .pth or .safetensors, without running code from the file.

    Checkpoints that keep it under `state_dict`, `model_state_dict` or `model` are opened.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--weights: there is no file {path}.")
    try:
        if Path(path).suffix == ".safetensors":
            what = "Reading .safetensors files"
            state = require("safetensors.torch", what, "timm").load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError):
        raise ValueError(
            f"--weights {path} is not a state dict that torch.load(weights_only=True) reads; "
            "save one with torch.save(model.state_dict(), path)."
        ) from None
    for key in NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values())
    if not tensors or not state:
        raise ValueError(f"--weights {path} holds no state dict: a name with a tensor, for each.")
    return dict(state)


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def _parse(spec: str, argument: str, forms: Mapping[str, str]) -> tuple[str, str]:
    """Split a spec into its kind ("py" for file.py:function) and the rest."""
    kind, _, name = spec.partition(":")
    if kind in forms and name:
        return kind, name
    file, _, function = spec.rpartition(":")
    if file.endswith(".py") and function:
        return "py", spec
    wanted = ", ".join(f"{kind}:{name}" for kind, name in forms.items())
    raise ValueError(f"{argument} {spec!r} is none of {wanted}, path/to/file.py:function.")


def call_file(spec: str, name: str) -> Any:
    """Run file.py:function; what goes wrong inside is the user's own, and keeps its traceback."""
    target = function_of(spec, name)
    try:
        return target()
    except Exception as error:
        raise RuntimeError(f"{spec} failed; it is called without arguments.") from error


def function_of(spec: str, name: str) -> Callable[..., Any]:
    """The function that file.py:function names."""
    file, _, function = name.rpartition(":")
    if not file.endswith(".py") or not function:
        raise ValueError(f"{spec} is not path/to/file.py:function.")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{spec}: there is no file {path}.")
    module_name = f"pdepth_user_{path.stem}_{abs(hash(path)):x}"
    module = sys.modules.get(module_name)
    try:
        if module is None:
            module_spec = importlib.util.spec_from_file_location(module_name, path)
            assert module_spec is not None
            assert module_spec.loader is not None
            module = importlib.util.module_from_spec(module_spec)
            if str(path.parent) not in sys.path:
                sys.path.insert(0, str(path.parent))  # as `python file.py` would
            sys.modules[module_name] = module  # for pickles and dataclasses of that file
            module_spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(module_name, None)
        raise RuntimeError(f"{path} failed while it was imported.") from error
    target: Callable[..., Any] | None = getattr(module, function, None)
    if not callable(target):
        raise ValueError(f"{spec}: {path.name} has no function {function!r}.")
    return target


def _zoo_model(kind: str, name: str, state: Mapping[str, Tensor]) -> nn.Module:
    if kind == "torchvision":
        zoo = require("torchvision.models", f"MODEL {kind}:", "vision")
        known = zoo.list_models(module=zoo)
        make: Callable[..., nn.Module] = zoo.get_model
        is_known = name in known
    else:
        zoo = require("timm", f"MODEL {kind}:", "timm")
        known, make = zoo.list_models(), zoo.create_model
        is_known = zoo.is_model(name.partition(".")[0])
    if not is_known:
        close = difflib.get_close_matches(name, known, 3)
        hint = f"; did you mean {', '.join(close)}?" if close else "."
        raise ValueError(f"MODEL {kind}:{name}: {kind} knows no model {name!r}{hint}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about initial values, which the weights replace
        model = make(name)
        # The last weight or bias is as long as there are classes. The model says which it is: a
        # file may list its tensors in any order (safetensors: by name).
        own = model.state_dict()
        last = [key for key in own if key.endswith((".weight", ".bias"))][-1]
        head = state.get(last, own[last])
        if head.ndim and len(head) != len(own[last]):
            return make(name, num_classes=len(head))
        return model


def _fit(model: nn.Module, state: Mapping[str, Tensor], spec: str, weights: Any) -> None:
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name}, {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    found = [
        f"{len(names)} {kind} (first: {names[0]})"
        for names, kind in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (shapes, "of another shape"),
        )
        if names
    ]
    if found:
        raise ValueError(f"--weights {weights} does not fit {spec}: {', '.join(found)}.")
    model.load_state_dict(state)


def _integers(labels: NDArray[Any], where: str, count: int) -> NDArray[np.int64]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{where} is {labels.dtype} of shape {labels.shape}; integers of shape ({count},) "
            "were wanted."
        )
    if len(labels) != count:
        raise ValueError(f"{where} holds {len(labels)} labels for {count} examples.")
    if count == 0:
        raise ValueError(f"{where} is empty; there is no example in it.")
    return labels.astype(np.int64)


def _image_folder(path: Path, options: ImageOptions) -> Dataset[Any]:
    folder = require("torchvision.datasets", "DATA imagefolder:", "vision").ImageFolder
    if not path.is_dir():
        raise FileNotFoundError(f"DATA imagefolder:{path}: there is no such folder.")
    found = folder(str(path))
    files = [file for file, _ in found.samples]
    labels = np.array([label for _, label in found.samples], np.int64)
    return ImageDataset(
        lambda row: _decode(Path(files[row]).read_bytes()),
        labels,
        lambda row: f"Image {files[row]}",
        options,
        found.classes,
    )


def _parquet(path: Path, options: ImageOptions) -> Dataset[Any]:
    pa = require("pyarrow", "DATA parquet:", "tables")
    pq = require("pyarrow.parquet", "DATA parquet:", "tables")
    try:
        names = pq.read_schema(path).names
        for name in ("image", "label"):
            if name not in names:
                raise ValueError(f"{path} has no column {name!r}; it has {', '.join(names)}.")
        table = pq.read_table(path, columns=["image", "label"], partitioning=None)
    except pa.ArrowInvalid:
        raise ValueError(f"{path} is not a readable Parquet file.") from None
    image, label = table["image"].combine_chunks(), table["label"]
    if pa.types.is_struct(image.type) and image.type.get_field_index("bytes") >= 0:
        image = image.field("bytes")
    if not (pa.types.is_binary(image.type) or pa.types.is_large_binary(image.type)):
        raise ValueError(
            f"{path}: column 'image' is {image.type}; the bytes of image files, or a struct with a "
            "field 'bytes', were wanted."
        )
    if label.null_count or image.null_count:
        name = "label" if label.null_count else "image"
        raise ValueError(f"{path}: column {name!r} has empty entries.")
    return ImageDataset(
        lambda row: _decode(image[row].as_py()),
        _integers(label.to_numpy(), f"{path}: column 'label'", len(image)),
        lambda row: f"Row {row} of {path}",
        options,
    )


def _npz(path: Path, options: ImageOptions) -> Dataset[Any]:
    pil = require("PIL.Image", "DATA npz:", "vision")
    try:
        archive = np.load(path)
        arrays = {name: archive[name] for name in archive.files if name in ("x", "y")}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile):
        raise ValueError(
            f"{path} is not an npz file of plain arrays, as numpy.savez(path, x=x, y=y) writes it."
        ) from None
    for name in ("x", "y"):
        if name not in arrays:
            raise ValueError(f"{path} has no array {name!r}; it has {', '.join(archive.files)}.")
    x = np.atleast_1d(arrays["x"])
    labels = _integers(arrays["y"], f"{path}: y", len(x))
    if x.dtype.kind == "f":
        values = torch.from_numpy(x.astype(np.float32))
        return TensorDataset(values, torch.from_numpy(labels))
    if x.dtype != np.uint8 or not (x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3, 4))):
        raise ValueError(
            f"{path}: x is {x.dtype} of shape {x.shape}; uint8 images (N, H, W) or (N, H, W, C) "
            "with 1, 3 or 4 channels, or floats, were wanted."
        )
    if x.ndim == 4 and x.shape[-1] == 1:
        x = x[..., 0]
    return ImageDataset(
        lambda row: pil.fromarray(x[row]), labels, lambda row: f"Row {row} of {path}", options
    )


def _decode(data: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data))


def _resize(image: Any, size: int) -> Any:
    width, height = image.size
    scale = size / min(width, height)
    image = image.resize((round(width * scale), round(height * scale)), BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _by(picture: NDArray[Any]) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"
