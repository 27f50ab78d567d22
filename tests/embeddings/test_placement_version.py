"""Runs and stores of other probes are not mixed: each is refused by what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pdepth import capture
from pdepth.embeddings.placement import Probe
from pdepth.io.journal import Journal

from helpers.spans import depth, same


def images(rows: int = 40) -> Any:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(rows, 3, 6, 6, generator=generator), torch.arange(rows) % 3)


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )


def run(directory: Path, **options: Any) -> Any:
    return depth(images(), model=convolutions(), run_dir=directory / "run", **options)


def test_results_say_which_placement_they_are_of() -> None:
    meta = depth(images(), model=convolutions(), pool={"3": "mean"}, max_width=100).meta
    assert meta["placement version"] == "2"
    assert meta["placement"] == "layers"
    assert meta["probes"] == ("3: mean; max_width 100: averaged to fewer positions at input to 1")
    assert "probes" not in depth().meta


def test_a_journal_of_another_placement_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path)
    same(run(tmp_path), first)
    for sentence, options in (
        ("of which the pooling differs; use another", {"pool": {"3": "mean"}}),
        ("of which the pooling differs; use another", {"max_width": 64}),
        ("of which the list of probes differs", {"input": False}),
    ):
        with pytest.raises(ValueError, match=sentence):
            run(tmp_path, **options)
    monkeypatch.setattr("pdepth.depth.VERSION", 3)
    with pytest.raises(ValueError, match="which the version of placement differs: 2 then, 3 now"):
        run(tmp_path)


def test_a_store_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was cut after its reading goes on from its own store, and from no other."""

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "write_votes", cut)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, keep_embeddings=tmp_path / "kept")
    monkeypatch.undo()
    for name, model, options in (
        ("pooled", convolutions(), {"pool": {"3": "mean"}}),
        ("narrow", convolutions(), {"max_width": 64}),
        ("fewer", convolutions(), {"input": False}),
        ("network", nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), {}),
    ):
        depth(images(), model=model, keep_embeddings=tmp_path / name, **options)
    manifest = tmp_path / "kept" / "manifest.json"
    for sentence, name in (
        ("pooled, of which the pooling differs; use another run_dir to begin anew", "pooled"),
        ("narrow, of which the pooling differs", "narrow"),
        ("fewer, of which the list of probes differs", "fewer"),
        ("network, of which the network differs", "network"),
    ):
        with pytest.raises(ValueError, match=f"keep_embeddings: expected the store .*{sentence}"):
            run(tmp_path, keep_embeddings=tmp_path / name)
    before = manifest.read_text()
    older = json.loads(before)
    del older["meta"]["placement version"]
    manifest.write_text(json.dumps(older))
    with pytest.raises(ValueError, match="manifest.json: .*whose checksum differs"):
        run(tmp_path, keep_embeddings=tmp_path / "kept")
    manifest.write_text(before)
    same(run(tmp_path, keep_embeddings=tmp_path / "kept"), depth(images(), model=convolutions()))


def test_layers_with_old_names_are_the_old_probes() -> None:
    """Of the rule "chain": every module, flattened, as it was before the next one changed it."""
    model = nn.Sequential(*convolutions()[:3], nn.ReLU(inplace=True), *convolutions()[4:])
    values: dict[str, torch.Tensor] = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: values.setdefault(name, output.clone())
        )
    rows = images().tensors[0]
    old = ("input", "0", "1", "2", "3", "softmax")
    names = [name for name in old if name not in ("input", "softmax")]
    captured = capture(model, rows, layers=names, pool="flatten")
    assert captured.probes == old
    for name in names:
        # Recorded by the first of the passes, over the same rows as the last one.
        assert torch.equal(captured.embeddings[name], values[name].flatten(1))


def test_the_old_first_probe_of_transformers() -> None:
    """The average of the first block's input, which was called "embedding"."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2, img_size=32).eval()
    rows = torch.randn(8, 3, 32, 32)
    seen: list[torch.Tensor] = []
    handle = model.blocks[0].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach().clone())
    )
    with torch.no_grad():
        model(rows)
    handle.remove()
    embedding = Probe("embedding", "blocks.0", "input", "mean", tokens=True)
    captured = capture(model, rows, layers=[embedding, "blocks.0", "blocks.1"], input=False)
    assert captured.probes == ("embedding", "blocks.0", "blocks.1", "softmax")
    assert torch.equal(captured.embeddings["embedding"], seen[0].mean(dim=1))
