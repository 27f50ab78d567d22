"""The networks of the study of placements: of each family the smallest, with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.example import example_inputs

CLASSES = 1000
# Networks for images of any size whose own would take more than 8 GB, and one that they run on.
SIZES = {"deepseek_vit_412m": 84, "gemma4_vit_167m": 96, "qwen3_vit_88m": 128}

VIT = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 64, "image_size": 32, "patch_size": 8,
}  # fmt: skip
STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [2, 2, 3, 2]}
PYRAMID: dict[str, Any] = {
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [2, 2, 2, 2],
    "image_size": 64,
}
SWIN: dict[str, Any] = {
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "image_size": 64,
}
# Small configurations of transformers' classifiers of images, by their model type.
IMAGES: dict[str, dict[str, Any]] = {
    "beit": VIT,
    "bit": STAGES | {"embedding_size": 16, "num_groups": 4},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "cvt": {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 4]},
    "deit": VIT | {"architectures": ["DeiTForImageClassification"]},
    "dinov2": VIT,
    "focalnet": {"embed_dim": 16, "depths": [2, 2, 2, 2], "image_size": 64},
    "hiera": {"embed_dim": 16, "depths": [1, 2, 3, 2], "num_heads": [1, 2, 4, 8]},
    "levit": {
        "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [2, 3, 4],
        "key_dim": [8, 8, 8], "architectures": ["LevitForImageClassification"],
    },
    "mobilenet_v1": {"image_size": 64},
    "mobilenet_v2": {"image_size": 64},
    "mobilevit": {
        "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
        "image_size": 64,
    },
    "poolformer": STAGES,
    "pvt": PYRAMID | {"num_attention_heads": [1, 2, 3, 4]},
    "pvt_v2": PYRAMID | {"num_attention_heads": [1, 2, 3, 4]},
    "regnet": STAGES | {"embedding_size": 16, "groups_width": 8},
    "resnet": STAGES | {"embedding_size": 16, "layer_type": "basic"},
    "segformer": {
        "hidden_sizes": [16, 32, 48, 64], "depths": [2, 2, 2, 2],
        "num_attention_heads": [1, 2, 3, 4], "image_size": 64,
    },
    "swin": SWIN,
    "swinv2": SWIN,
    "vit": VIT,
}  # fmt: skip
BERT = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4}
# The same of texts.
TEXTS: dict[str, dict[str, Any]] = {
    "albert": BERT | {"embedding_size": 16},
    "bert": BERT,
    "bloom": BERT | {"n_layer": 4, "n_head": 4},
    "deberta-v2": BERT,
    "distilbert": BERT | {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64},
    "electra": BERT | {"embedding_size": 16},
    "gpt2": BERT | GPT2,
    "gpt_neox": BERT,
    "llama": BERT,
    "mistral": BERT | {"num_key_value_heads": 2},
    "modernbert": BERT | {"cls_token_id": 1, "sep_token_id": 2},
    "opt": BERT | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "qwen2": BERT | {"num_key_value_heads": 2},
    "roberta": BERT,
    "squeezebert": BERT | {"embedding_size": 32},
    "xlnet": BERT | {"d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 64},
}


@dataclass(frozen=True)
class Network:
    """A network by its library, its family there, and its own name."""

    library: str
    family: str
    name: str

    def build(self) -> nn.Module:
        """It, with random weights and a head that reads what comes: none of all zeros."""
        torch.manual_seed(0)
        network = _BUILDERS[self.library](self.name)
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.02)
        return network.eval()

    def inputs(self, network: nn.Module) -> Inputs:
        """Two random rows of its own size; texts end as its own do."""
        if self.name in SIZES:
            return Inputs.of(torch.randn(2, 3, SIZES[self.name], SIZES[self.name]), 2)
        inputs = example_inputs(network)
        if "input_ids" in inputs.kwargs:
            inputs.kwargs["input_ids"].clamp_(min=3)[:, -1] = BERT["eos_token_id"]
        return inputs


def networks() -> Iterator[Network]:
    """One network a family of timm and torchvision, and those of transformers."""
    yield from _of_timm()
    yield from _of_torchvision()
    for family in (*IMAGES, *TEXTS):
        yield Network("transformers", family, family)


def _of_timm() -> Iterator[Network]:
    """The smallest of each module of timm.models, but for timm's own test networks."""
    import timm
    from timm.models import list_models, list_modules

    for family in list_modules():
        names = [n for n in list_models(module=family) if not n.startswith("test_")]
        sizes: dict[str, int] = {}
        for name in dict.fromkeys(name.partition(".")[0] for name in names):
            with torch.device("meta"):
                sizes[name] = _weights(timm.create_model(name))
        if sizes:
            yield Network("timm", family, min(sizes, key=lambda name: sizes[name]))


def _of_torchvision() -> Iterator[Network]:
    """The smallest of each module of torchvision.models."""
    from torchvision import models

    sizes: dict[str, dict[str, int]] = {}
    for name in models.list_models(module=models):
        family = models.get_model_builder(name).__module__.rpartition(".")[2]
        trained = models.get_model_weights(name).DEFAULT  # says how many there are
        sizes.setdefault(family, {})[name] = trained.meta["num_params"]
    for family, own in sizes.items():
        yield Network("torchvision", family, min(own, key=lambda name: own[name]))


def _weights(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def _timm(name: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name)
    if not network.num_classes:  # an encoder without a head of its own
        network = timm.create_model(name, num_classes=CLASSES)
    return network


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    slow = name in ("googlenet", "inception_v3")  # their own initialisation takes minutes
    network: nn.Module = models.get_model(name, **({"init_weights": False} if slow else {}))
    return network


def _transformers(family: str) -> nn.Module:
    import transformers

    config = transformers.AutoConfig.for_model(family, **(IMAGES | TEXTS)[family])
    kind = "ImageClassification" if family in IMAGES else "SequenceClassification"
    network: nn.Module = getattr(transformers, f"AutoModelFor{kind}").from_config(config)
    return network


_BUILDERS = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}
