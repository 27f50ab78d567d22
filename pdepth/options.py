"""The named arguments of the public functions, for their overloads: of one k, and of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import os

    import torch

    from pdepth.backends import Progress
    from pdepth.embeddings.placement import Layers
    from pdepth.progress import Observer


class Voting(TypedDict, total=False):
    """What every function that votes takes."""

    metric: str
    weights: str
    temperature: float | None
    backend: str
    num_threads: int | None
    memory: int | str | None
    return_counts: bool


class VoteOptions(Voting, total=False):
    """Of `probe_votes`."""

    query_rows: Any
    exclude_self: bool


class DepthOptions(VoteOptions, total=False):
    """Of `depth_from_embeddings`."""

    early_exit: bool
    reference: Any
    probes: Sequence[str] | None
    query_labels: Any
    progress: Progress | None


class ModelOptions(Voting, total=False):
    """Of `prediction_depth`."""

    layers: Layers
    early_exit: bool
    reference: Any
    device: str | torch.device | None
    batch_size: int
    keep_embeddings: str | os.PathLike[str] | None
    run_dir: str | os.PathLike[str] | None
    progress: bool | Observer
