"""Folders of images beside torchvision's ImageFolder: what is a class, an image and a row."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch

from pdepth import inputs
from pdepth.inputs import ImageOptions, load_data

from helpers.image_files import encoded, image_folder, pixels

folders = pytest.importorskip("torchvision.datasets")
Image = pytest.importorskip("PIL.Image")

RAW = ImageOptions(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
AS_FOLDER = ImageOptions(mean=RAW.mean, std=RAW.std, as_imagefolder=True)


def save(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(8, 8, 3) if image is None else image).save(path, **options)


def turned():
    exif = Image.Exif()
    exif[274] = 6
    return exif


@pytest.fixture
def root(tmp_path):
    """Classes bird, cat and dog, with all in which ImageFolder reads something else."""
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "cat" / "nested" / "b.JPG")
    save(tmp_path / "cat" / ".thumbnails" / "a.png")
    save(tmp_path / "dog" / "a.jpeg", exif=turned())
    save(tmp_path / "dog" / "b.png", exif=turned())
    save(tmp_path / "dog" / "._a.png")
    save(tmp_path / "dog" / "c.png", np.full((8, 8), 300, np.uint16))
    save(tmp_path / "dog" / "d.avif")
    save(tmp_path / "dog" / "e.tiff", exif=turned())
    save(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.png")
    save(tmp_path / "bird" / "a.webp", exif=turned())
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "readme.md").write_text("no class")
    return tmp_path


def test_hidden_folders_and_files_are_no_classes_and_no_images(root):
    with pytest.warns(UserWarning, match="reads .* otherwise"):
        data = load_data(f"imagefolder:{root}", RAW)
    assert inputs.class_names(data) == ["bird", "cat", "dog"]
    assert data.labels.tolist() == [0, 1, 1, 2, 2, 2, 2, 2]
    assert [row[0].shape for row in data] == [(3, 8, 8)] * 8


def test_a_warning_says_for_how_many_rows_imagefolder_reads_something_else(root):
    with pytest.warns(UserWarning, match="torchvision") as caught:
        load_data(f"imagefolder:{root}", RAW)
    (warning,) = caught
    assert str(warning.message) == (
        f"DATA imagefolder: torchvision's ImageFolder reads {root} otherwise in 11 rows: hidden "
        "images that it takes (3), images of an ending that it leaves out (1), images to which it "
        "gives another class's number (7), images that EXIF turns (3), images of more than 8 bits "
        "a value (1); for a network that was trained on it pass --as-imagefolder "
        "(ImageOptions(as_imagefolder=True))."
    )


def test_the_warning_is_right(root):
    """Rows are counted as they differ, value by value, from those of ImageFolder."""
    data = load_data(f"imagefolder:{root}", RAW, compare=False)
    theirs = folders.ImageFolder(root)
    own = {data._row_name(row).removeprefix("Image "): row for row in range(len(data))}
    differing = len(own.keys() ^ {file for file, _ in theirs.samples})
    for (file, label), (image, _) in zip(theirs.samples, theirs, strict=True):
        if file in own:
            same = np.array_equal(np.asarray(image), data.image(own[file]))
            differing += not same or label != data.labels[own[file]]
    assert differing == 11


def test_without_differences_there_is_no_warning(tmp_path):
    image_folder(tmp_path, {"cat": [pixels(4, 5, 3)] * 2, "dog": [pixels(4, 5)]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(f"imagefolder:{tmp_path}", RAW)
        exact = load_data(f"imagefolder:{tmp_path}", AS_FOLDER)
    for (x, label), (y, other) in zip(data, exact, strict=True):
        assert label == other
        assert torch.equal(x, y)


@pytest.mark.parametrize("size", [None, 5])
def test_as_imagefolder_reads_exactly_as_torchvision(root, size):
    from torchvision.transforms import v2

    steps = [] if size is None else [v2.Resize(size), v2.CenterCrop(size)]
    theirs = folders.ImageFolder(root, v2.Compose([*steps, v2.PILToTensor()]))
    options = ImageOptions(size, RAW.mean, RAW.std, as_imagefolder=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(f"imagefolder:{root}", options)
    assert inputs.class_names(data) == theirs.classes
    assert len(data) == len(theirs) == 10
    for (x, label), (y, other) in zip(data, theirs, strict=True):
        assert label == other
        assert torch.equal(x, y / 255)


def test_as_imagefolder_in_grey(root):
    theirs = folders.ImageFolder(root)
    data = load_data(f"imagefolder:{root}", ImageOptions(None, (0.0,), (1.0,), as_imagefolder=True))
    for row, (image, _) in enumerate(theirs):
        np.testing.assert_array_equal(data.image(row)[..., 0], np.asarray(image.convert("L")))


def test_as_imagefolder_is_of_folders(tmp_path):
    sentence = r"--as-imagefolder \(as_imagefolder=True\): expected DATA imagefolder:DIR, got npz:a"
    with pytest.raises(ValueError, match=sentence):
        load_data("npz:a.npz", AS_FOLDER)


def test_empty_class_folders_are_named_and_keep_their_numbers(tmp_path):
    for name in ("ant", "bee", "cat", "dog"):
        (tmp_path / name).mkdir()
    save(tmp_path / "bee" / "a.png")
    save(tmp_path / "dog" / "a.png")
    with pytest.warns(UserWarning, match=r"no images in 2 of 4 class folders of .*: ant, cat; the"):
        data = load_data(f"imagefolder:{tmp_path}", RAW)
    assert inputs.class_names(data) == ["ant", "bee", "cat", "dog"]
    assert data.labels.tolist() == [1, 3]
    sentence = r"DATA imagefolder: .*ant.*; ImageFolder takes no empty folders, leave out --as-im"
    with pytest.raises(FileNotFoundError, match=sentence):
        load_data(f"imagefolder:{tmp_path}", AS_FOLDER)


@pytest.mark.filterwarnings("ignore:DATA imagefolder. no images")
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_queries_without_a_class_keep_the_supports_numbering(tmp_path, how):
    for name in ("cat", "dog", "owl"):
        save(tmp_path / "train" / name / "a.png")
    save(tmp_path / "test" / "owl" / "b.png")
    save(tmp_path / "test" / "cat" / "b.png")
    (tmp_path / "test" / "unused").mkdir()  # which no row is of
    if how == "empty":
        (tmp_path / "test" / "dog").mkdir()
    support = load_data(f"imagefolder:{tmp_path}/train", RAW)
    queries = load_data(
        f"imagefolder:{tmp_path}/test", RAW, class_names=inputs.class_names(support)
    )
    inputs.check_same_classes(support, queries)
    assert queries.labels.tolist() == [0, 2]
    assert inputs.class_names(queries) == ["cat", "dog", "owl"]


@pytest.mark.filterwarnings("ignore:DATA imagefolder. no images")
def test_empty_folders_number_classes_without_names_too(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
    save(tmp_path / "train" / "cat" / "a.png")
    save(tmp_path / "train" / "dog" / "a.png")
    save(tmp_path / "test" / "dog" / "a.png")
    specs = [f"imagefolder:{tmp_path}/{part}" for part in ("train", "test")]
    support, queries = (load_data(spec, RAW) for spec in specs)
    inputs.check_same_classes(support, queries)
    assert queries.labels.tolist() == [1]


def test_names_in_other_scripts_and_bytes_that_are_no_text(tmp_path):
    save(tmp_path / "кошка" / "ünï 猫.png")
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(strange)
    file = os.path.join(strange, os.fsdecode(b"\xff\xfe.png"))
    with open(file, "wb") as opened:
        opened.write(encoded(pixels(8, 8, 3)))
    with open(os.path.join(strange, os.fsdecode(b"\xff\xff.png")), "wb") as opened:
        opened.write(b"broken")
    data = load_data(f"imagefolder:{tmp_path}", RAW)
    assert inputs.class_names(data) == ["caf\\xe9", "кошка"]
    assert data.labels.tolist() == [0, 0, 1]
    assert torch.equal(data[0][0], data[2][0])
    with pytest.raises(ValueError, match=r"caf\\xe9/\\xff\\xff\.png cannot be read") as caught:
        data[1]
    str(caught.value).encode()  # every file and terminal can hold it
    inside = load_data(f"imagefolder:{tmp_path}", RAW, class_names=["кошка", "caf\\xe9"])
    assert inside.labels.tolist() == [1, 1, 0]


def test_folders_without_classes_or_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected at least one class folder in .*, got"):
        load_data(f"imagefolder:{tmp_path}")
    save(tmp_path / ".cache" / "a.png")
    with pytest.raises(FileNotFoundError, match="expected at least one class folder in .*, got"):
        load_data(f"imagefolder:{tmp_path}")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"expected images \(\.jpg, .*\) in the class fold"):
        load_data(f"imagefolder:{tmp_path}")


def test_files_that_are_gone_or_links_to_nothing(tmp_path):
    save(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "b.png").symlink_to(tmp_path / "nowhere.png")
    data = load_data(f"imagefolder:{tmp_path}", RAW)
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image: .*No such file"):
        data[1]


def test_files_are_those_of_imagefolder_in_its_order(tmp_path):
    """Nested folders, links to folders, names that sort otherwise by case or number."""
    names = [
        "z.png",
        "Z.JPG",
        "10.png",
        "9.png",
        "deep/b.webp",
        "deep/a.bmp",
        "Deep/c.tif",
        "x.gif",
    ]
    for name in names:
        save(tmp_path / "data" / "b" / name, format="PNG")
    save(tmp_path / "elsewhere" / "linked.ppm")
    (tmp_path / "data" / "a").mkdir()
    (tmp_path / "data" / "a" / "link").symlink_to(tmp_path / "elsewhere")
    data = load_data(f"imagefolder:{tmp_path / 'data'}", RAW)
    theirs = folders.ImageFolder(str(tmp_path / "data"))
    assert list(zip(data.paths, data.labels.tolist(), strict=True)) == theirs.samples
    assert len(data) == len(names)  # the GIF is none, the link one
    assert inputs.folders.ENDINGS == folders.folder.IMG_EXTENSIONS


@pytest.mark.parametrize("mode", ["L", "RGB", "F"])
def test_any_size_is_torchvisions(mode):
    from torchvision.transforms import functional

    rng = np.random.default_rng(0)
    for width, height, size in rng.integers(1, 70, (100, 3)).tolist():
        image = Image.fromarray(pixels(height, width, 3)).convert(mode)
        expected = functional.center_crop(functional.resize(image, [size]), [size])
        np.testing.assert_array_equal(inputs.pixels.resize(image, size), expected)
