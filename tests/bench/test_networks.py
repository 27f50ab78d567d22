"""The study of real layers, on invented images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision")

import pdepth
from pdepth.bench import data
from pdepth.bench.cases import measure
from pdepth.bench.cases.layers import layers
from pdepth.bench.cases.tasks import Sizes
from pdepth.bench.studies import networks
from pdepth.bench.suite.shapes import NETWORKS


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.MODELS)
def test_a_network_is_trained_kept_and_measured(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [name, "--tiny", "--into", str(tmp_path)]
    networks.main(options)
    printed = capsys.readouterr().out
    assert printed.startswith("| network | parameters | probes | widths | trained |")
    store = pdepth.open_store(tmp_path / name / "store")
    assert store.queries is not None
    widths = [rows.shape[1] for rows in store.support.embeddings.values()]
    assert tuple(widths) == NETWORKS.get(name, (3072, *[192] * 6, 10))
    assert (len(store.support.labels), len(store.queries.labels)) == (40, 20)
    kept = (tmp_path / name / networks.WEIGHTS).stat().st_mtime_ns
    networks.main(options)  # what is there is not made anew
    assert capsys.readouterr().out == printed
    assert (tmp_path / name / networks.WEIGHTS).stat().st_mtime_ns == kept
    cases, missing = layers(tmp_path)
    assert [case.title for case in cases] == [f"{name}: {probe}" for probe in store.probes]
    assert len(missing) == len(networks.MODELS) - 1
    record = measure.measure(cases[-1], Sizes(1, 35, 15), 0.0, print)
    assert (record["support"], record["asked"]) == ([35, 10], 15)


def test_batches_are_shifted_and_mirrored_images() -> None:
    torch.manual_seed(0)
    images = torch.arange(2 * 3 * 32 * 32, dtype=torch.float32).reshape(2, 3, 32, 32) + 1
    numbers = torch.tensor([7, 9])
    for (rows, labels), _ in zip(networks.batches(images, numbers), range(20), strict=False):
        assert sorted(labels.tolist()) == [7, 9]
        for row, label in zip(rows, labels, strict=True):
            image = images[numbers.tolist().index(int(label))]
            views = [image, image.flip(-1)]
            padded = [torch.nn.functional.pad(view, (4, 4, 4, 4)) for view in views]
            assert any(
                torch.equal(row, view[:, top : top + 32, left : left + 32])
                for view in padded
                for top in range(9)
                for left in range(9)
            )


def test_training_ends_with_its_time_and_learns() -> None:
    torch.manual_seed(0)
    sets = networks.invented(200)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    seen = networks.train(model, sets, 1e-2, 0.5)
    assert seen > 200
    assert not model.training
    with torch.no_grad():
        right = model(sets.tensors[0]).argmax(1) == sets.tensors[1]
    assert float(right.float().mean()) > 0.5


def test_without_data_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "DATA", tmp_path)
    with pytest.raises(SystemExit, match="The networks are left out. CIFAR-10: expected a file"):
        networks.main(["MLP", "--into", str(tmp_path / "cache")])
    assert not (tmp_path / "cache").exists()


def test_the_widths_are_in_the_table() -> None:
    record = {
        "network": "MLP", "parameters": 27_300_000, "widths": [3072, *[2048] * 6, 10],
        "seconds": 60.0, "seen": 1_234, "rows": {"support": 40, "queries": 20},
        "accuracy": {"support": 0.5, "queries": 0.25},
        "machine": {"threads": 2, "processor": "P", "level": "avx2", "date": "2026-11-30",
                    "commit": "1234567", "versions": {"torch": "2.14.1"}},
    }  # fmt: skip
    assert networks.table({"networks": [record]}).splitlines()[2:] == [
        "| MLP | 27.3 M | 8 | 3,072, 2,048 x6, 10 | 60 s, 1,234 images | "
        "50.0 % of 40 / 25.0 % of 20 |",
        "",
        "2 threads of P (level avx2), 2026-11-30, commit 1234567, torch 2.14.1.",
    ]
