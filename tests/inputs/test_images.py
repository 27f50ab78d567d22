"""Images: pixels, orientation and size, by Pillow's, torchvision's and NumPy's own values."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch

from pdepth import inputs
from pdepth.inputs import ImageOptions, load_data

from helpers.image_files import encoded, image_folder, npz, parquet, pixels

pytest.importorskip("torchvision")
from PIL import Image, ImageOps

RAW = ImageOptions(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
GREY = ImageOptions(mean=(0.0,), std=(1.0,))
GRADIENT = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)


def folder_of(root, **files):
    """A folder of one class with files of these names and bytes; its DATA."""
    (root / "c").mkdir()
    for name, content in files.items():
        (root / "c" / name.replace("_", ".")).write_bytes(content)
    return f"imagefolder:{root}"


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def opened(root, options, **files):
    """The first image's values (C, H, W), without the warning that ImageFolder reads another."""
    return load_data(folder_of(root, **files), options, compare=False)[0][0]


@pytest.mark.parametrize("form", ["png", "tiff", "ppm"])
def test_sixteen_bits_keep_their_values(tmp_path, form):
    content = saved(Image.fromarray(GRADIENT), form)
    files = {f"a_{'pgm' if form == 'ppm' else form}": content}
    grey = opened(tmp_path, GREY, **files)
    torch.testing.assert_close(grey[0], torch.from_numpy(GRADIENT / 65535).float())
    data = load_data(f"imagefolder:{tmp_path}", RAW, compare=False)
    torch.testing.assert_close(data[0][0], grey.expand(3, 8, 8))
    assert data.image(0).dtype == np.uint8
    np.testing.assert_array_equal(data.image(0)[..., 0], np.rint(GRADIENT / 257))
    row = load_data(f"imagefolder:{tmp_path}", ImageOptions(raw=True), compare=False)[0]["image"]
    assert row.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(row)[..., 1], np.rint(GRADIENT / 257))


def test_sixteen_bits_are_resized_before_they_are_rounded(tmp_path):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)  # all black in 8 bits
    options = ImageOptions(4, GREY.mean, GREY.std)
    small = opened(tmp_path, options, a_png=saved(Image.fromarray(values), "png"))[0]
    assert small.shape == (4, 4)
    assert (small.diff() > 0).all()
    # Weights 3/4, 3/4, 1/4 of three rows and columns, of values that grow by 8 and by 1.
    assert (small[0, 0] * 65535).item() == pytest.approx(9 * 1.25 / 1.75)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiff_of_any_byte_order_and_polarity(tmp_path, byte_order, white_is_zero):
    """A TIFF says which end is first, and whether 0 is white."""
    content = saved(Image.fromarray(GRADIENT.astype(f"{byte_order}u2")), "tiff")
    order = "little" if byte_order == "<" else "big"
    if white_is_zero:
        old = (262).to_bytes(2, order) + (3).to_bytes(2, order) + (1).to_bytes(4, order)
        assert content.count(old) == 1
        at = content.index(old) + len(old)
        content = content[:at] + bytes(2) + content[at + 2 :]
    expected = torch.from_numpy(GRADIENT / 65535).float()
    if white_is_zero and order == "big":  # which Pillow does not read
        with pytest.raises(ValueError, match=r"a\.tiff cannot be read as an image"):
            opened(tmp_path, GREY, a_tiff=content)
        return
    found = opened(tmp_path, GREY, a_tiff=content)[0]
    torch.testing.assert_close(found, 1 - expected if white_is_zero else expected)


def test_floats_from_0_to_1_are_taken(tmp_path):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    content = saved(Image.fromarray(values), "tiff")
    torch.testing.assert_close(opened(tmp_path, GREY, a_tiff=content)[0], torch.from_numpy(values))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.full((2, 2), 1.5, np.float32), r"expected floats from 0 to 1, got 1\.5 to 1\.5; scale"),
        (np.full((2, 2), np.nan, np.float32), "expected floats from 0 to 1, got nan to nan"),
        (np.full((2, 2), -0.5, np.float32), "expected floats from 0 to 1"),
        (np.full((2, 2), 70_000, np.int32), "got 32-bit or signed integers; save them as floats"),
        (np.full((2, 2), 7, np.int32), "got 32-bit or signed integers"),
    ],
)
def test_values_of_an_unknown_range_are_refused(tmp_path, values, sentence):
    with pytest.raises(ValueError, match=rf"a\.tiff cannot be read as an image: .*{sentence}"):
        opened(tmp_path, GREY, a_tiff=saved(Image.fromarray(values), "tiff"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "tiff"])
