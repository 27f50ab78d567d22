"""Small classifiers of transformers with random weights, and folders of them; nothing is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

CLASSES = {0: "no", 1: "yes", 2: "perhaps"}
WORDS = ["good", "bad", "so", "film", "the", "a", "was", "never"]


def classifier(kind: str) -> Any:
    """One of the kinds vit, swin, resnet, bert, gpt2 and wav2vec2, in evaluation mode."""
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    labels = {"id2label": CLASSES, "label2id": {name: n for n, name in CLASSES.items()}}
    torch.manual_seed(0)
    if kind == "vit":
        config = transformers.ViTConfig(
            **small, **labels, intermediate_size=24, image_size=8, patch_size=4
        )
        return transformers.ViTForImageClassification(config).eval()
    if kind == "swin":
        config = transformers.SwinConfig(
            **labels, image_size=8, patch_size=2, window_size=2, embed_dim=8, depths=[1, 1],
            num_heads=[2, 2],
        )  # fmt: skip
        return transformers.SwinForImageClassification(config).eval()
    if kind == "resnet":
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic", **labels
        )
        return transformers.ResNetForImageClassification(config).eval()
    if kind == "bert":
        config = transformers.BertConfig(**small, **labels, intermediate_size=24, vocab_size=40)
        return transformers.BertForSequenceClassification(config).eval()
    if kind == "gpt2":
        config = transformers.GPT2Config(
            **labels,
            n_embd=16,
            n_layer=2,
            n_head=2,
            vocab_size=40,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
        return transformers.GPT2ForSequenceClassification(config).eval()
    config = transformers.Wav2Vec2Config(
        **small, **labels, intermediate_size=24, conv_dim=(8, 8), conv_stride=(4, 4),
        conv_kernel=(8, 8), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    return transformers.Wav2Vec2ForSequenceClassification(config).eval()


def example(kind: str, rows: int = 3) -> dict[str, torch.Tensor]:
    """Random arguments of such a network."""
    generator = torch.Generator().manual_seed(1)
    if kind == "wav2vec2":
        return {"input_values": torch.randn(rows, 400, generator=generator)}
    if kind in ("vit", "resnet"):
        return {"pixel_values": torch.randn(rows, 3, 8, 8, generator=generator)}
    ids = torch.randint(1, 40, (rows, 6), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def tokenizer() -> Any:
    """A tokenizer of words, trained on the spot."""
    transformers = pytest.importorskip("transformers")
    import tokenizers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words.train_from_iterator(
        [WORDS], tokenizers.trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def image_processor(size: int = 8) -> Any:
    transformers = pytest.importorskip("transformers")
    square = {"height": size, "width": size}
    return transformers.ViTImageProcessor(
        size=square, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.2, 0.3]
    )


def save_folder(folder: Path, kind: str) -> Any:
    """Save a classifier and its processor, as one is fine-tuned; return the classifier."""
    model = classifier(kind)
    model.save_pretrained(folder)
    if kind in ("vit", "resnet"):
        image_processor().save_pretrained(folder)
    elif kind == "wav2vec2":
        import transformers

        transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    else:
        tokenizer().save_pretrained(folder)
    return model
