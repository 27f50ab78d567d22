"""What a run keeps of itself: enough to open its network and data again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdepth import inputs
from pdepth.report.decisions import decide
from pdepth.report.opening import DataSpecs, OpenedData, open_data
from pdepth.report.run import RunOptions

if TYPE_CHECKING:
    from torch import nn

RECORD = "record"  # in the meta of results


@dataclass(frozen=True)
class RunRecord:
    """What `pdepth run` was called with, as far as votes depend on it.

    Attributes:
        model: MODEL. weights: the file's absolute path, or None. ema: of `inputs.load_model`.
        support, queries: DATA with absolute paths; queries None for the support's own rows.
        label_column, image_size, as_imagefolder, classes: of `opening.DataSpecs`.
        mean, std: of the images' pixels, as they were taken.
        decisions: absolute paths of the files that were applied, in their order.
        options: those of `RunOptions` that votes and embeddings depend on, by name.
    """

    model: str
    support: str
    weights: str | None = None
    ema: bool = False
    queries: str | None = None
    label_column: str | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    as_imagefolder: bool = False
    classes: str | None = None
    decisions: tuple[str, ...] = ()
    options: Mapping[str, Any] | None = None

    KEPT = (
        "layers", "pool", "input", "max_width", "output", "k", "metric", "weights", "temperature",
        "reference", "batch_size", "skip_unreadable", "label_column", "keep_embeddings",
    )  # fmt: skip

    @classmethod
    def of(
        cls,
        model: str,
        weights: Path | None,
        ema: bool,
        specs: DataSpecs,
        opened: OpenedData,
        options: RunOptions,
        decisions: Sequence[Path] = (),
    ) -> RunRecord:
        """Of a run that is about to start."""
        raw = opened.images.raw  # a processor's own
        kept = {name: getattr(options, name) for name in cls.KEPT}
        if options.keep_embeddings is not None:
            kept["keep_embeddings"] = str(Path(options.keep_embeddings).absolute())
        assert specs.support is not None
        return cls(
            model=_absolute_model(model),
            weights=None if weights is None else str(weights.absolute()),
            ema=ema,
            support=inputs.absolute_spec(specs.support),
            queries=None if specs.queries is None else inputs.absolute_spec(specs.queries),
            label_column=specs.label_column,
            image_size=specs.image_size,
            mean=None if raw else opened.images.mean,
            std=None if raw else opened.images.std,
            as_imagefolder=specs.as_imagefolder,
            classes=None if specs.classes is None else str(specs.classes.absolute()),
            decisions=tuple([str(path.absolute()) for path in decisions]),
            options=kept,
        )

    def to_meta(self) -> dict[str, str]:
        """As a result keeps it."""
        return {RECORD: json.dumps(asdict(self))}

    @classmethod
    def of_meta(cls, meta: Mapping[str, str]) -> RunRecord | None:
        """What `to_meta` made; None of a result without."""
        if RECORD not in meta:
            return None
        kept = json.loads(meta[RECORD])
        known = {field.name: kept[field.name] for field in fields(cls) if field.name in kept}
        several = ("mean", "std", "decisions")
        known |= {name: tuple(known[name]) for name in several if known.get(name) is not None}
        return cls(**known)

    def run_options(self, **changed: Any) -> RunOptions:
        """The run's options, some of them changed."""
        kept = dict(self.options or {})
        kept["k"] = tuple(kept["k"])
        return replace(RunOptions(**kept), **changed)

    def open(
        self,
        model: str | nn.Module | None = None,
        support: str | None = None,
        queries: str | None = None,
    ) -> tuple[nn.Module, OpenedData]:
        """Open network and data again: where they were, or where the caller says they are now.

        Raises ValueError for Python code that only the record names, and what `inputs` raises.
        """
        for option, spec, given in (
            ("model", self.model, model), ("support", self.support, support),
            ("queries", self.queries, queries),
        ):  # fmt: skip
            runs_code = inputs.model_runs_code if option == "model" else inputs.runs_code
            if given is None and spec is not None and runs_code(spec):
                raise ValueError(
                    f"{option}: expected it to be named again, as it is Python code that a file of "
                    f"results names and that does not run by itself; pass {option}={spec!r}, or "
                    f"--{option} {spec}."
                )
        named = model if isinstance(model, str) else self.model
        network: nn.Module
        if model is None or isinstance(model, str):
            network = inputs.load_model(named, self.weights, ema=self.ema)
        else:
            network = model
        specs = DataSpecs(
            support=support or self.support,
            queries=queries or self.queries,
            label_column=self.label_column,
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            as_imagefolder=self.as_imagefolder,
            classes=None if self.classes is None else Path(self.classes),
        )
        opened = open_data(specs, named, network)
        return network, decide(opened, self.decisions, check_inputs=False)


def _absolute_model(spec: str) -> str:
    """MODEL with an absolute path, where it names a file or a folder."""
    if inputs.is_pretrained(spec):
        kind, _, folder = spec.partition(":")
        return f"{kind}:{Path(folder).expanduser().absolute()}"
    if inputs.model_runs_code(spec):
        file, _, function = spec.rpartition(":")
        return f"{Path(file).expanduser().absolute()}:{function}"
    return spec
