"""Change bytes of small files that pdepth reads: each is refused in a sentence, or nothing changes.

python -m bench.studies.mutations [--changes N] [--kind KIND] writes bench/results/mutations.json;
with one kind, the others there stay as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pdepth
from pdepth import inputs
from pdepth.analysis.ensemble import Ensemble, Member
from pdepth.io.journal import ABOUT, READING, Journal
from pdepth.result import DepthResult

RESULTS = Path(__file__).parents[1] / "results" / "mutations.json"
ABOUT_RUN = {"k": "5", "the network": "f" * 32}
# Of these a changed value is another value.
WITHOUT_CHECKSUMS = ("legacy checkpoint", "safetensors", "npy")
MASKS = (0x01, 0x02, 0x04, 0x10, 0x80, 0xFF)
REFUSALS = (ValueError, TypeError, OSError, MemoryError)


@dataclass(frozen=True, eq=False)
class Target:
    """A file, and what is read when it is there.

    read: values by name, of whatever the file decides. named: how the file is named in sentences.
    guarded: it has checksums, so that no other values may be read.
    """

    kind: str
    file: Path
    read: Callable[[], Mapping[str, Any]]
    named: str
    guarded: bool = True


def mutations(size: int, rng: np.random.Generator) -> Iterator[tuple[str, int, int]]:
    """Kinds of a change, for ever: a byte's bits, a cut, bytes left out, doubled or zeroed."""
    while True:
        place, mask = int(rng.integers(size)), int(rng.choice(MASKS))
        yield "flip", place, mask
        if rng.random() < 0.1:
            kind = ("cut", "drop", "double", "zero")[int(rng.integers(4))]
            yield kind, place, int(rng.integers(1, 9))


def mutated(content: bytes, kind: str, place: int, amount: int) -> bytes:
    if kind == "flip":
        return content[:place] + bytes([content[place] ^ amount]) + content[place + 1 :]
    if kind == "cut":
        return content[:place]
    piece = content[place : place + amount]
    middle = {"drop": b"", "double": piece * 2, "zero": bytes(len(piece))}[kind]
    return content[:place] + middle + content[place + amount :]


def outcome(target: Target, expected: Mapping[str, Any]) -> str:
    """ "same", "refused", "other values", or the name of an exception that names no file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "same" if equal(target.read(), expected) else "other values"
    except REFUSALS as error:
        return "refused" if target.named in str(error) else f"unnamed {type(error).__name__}"
    except Exception as error:
        return f"raw {type(error).__name__}"


def run_target(target: Target, changes: int, seed: int = 0) -> Counter[str]:
    """Outcomes of some changes of a target's file, which is as it was in the end."""
    content, expected = target.file.read_bytes(), dict(target.read())
    outcomes: Counter[str] = Counter()
    kinds = mutations(len(content), np.random.default_rng(seed))
    try:
        while outcomes.total() < changes:
            changed = mutated(content, *next(kinds))
            if changed == content:
                continue
            target.file.write_bytes(changed)
            outcomes[outcome(target, expected)] += 1
    finally:
        target.file.write_bytes(content)
    return outcomes


