"""DepthResult: what it counts, and that a file gives back what was saved."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest

from pdepth.io.atomic import replacing
from pdepth.result import DepthResult


def example(**changes) -> DepthResult:
    """Five examples, three probes, hand-made: class -1 is real, and one vote is unknown."""
    votes = np.array([[0, 1, -1, 5, -1], [0, 1, 2, 3, -1], [0, 1, 2, 4, -1]])
    known = np.ones((3, 5), bool)
    known[0, 2] = False
    fields = {
        "depth": np.array([0, 0, 1, 3, 0]),
        "undefined": np.array([False, False, False, True, False]),
        "votes": votes,
        "known": known,
        "predictions": np.array([0, 1, 2, 3, -1]),
        "labels": np.array([0, 2, 2, 3, -1]),
        "probes": ("input", "layer1.0", "softmax"),
        "k": 30,
        "widths": (64, 32, 10),
        "leave_one_out": True,
        "meta": {"model": "réseau", "data": ""},
    }
    return DepthResult(**{**fields, **changes})


def assert_equal(a: DepthResult, b: DepthResult) -> None:
    for field in dataclasses.fields(DepthResult):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, field.name
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        else:
            assert x == y, field.name
            assert type(x) is type(y), field.name


def test_probe_accuracy_is_the_share_of_right_votes_where_all_are_known():
    known = np.ones_like(example().known)
    labels, votes = example().labels, example().votes
    np.testing.assert_allclose(
        example(known=known).probe_accuracy(), [(v == labels).sum() / len(labels) for v in votes]
    )
    known[0, 4] = False
    assert np.isnan(example(known=known).probe_accuracy()).tolist() == [True, False, False]


def test_probe_accuracy_needs_labels():
    with pytest.raises(
        ValueError,
        match=r"labels: expected \(N,\) integers in the result for probe_acc.*, got None",
    ):
        example(labels=None).probe_accuracy()


def test_settled_counts_every_example_once_and_undefined_last():
    assert example().settled().tolist() == [3, 1, 0, 1]


def test_normalised_and_complete():
    np.testing.assert_allclose(example().normalised(), [0, 0, 1 / 3, 1, 0])
    assert example().complete().tolist() == [False, True, True]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"labels": None},
        {"widths": None, "meta": {}, "leave_one_out": False},
        {"probes": ("a b", "label", "$x$")},
        {"reference": "array", "reference_values": np.array([0, 1, -7, 3, 2])},
        {
            "tied": np.arange(15).reshape(3, 5) % 2 == 0,
            "margins": np.arange(15, dtype=np.int32).reshape(3, 5),
        },
        {"tied": np.ones((3, 5), bool), "margins": np.arange(15).reshape(3, 5) / 7},
        {
            "depth": np.zeros(0, np.int64),
            "undefined": np.zeros(0, bool),
            "votes": np.zeros((3, 0), np.int64),
            "known": np.zeros((3, 0), bool),
            "predictions": np.zeros(0, np.int64),
            "labels": np.zeros(0, np.int64),
        },
    ],
    ids=["full", "unlabelled", "bare", "odd names", "reference", "margins", "weighted", "empty"],
)
def test_load_restores_what_save_wrote(tmp_path, changes):
    result = example(**changes)
    result.save(tmp_path / "depth.parquet")
    loaded = DepthResult.load(tmp_path / "depth.parquet")
    assert_equal(result, loaded)
    loaded.depth[:] = 0  # a loaded result is the caller's own, not Arrow's read-only memory


def test_file_reads_as_a_plain_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    example().save(tmp_path / "depth.parquet")
    table = pandas.read_parquet(tmp_path / "depth.parquet")
    columns = ["row", "label", "prediction", "depth", "undefined"]
    assert list(table) == [*columns, "vote_input", "vote_layer1.0", "vote_softmax"]
    assert table["vote_input"].isna().tolist() == [False, False, True, False, False]
    assert table["depth"].tolist() == [0, 0, 1, 3, 0]


def test_to_pandas():
    table = example().to_pandas()
    assert table["vote_input"].isna().tolist() == [False, False, True, False, False]
    assert table["label"].tolist() == [0, 2, 2, 3, -1]
    assert example(labels=None).to_pandas()["label"].isna().all()
    counted = example(
        tied=np.eye(3, 5, dtype=bool), margins=np.ones((3, 5), np.int32),
        reference="label", reference_values=np.arange(5),
    )  # fmt: skip
    table = counted.to_pandas()
    assert table["tied_layer1.0"].tolist() == [False, True, False, False, False]
    assert table["margin_softmax"].tolist() == [1] * 5
    assert table["reference"].tolist() == [0, 1, 2, 3, 4]


def test_shapes_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"votes: expected shape \(3, 5\) for 5 .* 3 probes, got \(3, 4\)"
    ):
        example(votes=np.zeros((3, 4), np.int64))
    with pytest.raises(ValueError, match="probes: expected distinct names, got 'a' twice"):
        example(probes=("a", "b", "a"))


def test_a_file_of_format_1_loads(tmp_path):
    """Written here by hand: what an earlier pdepth wrote has to load for good."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    about = {
        "format": 1,
        "probes": ["input", "softmax"],
        "k": 3,
        "widths": [6, 2],
        "leave_one_out": True,
        "labelled": True,
        "meta": {"model": "Net"},
    }
    table = pa.table(
        {
            "row": [0, 1],
            "label": [4, -1],
            "prediction": [4, 4],
            "depth": [0, 2],
            "undefined": [False, True],
            "vote_input": pa.array([4, None], pa.int64()),
            "vote_softmax": [4, -1],
        }
    ).replace_schema_metadata({b"pdepth": json.dumps(about)})
    parquet.write_table(table, tmp_path / "depth.parquet")
    result = DepthResult.load(tmp_path / "depth.parquet")
    assert result.depth.tolist() == [0, 2]
    assert result.undefined.tolist() == [False, True]
    assert result.votes.tolist() == [[4, -1], [4, -1]]
    assert result.known.tolist() == [[True, False], [True, True]]
    assert (result.reference, result.k, result.widths) == ("prediction", 3, (6, 2))
    assert result.probes == ("input", "softmax")


