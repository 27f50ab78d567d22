"""What the command line opens: MODEL, a network with its weights; and DATA, a dataset.

Everything here works from Python, too:

    model = load_model("torchvision:resnet18", "resnet18.pt")
    data = load_data("imagefolder:train", ImageOptions.for_model(model))
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pdepth.inputs.datasets import (
    Data,
    absolute_spec,
    check_same_classes,
    class_names,
    dataset_images,
    has_named_rows,
    known_labels,
    load_data,
    row_paths,
    runs_code,
    undecided,
    unwrap_loader,
)
from pdepth.inputs.decided import DecidedRows
from pdepth.inputs.images import DatasetImages, ImageDataset, ImageOptions
from pdepth.inputs.labels import read_class_names
from pdepth.inputs.python_files import call_function, load_function
from pdepth.inputs.texts import TextDataset
from pdepth.optional import imported_later

if TYPE_CHECKING:
    from pdepth.inputs.checkpoints import find_state, read_checkpoint, read_state
    from pdepth.inputs.models import is_pretrained, load_model, model_runs_code
    from pdepth.inputs.networks import network_of
    from pdepth.inputs.pretrained import load_processor, network_classes, reads_images
    from pdepth.inputs.weights import load_checkpoint, load_state

__all__ = [
    "Data",
    "DatasetImages",
    "DecidedRows",
    "ImageDataset",
    "ImageOptions",
    "TextDataset",
    "absolute_spec",
    "call_function",
    "check_same_classes",
    "class_names",
    "dataset_images",
    "find_state",
    "has_named_rows",
    "is_pretrained",
    "known_labels",
    "load_checkpoint",
    "load_data",
    "load_function",
    "load_model",
    "load_processor",
    "load_state",
    "model_runs_code",
    "network_classes",
    "network_of",
    "read_checkpoint",
    "read_class_names",
    "read_state",
    "reads_images",
    "row_paths",
    "runs_code",
    "undecided",
    "unwrap_loader",
]

__getattr__: Callable[[str], Any] = imported_later(
    __name__,
    {
        "find_state": "pdepth.inputs.checkpoints",
        "read_checkpoint": "pdepth.inputs.checkpoints",
        "read_state": "pdepth.inputs.checkpoints",
        "is_pretrained": "pdepth.inputs.models",
        "load_model": "pdepth.inputs.models",
        "model_runs_code": "pdepth.inputs.models",
        "network_of": "pdepth.inputs.networks",
        "load_processor": "pdepth.inputs.pretrained",
        "network_classes": "pdepth.inputs.pretrained",
        "reads_images": "pdepth.inputs.pretrained",
        "load_checkpoint": "pdepth.inputs.weights",
        "load_state": "pdepth.inputs.weights",
    },
)