def equal(values: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether both have the same entries, of the same types and bits."""
    return values.keys() == expected.keys() and all(
        _bits(values[name]) == _bits(expected[name]) for name in expected
    )


def _bits(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, np.ascontiguousarray(value).tobytes()
    return value


def targets(folder: Path) -> Iterator[Target]:
    """Small files of every kind, written into a folder."""
    torch.manual_seed(0)
    x = torch.randn(40, 6)
    data = TensorDataset(x, (x[:, :3] @ torch.randn(3, 3)).argmax(1))
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    result = pdepth.prediction_depth(
        model, data, k=5, progress=False, early_exit=False, keep_embeddings=folder / "store",
        run_dir=folder / "run",
    )  # fmt: skip
    yield from _of_store(folder / "store")
    yield from _of_results(folder, result)
    yield from _of_journal(folder / "run")
    yield from _of_weights(folder, model.state_dict())
    yield from _of_arrays(folder, x.numpy())


def _of_store(path: Path) -> Iterator[Target]:
    def read() -> dict[str, Any]:
        store = pdepth.open_store(path)
        for probe in store.probes:
            store.check(probe)
        part = store.support
        return {
            **{f"embedding {name}": np.asarray(value) for name, value in part.embeddings.items()},
            "labels": np.asarray(part.labels),
            "predictions": np.asarray(part.predictions),
            "others": (store.probes, store.fingerprint, part.fingerprint, store.meta),
        }

    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield Target("store", file, read, str(path))


def _of_results(folder: Path, result: DepthResult) -> Iterator[Target]:
    file = folder / "depth.parquet"
    result.save(file)
    yield Target("result", file, lambda: vars(DepthResult.load(file)), str(file))
    member = Member(result.depth, result.predictions, result.depth < 2, 3, 0, result.labels)
    other = folder / "ensemble.parquet"
    ensemble = Ensemble(result.labels)
    ensemble.add(member)
    ensemble.save(other)
    yield Target("result", other, lambda: vars(Ensemble.load(other)), str(other))


def _of_journal(path: Path) -> Iterator[Target]:
    about = json.loads((path / ABOUT).read_text())
    run = {n: v for n, v in about.items() if n not in ("kind", "journal", "checksum")}

    def read() -> dict[str, Any]:
        journal = Journal(path, run)
        try:
            parts = {READING: journal.read_reading()}
            parts |= {f.stem: journal.read(f.stem) for f in sorted(path.glob("votes-*.npz"))}
        finally:
            journal.close()
            aside = sorted(path.glob(".damaged-*"))
            for file in aside:
                file.unlink()
        if aside:  # with a warning; it is computed again
            raise ValueError(str(path))
        return {f"{part} {name}": v for part, of in parts.items() for name, v in (of or {}).items()}

    for file in sorted(path.glob("*.*")):
        if not file.name.startswith("."):
            yield Target("journal", file, read, str(path))


def _of_weights(folder: Path, state: dict[str, Any]) -> Iterator[Target]:
    zipped, legacy = folder / "zipped.pt", folder / "legacy.pt"
    torch.save(state, zipped)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    files = [zipped, legacy]
    try:
        from safetensors.torch import save_file
    except ImportError:
        pass
    else:
        files.append(folder / "weights.safetensors")
        save_file(state, str(files[-1]))

    def reader(file: Path) -> Callable[[], Mapping[str, Any]]:
        return lambda: inputs.read_state(file)

    for file in files:
        kind = "safetensors" if file.suffix == ".safetensors" else f"{file.stem} checkpoint"
        yield Target(kind, file, reader(file), file.name, kind not in WITHOUT_CHECKSUMS)


def _of_arrays(folder: Path, array: Any) -> Iterator[Target]:
    file = folder / "rows.npy"
    np.save(file, array)

    def read() -> dict[str, Any]:
        rows = pdepth.open_source(file)
        return {"rows": np.asarray(rows[0 : rows.shape[0]])}

    yield Target("npy", file, read, file.name, guarded=False)


def study(changes: int, kind: str | None = None) -> dict[str, dict[str, int]]:
    """Outcomes by kind of file, of all or of one; each file gets its share by its size."""
    with tempfile.TemporaryDirectory() as name:
        every = list(targets(Path(name)))
        sizes = [target.file.stat().st_size for target in every]
        by_kind: dict[str, Counter[str]] = {}
        for number, (target, size) in enumerate(zip(every, sizes, strict=True)):
            if kind not in (None, target.kind):
                continue
            share = max(50, math.ceil(changes * size / sum(sizes)))
            counts = run_target(target, share, seed=number)
            by_kind.setdefault(target.kind, Counter()).update(counts)
    return {kind: dict(sorted(counts.items())) for kind, counts in by_kind.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=100_000)
    parser.add_argument("--kind")
    arguments = parser.parse_args()
    by_kind = study(arguments.changes, arguments.kind)
    if arguments.kind is not None:
        by_kind = json.loads(RESULTS.read_text())["outcomes"] | by_kind
    total = sum(sum(counts.values()) for counts in by_kind.values())
    RESULTS.write_text(json.dumps({"changes": total, "outcomes": by_kind}, indent=1) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
