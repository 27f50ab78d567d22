"""Random rows for a network whose input size is known, to see where it is probed without data."""

from __future__ import annotations

import torch
from torch import nn

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import unwrap

ROWS = 2
TEXT_LENGTH = 8
TORCHVISION_SIZE = 224
TORCHVISION_SIZES = {"Inception3": 299}


def example_inputs(model: nn.Module) -> Inputs:
    """Random rows of the size that a network of torchvision, timm or transformers says it takes.

    Raises ValueError for any other network.
    """
    model = unwrap(model)
    generator = torch.Generator().manual_seed(0)
    config = getattr(model, "config", None)
    words = getattr(config, "vocab_size", None)
    if getattr(model, "main_input_name", "") == "input_ids" and words is not None:
        ids = torch.randint(
            1, words, (ROWS, TEXT_LENGTH), generator=generator, device=generator.device
        )
        mask = torch.ones_like(ids)
        return Inputs.of({"input_ids": ids, "attention_mask": mask}, ROWS)
    size = _image_size(model, config)
    if size is None:
        raise ValueError(
            "data: expected a dataset for a network whose input size is not known, got none; pass "
            "--support DATA (data= in Python)."
        )
    images = torch.randn(ROWS, *size, generator=generator, device=generator.device)
    if getattr(model, "main_input_name", "") == "pixel_values":
        return Inputs.of({"pixel_values": images}, ROWS)
    return Inputs.of(images, ROWS)


def _image_size(model: nn.Module, config: object) -> tuple[int, int, int] | None:
    """(C, H, W) of the images that a network takes."""
    timm_config = getattr(model, "pretrained_cfg", None)
    if isinstance(timm_config, dict) and "input_size" in timm_config:
        channels, height, width = timm_config["input_size"]
        return channels, height, width
    if getattr(model, "main_input_name", "") == "pixel_values":
        size = getattr(config, "image_size", TORCHVISION_SIZE)
        height, width = size if isinstance(size, tuple | list) else (size, size)
        return getattr(config, "num_channels", 3), height, width
    if type(model).__module__.startswith("torchvision.models"):
        size = TORCHVISION_SIZES.get(type(model).__name__, TORCHVISION_SIZE)
        size = getattr(model, "image_size", size)
        return 3, size, size
    return None
