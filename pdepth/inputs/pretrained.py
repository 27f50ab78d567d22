"""hf:DIR: a classifier and its processor from a folder that transformers saved.

Nothing is downloaded, and no code of the folder is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from pdepth.inputs.checkpoints import FOLDER_FILES, check_folder
from pdepth.optional import require


class Task(NamedTuple):
    """A kind of classifier: its class in transformers, its processor's, and files of that one."""

    model: str
    processor: str
    files: tuple[str, ...]


TASKS = {
    "image": Task(
        "AutoModelForImageClassification", "AutoImageProcessor", ("preprocessor_config.json",)
    ),
    "text": Task(
        "AutoModelForSequenceClassification",
        "AutoTokenizer",
        ("tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json"),
    ),
    "audio": Task(
        "AutoModelForAudioClassification", "AutoFeatureExtractor", ("preprocessor_config.json",)
    ),
}
MAPPINGS = {
    "image": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "audio": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "text": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
}
OFFLINE = {"local_files_only": True, "trust_remote_code": False}


def load_pretrained(
    folder: str, *, with_weights: bool = True, untrained: bool = False
) -> nn.Module:
    """Build the classifier of a saved folder, in evaluation mode and with the type it was saved in.

    Args:
        folder: with `config.json`, and weights as `save_pretrained` writes them.
        with_weights: load them, too.
        untrained: allow a folder without weights.

    Raises:
        FileNotFoundError: no such folder, configuration or weights. ValueError: no classifier of
            images, text or audio, or weights without its head. ImportError: no transformers.
    """
    transformers = require("transformers", "MODEL hf:", "transformers")
    path = _folder(folder)
    config, task = _config(path)
    auto = getattr(transformers, TASKS[task].model)
    has_weights = any((path / name).is_file() for name in FOLDER_FILES)
    if with_weights and not has_weights and not untrained:
        raise FileNotFoundError(
            f"MODEL hf: expected weights in {path} ({', '.join(FOLDER_FILES)}), got none; save "
            "them with model.save_pretrained(DIR), or pass --weights FILE."
        )
    if not (with_weights and has_weights):
        model: nn.Module = auto.from_config(config, trust_remote_code=False)
        return model.eval()
    check_folder(path, "MODEL hf")
    # Of weights that lack a head, transformers makes a random one and only logs it.
    try:
        with _no_progress(transformers):
            model, report = auto.from_pretrained(
                path,
                config=config,
                output_loading_info=True,
                **_saved_type(transformers),
                **OFFLINE,
            )
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"MODEL hf: expected weights in {path} that fit its config.json, got an error "
            f"({reason[:200].rstrip('.')}); save both anew with model.save_pretrained(DIR)."
        ) from error
    for kind in ("missing_keys", "mismatched_keys"):
        names = sorted(map(str, report.get(kind, ())))
        if names:
            raise ValueError(
                f"MODEL hf: expected all tensors of {type(model).__name__} in {path}, got "
                f"{len(names)} {kind.removesuffix('_keys')} (first: {names[0]}); save the "
                "fine-tuned classifier with model.save_pretrained(DIR)."
            )
    return model.eval()


def load_processor(spec: str) -> Any:
    """Load what makes a network's input of images, text or sound, from its saved folder.

    Args:
        spec: hf:DIR, as of the model.

    Returns:
        An image processor, a tokenizer or a feature extractor of transformers, by the folder's
        kind of classifier.

    Raises:
        FileNotFoundError: no such folder, or none in it. ValueError: another form, or it cannot be
            read. ImportError: transformers or a library that the processor needs is missing.
    """
    kind, _, folder = spec.partition(":")
    if kind != "hf" or not folder:
        raise ValueError(f"processor: expected hf:DIR, got {spec!r}.")
    transformers = require("transformers", "MODEL hf:", "transformers")
    path = _folder(folder)
    task = TASKS[_config(path)[1]]
    if not any((path / file).is_file() for file in task.files):
        raise FileNotFoundError(
            f"MODEL hf: expected {task.files[0]} in {path}, got none; save it with "
            f"{task.processor}.from_pretrained(...).save_pretrained(DIR)."
        )
    try:
        return getattr(transformers, task.processor).from_pretrained(path, **OFFLINE)
    except (ValueError, OSError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"MODEL hf: expected a processor in {path} that {task.processor} reads, got an error "
            f"({reason[:200].rstrip('.')}); save it anew with processor.save_pretrained(DIR)."
        ) from error


def reads_images(processor: Any) -> bool:
    """Whether a processor is one of images, and no tokenizer or feature extractor of sound."""
    return any(kind.__name__.endswith("ImageProcessingMixin") for kind in type(processor).__mro__)


def network_classes(model: nn.Module) -> Sequence[str] | None:
    """Return the names of a network's classes, of its `config.id2label`, or None.

    The names that transformers makes up (LABEL_0, LABEL_1, ...) are none.
    """
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(names, dict) or set(names) != set(range(len(names))):
        return None
    ordered = [str(names[number]) for number in range(len(names))]
    if ordered == [f"LABEL_{number}" for number in range(len(names))]:
        return None
    return ordered


def _folder(folder: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            f"MODEL hf: expected an existing folder, got {path}; save a model into one with "
            "model.save_pretrained(DIR), as nothing is downloaded."
        )
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise FileNotFoundError(
                f"MODEL hf: expected a whole model in {path}, got an adapter; save one with "
                "model.merge_and_unload().save_pretrained(DIR)."
            )
        raise FileNotFoundError(
            f"MODEL hf: expected config.json in {path}, got none; save one with "
            "model.save_pretrained(DIR)."
        )
    return path


def _config(path: Path) -> tuple[Any, str]:
    """The configuration of a folder, and the kind of its classifier (of `TASKS`)."""
    import transformers
    from transformers.models.auto import modeling_auto

    try:
        config = transformers.AutoConfig.from_pretrained(path, **OFFLINE)
    except (ValueError, OSError, KeyError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"MODEL hf: expected a configuration in {path} that transformers "
            f"{transformers.__version__} knows, got an error ({reason[:200].rstrip('.')}); code "
            "from the folder is not run: build the network in path/to/file.py:function."
        ) from error
    architectures = list(config.architectures or ())
    for task, mapping in MAPPINGS.items():
        names = getattr(modeling_auto, mapping).get(config.model_type, ())
        if set(architectures) & set((names,) if isinstance(names, str) else names):
            return config, task
    raise ValueError(
        f"MODEL hf: expected a classifier of images, text or audio (...ForImageClassification, "
        f"...ForSequenceClassification, ...ForAudioClassification) in {path}, got "
        f"{', '.join(architectures) or 'no architecture'}; fine-tune a classifier and save it, or "
        "build the network in path/to/file.py:function."
    )


@contextmanager
def _no_progress(transformers: Any) -> Iterator[None]:
    """Without the bars of transformers, and as they were afterwards."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _saved_type(transformers: Any) -> dict[str, str]:
    """The option for the type that weights were saved in, which 5 takes by default."""
    older = int(transformers.__version__.partition(".")[0]) < 5
    return {"torch_dtype" if older else "dtype": "auto"}
