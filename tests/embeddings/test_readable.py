"""Rows that cannot be read: skipped, counted, listed; the others keep votes and numbers."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

import pdepth
from pdepth.embeddings.dataset import Batches, DataOptions
from pdepth.inputs import ImageOptions, load_data
from pdepth.result import DepthResult

from helpers.image_files import encoded, image_folder, npz, parquet, pixels

pytest.importorskip("PIL")

SKIP = DataOptions(skip_unreadable=True)
BROKEN = (0, 7, 8, 29)
RESULTS = ("depth", "undefined", "votes", "known", "predictions", "labels")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))


def folder_with_broken(root, broken=BROKEN, seed=0):
    """30 images of three classes, of which some cannot be read; the dataset."""
    images = np.random.default_rng(seed).integers(0, 256, (3, 10, 4, 4, 3), np.uint8)
    image_folder(root, {name: list(of) for name, of in zip("abc", images, strict=True)})
    for row in broken:
        (root / "abc"[row // 10] / f"{row % 10}.png").write_bytes(
            encoded(images[0, 0])[: 7 * row % 60]
        )
    return load_data(f"imagefolder:{root}")


def without(data, broken=BROKEN):
    return Subset(data, [row for row in range(len(data)) if row not in broken])


def measure(model, *data, **options):
    defaults = {"k": 3, "batch_size": 4, "progress": False, "backend": "cpu"}
    return pdepth.prediction_depth(model, *data, **defaults | options)


def skipping(model, *data, **options):
    with pytest.warns(UserWarning, match="skipped"):
        return measure(model, *data, skip_unreadable=True, **options)


def assert_same(result, expected):
    for name in RESULTS:
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))


@pytest.mark.parametrize("early_exit", [True, False])
def test_votes_and_numbers_of_the_other_rows(tmp_path, model, early_exit):
    data = folder_with_broken(tmp_path)
    result = skipping(model, data, early_exit=early_exit)
    assert_same(result, measure(model, without(data), early_exit=early_exit))
    kept = [row for row in range(30) if row not in BROKEN]
    assert result.rows.tolist() == result.row_numbers.tolist() == kept
    assert result.labels.tolist() == [row // 10 for row in kept]
    assert result.leave_one_out
    assert list(result.skipped) == ["support"]
    assert tuple(result.skipped["support"]) == BROKEN
    assert "a/7.png cannot be read as an image" in result.skipped["support"][7]
    pytest.importorskip("pandas")
    assert result.to_pandas()["row"].tolist() == kept


def test_support_and_queries_each_have_their_own(tmp_path, model):
    support = folder_with_broken(tmp_path / "a", (3,))
    queries = folder_with_broken(tmp_path / "b", BROKEN, seed=1)
    result = skipping(model, support, queries)
    assert_same(result, measure(model, without(support, (3,)), without(queries)))
    assert {name: tuple(reasons) for name, reasons in result.skipped.items()} == {
        "support": (3,), "queries": BROKEN
    }  # fmt: skip
    assert result.rows.tolist() == [row for row in range(30) if row not in BROKEN]
    only_support = skipping(model, support, without(queries))
    assert only_support.rows is None
    assert list(only_support.skipped) == ["support"]
    assert only_support.row_numbers.tolist() == list(range(26))


def test_a_warning_counts_and_names_them(tmp_path):
    data = folder_with_broken(tmp_path)
    sentence = (
        r"support: skipped 4 of 30 rows, which cannot be read: 0, 7, 8, 29; the first: Image "
        r".*a/0\.png cannot be read as an image: Pillow knows no image in it\.$"
    )
    with pytest.warns(UserWarning, match=sentence):
        batches = Batches(data, "support", 4, SKIP)
    assert (batches.rows, len(batches.first.labels)) == (26, 4)


def test_nothing_to_skip_changes_nothing(tmp_path, model):
    data = folder_with_broken(tmp_path, ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = measure(model, data, skip_unreadable=True)
    assert_same(result, measure(model, data))
    assert (result.rows, result.skipped, result.meta) == (None, {}, measure(model, data).meta)


def test_without_the_option_a_broken_image_ends_the_run(tmp_path, model):
    data = folder_with_broken(tmp_path)
    with pytest.raises(ValueError, match=r"a/0\.png cannot be read as an image"):
        measure(model, data)


def test_results_keep_numbers_and_reasons_in_files(tmp_path, model):
    pytest.importorskip("pyarrow")
    result = skipping(model, folder_with_broken(tmp_path / "a"))
    result.save(tmp_path / "depth.parquet")
    loaded = DepthResult.load(tmp_path / "depth.parquet")
    assert loaded.rows.tolist() == result.rows.tolist()
    assert loaded.skipped == result.skipped
    measure(model, folder_with_broken(tmp_path / "b", ())).save(tmp_path / "all.parquet")
    assert DepthResult.load(tmp_path / "all.parquet").rows is None


@pytest.mark.parametrize("options", [{"memory": "8KiB"}, {"keep": True}, {}])
def test_runs_resume_and_stores_hold_the_same_rows(tmp_path, model, options, monkeypatch):
    data = folder_with_broken(tmp_path / "data")
    options = dict(options)
    if options.pop("keep", False):
        options["keep_embeddings"] = tmp_path / "kept"
    expected = measure(model, without(data))

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pdepth.depth.search_backward", stop)
        with pytest.raises(KeyboardInterrupt):
            skipping(model, data, run_dir=tmp_path / "run", **options)
    result = skipping(model, data, run_dir=tmp_path / "run", **options)
    assert_same(result, expected)
    assert tuple(result.skipped["support"]) == BROKEN
    if "keep_embeddings" in options:
        store = pdepth.open_store(tmp_path / "kept")
        assert store.support.labels.tolist() == expected.labels.tolist()
        assert "skipped support" in store.meta


def test_a_reference_for_all_rows_of_the_data(tmp_path, model):
    data = folder_with_broken(tmp_path)
    reference = np.random.default_rng(0).integers(0, 3, 30)
    result = skipping(model, data, reference=reference)
    kept = [row for row in range(30) if row not in BROKEN]
    assert_same(result, measure(model, without(data), reference=reference[kept]))
    with pytest.raises(ValueError, match="reference: expected 30 entries, got 26"):
        skipping(model, data, reference=reference[kept])


def test_images_of_another_size_are_not_skipped(tmp_path, model):
    image_folder(tmp_path, {"a": [pixels(4, 4, 3)] * 5 + [pixels(5, 4, 3)]})
    data = load_data(f"imagefolder:{tmp_path}")
    with pytest.raises(
        ValueError, match=r"5\.png: expected 4 x 4 pixels as in .*; pass --image-si"
    ):
        measure(model, data, skip_unreadable=True)


class Files:
    """A user's own dataset, which opens files as it likes."""

    def __init__(self, contents, error=None):
        self.contents, self.error = contents, error

    def __len__(self):
        return len(self.contents)

    def __getitem__(self, row):
        from PIL import Image

        if self.contents[row] is None:
            raise self.error
        image = Image.open(io.BytesIO(self.contents[row])).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float(), row % 2


