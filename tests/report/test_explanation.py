"""Explanations of results, stores and runs: their rows, their words and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pdepth
from pdepth import definition, open_store
from pdepth.depth import prediction_depth
from pdepth.report import explain as explaining
from pdepth.report import folder, searched
from pdepth.report.explanation import Explanation
from pdepth.report.opening import DataSpecs, open_data
from pdepth.report.record import RunRecord
from pdepth.report.run import RunOptions, run_to_folder

from helpers.same import same_neighbors

pytest.importorskip("pyarrow")
pytest.importorskip("pandas")

NETS = """
import torch
from torch.utils.data import TensorDataset

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5), torch.nn.ReLU(),
        torch.nn.Linear(5, 3),
    )

def rows(n, seed):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, torch.arange(n) % 3)

def support():
    return rows(60, 1)

def queries():
    return rows(20, 2)
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def run(nets: Path, out: Path, own: bool, **options: Any) -> Any:
    """What `pdepth run` does, with a network and data from a user's file."""
    from pdepth import inputs

    model = f"{nets}:net"
    specs = DataSpecs(f"{nets}:support", None if own else f"{nets}:queries")
    network = inputs.load_model(model)
    opened = open_data(specs, model, network)
    chosen = RunOptions(**{"k": (5,), "batch_size": 20, **options})
    record = RunRecord.of(model, None, False, specs, opened, chosen)
    return run_to_folder(
        network, opened.support, opened.queries, out, chosen, meta=record.to_meta(), progress=False
    ).results[5]


def whole(nets: Path, own: bool, **options: Any) -> Any:
    """All votes and neighbours of the same run."""
    from pdepth import inputs

    data = {name: inputs.load_data(f"{nets}:{name}") for name in ("support", "queries")}
    return prediction_depth(
        inputs.load_model(f"{nets}:net"), data["support"], None if own else data["queries"],
        k=5, batch_size=20, early_exit=False, return_neighbors=4, progress=False, **options,
    )  # fmt: skip


def rows_of(explanation: Explanation) -> Any:
    return explanation.to_pandas()


def expected_rows(result: Any, rows: list[int], k: int) -> list[tuple[Any, ...]]:
    """Lines of a table, from a result's arrays one by one."""
    kept, lines = result.neighbors, []
    for row in rows:
        for probe, name in enumerate(result.probes):
            if kept.rows[probe, row, 0] < 0:
                continue
            for rank in range(k):
                near = int(kept.rows[probe, row, rank])
                label = int(kept.classes[kept.codes[near]])
                distance = float(kept.distances[probe, row, rank])
                agrees = label == int(result.predictions[row])
                lines.append((row, name, rank + 1, near, distance, label, agrees))
    return lines


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("own", [True, False], ids=["own", "queries"])
def test_kept_neighbours_line_by_line(own: bool, early_exit: bool, nets: Path) -> None:
    kept = replace(whole(nets, own))
    if early_exit:
        kept = prediction_depth_with(nets, own)
    explanation = pdepth.explain(kept, [3, 0], k=3)
    table = explanation.to_pandas()
    assert list(table.columns) == [
        "row", "probe", "rank", "neighbor", "distance", "label", "agrees",
    ]  # fmt: skip
    assert [tuple(line) for line in table.itertuples(index=False)] == expected_rows(kept, [3, 0], 3)
    assert explanation.rows.tolist() == [3, 0]
    np.testing.assert_array_equal(explanation.votes(), kept.neighbors.votes()[:, [3, 0]])
    np.testing.assert_array_equal(explanation.result.depth, kept.depth[[3, 0]])


