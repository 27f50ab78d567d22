"""The study of placements: what it stores, how it judges, and how it shows names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")

from pdepth.bench.pages import load
from pdepth.bench.studies import placements
from pdepth.embeddings.placement import Probe

from helpers.networks import inspected


def test_what_is_stored_passes_its_own_gate():
    if not placements.STORED.exists():
        pytest.skip(f"{placements.NAME} has no stored result")
    looked = load(placements.STORED)["networks"]
    placements.check(looked)
    libraries = [record["library"] for record in looked]
    assert libraries.count("timm") >= 90
    assert libraries.count("torchvision") >= 17
    assert libraries.count("transformers") >= 30
    assert not [record["network"] for record in looked if "error" in record]
    unlike = [record["network"] for record in looked if record["faults"]]
    assert sorted(unlike) == sorted(placements.REASONS)
    assert len(unlike) <= 0.05 * len(looked)


class SomeBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.two(torch.relu(self.one(x)))) + x


class Network(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(SomeBlock(), SomeBlock())
        self.thing = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)
        self.feature_info = [{"module": "blocks.0"}, {"module": "blocks.1"}]


def test_probes_are_judged_by_the_networks_own_names():
    model = Network()
    layout = inspected(model, torch.randn(2, 8))
    assert layout.names == ("input", "blocks.0", "blocks.1", "thing", "softmax")
    assert list(placements.faults(model, layout)) == ["unnamed: thing is a Sequential"]
    first, block, *rest = layout.probes
    piece = replace(layout, probes=(first, Probe("piece", "blocks.0.one"), *rest))
    assert "inner: piece lies in a SomeBlock" in list(placements.faults(model, piece))
    one = replace(layout, probes=(first, block, layout.probes[-1]))
    assert list(placements.faults(model, one)) == [
        "lost: no probe in blocks.1",
        "lost: 1 probes for 2 stages or layers",
    ]


def test_the_gate():
    fine = {"network": "a", "probes": {"input": "", "x": "", "softmax": ""}, "faults": []}
    placements.check([fine] * 19 + [fine | {"faults": ["inner: ..."]}])
    with pytest.raises(SystemExit, match="fewer than 95 % are fine"):
        placements.check([fine] * 18 + [fine | {"faults": ["inner: ..."]}])
    with pytest.raises(SystemExit, match="b: input and softmax only"):
        placements.check([fine] * 20 + [fine | {"network": "b", "probes": {"input": ""}}])
    with pytest.raises(SystemExit, match="c: it broke"):
        placements.check([fine] * 20 + [{"network": "c", "error": "it broke"}])
    placements.check([fine] * 20 + [{"network": "d", "error": "needs more than 8 GB"}])


def test_a_run_goes_on_with_what_was_kept(tmp_path, monkeypatch):
    every = [placements.Network("timm", name, name) for name in ("a", "b")]
    monkeypatch.setattr(placements, "networks", lambda: every)
    kept = tmp_path / "looked.jsonl"
    fine = {"library": "timm", "probes": {"input": "", "x": ""}, "faults": []}
    records = [fine | {"family": name, "network": name} for name in ("a", "b")]
    kept.write_text("".join(f"{placements.json.dumps(record)}\n" for record in records))
    assert placements.measure(kept)["networks"] == records


def test_neighbours_are_shown_as_one():
    names = ["stem", "blocks.0.0", "blocks.0.1", "blocks.1.0", "norm (input)"]
    expected = "`stem`, `blocks.0.0 to blocks.1.0 (3)`, `norm (input)`"
    assert placements.shortened(names) == expected
