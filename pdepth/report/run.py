"""A run: measure the depth of a dataset under a network, into a folder that can be resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdepth import inputs
from pdepth.cluster.options import Cluster
from pdepth.io.atomic import remove_folder
from pdepth.io.journal import OtherRun
from pdepth.report import folder
from pdepth.report.pictures import result_images
from pdepth.result import DepthResult

if TYPE_CHECKING:
    from torch import nn

    from pdepth.embeddings.calling import Output
    from pdepth.embeddings.placement import Layers, Pools, ProbeOptions
    from pdepth.planning import Plan
    from pdepth.progress import Observer


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, as `pdepth.prediction_depth` takes them; k: one or several."""

    layers: Layers = "auto"
    k: tuple[int, ...] = (30,)
    metric: str = "sqeuclidean"
    weights: str = "uniform"
    temperature: float | None = None
    reference: str = "prediction"
    early_exit: bool = True
    backend: str = "auto"
    device: str | None = None
    memory: int | str | None = None
    batch_size: int = 256
    num_threads: int | None = None
    keep_embeddings: str | os.PathLike[str] | None = None
    label_column: str | None = None
    processor: Any = None
    pool: Pools = "auto"
    input: bool | None = None
    max_width: int | None = None
    output: Output = None
    skip_unreadable: bool = False
    spill: str | os.PathLike[str] | None = None
    cluster: Cluster | None = None
    return_neighbors: int | None = None
    return_map: str | None = None

    def of_probes(self) -> ProbeOptions:
        """Those that say where a network is probed."""
        from pdepth.embeddings.placement import ProbeOptions

        return ProbeOptions(self.layers, self.pool, self.input, self.max_width, self.output)

    def of_plan(self) -> dict[str, Any]:
        """Those that `pdepth.plan` takes, too."""
        return {
            "layers": self.layers,
            "pool": self.pool,
            "input": self.input,
            "max_width": self.max_width,
            "output": self.output,
            "k": self.k if len(self.k) > 1 else self.k[0],
            "metric": self.metric,
            "backend": self.backend,
            "device": self.device,
            "memory": self.memory,
            "batch_size": self.batch_size,
            "num_threads": self.num_threads,
            "keep_embeddings": self.keep_embeddings,
            "label_column": self.label_column,
            "processor": self.processor,
            "skip_unreadable": self.skip_unreadable,
            "spill": self.spill,
            "return_neighbors": self.return_neighbors,
            "return_map": self.return_map,
        }

    def of_depth(self) -> dict[str, Any]:
        """All of them."""
        return {
            **self.of_plan(),
            "weights": self.weights,
            "temperature": self.temperature,
            "reference": self.reference,
            "early_exit": self.early_exit,
            "cluster": self.cluster,
        }


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        results: by k.
        written: the files, a picture last where matplotlib is installed.
    """

    results: dict[int, DepthResult]
    written: list[Path]


def run_to_folder(
    model: nn.Module,
    support: inputs.Data,
    queries: inputs.Data | None,
    out: str | os.PathLike[str],
    options: RunOptions | None = None,
    *,
    meta: Mapping[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: bool | Observer = True,
) -> Run:
    """Measure prediction depths, and write tables and a picture of them into a folder.

    What an interrupted run has found lies in the folder; the same call resumes there.

    Args:
        model, support, queries: as in `pdepth.prediction_depth`.
        out: the folder, made where it is missing. See `pdepth.report.folder` for its files.
        options: of the run.
        meta: text by name, kept in the tables beside that of the result.
        class_names: of the picture, in place of the data's own.
        overwrite: replace results in the folder, and discard another run that was interrupted.
        progress: as in `pdepth.prediction_depth`.

    Raises:
        FileExistsError: the folder holds results. OtherRun (a ValueError): it holds another run
            that was interrupted. KeyboardInterrupt: with a sentence, where the same call resumes.

    Raises what `pdepth.prediction_depth` raises, too; nothing new is left in the folder then.
    """
    from pdepth.depth import prediction_depth

    out, options = Path(out), options or RunOptions()
    folder.check_out(out, folder.run_names(), overwrite=overwrite, others=(folder.ENSEMBLE,))
    with folder.resumable(out) as run_dir:

        def measure() -> Any:
            return prediction_depth(
                model, support, queries, run_dir=run_dir, progress=progress, **options.of_depth()
            )

        try:
            measured = measure()
        except OtherRun as error:
            if not overwrite:
                raise OtherRun(f"{error} Pass --overwrite to discard it.") from None
            remove_folder(run_dir)
            measured = measure()
        by_k = measured if isinstance(measured, dict) else {options.k[0]: measured}
        results = {
            k: replace(result, meta={**result.meta, **(meta or {})}) for k, result in by_k.items()
        }
        images = names = None
        if len(results) == 1:  # the picture of several k shows no images
            shown = support if queries is None else queries
            images = result_images(results[options.k[0]], inputs.undecided(shown))
            names = class_names or inputs.class_names(support) or inputs.class_names(shown)
            names = names or inputs.network_classes(inputs.network_of(model))
        return Run(results, folder.write_results(results, out, images, names))


def plan_run(
    model: nn.Module,
    support: inputs.Data,
    queries: inputs.Data | None,
    options: RunOptions,
    out: str | os.PathLike[str] | None = None,
    *,
    bandwidth: str | None = None,
    rows: int | None = None,
) -> Plan:
    """Return what a run with these options, into a folder, will cost; see `pdepth.plan`."""
    from pdepth.planning import plan

    return plan(
        model, support, queries, run_dir=out, **options.of_plan(), cluster=options.cluster,
        bandwidth=bandwidth, rows=rows,
    )  # fmt: skip