def prediction_depth_with(nets: Path, own: bool) -> Any:
    from pdepth import inputs

    data = {name: inputs.load_data(f"{nets}:{name}") for name in ("support", "queries")}
    return prediction_depth(
        inputs.load_model(f"{nets}:net"), data["support"], None if own else data["queries"],
        k=5, batch_size=20, return_neighbors=4, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("own", [True, False], ids=["own", "queries"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_every_way_to_a_run_says_the_same(
    own: bool, weights: str, nets: Path, tmp_path: Path
) -> None:
    """Kept neighbours, a kept store, and network and data opened again."""
    full = whole(nets, own, weights=weights)
    asked = [7, 2, 11]
    run(nets, tmp_path / "a", own, weights=weights, early_exit=False, return_neighbors=4)
    run(nets, tmp_path / "b", own, weights=weights, keep_embeddings=tmp_path / "store")
    result = run(nets, tmp_path / "c", own, weights=weights)
    for name, named in (
        ("a", {}), ("b", {}),
        ("c", {"model": f"{nets}:net", "support": f"{nets}:support", "queries": f"{nets}:queries"}),
    ):  # fmt: skip
        said: list[str] = []
        found = pdepth.explain(tmp_path / name, asked, k=4, say=said.append, **named)
        np.testing.assert_array_equal(found.result.depth, result.depth[asked])
        wanted = pdepth.explain(full, asked, k=4)
        got, kept = found.neighbors, wanted.neighbors
        np.testing.assert_array_equal(got.rows, kept.rows)
        np.testing.assert_array_equal(got.ranked, kept.ranked)
        np.testing.assert_allclose(got.distances, kept.distances, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(got.counts, kept.counts, rtol=1e-4)
        assert any("forward" in text for text in said) == (name == "c")


def test_early_exit_tells_where_it_was_not_searched(nets: Path, tmp_path: Path) -> None:
    result = run(nets, tmp_path / "a", own=False, return_neighbors=2)
    row = int(np.argmax(result.depth))
    assert result.depth[row] > 1
    explanation = pdepth.explain(tmp_path / "a", row)
    missing = int((~explanation.neighbors.searched).sum())
    assert missing == result.depth[row] - 1
    assert explanation.summary(0).count("not searched: a later vote differs") == missing


def test_a_store(nets: Path, tmp_path: Path) -> None:
    for own in (True, False):
        path = tmp_path / f"store{own}"
        run(nets, tmp_path / f"out{own}", own, keep_embeddings=path)
        full = whole(nets, own)
        found = pdepth.explain(open_store(path), [1, 1, 5], k=4, voting=5)
        wanted = pdepth.explain(full, [1, 1, 5], k=4)
        same_neighbors(found.neighbors, replace(wanted.neighbors, codes=found.neighbors.codes))
        with pytest.raises(ValueError, match="rows: expected rows from 0 to .*, got 99"):
            pdepth.explain(open_store(path), [0, 99])
    assert pdepth.explain(open_store(path), 3).neighbors.k == 30


def test_its_own_row_is_left_out_of_a_search_for_it() -> None:
    """Of many equal rows, too, where it is not among the k + 1 nearest."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, (40, 2)).astype(float)
    labels = rng.integers(0, 3, 40)
    asked = np.array([0, 17, 39])
    for weights in ("uniform", "distance"):
        found = pdepth.depth_from_embeddings(
            [values], labels, labels[asked], [values[asked]], k=6, weights=weights,
            return_neighbors=7,
        )  # fmt: skip
        kept = searched.without(found.neighbors, asked, RunOptions(weights=weights))
        kept = replace(kept, k=5)
        expected = definition.kneighbors(values, query_rows=asked, k=6)
        np.testing.assert_array_equal(kept.rows[0], expected[1])
        np.testing.assert_array_equal(kept.distances[0], expected[0])
        votes = definition.probe_votes(values, labels, query_rows=asked, k=6, weights=weights)
        np.testing.assert_array_equal(kept.class_counts()[0], votes.counts)


def test_copies_are_said() -> None:
    """A support row of another label, and a held-out row that is none."""
    rng = np.random.default_rng(0)
    values, labels = rng.standard_normal((30, 4)), np.arange(30) % 3
    values[9] = values[4]  # labels 0 and 1
    values[7] = values[1]  # both 1
    layers = {"input": values, "softmax": values[:, :2]}
    own = pdepth.depth_from_embeddings(
        layers, labels, labels, k=3, early_exit=False, return_neighbors=2
    )
    assert pdepth.explain(own, [4, 1, 0]).remarks() == [
        "Row 4: support row 9 is the same, with another label: 0, not 1."
    ]
    held = {name: rows[:5] for name, rows in layers.items()}
    asked = pdepth.depth_from_embeddings(
        layers, labels, labels[:5], held, k=3, early_exit=False, return_neighbors=2,
        query_labels=labels[:5],
    )  # fmt: skip
    assert pdepth.explain(asked, [3, 4]).remarks() == [
        "Row 3: support row 3 is the same; it is no held-out row.",
        "Row 4: support row 4 is the same; it is no held-out row.",
    ]
    copies = pdepth.explain(asked, 4).copies()
    assert [(copy.neighbor, copy.neighbor_label) for copy in copies] == [(4, 1), (9, 0)]
    last = pdepth.depth_from_embeddings(
        {"a": values, "b": np.ones((30, 1))}, labels, labels * 0 + 2, k=3, return_neighbors=2
    )
    assert pdepth.explain(last, range(30)).remarks() == []  # of saturated values nothing


def test_its_words() -> None:
    values = np.arange(8.0)[:, None]
    result = pdepth.depth_from_embeddings(
        {"input": values, "last": values}, np.arange(8) // 4, np.arange(8) // 4, k=3,
        early_exit=False, return_neighbors=2,
    )  # fmt: skip
    text = pdepth.explain(result, 0).summary(0, ["cat", "dog"])
    assert text.splitlines() == [
        "row 0, label cat, seen as cat, settles at input (depth 0)",
        "  input  * cat: 3 | 1 (cat), 2 (cat)",
        "  last   * cat: 3 | 1 (cat), 2 (cat)",
        "  (* a vote for the network's class; rows nearest first, label in brackets)",
    ]


def test_wrong_rows_and_sources(nets: Path, tmp_path: Path) -> None:
    result = run(nets, tmp_path / "a", own=False, return_neighbors=2)
    for rows, kind, sentence in (
        (20, ValueError, "rows: expected rows from 0 to 19, got 20"),
        ([0, -1], ValueError, "rows: expected rows from 0 to 19, got -1"),
        ([], ValueError, "rows: expected at least one row, got none"),
        ([0.5], TypeError, "rows: expected integers"),
        (True, TypeError, "rows: expected"),
    ):
        with pytest.raises((ValueError, TypeError), match=sentence):
            pdepth.explain(result, rows)
        assert kind in (ValueError, TypeError)
    with pytest.raises(ValueError, match="got one without; pass return_neighbors=8"):
        pdepth.explain(replace(result, neighbors=None), 0)
    with pytest.raises(TypeError, match="source: expected a run's directory, a store or a Dep"):
        pdepth.explain(3, 0)
    with pytest.raises(ValueError, match="k: expected an integer >= 1, got 0"):
        pdepth.explain(result, 0, k=0)
    with pytest.raises(FileNotFoundError, match="expected a folder or a Parquet file"):
        pdepth.explain(tmp_path / "none", 0)


def test_rows_that_were_skipped_have_no_explanation() -> None:
    values, labels = np.arange(6.0)[:, None], np.arange(6) % 2
    result = pdepth.depth_from_embeddings([values], labels, labels, k=2, return_neighbors=2)
    numbers = np.array([0, 2, 3, 5, 6, 9])
    result = replace(
        result,
        rows=numbers,
        meta={"skipped support": '{"1": "no image"}'},
        neighbors=replace(result.neighbors, row_numbers=numbers),
    )
    assert pdepth.explain(result, 9).to_pandas().neighbor.tolist() == [6, 5]
    with pytest.raises(ValueError, match="rows from 0 to 9, got 1, which was skipped: no image"):
        pdepth.explain(result, 1)


def test_code_runs_only_where_it_is_named_again(nets: Path, tmp_path: Path) -> None:
    run(nets, tmp_path / "a", own=True)
    nets.write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match=r"model: .*does not run by itself; pass model='.*:net'"):
        pdepth.explain(tmp_path / "a", 0)
    with pytest.raises(ValueError, match=r"support: expected it to be named again, as it is Pyt"):
        pdepth.explain(tmp_path / "a", 0, model=nn.Linear(6, 3))


def test_a_run_whose_data_or_neighbours_are_others(nets: Path, tmp_path: Path) -> None:
    run(nets, tmp_path / "a", own=True, return_neighbors=2)
    run(nets, tmp_path / "b", own=False, return_neighbors=2)
    kept = tmp_path / "a" / folder.NEIGHBORS
    kept.write_bytes((tmp_path / "b" / folder.NEIGHBORS).read_bytes())
    with pytest.raises(ValueError, match="expected the neighbours of the results beside it"):
        pdepth.explain(tmp_path / "a", 0)
    kept.unlink()
    named = {"model": f"{nets}:net", "support": f"{nets}:support"}
    assert len(pdepth.explain(tmp_path / "a", 0, **named).rows) == 1
    other = tmp_path / "other.py"
    other.write_text(NETS.replace("rows(60, 1)", "rows(60, 3)"))
    named["support"] = f"{other}:support"
    with pytest.raises(ValueError, match=r"row \d+: expected the class of the network of the run"):
        pdepth.explain(tmp_path / "a", list(range(60)), **named)


def test_a_run_from_python_says_what_it_lacks(tmp_path: Path) -> None:
    data = TensorDataset(torch.randn(30, 6), torch.arange(30) % 3)
    run_to_folder(nn.Linear(6, 3), data, None, tmp_path / "a", RunOptions(k=(3,)), progress=False)
    with pytest.raises(ValueError, match="got one without; run it again with --keep-neighbors 8"):
        pdepth.explain(tmp_path / "a", 0)


def test_a_store_that_changed_since(nets: Path, tmp_path: Path) -> None:
    run(nets, tmp_path / "a", own=True, keep_embeddings=tmp_path / "store")
    result = explaining.read_largest(tmp_path / "a")
    other = replace(result, predictions=(result.predictions + 1) % 3)
    with pytest.raises(ValueError, match="row 4: expected the class of the network of the run"):
        explaining._of_runs_store(open_store(tmp_path / "store"), other, [4], 3)


def test_weights_that_were_moved(nets: Path, tmp_path: Path) -> None:
    from pdepth import inputs

    torch.save(inputs.load_model(f"{nets}:net").state_dict(), tmp_path / "net.pt")
    record = RunRecord(f"{nets}:net", f"{nets}:support", str(tmp_path / "moved.pt"))
    assert RunRecord.of_meta(record.to_meta()) == record
    with pytest.raises(FileNotFoundError, match="moved.pt"):
        record.open(f"{nets}:net", f"{nets}:support")


def test_texts_are_shown_as_texts(tmp_path: Path) -> None:
    """Of held-out data both sides, where the run names them."""
    from pdepth.report.shown import shown_inputs

    for side, count in (("support", 12), ("queries", 4)):
        lines = [f"{side} number {row},{row % 2}" for row in range(count)]
        (tmp_path / f"{side}.csv").write_text("\n".join(["text,label", *lines]))
    values, labels = np.arange(12.0)[:, None], np.arange(12) % 2
    result = pdepth.depth_from_embeddings(
        [values], labels, labels[:4], [values[:4]], k=3, query_labels=labels[:4],
        early_exit=False, return_neighbors=2,
    )  # fmt: skip
    meta = {side: f"csv:{tmp_path / side}.csv" for side in ("support", "queries")}
    result = replace(result, meta=meta)
    out = tmp_path / "out"
    folder.write_results({3: result}, out)
    shown = shown_inputs(out, pdepth.explain(out, [2]), (None, None), {})
    assert shown.note == ""
    assert dict(shown.queries) == {2: "queries number 2"}
    assert dict(shown.support) == {row: f"support number {row}" for row in (1, 2)}


def test_a_notebook_shows_each_example() -> None:
    rng = np.random.default_rng(0)
    support, labels = {"<a>": rng.standard_normal((60, 4))}, np.arange(60) % 3
    found = pdepth.depth_from_embeddings(support, labels, labels, k=5, return_neighbors=2)
    explanation = pdepth.explain(found, range(12))
    html = explanation._repr_html_()
    assert html.count("<table>") == 10
    assert "2 more examples" in html
    assert "<th>&lt;a&gt;</th>" in html
    for rank in range(2):
        row = int(explanation.neighbor_rows[0, 0, rank])
        text = f"<b>{labels[row]}</b>" if labels[row] == labels[0] else f"{labels[row]}"
        assert f"{text}&nbsp;({row})" in html
