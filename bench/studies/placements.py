"""Where the usual networks are probed: every family of timm and torchvision, many of transformers.

    python bench/studies/placements.py [--kept FILE]   inspect all, store, render the page
    python bench/studies/placements.py --render        the page's table, as stored

FILE keeps what was seen of each network, so that a run that was interrupted goes on.

Of each module of timm.models and torchvision.models the smallest network is taken, and small random
configurations of transformers' classifiers: `placement_networks.py`. Weights are random, rows too,
of the network's own size; a head that is initialised with zeros alone gets small random weights,
since nothing would show which tokens it reads. One that needs more than 8 GB, or ten minutes of
processor time, is skipped with that reason.

Each placement is judged by what the network's own code says of itself, without pdepth's rules:

- *inner*: a probe's module lies in one whose class is called a block (`BLOCK`), and is a piece of
  it: no member of a list of blocks or layers (`LISTED`).
- *unnamed*: its module neither has a class that is called a part of a network (`PART`), nor lies on
  a path of such parts (`PATH`), nor is one of timm's `feature_info`.
- *lost*: a stage of `feature_info` that holds layers has no probe, or there are fewer probes
  than stages, or than a configuration of transformers says there are layers.

A network is fine with none of the three. The gate: all run, none is left with the input and the
softmax alone, and 95 % are fine; or the run ends before anything is stored.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.pages import publish
from pdepth.bench.studies.placement_networks import Network, networks
from pdepth.embeddings.calling import at_rest
from pdepth.embeddings.inspection import inspect
from pdepth.embeddings.layout import Layout, pooling_text
from pdepth.embeddings.placement import ProbeOptions

NAME, STORED, PAGE = (
    "bench/studies/placements.py",
    HOME / RESULTS / "placements.json",
    Path("docs", "placements.md"),
)
MEMORY, SECONDS, A_PROCESS, SHARE = 8 << 30, 600, 20, 0.95
BLOCK = re.compile(
    r"(?<!Stage)(Block\w*|(?<!Conv)Layer|Bottle\w*|InvertedResidual|Residual|MBConv)$"
)
LISTED = re.compile(r".*\b(blocks?|layers?)(\.\d+)+")
PART = re.compile(
    "Block|Layer|Stage|Bottle|Residual|Stem|Embed|Conv|Cell|Inception|Mixed|Reduction|Fire|Module"
    "|Transformer|Downsample|Merging|Pooling|Tree|Attention|Encoder|Adapter|Norm|U$|swish"
)
PATH = re.compile(r"\w*(stem|embed|conv|layer|block|stage|features|level|network|repeat|head)\w*")
# Why a network is not fine.
REASONS = {
    "cpubone_nano": "its block is nothing but a Sequential of residual pieces, each a cut",
    "efficientvim_m1": "the head adds up what every stage gives: nothing after the first is all",
    "mobilenetv5_base": "its last two stages are joined by `msfa`: neither is all",
    "nasnetalarge": "a cell reads the two cells before it: only the last one's output is all",
    "pnasnet5large": "a cell reads the two cells before it: only the last one's output is all",
    "squeezebert": "its layers run by `layer.forward(...)`, which no hook sees",
}


def look(network: Network) -> dict[str, Any]:
    """Where one network is probed, or why it is not; in a process that `limit` has prepared."""
    record: dict[str, Any] = {
        "library": network.library,
        "family": network.family,
        "network": network.name,
    }
    begin = time.perf_counter()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        model = network.build()
        with at_rest(model):
            layout = inspect(model, ProbeOptions(), network.inputs(model))
    except (Exception, TimeoutError) as error:
        record["error"] = " ".join(str(error).split())[:300]
        if "memory" in record["error"]:
            record["error"] = "needs more than 8 GB"
        return record
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return record | described(model, layout) | {"seconds": round(time.perf_counter() - begin, 1)}


def described(model: nn.Module, layout: Layout) -> dict[str, Any]:
    """What is stored of a layout: class and pooling by probe, sentences, faults."""
    modules = dict(model.named_modules())
    return {
        "class": type(model).__name__,
        "weights": sum(weight.numel() for weight in model.parameters()),
        "rule": layout.rule,
        "probes": {
            probe.name: f"{type(modules[probe.module]).__name__}, "
            + pooling_text(probe, layout.mask)
            for probe in layout.probes
        },
        "notes": list(layout.notes),
        "doubts": list(layout.doubts),
        "faults": list(faults(model, layout)),
    }


def faults(model: nn.Module, layout: Layout) -> Iterator[str]:
    """Sentences on probes that are not where the network's code names a part."""
    modules = dict(model.named_modules())
    middle = [probe for probe in layout.probes if probe.module]
    stages = stages_of(model)
    for probe in middle:
        path = probe.module.split(".")
        around = [modules[".".join(path[:end])] for end in range(1, len(path))]
        inner = [m for m in around if BLOCK.search(type(m).__name__)]
        if inner and not LISTED.fullmatch(probe.module):
            yield f"inner: {probe.name} lies in a {type(inner[0]).__name__}"
        own = type(modules[probe.module]).__name__
        on_path = any(PATH.fullmatch(part) for part in path)
        if not (PART.search(own) or on_path or probe.module in stages):
            yield f"unnamed: {probe.name} is a {own}"
    for stage in stages:
        seen = [
            p for p in middle if f"{p.module}.".startswith(f"{stage}.") or in_it(stage, p.module)
        ]
        layers = [m for m in modules[stage].modules() if m is not modules[stage]]
        if not seen and any(w.ndim > 1 for layer in layers for w in layer.parameters()):
            yield f"lost: no probe in {stage}"
    depth = max(len(stages), getattr(getattr(model, "config", None), "num_hidden_layers", 0))
    if len(middle) < depth:
        yield f"lost: {len(middle)} probes for {depth} stages or layers"


