"""An ensemble in a file that grows network by network: a run that was interrupted resumes there.

meta = EnsembleSettings("digits").meta()
ensemble = resume_ensemble("ensemble.parquet", meta)
networks = partial(train_all, train, data, held_out=0.1, seed=0)
ensemble = add_networks(ensemble, networks, data, range(250), "ensemble.parquet", meta)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pdepth import __version__, inputs
from pdepth.analysis import networks as network_members
from pdepth.analysis.ensemble import Ensemble, Member
from pdepth.io.atomic import remove_leftovers
from pdepth.io.locks import locked

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset
    from typing_extensions import Unpack

    from pdepth.depth import ModelOptions
    from pdepth.embeddings.calling import Output
    from pdepth.embeddings.placement import Pools

__all__ = [
    "EnsembleSettings",
    "add_networks",
    "merge_ensembles",
    "read_networks",
    "resume_ensemble",
]

NetworkSource: TypeAlias = "Callable[[Sequence[int]], Iterable[tuple[int, nn.Module, Any]]]"
"""From the numbers of networks to (number, network, rows that it was held out from) of each."""
LONGEST_WAIT = 600.0  # seconds that another process may take to add a network
VERSION = "pdepth"  # an entry of meta that may differ between runs
ROWS = "rows"  # likewise: how many the data has, where not all of them are examples


@dataclass(frozen=True)
class EnsembleSettings:
    """What all networks of an ensemble share; only networks of the same settings are added to it.

    Attributes:
        data: the name of the dataset.
        layers, k: as in `pdepth.prediction_depth`.
        train: the name of the training function. held_out, seed: of the random splits.
        read: the name of a function that yields networks with splits of their own, instead.
        model: the name of the network whose checkpoints that function yields. ema: of those.
        label_column: of the dataset, where it is not "label".
        pool, input, max_width, output: as in `pdepth.prediction_depth`.
        image_size: of images; None for the data's or the network's own.
        as_imagefolder: folders of images are read as `pdepth.inputs.ImageOptions` says.
        skip_unreadable: rows that cannot be read are left out.
    """

    data: str
    layers: str = "auto"
    k: int = 30
    train: str | None = None
    held_out: float = 0.1
    seed: int = 0
    read: str | None = None
    model: str | None = None
    ema: bool = False
    label_column: str | None = None
    pool: Pools = "auto"
    input: bool | None = None
    max_width: int | None = None
    output: Output = None
    image_size: int | None = None
    as_imagefolder: bool = False
    skip_unreadable: bool = False

    def meta(self) -> dict[str, str]:
        """The settings in words, without those that are None or do not apply.

        And the version of the rules that place probes, since depths of two do not add up.
        """
        from pdepth.embeddings.placement import VERSION as PLACEMENT_VERSION

        unused = {"held_out", "seed"} if self.read else set()
        flags = ("ema", "as_imagefolder", "skip_unreadable")
        unused |= {name for name in flags if not getattr(self, name)}  # older files lack them
        unused |= {"pool"} if self.pool == "auto" else set()
        settings = {
            name: str(value)
            for name, value in asdict(self).items()
            if value is not None and name not in unused
        }
        return settings | {"placement version": str(PLACEMENT_VERSION)}


def resume_ensemble(
    path: str | os.PathLike[str], meta: Mapping[str, str], *, overwrite: bool = False
) -> Ensemble | None:
    """Load the ensemble that an earlier run with the same settings wrote, to add networks to it.

    Args:
        path: of the Parquet file.
        meta: the settings that all networks share.
        overwrite: ignore the file.

    Returns:
        The ensemble; None where there is no file or it is to be overwritten.

    Raises:
        FileExistsError: the file was written with other settings.
    """
    if overwrite or not Path(path).exists():
        return None
    ensemble = Ensemble.load(path)
    stored, expected = ({**own, VERSION: "", ROWS: ""} for own in (ensemble.meta, meta))
    if stored != expected:
        names = stored | expected
        name = min(name for name in names if stored.get(name) != expected.get(name))
        raise FileExistsError(
            f"{path}: expected networks with {name} {expected.get(name, 'unset')}, got "
            f"{stored.get(name, 'unset')}; pass --overwrite, or another --out."
        )
    return ensemble


def add_networks(
    ensemble: Ensemble | None,
    networks: NetworkSource,
    data: Dataset[Any],
    numbers: Sequence[int],
    path: str | os.PathLike[str],
    meta: Mapping[str, str],
    *,
    k: int = 30,
    on_member: Callable[[Member], None] | None = None,
    overwrite: bool = False,
    rows: Any = None,
    **options: Unpack[ModelOptions],
) -> Ensemble:
    """Measure the networks that an ensemble lacks, and add each to its file.

    Processes may share a file: each network is added to those that are in it by then.

    Args:
        ensemble: of earlier networks, as `resume_ensemble` returns it; None for a new one.
        networks: called with the missing numbers, yields networks: `read_networks`, or
            `pdepth.analysis.networks.train_all`, with their first arguments filled in.
        data: the Dataset whose rows are the ensemble's examples.
        numbers: the networks' numbers, which are their names in the ensemble.
        path: of the Parquet file; its folder is made with the first network.
        meta: the settings, kept in a new ensemble.
        k, options: as in `pdepth.prediction_depth`; with `cluster`, each network is one task there:
            it calls `networks` with its own number, and measures what that yields.
        on_member: called after each network is counted and written.
        overwrite: replace the file with the first network.
        rows: (n,) distinct row numbers of the data that are its examples; None for all, or with
            skip_unreadable those that can be read. They are the ensemble's `ids`.

    Raises:
        ValueError: `networks` yielded fewer than are missing; those it yielded are in the file.
        FileExistsError: the file has networks of other settings or rows.
    """
    rows, options = network_members.chosen_rows(data, rows, options)
    _check_same_rows(ensemble, rows, path)
    counted = () if ensemble is None else ensemble.names
    missing = [number for number in numbers if number not in counted]
    members = network_members.members_of(networks, missing, data, k=k, rows=rows, **options)
    for member in members:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with file_locked(path):
            ensemble = resume_ensemble(path, meta, overwrite=overwrite) or ensemble
            if ensemble is None:
                ensemble = Ensemble(member.labels, ids=rows)
                ensemble.meta = {**meta, VERSION: __version__}
                if rows is not None:
                    ensemble.meta[ROWS] = str(len(data))  # type: ignore[arg-type]
            if member.name not in ensemble.names:  # else another process has added it
                ensemble.add(member)
            ensemble.save(path)
        overwrite = False
        if on_member is not None:
            on_member(member)
    absent = [number for number in missing if ensemble is None or number not in ensemble.names]
    if ensemble is None or absent:
        count = len(numbers) - len(absent)
        raise ValueError(
            f"networks: expected {len(numbers)} networks, got {count} (no network {absent[0]})"
            + (f"; pass --networks {count} for these alone." if count > 1 else ".")
        )
    return ensemble


def _check_same_rows(ensemble: Ensemble | None, rows: Any, path: str | os.PathLike[str]) -> None:
    """Raise FileExistsError where an ensemble's examples are other rows, as of mended files."""
    if ensemble is None or rows is None or np.array_equal(ensemble.ids, rows):
        return
    other = np.setxor1d(ensemble.ids, rows)
    raise FileExistsError(
        f"{path}: expected networks of the {len(rows):,} rows that are measured, got some of "
        f"{len(ensemble.ids):,} ({len(other):,} differ, the first of them row {other[0]}); pass "
        "--overwrite, or another --out."
    )