def test_exif_turns_images(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if form == "webp" else {}
    if form == "jpeg":
        options = {"quality": 100, "subsampling": 0}
    image = Image.fromarray(np.kron(pixels(4, 6, 3), np.ones((4, 4, 1), np.uint8)))
    content = saved(image, form, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    assert upright.shape[:2] == ((16, 24) if orientation < 5 else (24, 16))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"a.{form}").write_bytes(content)
    data = load_data(f"imagefolder:{tmp_path}", RAW, compare=False)
    np.testing.assert_array_equal(data.image(0), upright)
    spec = parquet(tmp_path / "a.parquet", image=[{"bytes": content}], label=[0])
    np.testing.assert_array_equal(load_data(spec, RAW).image(0), upright)


def test_exif_turns_images_as_datasets_does(tmp_path):
    datasets = pytest.importorskip("datasets")
    exif = Image.Exif()
    exif[274] = 6
    content = saved(Image.fromarray(pixels(4, 6, 3)), "png", exif=exif)
    spec = parquet(tmp_path / "a.parquet", image=[{"bytes": content, "path": None}], label=[0])
    rows = datasets.Dataset.from_parquet(
        str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache")
    ).cast_column("image", datasets.Image())
    expected = np.asarray(rows[0]["image"])
    assert expected.shape == (6, 4, 3)
    np.testing.assert_array_equal(load_data(spec, RAW).image(0), expected)
    rows.save_to_disk(str(tmp_path / "saved"))
    saved_rows = load_data(f"dataset:{tmp_path / 'saved'}", RAW)
    np.testing.assert_array_equal(saved_rows.image(0), expected)


def test_exif_turns_deep_images_and_a_broken_exif_is_none(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    turned = saved(Image.fromarray(GRADIENT), "png", exif=exif)
    expected = torch.from_numpy(np.rot90(GRADIENT, -1) / 65535).float()
    torch.testing.assert_close(opened(tmp_path, GREY, a_png=turned)[0], expected)
    broken = saved(Image.fromarray(pixels(4, 6, 3)), "png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    spec = parquet(tmp_path / "a.parquet", image=[broken], label=[0])
    np.testing.assert_array_equal(load_data(spec, RAW).image(0), pixels(4, 6, 3))


def modes():
    """Images with palettes and alpha, and the RGB that they have by the rule."""
    colours = pixels(5, 7, 3)
    alpha = np.random.default_rng(1).integers(0, 256, (5, 7, 1), np.uint8)
    yield "RGBA", Image.fromarray(np.concatenate([colours, alpha], axis=2)), colours
    grey = colours[..., :1]
    yield "LA", Image.fromarray(np.concatenate([grey, alpha], axis=2)), grey.repeat(3, axis=2)
    palette = Image.fromarray(pixels(5, 7) % 3)
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    looked_up = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)[pixels(5, 7) % 3]
    yield "P", palette.copy(), looked_up
    palette.info["transparency"] = b"\x00\x80\xff"
    yield "P with alpha", palette, looked_up
    bits = pixels(5, 7) > 127
    yield "1", Image.fromarray(bits), (bits[..., None] * np.uint8(255)).repeat(3, axis=2)


MODES = {name: case for name, *case in modes()}


@pytest.mark.parametrize(("image", "expected"), MODES.values(), ids=MODES.keys())
def test_palettes_are_looked_up_and_alpha_is_left_out(tmp_path, image, expected):
    content = saved(image, "png", **{k: v for k, v in image.info.items() if k == "transparency"})
    spec = parquet(tmp_path / "a.parquet", image=[content], label=[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_data(spec, RAW).image(0), expected)
        grey = load_data(spec, GREY).image(0)[..., 0]
    np.testing.assert_array_equal(grey, Image.fromarray(expected).convert("L"))


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize(
    "shape", [(33, 50), (37, 53), (100, 75), (41, 64), (500, 333), (45, 33), (20, 31), (7, 90)]
)
def test_image_size_is_torchvisions(tmp_path, shape, size):
    from torchvision.transforms import v2

    image = Image.fromarray(pixels(*shape, 3))
    expected = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])(image)
    root = image_folder(tmp_path, {"c": [np.asarray(image)]})
    data = load_data(f"imagefolder:{root}", ImageOptions(size, RAW.mean, RAW.std))
    np.testing.assert_array_equal(data.image(0), expected.permute(1, 2, 0))
    assert torch.equal(data[0][0], expected.float().div(255))


def test_an_image_beyond_pillows_limit_is_named(tmp_path, monkeypatch):
    root = image_folder(tmp_path, {"c": [pixels(4, 4, 3), pixels(50, 50, 3)]})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = load_data(f"imagefolder:{root}", RAW)
    assert data[0][0].shape == (3, 4, 4)
    sentence = r"Image .*1\.png cannot be read as an image: .*limit of 2000.*MAX_IMAGE_PIXELS ="
    with pytest.raises(ValueError, match=sentence):
        data[1]
    spec = parquet(tmp_path / "a.parquet", image=[encoded(pixels(50, 50, 3))], label=[0])
    with pytest.raises(ValueError, match=r"Row 0 of .*a\.parquet cannot be read as an image"):
        load_data(spec, RAW)[0]


@pytest.mark.parametrize("form", ["avif", "webp", "jpeg", "png", "tiff", "gif", "bmp"])
def test_broken_files_are_named(tmp_path, form):
    content = saved(Image.fromarray(pixels(16, 16, 3)), form)
    half = content[: len(content) // 2]
    spec = parquet(tmp_path / "a.parquet", image=[content, half], label=[0, 1])
    data = load_data(spec, RAW)
    assert data[0][0].shape == (3, 16, 16)
    with pytest.raises(ValueError, match=r"Row 1 of .*a\.parquet cannot be read as an image: \S+"):
        data[1]


def test_the_sentence_of_a_broken_file_is_the_same_each_time(tmp_path):
    spec = parquet(tmp_path / "a.parquet", image=[b"none"], label=[0])
    sentences = set()
    for _ in range(2):
        with pytest.raises(ValueError, match="Pillow knows no image in it") as caught:
            load_data(spec, RAW)[0]
        sentences.add(str(caught.value))
    assert len(sentences) == 1


def test_memory_is_named(tmp_path, monkeypatch):
    data = load_data(f"imagefolder:{image_folder(tmp_path, {'c': [pixels(4, 4, 3)]})}", RAW)

    def full(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", full)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", full)
    with pytest.raises(MemoryError, match=r"Image .*0\.png: expected an image that fits"):
        data[0]


def test_rows_end_where_the_data_ends(tmp_path):
    data = load_data(npz(tmp_path / "a.npz", x=pixels(3, 4, 4, 3), y=np.arange(3)), RAW)
    assert [label for _, label in data] == [0, 1, 2]
    assert data[-1][1] == 2
    for row in (3, -4):
        with pytest.raises(IndexError):
            data[row]


def test_integers_beyond_int64_are_refused(tmp_path):
    y = np.array([0, 2**63 + 1], np.uint64)
    with pytest.raises(ValueError, match=r"'y': expected integers below 2\*\*63, got 92233720368"):
        load_data(npz(tmp_path / "a.npz", x=pixels(2, 4, 4), y=y))


def test_names_of_numbers(tmp_path):
    spec = npz(tmp_path / "a.npz", x=pixels(3, 4, 4), y=np.arange(3))
    assert inputs.class_names(load_data(spec, class_names=["a", "b", "c", "d"])) == list("abcd")
    assert inputs.class_names(load_data(spec, class_names=["a", "b"])) is None
    floats = npz(tmp_path / "b.npz", x=np.ones((2, 3)), y=np.arange(2))
    assert inputs.class_names(load_data(floats, class_names=["a", "b"])) == ["a", "b"]