def in_it(inner: str, outer: str) -> bool:
    """Whether a module's dotted name is that of another or of one within it."""
    return f"{inner}.".startswith(f"{outer}.")


def stages_of(model: nn.Module) -> list[str]:
    """The modules that timm's `feature_info` names, once each."""
    info = getattr(model, "feature_info", None) or []
    entries = info if isinstance(info, list) else info.info
    names = [entry.get("module", "") for entry in entries]
    known = dict(model.named_modules())
    return [name for name in dict.fromkeys(names) if name and name in known]


def limit() -> None:
    """Bound what a process may take; beyond it, errors are raised. One thread wastes no time."""

    def end(number: int, frame: object) -> None:
        raise TimeoutError(f"takes more than {SECONDS} seconds of processor time")

    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, end)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def measure(kept: Path) -> dict[str, Any]:
    """Look at every network, in processes that see few each, so that memory stays bounded.

    kept: a file with a line for each network that was looked at, to which others are added.
    """
    looked = [json.loads(text) for text in kept.read_text().splitlines()] if kept.exists() else []
    done = {(record["library"], record["family"]) for record in looked}
    rest = (network for network in networks() if (network.library, network.family) not in done)
    with get_context("spawn").Pool(1, limit, maxtasksperchild=A_PROCESS) as pool:
        for record in pool.imap(look, rest):
            looked.append(record)
            with kept.open("a") as file:
                print(json.dumps(record), file=file)
            print(line(record), *record.get("faults", ()), sep="\n  ", flush=True)
    check(looked)
    packages = ("torch", "torchvision", "timm", "transformers")
    return {"networks": looked, "machine": machine(*packages)}


def check(looked: Sequence[Mapping[str, Any]]) -> None:
    """End the run where one is left with the input and the softmax, or too many are not fine."""
    ran = [record for record in looked if "error" not in record]
    for record in looked:
        if "error" in record and "more than" not in record["error"]:
            raise SystemExit(f"{record['network']}: {record['error']}")
    if bare := [r["network"] for r in ran if not set(r["probes"]) - {"input", "softmax"}]:
        raise SystemExit(f"{', '.join(bare)}: input and softmax only.")
    if sum(not record["faults"] for record in ran) < SHARE * len(looked):
        raise SystemExit(f"fewer than {100 * SHARE:.0f} % are fine.")


def shortened(names: Sequence[str]) -> str:
    """Neighbours whose names differ in numbers alone as one: "layer1.0 to layer4.1 (8)"."""
    parts = []
    for _, group in groupby(names, key=lambda name: re.sub(r"\d+", "", name)):
        first, *rest = group
        parts.append(f"{first} to {rest[-1]} ({1 + len(rest)})" if rest else first)
    return ", ".join(f"`{part}`" for part in parts)


def line(record: Mapping[str, Any]) -> str:
    """A network's line of the table."""
    name = f"{record['family']}: {record['network']}"
    if record["family"] == record["network"]:
        name = record["network"]
    if "error" in record:
        return f"| {name} | | | {record['error']} | |"
    probes = record["probes"]
    middle = [probe for probe in probes if probe not in ("input", "softmax")]
    pooled = dict.fromkeys(probes[probe].split(", ", 1)[1] for probe in middle)
    return (
        f"| {name} | {record['rule']} | {len(probes)} | {shortened(middle)} | {', '.join(pooled)} |"
    )


def table(stored: dict[str, Any]) -> str:
    """A table a library, and what is not fine."""
    looked = stored["networks"]
    fine = [record for record in looked if record.get("faults") == []]
    lines = [
        f"{len(looked)} networks, each the smallest of its family, built without weights: "
        f"{sum('error' not in record for record in looked)} run, none falls to input and softmax "
        f"only; in {len(fine)} ({100 * len(fine) / len(looked):.1f} %) every probe is a part that "
        f"the network's own code names, and no stage lacks one. {describe(stored['machine'])}.",
    ]
    for library, group in groupby(looked, key=lambda record: record["library"]):
        lines += [
            "",
            f"### {library}",
            "",
            "| network | rule | probes | between input and softmax | pooled |",
            "| --- | --- | ---: | --- | --- |",
            *map(line, group),
        ]
    lines += ["", "### Exceptions", "", "| network | what | why |", "| --- | --- | --- |"]
    for record in looked:
        if record not in fine:
            what = record.get("error") or "; ".join(record["faults"][:2])
            more = len(record.get("faults", ())) - 2
            what += f"; and {more} more" if more > 0 else ""
            lines.append(f"| {record['network']} | {what} | {REASONS.get(record['network'], '')} |")
    doubts = [(r["network"], doubt) for r in looked for doubt in r.get("doubts", ())]
    lines += ["", "### Doubts that pdepth voices", "", "| network | doubt |", "| --- | --- |"]
    lines += [f"| {network} | {doubt} |" for network, doubt in doubts]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", type=Path, metavar="FILE")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kept = options.kept or Path(scratch, "looked.jsonl")
        arguments = ["--render"] if options.render else []
        publish(arguments, NAME, partial(measure, kept), table, STORED, PAGE)


if __name__ == "__main__":
    main()
