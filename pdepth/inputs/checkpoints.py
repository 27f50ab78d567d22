"""Checkpoints: files of weights in every form, and where in them a network's state dict is."""

from __future__ import annotations

import argparse
import json
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pdepth.optional import require

NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "module")
AVERAGED = ("ema", "model_ema", "state_dict_ema")  # where checkpoints keep averaged weights
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ARCHIVE = b"PK\3\4"  # how one begins; other files of torch.save's have no checksums
CHUNK_BYTES = 1 << 20
DIRECTORY = 0x10  # the bit of a record's attributes
_SCALAR = np.float64(0).__reduce__()[0]
PLAIN_VALUES: list[
    Any
] = [  # what training scripts save beside weights: their arguments, and numbers
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def read_state(
    path: str | os.PathLike[str], *, ema: bool = False, what: str = "weights"
) -> dict[str, Tensor]:
    """Read a state dict from a file or a folder, without running code from it.

    Files are .safetensors, an index of shards (.json), or what torch.load reads with
    weights_only=True; a folder holds one of `FOLDER_FILES`. What `find_state` says of checkpoints
    holds here.

    Args:
        path: of the file or folder.
        ema: take the averaged weights of a checkpoint.
        what: named in errors.

    Raises:
        FileNotFoundError: no such file, or a shard is missing. ValueError: no state dict in it, or
            bytes that are not those that torch.save wrote. ImportError: safetensors is missing.
    """
    return find_state(read_checkpoint(path, what), str(path), ema=ema, what=what)


def find_state(
    checkpoint: Any, source: str = "", *, ema: bool = False, what: str = "weights"
) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint: the whole of it, or what it keeps under a known name.

    Known names are `NESTED`, and `AVERAGED` for averaged weights. Those are taken with `ema`, or
    where there are no others; where there are both, a warning says which were taken. Names of
    tensors are as they are in it: `load_state` takes prefixes off.

    Args:
        checkpoint: a mapping, as `read_checkpoint` returns it.
        source: where it is from; named in errors.
        ema: take the averaged weights.
        what: named in errors.

    Raises:
        ValueError: no state dict in it, or no averaged one.
    """
    place, of = (f" in {source}", f", of {source}") if source else ("", "")
    states = list(_states(checkpoint))
    averaged = [entry for entry in states if set(entry[0]) & set(AVERAGED)]
    trained = [entry for entry in states if entry not in averaged]
    if not states:
        raise ValueError(
            f"{what}: expected a state dict (tensors by name){place}, got {_described(checkpoint)}."
        )
    if ema and not averaged:
        raise ValueError(
            f"{what}: expected averaged weights under {', '.join(AVERAGED)}{place}, got none; "
            "leave out ema=True (--ema)."
        )
    keys, state = (averaged if ema or not trained else trained)[0]
    if trained and averaged:
        other, advice = (
            (trained[0][0], "leave out ema=True (--ema) for that")
            if ema
            else (averaged[0][0], "pass ema=True (--ema) for that")
        )
        warnings.warn(
            f"{what}: took {_dotted(keys)!r}, not {_dotted(other)!r}{of}; {advice}.",
            stacklevel=2,
        )
    return dict(state) if not isinstance(state, dict) else state


def read_checkpoint(path: str | os.PathLike[str], what: str = "weights") -> Any:
    """Read what a file or folder of weights holds, as `read_state` does, and return all of it."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = _file_of_folder(path, what)
    if not path.is_file():
        raise FileNotFoundError(f"{what}: expected an existing file, got {path}.")
    return _read_shards(path, what) if path.suffix == ".json" else _read_file(path, what)


def check_folder(folder: Path, what: str) -> None:
    """Raise ValueError where a file of a folder's weights is damaged, as `check_file` does."""
    file = _file_of_folder(folder, what)
    names = set(_read_index(file, what).values()) if file.suffix == ".json" else {file.name}
    for name in sorted(names):
        if (folder / name).is_file():
            check_file(folder / name, what)


def check_file(path: Path, what: str) -> None:
    """Raise ValueError where a file of torch.save's is damaged: torch.load compares no checksums.

    Only archives have them, all that torch.save has written by default since torch 1.6.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(ARCHIVE)) != ARCHIVE:
                return
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                _check_record(archive, record)
    except Exception as error:  # of zipfile and of what it calls; of many kinds
        if isinstance(error, OSError) and error.filename is not None:  # it cannot be opened
            raise
        raise ValueError(
            f"{what}: expected {path} as torch.save wrote it, got a damaged archive "
            f"({str(error).rstrip('.')}); copy or download it anew."
        ) from error


def _check_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Raise BadZipFile where a record is no file to torch, or has another checksum."""
    if record.external_attr & DIRECTORY:  # torch would read it as one, that is, not at all
        raise zipfile.BadZipFile(f"Bad attributes of file {record.filename!r}")
    if record.CRC == 0:  # torch computed none: set_crc32_options(False), skip_data()
        return
    with archive.open(record) as content:  # which compares the checksum at its end
        while content.read(CHUNK_BYTES):
            pass


def _file_of_folder(folder: Path, what: str) -> Path:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    advice = "pass the file itself"
    if (folder / ".metadata").is_file():
        advice = (
            "write a file with python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{folder} FILE"
        )
    raise FileNotFoundError(
        f"{what}: expected one of {', '.join(FOLDER_FILES)} in {folder}, got none; {advice}."
    )


def _read_shards(index: Path, what: str) -> dict[str, Tensor]:
    """The tensors of all files that an index names; it says which tensor is in which."""
    files = _read_index(index, what)
    names = sorted(set(files.values()))
    state: dict[str, Tensor] = {}
    for name in names:
        if not (index.parent / name).is_file():
            raise FileNotFoundError(
                f"{what}: expected the shard {name} that {index} names, got none; copy all "
                f"{len(names)} into its folder."
            )
        shard = _read_file(index.parent / name, what)
        state.update({tensor: shard[tensor] for tensor in shard if files.get(tensor) == name})
    absent = [tensor for tensor in files if tensor not in state]
    if absent:
        raise ValueError(
            f"{what}: expected {absent[0]} in {files[absent[0]]} as {index} says, got a shard "
            "without it; copy index and shards of one model."
        )
    return state


def _read_index(index: Path, what: str) -> dict[str, str]:
    """The names of files by tensor, of an index of shards."""
    try:
        files: dict[str, str] = json.loads(index.read_text())["weight_map"]
        names = set(files.values())
        if not names or any(Path(name).name != name for name in names):
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(
            f"{what}: expected an index of shards (JSON with `weight_map`, files of its folder by "
            f"tensor), got {index}; pass the file of weights itself."
        ) from None
    return files


def _read_file(path: Path, what: str) -> Any:
    check_file(path, what)
    try:
        if path.suffix == ".safetensors":
            return require("safetensors.torch", "Reading .safetensors files", "timm").load_file(
                path
            )
        with torch.serialization.safe_globals(PLAIN_VALUES), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of archives, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except (ImportError, OSError):
        raise
    except Exception as error:  # of pickle, zipfile, safetensors and torch; of many kinds
        raise ValueError(f"{what}: {_unreadable(path)}") from error


def _unreadable(path: Path) -> str:
    """Say what a file is that is no state dict, and how to make one."""
    names = _names_in(path)
    if "constants.pkl" in names:
        return (
            f"expected a state dict, got the TorchScript archive {path}; save one with "
            "torch.save(torch.jit.load(path).state_dict(), new_path)."
        )
    if "archive_format" in names:
        return (
            f"expected a state dict, got the torch.export archive {path}; save one with "
            "torch.save(torch.export.load(path).state_dict, new_path)."
        )
    try:
        classes = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        holds = f", which holds objects of {classes[0]}" if classes else ""
    except Exception:  # no file of torch.save's
        holds = ""
    return (
        f"expected a state dict that torch.load(weights_only=True) reads, got {path}{holds}; save "
        "one with torch.save(model.state_dict(), path)."
    )


def _names_in(path: Path) -> set[str]:
    """The files in an archive, below its folder; none of what is no archive, or a damaged one."""
    try:
        return {name.partition("/")[2] for name in zipfile.ZipFile(path).namelist()}
    except Exception:
        return set()


def _states(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every state dict under known names, with the names that lead to it."""
    if not isinstance(value, Mapping):
        return
    if value and all(
        isinstance(name, str) and (isinstance(v, Tensor) or name.endswith("_extra_state"))
        for name, v in value.items()
    ):
        yield keys, value
        return
    for key in (*NESTED, *AVERAGED):
        if key in value:
            yield from _states(value[key], (*keys, key))


def _dotted(keys: tuple[str, ...]) -> str:
    return ".".join(keys)


def _described(checkpoint: Any) -> str:
    if isinstance(checkpoint, nn.Module):
        return f"a {type(checkpoint).__name__}; pass its state_dict()"
    if not isinstance(checkpoint, Mapping):
        return f"a {type(checkpoint).__name__}; save one with torch.save(model.state_dict(), path)"
    if not checkpoint:
        return "none; save one with torch.save(model.state_dict(), path)"
    keys = ", ".join(map(str, list(checkpoint)[:5])) + (", ..." if len(checkpoint) > 5 else "")
    return f"none under {', '.join((*NESTED, *AVERAGED))} but {keys}; save its entry alone"
