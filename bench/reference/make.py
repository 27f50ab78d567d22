"""Makes the reference set, digits.npz and network.npz; README.md says what is in them.

    python bench/reference/make.py

Deterministic on one machine; on another, training may end in other weights. The votes do not
depend on that: they belong to the embeddings as they are stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.demo import LAYERS, train_demo
from pdepth.embeddings.calling import at_rest
from pdepth.embeddings.capture import capture
from pdepth.embeddings.dataset import Batches
from pdepth.embeddings.inspection import inspect
from pdepth.embeddings.placement import ProbeOptions

K = 30
STEPS = {"input": 16, "conv1": 63, "conv2": 63, "conv3": 63}  # stored as 0 .. this many, whole
TYPES: dict[str, Any] = {"dense": np.float16, "softmax": np.float32}


def stored(name: str, support: Any, queries: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both arrays of a probe as rows, narrow enough to be kept in a repository."""
    both = [rows.numpy().reshape(len(rows), -1) for rows in (support, queries)]
    if name in STEPS:
        scale = STEPS[name] / max(rows.max() for rows in both)
        first, second = (np.rint(rows * scale).astype(np.uint8) for rows in both)
    else:
        first, second = (rows.astype(TYPES[name]) for rows in both)
    return first, second


def expected(
    arrays: dict[str, Any], probes: tuple[str, ...], predictions: Any, prefix: str
) -> dict[str, Any]:
    """Votes, ties and depths by the definition, of the queries or (prefix "own_") the support."""
    tables = [
        definition.probe_votes(
            arrays[f"support_{name}"],
            arrays["labels"],
            None if prefix else arrays[f"queries_{name}"],
            k=K,
        )
        for name in probes
    ]
    votes = np.stack([table.votes for table in tables])
    depth, undefined = definition.depth_from_votes(votes, predictions)
    answers = {
        "predictions": predictions,
        "votes": votes,
        "tied": np.stack([table.tied for table in tables]),
        "depth": depth,
        "undefined": undefined,
    }
    return {prefix + name: array for name, array in answers.items()}


def main() -> None:
    """Train the demo's network, and write both files."""
    here = Path(__file__).parent
    model, *sets = train_demo()
    sources = [Batches(data, "support", 256) for data in sets]
    with at_rest(model):
        layout = inspect(model, ProbeOptions(layers=LAYERS), sources[0].first.inputs)
        own, held_out = (capture(layout, source) for source in sources)
    probes = tuple(probe.name for probe in layout.probes)
    arrays: dict[str, Any] = {"probes": np.array(probes), "k": np.array(K)}
    arrays |= {"labels": sets[0].tensors[1].numpy(), "query_labels": sets[1].tensors[1].numpy()}
    for name, support, queries in zip(probes, own.embeddings, held_out.embeddings, strict=True):
        arrays[f"support_{name}"], arrays[f"queries_{name}"] = stored(name, support, queries)
    answers = [
        expected(arrays, probes, captured.predictions.numpy(), prefix)
        for prefix, captured in (("", held_out), ("own_", own))
    ]
    np.savez_compressed(here / "digits.npz", **arrays, **answers[0], **answers[1])
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez_compressed(here / "network.npz", **state)


if __name__ == "__main__":
    main()