IMAGE = encoded(pixels(4, 4, 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_other_datasets_and_loaders(workers):
    data = Files([IMAGE, IMAGE[:40], IMAGE, b"no", IMAGE, None], FileNotFoundError("gone"))
    loader = DataLoader(data, batch_size=2, shuffle=True, num_workers=workers)
    with pytest.warns(UserWarning, match=r"queries: skipped 3 of 6 rows, .*: 1, 3, 5; the first:"):
        batches = Batches(loader, "queries", 4, SKIP)
    assert batches.readable.rows.tolist() == [0, 2, 4]
    assert batches.readable.reasons[5] == "gone"
    assert [batch.labels.tolist() for batch in batches] == [[0, 0], [0]]


@pytest.mark.parametrize("error", [KeyError("bug"), OSError(24, "Too many open files")])
def test_errors_of_code_and_of_the_machine_are_raised(error):
    with pytest.raises(type(error)):
        Batches(Files([IMAGE, None], error), "support", 4, SKIP)


def test_exhausted_machines_break_no_image(tmp_path, monkeypatch):
    data = folder_with_broken(tmp_path, ())

    def exhausted(path):
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", exhausted)
    with pytest.raises(OSError, match="Too many open files"):
        Batches(data, "support", 4, SKIP)


def test_lazy_images_are_decoded_as_the_processor_will():
    from PIL import Image

    class Lazy(Files):
        def __getitem__(self, row):
            return {"image": Image.open(io.BytesIO(self.contents[row])), "label": row}

    rows = [{"image": content, "label": row} for row, content in enumerate([IMAGE, IMAGE[:45]])]
    options = DataOptions(processor=np.asarray, skip_unreadable=True)
    for data in (Lazy([IMAGE, IMAGE[:45]]), rows):
        with pytest.warns(UserWarning, match=r"skipped 1 of 2 rows, .*: 1; .*truncated"):
            assert Batches(data, "support", 4, options).readable.rows.tolist() == [0]


def test_data_without_numbers_or_readable_rows(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(3), 0

    with pytest.raises(ValueError, match="support: expected a dataset whose rows have numbers"):
        Batches(Stream(), "support", 4, SKIP)
    data = Files([b"no"] * 3)
    sentence = "support: expected rows that can be read, got none among 3; the first: cannot identi"
    with pytest.raises(ValueError, match=sentence):
        Batches(data, "support", 4, SKIP)


def test_changed_rows_are_named_by_their_numbers():
    class Random(Files):
        def __getitem__(self, row):
            values, label = super().__getitem__(row)
            return values + torch.rand(()), label

    sentence = r"skipped 1 of 3|got others in rows 1-2;"
    with pytest.raises(ValueError, match=sentence), pytest.warns(UserWarning, match="skipped"):
        Batches(Random([b"no", IMAGE, IMAGE]), "support", 4, SKIP)


def test_the_callers_random_state_is_left_alone(tmp_path):
    class Random(Files):
        def __getitem__(self, row):
            torch.rand(())
            return super().__getitem__(row)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match="skipped"):
        Batches(Random([IMAGE, b"no"]), "support", 1, SKIP)
    assert torch.equal(torch.rand(2), expected[1:])  # row 0 is read once for itself


def test_plans_count_the_rows_that_are_read(tmp_path, model):
    data = folder_with_broken(tmp_path)
    with pytest.warns(UserWarning, match="skipped"):
        plan = pdepth.plan(model, data, k=3, skip_unreadable=True, measure=False)
    assert plan.support == 26


def test_other_forms_of_data(tmp_path, model):
    pytest.importorskip("pyarrow")
    spec = parquet(tmp_path / "a.parquet", image=[IMAGE, b"no", IMAGE, IMAGE], label=[0, 1, 2, 0])
    data = load_data(spec, ImageOptions(raw=True))
    options = DataOptions(processor=np.asarray, skip_unreadable=True)
    with pytest.warns(UserWarning, match=r"skipped 1 of 4 rows, .*: 1; the first: Row 1 of .*"):
        batches = Batches(data, "support", 4, options)
    assert batches.first.labels.tolist() == [0, 2, 0]
    arrays = load_data(npz(tmp_path / "a.npz", x=np.ones((3, 2)), y=np.arange(3)))
    assert isinstance(arrays, TensorDataset)
    assert Batches(arrays, "support", 4, SKIP).readable.reasons == {}
