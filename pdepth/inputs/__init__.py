"""What the command line opens: MODEL, a network with its weights; and DATA, a dataset.

Everything here works from Python, too:

    model = load_model("torchvision:resnet18", "resnet18.pt")
    data = load_data("imagefolder:train", ImageOptions.for_model(model))
"""

from pdepth.inputs.datasets import (
    Data,
    absolute_spec,
    check_same_classes,
    class_names,
    dataset_images,
    known_labels,
    load_data,
    runs_code,
    unwrap_loader,
)
from pdepth.inputs.images import DatasetImages, ImageDataset, ImageOptions
from pdepth.inputs.models import load_model
from pdepth.inputs.python_files import call_function, load_function
from pdepth.inputs.weights import read_state

__all__ = [
    "Data",
    "DatasetImages",
    "ImageDataset",
    "ImageOptions",
    "absolute_spec",
    "call_function",
    "check_same_classes",
    "class_names",
    "dataset_images",
    "known_labels",
    "load_data",
    "load_function",
    "load_model",
    "read_state",
    "runs_code",
    "unwrap_loader",
]