def test_load_of_a_missing_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"gone\.parquet: expected a DepthResult in a file, got none"
    ):
        DepthResult.load(tmp_path / "gone.parquet")


def test_load_of_what_is_no_parquet(tmp_path):
    (tmp_path / "a.parquet").write_text("depth,label\n")
    with pytest.raises(
        ValueError, match=r"a\.parquet: expected a Parquet file, got one that cannot be read"
    ):
        DepthResult.load(tmp_path / "a.parquet")


def test_load_of_a_foreign_parquet(tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"depth": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"a\.parquet: expected a file that pdepth wrote, got one without"
    ):
        DepthResult.load(tmp_path / "a.parquet")


def test_save_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    hide(monkeypatch, "pyarrow")
    with pytest.raises(ImportError, match=r"save needs pyarrow: pip install 'pdepth\[tables\]'"):
        example().save(tmp_path / "a.parquet")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "depth.parquet"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        fail()
    assert os.listdir(tmp_path) == ["depth.parquet"]
    assert path.read_text() == "old"


def test_save_into_a_missing_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"a\.parquet: expected an existing folder, got none at .*gone"
    ):
        example().save(tmp_path / "gone" / "a.parquet")


def test_a_saved_file_obeys_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        example().save(tmp_path / "a.parquet")
    finally:
        os.umask(old)
    assert (tmp_path / "a.parquet").stat().st_mode & 0o777 == 0o644


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make `import package` fail as if it were not installed."""
    import importlib

    real = importlib.import_module

    def import_module(name: str, *args):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=package)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_a_notebook_shows_where_examples_settle() -> None:
    html = example(probes=("<input>", "layer1.0", "softmax"))._repr_html_()
    assert "<th>&lt;input&gt;</th><td></td><td>3</td>" in html  # one vote there is unknown
    assert "<th>softmax</th><td>60.0 %</td><td>0</td>" in html
    assert "<th>undefined</th><td></td><td>1</td>" in html
    empty = example(
        **{name: value[..., :0] for name, value in vars(example()).items() if name in ARRAYS}
    )
    assert "<th>undefined</th>" in empty._repr_html_()


ARRAYS = ("depth", "undefined", "votes", "known", "predictions", "labels")
