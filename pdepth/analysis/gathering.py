"""The work of `pdepth ensemble`: which networks are still to be asked, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pdepth import __version__, demo, inputs
from pdepth.analysis import networks
from pdepth.analysis.ensemble import Ensemble, Member


@dataclass(frozen=True)
class Setting:
    """What all networks of an ensemble have in common; its file keeps it.

    data, train, read: as on the command line; without data, scikit-learn's digits.
    """

    data: str | None
    train: str | None
    read: str | None
    held_out: float
    seed: int
    layers: str
    k: int

    def meta(self) -> dict[str, str]:
        """In words. Networks that are read bring splits of their own."""
        own = {"held_out": None, "seed": None} if self.read else {}
        given = asdict(self) | {"data": self.data or demo.DATA} | own
        return {name: str(value) for name, value in given.items() if value is not None}


def rows_of(setting: Setting, image_size: int | None) -> Any:
    """The dataset that is split."""
    if setting.data is None:
        return demo.moved_digits()
    return inputs.dataset_of(inputs.load_data(setting.data, inputs.ImageOptions(image_size)))


def begun(path: Path, setting: Setting, overwrite: bool) -> Ensemble | None:
    """What an earlier run of the setting has counted.

    Raises:
        FileExistsError: it was another setting.
    """
    if overwrite or not path.exists():
        return None
    found = Ensemble.load(path)
    had, has = ({**each, "pdepth": ""} for each in (found.meta, setting.meta()))
    if had != has:
        name = min(name for name in had | has if had.get(name) != has.get(name))
        raise FileExistsError(
            f"{path} holds networks whose {name} is {had.get(name, 'not set')}, and not "
            f"{has.get(name, 'unset')}; pass --overwrite, or another --out."
        )
    return found


def gather(
    setting: Setting,
    rows: Any,
    numbers: range,
    path: Path,
    before: Ensemble | None,
    say: Callable[[Member], None],
    **options: Any,
) -> Ensemble:
    """Ask the networks that `before` does not count, writing the file anew after each.

    Args:
        numbers: of the networks, their names.
        options: of `pdepth.prediction_depth`.

    Raises:
        ValueError: fewer networks were read than `numbers` wants.
    """
    done = () if before is None else before.names
    wanted = [number for number in numbers if number not in done]
    layers = demo.LAYERS if setting.data is None and setting.layers == "auto" else setting.layers
    for member in networks.measure_all(
        _networks(setting, rows, numbers, wanted), rows, layers=layers, k=setting.k, **options
    ):
        if before is None:
            before = Ensemble(member.labels)
            before.meta = {**setting.meta(), "pdepth": __version__}
        before.add(member)
        path.parent.mkdir(parents=True, exist_ok=True)
        before.save(path)
        say(member)
    missing = [each for each in wanted if before is None or each not in before.names]
    if before is None or missing:
        found = [number for number in numbers if number not in missing]
        raise ValueError(
            f"--read {setting.read} yields no network {missing[0]}: {len(found)} of the "
            f"{len(numbers)} that are asked for"
            + (f"; --networks {len(found)} takes these." if len(found) > 1 else ".")
        )
    return before


def _networks(
    setting: Setting, rows: Any, numbers: range, wanted: list[int]
) -> Iterator[tuple[int, Any, Any]]:
    if setting.read is None:
        name = setting.train
        how = demo.train if name is None else inputs.function_of(f"--train {name}", name)
        yield from networks.train_all(
            how, rows, wanted, held_out=setting.held_out, seed=setting.seed
        )
        return
    given = inputs.call_file(f"--read {setting.read}", setting.read)
    for number, each in zip(numbers, given, strict=False):
        if not isinstance(each, tuple) or len(each) != 2:
            raise TypeError(
                f"--read {setting.read} yields a {type(each).__name__}; (network, rows that it "
                "was held out from) is wanted."
            )
        if number in wanted:
            yield number, *each