@contextmanager
def file_locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold an ensemble's file, whose folder exists, while it is read, added to and written."""
    path = Path(path)
    then = f"it was waited for {LONGEST_WAIT:.0f} s"
    with locked(path.with_name(f".{path.name}.lock"), f"{path}", wait=LONGEST_WAIT, then=then):
        remove_leftovers(path.parent, path.name)
        yield


def read_networks(
    pairs: Callable[[], Iterable[tuple[Any, Any]]],
    numbers: Sequence[int],
    missing: Sequence[int],
    *,
    model: nn.Module | None = None,
    ema: bool = False,
) -> Iterator[tuple[int, nn.Module, Any]]:
    """Number the networks that a user's function yields, and leave out those counted before.

    Args:
        pairs: called without arguments; yields (network, rows that it was held out from). A network
            is a module, a fitted skorch net or, with `model`, a checkpoint: a state dict or the
            path of one, as `pdepth.inputs.read_state` takes it.
        numbers: of the networks, in the order in which they come.
        missing: the numbers that are to be measured.
        model: the network that checkpoints are loaded into, one after the other.
        ema: take the averaged weights of checkpoints.

    Yields:
        (number, network, held-out rows) of each missing number.
    """
    for number, pair in zip(numbers, pairs(), strict=False):
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                "pairs: expected (network, rows that it was held out from), got "
                f"{type(pair).__name__}."
            )
        if number in missing:
            yield number, _network(pair[0], f"network {number} of pairs", model, ema), pair[1]


def _network(network: Any, what: str, model: nn.Module | None, ema: bool) -> nn.Module:
    """The network of a pair; `model` with the weights of a checkpoint."""
    if not isinstance(network, str | os.PathLike | Mapping):
        return inputs.network_of(network, what)
    if model is None:
        raise ValueError(
            f"{what}: expected a torch.nn.Module, got a checkpoint; pass --model MODEL (model=), "
            "the network that it is of."
        )
    inputs.load_checkpoint(model, network, ema=ema, what=what)
    return model


def merge_ensembles(paths: Sequence[str | os.PathLike[str]]) -> Ensemble:
    """Add up ensembles of the same examples and distinct networks, from two files or more."""
    ensemble = Ensemble.load(paths[0])
    for path in paths[1:]:
        ensemble += Ensemble.load(path)
    return ensemble
