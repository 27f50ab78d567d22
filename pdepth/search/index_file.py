"""An index in one file: its rows, labels and packed form."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import check_integers
from pdepth.arrays.problem import ProbeRows
from pdepth.arrays.rows import Rows
from pdepth.io.array_bundle import checksum, read_bundle, write_bundle
from pdepth.io.atomic import check_replaceable

FORMAT = 1


def save(
    path: str | os.PathLike[str],
    probes: Sequence[ProbeRows],
    labels: NDArray[np.int64] | None,
    about: Mapping[str, Any],
) -> None:
    """Write an index; about: its options, which JSON takes."""
    check_replaceable(path)  # before what takes long
    arrays: dict[str, NDArray[Any]] = {}
    layers = []
    for number, probe in enumerate(probes):
        rows = probe.support.on_host()
        arrays[f"{number} rows"] = np.ascontiguousarray(rows.array)
        if rows.norms is not None:
            arrays[f"{number} norms"] = rows.norms
        layers.append(
            {"name": probe.name, "type": rows.type, "packing": _packing(number, probe, arrays)}
        )
    if labels is not None:
        arrays["labels"] = labels
    kept = {
        "format": FORMAT,
        "layers": layers,
        "fingerprints": [fingerprint(probe.support) for probe in probes],
    }
    write_bundle(path, {"index": kept, **about}, arrays)


def _packing(
    number: int, probe: ProbeRows, arrays: dict[str, NDArray[Any]]
) -> dict[str, Any] | None:
    """What a backend has packed: its numbers, and beside them its arrays."""
    packing = probe.packed.packing() if hasattr(probe.packed, "packing") else None
    if packing is None:
        return None

    def split(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                arrays[f"{prefix} {name}"] = value
        return {n: v for n, v in values.items() if not isinstance(v, np.ndarray)}

    stages = packing.pop("stages")
    numbers = split(packing, f"{number}")
    numbers["stages"] = [split(stage, f"{number} {stage['stage']}") for stage in stages]
    return numbers


def load(
    path: str | os.PathLike[str],
) -> tuple[list[tuple[str, Rows, dict[str, Any] | None]], NDArray[np.int64] | None, dict[str, Any]]:
    """What `save` wrote: of each layer its name, rows and packing; labels; and `about`, with each
    layer's "fingerprints".

    Raises ValueError that names the file where it is damaged, or of another version.
    """
    about, arrays = read_bundle(path)
    index = about.pop("index", None)
    if index is None or index["format"] != FORMAT:
        got = "another file" if index is None else f"format {index['format']}"
        raise ValueError(
            f"{path}: expected an index of format {FORMAT}, got {got}; make the index anew."
        )
    layers = []
    for number, layer in enumerate(index["layers"]):
        norms = arrays.pop(f"{number} norms", None)
        rows = Rows(arrays.pop(f"{number} rows"), layer["type"], norms)
        packing = layer["packing"]
        if packing is not None:
            for stage in packing["stages"]:
                prefix = f"{number} {stage['stage']} "
                stage.update(_of_prefix(arrays, prefix))
            packing.update(_of_prefix(arrays, f"{number} "))
        layers.append((layer["name"], rows, packing))
    labels = arrays.get("labels")
    if labels is not None:  # few bytes, which are read where no map is watched
        labels = check_integers(labels, f"{path} (labels)")
    return layers, labels, about | {"fingerprints": index["fingerprints"]}


def _of_prefix(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix): arrays.pop(name)
        for name in list(arrays)
        if name.startswith(prefix)
    }


def fingerprint(rows: Rows) -> str:
    """Type, shape and checksum of a layer's rows, by which a file is known to be of them."""
    array = rows.on_host().array
    return f"{rows.type} {array.shape} {checksum(array):08x}"
