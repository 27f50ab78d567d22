"""DATA: what each form opens, what is known of it, and the sentence for each mistake."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from pdepth import inputs
from pdepth.inputs import ImageOptions, load_data

from helpers.image_files import encoded, image_folder, npz, parquet, pixels

pytest.importorskip("PIL")

RAW = ImageOptions(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def test_image_folder(tmp_path):
    images = {"cat": [pixels(4, 5, 3)] * 2, "dog": [255 - pixels(4, 5, 3)]}
    data = load_data(f"imagefolder:{image_folder(tmp_path, images)}", RAW)
    assert [label for _, label in data] == [0, 0, 1]
    x, label = data[2]
    assert (x.shape, x.dtype, type(label)) == ((3, 4, 5), torch.float32, int)
    torch.testing.assert_close(x, torch.from_numpy(images["dog"][0]).permute(2, 0, 1) / 255)
    assert inputs.class_names(data) == ["cat", "dog"]


def test_mean_and_std_by_channel(tmp_path):
    x, y = pixels(2, 4, 4, 3), np.arange(2)
    options = ImageOptions(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    image, _ = load_data(npz(tmp_path / "a.npz", x=x, y=y), options)[1]
    expected = (x[1] / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]
    np.testing.assert_allclose(image, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("struct", [False, True])
def test_parquet(tmp_path, struct):
    images = pixels(3, 4, 5, 3)
    column = [{"bytes": encoded(i), "path": None} if struct else encoded(i) for i in images]
    data = load_data(parquet(tmp_path / "a.parquet", image=column, label=[5, -1, 7]), RAW)
    assert [label for _, label in data] == [5, -1, 7]
    for (x, _), image in zip(data, images, strict=True):
        torch.testing.assert_close(x, torch.from_numpy(image).permute(2, 0, 1) / 255)


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 1)])
def test_npz_of_grey_images(tmp_path, shape):
    x = pixels(*shape)
    spec = npz(tmp_path / "a.npz", x=x, y=np.arange(3, dtype=np.uint8))
    grey = torch.from_numpy(x[1].reshape(1, 4, 5)) / 255
    torch.testing.assert_close(load_data(spec, RAW)[1][0], grey.expand(3, 4, 5))
    one = load_data(spec, ImageOptions(mean=(0.0,), std=(1.0,)))
    torch.testing.assert_close(one[1][0], grey)


def test_npz_of_floats_becomes_float32(tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 7))
    data = load_data(npz(tmp_path / "a.npz", x=x, y=np.arange(3)))
    assert data[1][0].dtype == torch.float32
    np.testing.assert_array_equal(data[1][0], x[1].astype(np.float32))


def test_image_size_resizes_the_shorter_side_and_cuts_the_middle(tmp_path):
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 12:18] = 200  # six columns of the ten that are left
    spec = f"imagefolder:{image_folder(tmp_path, {'a': [image, pixels(9, 9, 3)]})}"
    data = load_data(spec, ImageOptions(5, RAW.mean, RAW.std))
    assert data[0][0].shape == data[1][0].shape == (3, 5, 5)
    assert data[0][0].mean().item() == pytest.approx(0.6 * 200 / 255, rel=0.02)
    torch.testing.assert_close(data[0][0], data[0][0].flip(2))


def test_images_of_two_sizes(tmp_path):
    root = image_folder(tmp_path, {"a": [pixels(4, 5, 3), pixels(4, 6, 3)]})
    data = load_data(f"imagefolder:{root}")
    with pytest.raises(
        ValueError,
        match=r"1\.png: expected 5 x 4 pixels as in .*0\.png, got 6 x 4; pass --image-size",
    ):
        data[1]


def test_a_broken_image_is_named(tmp_path):
    root = image_folder(tmp_path, {"a": [pixels(4, 4, 3), pixels(4, 4, 3)]})
    broken = root / "a" / "1.png"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"1\.png cannot be read as an image"):
        load_data(f"imagefolder:{root}")[1]
    spec = parquet(tmp_path / "a.parquet", image=[encoded(pixels(4, 4, 3)), b"no"], label=[0, 1])
    with pytest.raises(ValueError, match=r"Row 1 of .*a\.parquet cannot be read as an image"):
        load_data(spec)[1]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": pixels(3, 4, 4)}, "expected an array 'y', got x"),
        (
            {"x": pixels(3, 4, 4), "y": np.arange(4)},
            r"'y': expected integers of shape \(3,\), got int64 of shape \(4,\)",
        ),
        (
            {"x": pixels(3, 4, 4), "y": np.arange(3.0)},
            r"'y': expected integers of shape \(3,\), got float64 of",
        ),
        ({"x": pixels(3, 4, 4), "y": np.eye(3, dtype=int)}, r"'y': .* got int64 of shape \(3, 3\)"),
        (
            {"x": pixels(3, 4), "y": np.arange(3)},
            r"'x': expected uint8 images .*, got uint8 of shape \(3, 4\)",
        ),
        ({"x": pixels(3, 3, 4, 5), "y": np.arange(3)}, r"got uint8 of shape \(3, 3, 4, 5\)"),
        ({"x": np.arange(3), "y": np.arange(3)}, r"'x': .* got int64 of shape \(3,\)"),
        ({"x": pixels(0, 4, 4), "y": np.arange(0)}, "'y': expected at least one example, got none"),
        ({"x": np.array([None]), "y": np.arange(1)}, "expected an npz file of plain arrays"),
    ],
)
def test_npz_mistakes(tmp_path, arrays, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_data(npz(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken"])
def test_files_that_are_something_else(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="expected an npz file of plain arrays"):
        load_data(f"npz:{tmp_path / 'a'}")
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match="expected a readable Parquet file"):
        load_data(f"parquet:{tmp_path / 'a'}")


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {"picture": [b"a"], "label": [1]},
            "expected a column 'image', or 'text', got picture, label",
        ),
        (
            {"image": [b"a"], "label": [1.5]},
            r"'label': expected integers of shape \(1,\), got float64",
        ),
        (
            {"image": [b"a", b"b"], "label": [1, None]},
            "column 'label': expected no empty entries, got 1",
        ),
        (
            {"image": ["a.png"], "label": [1]},
            "column 'image': expected the bytes of image files, .* got string",
        ),
        ({"image": [{"bytes": None}], "label": [1]}, "'image'"),
    ],
)
def test_parquet_mistakes(tmp_path, columns, sentence):
    spec = parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(ValueError, match=sentence):
        load_data(spec)


def test_missing_files(tmp_path):
    with pytest.raises(
        ValueError, match="DATA: expected imagefolder:DIR, npz:FILE, .* got 'xls:a'"
    ):
        load_data("xls:a")
    for spec in (f"npz:{tmp_path}/gone.npz", f"parquet:{tmp_path}/gone.parquet"):
        with pytest.raises(FileNotFoundError, match="expected an existing file, got .*gone"):
            load_data(spec)
    with pytest.raises(FileNotFoundError, match="expected an existing folder, got .*gone"):
        load_data(f"imagefolder:{tmp_path}/gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="class folder"):
        load_data(f"imagefolder:{tmp_path}/empty")


def test_option_mistakes():
    with pytest.raises(ValueError, match=r"mean and std: expected 1 number each .*, got 2 and 3"):
        ImageOptions(mean=(0.0, 0.0))
    with pytest.raises(ValueError, match="std: expected positive numbers"):
        ImageOptions(std=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="image size: expected an integer >= 1, got 0"):
        ImageOptions(size=0)


def test_folders_whose_classes_differ_are_refused(tmp_path):
    a = load_data(f"imagefolder:{image_folder(tmp_path / 'a', {n: [pixels(2, 2)] for n in 'xyz'})}")
    b = load_data(f"imagefolder:{image_folder(tmp_path / 'b', {n: [pixels(2, 2)] for n in 'xz'})}")
    inputs.check_same_classes(a, a)
    with pytest.raises(
        ValueError,
        match=r"the 3 classes of support, got 2, and 'y' differs; open them with load_data",
    ):
        inputs.check_same_classes(a, b)


def test_images_are_what_the_network_sees(tmp_path):
    x = pixels(3, 4, 5, 3)
    data = load_data(npz(tmp_path / "a.npz", x=x, y=np.arange(3)))
    np.testing.assert_array_equal(inputs.dataset_images(data, 3)[2], x[2])
    loader = torch.utils.data.DataLoader(TensorDataset(torch.ones(2, 1, 4, 4), torch.zeros(2)))
    assert inputs.dataset_images(loader, 2)[1].shape == (1, 4, 4)
    assert inputs.dataset_images(loader, 1) is None  # rows that a sampler chose
    assert inputs.dataset_images(TensorDataset(torch.ones(2, 9), torch.zeros(2)), 2) is None
    turned = torch.utils.data.Subset(data, [2, 1, 0])
    torch.testing.assert_close(inputs.dataset_images(turned, 3)[0], data[2][0])


def test_images_after_a_broken_one_are_read(tmp_path):
    root = image_folder(tmp_path, {"a": [pixels(4, 4, 3), pixels(5, 4, 3)]})
    (root / "a" / "0.png").write_bytes(b"no")
    images = inputs.dataset_images(load_data(f"imagefolder:{root}"), 2)
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
        images[0]
    assert images[1].shape == (5, 4, 3)


def test_what_is_known_of_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inputs.absolute_spec("npz:a.npz") == f"npz:{tmp_path}/a.npz"
    assert inputs.absolute_spec("b/nets.py:data") == f"{tmp_path}/b/nets.py:data"
    assert inputs.absolute_spec(f"imagefolder:{tmp_path}") == f"imagefolder:{tmp_path}"
    assert inputs.runs_code("nets.py:data")
    assert not inputs.runs_code("npz:nets.py")
    root = image_folder(tmp_path, {"a": [pixels(4, 4, 3)], "b": [pixels(4, 4, 3)]})
    assert inputs.known_labels(load_data(f"imagefolder:{root}")).tolist() == [0, 1]
    tensors = TensorDataset(torch.ones(2, 1, 4, 4), torch.tensor([3, 5]))
    assert inputs.known_labels(torch.utils.data.DataLoader(tensors)).tolist() == [3, 5]
    assert inputs.known_labels(torch.utils.data.Subset(tensors, [0])) is None


def test_folders_are_numbered_as_a_networks_names(tmp_path):
    root = image_folder(tmp_path, {name: [pixels(2, 2)] for name in ("cat", "dog")})
    spec = f"imagefolder:{root}"
    assert load_data(spec, class_names=["dog", "owl", "cat"]).labels.tolist() == [2, 0]
    assert inputs.class_names(load_data(spec, class_names=["dog", "cat"])) == ["dog", "cat"]
    for unfit in (["dog", "owl"], ["dog", "cat", "dog"]):
        data = load_data(spec, class_names=unfit)
        assert (data.labels.tolist(), inputs.class_names(data)) == ([0, 1], ["cat", "dog"])


def test_raw_images_are_rows_for_a_processor(tmp_path):
    image = pytest.importorskip("PIL.Image")
    images = {"cat": [pixels(4, 5, 3)], "dog": [pixels(9, 7, 3), pixels(3, 3)]}
    root = image_folder(tmp_path, images)
    data = load_data(f"imagefolder:{root}", ImageOptions(raw=True), label_column="kind")
    assert isinstance(data[1]["image"], image.Image)
    np.testing.assert_array_equal(np.asarray(data[1]["image"]), images["dog"][0])
    rows = [data[row] for row in range(3)]
    assert [(row["image"].mode, row["image"].size) for row in rows] == [
        ("RGB", (5, 4)), ("RGB", (7, 9)), ("RGB", (3, 3))
    ]  # fmt: skip
    assert [row["kind"] for row in rows] == [0, 1, 1]
    np.testing.assert_array_equal(inputs.dataset_images(data, 3)[1], images["dog"][0])
    grey = load_data(f"imagefolder:{root}", ImageOptions(raw=True, mean=(0.5,), std=(0.5,)))
    assert grey[0]["image"].mode == "L"
    assert inputs.has_named_rows(data)
    assert not inputs.has_named_rows(load_data(f"imagefolder:{root}"))


def test_label_column_of_images(tmp_path):
    column = [encoded(image) for image in pixels(2, 4, 5, 3)]
    spec = parquet(tmp_path / "a.parquet", image=column, kind=["b", "a"], label=[7, 8])
    with pytest.warns(UserWarning, match="column 'kind': labels are names"):
        data = load_data(spec, RAW, label_column="kind")
    assert [label for _, label in data] == [1, 0]
    assert inputs.class_names(data) == ["a", "b"]
    assert [label for _, label in load_data(spec, RAW)] == [7, 8]
