"""MODEL and DATA of the command line: what each form gives, and the sentence for each mistake."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pdepth import inputs
from pdepth.inputs import ImageOptions, load_data, load_model

pil = pytest.importorskip("PIL.Image")

RAW = ImageOptions(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
USER_FILE = """
import torch
from helper import WIDTH
from torch.utils.data import TensorDataset

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))

def data():
    return TensorDataset(torch.zeros(5, WIDTH), torch.arange(5))

def broken():
    raise ValueError("inside")

def number():
    return 7

text = "no function"
"""


@pytest.fixture
def user_file(tmp_path):
    (tmp_path / "helper.py").write_text("WIDTH = 4\n")
    file = tmp_path / "mine.py"
    file.write_text(USER_FILE)
    return file


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def encoded(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    pil.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def image_folder(root, arrays: dict[str, list[np.ndarray]]):
    for name, images in arrays.items():
        (root / name).mkdir(parents=True)
        for i, image in enumerate(images):
            (root / name / f"{i}.png").write_bytes(encoded(image))
    return root


def parquet(path, **columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return f"parquet:{path}"


def npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def small_network(classes: int) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.get_model("squeezenet1_1", num_classes=classes)


def test_torchvision_takes_the_number_of_classes_from_the_weights(tmp_path):
    trained = small_network(7)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    model = load_model("torchvision:squeezenet1_1", tmp_path / "w.pt")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_timm_takes_the_number_of_classes_whatever_the_order_in_the_file(tmp_path):
    timm = pytest.importorskip("timm")
    trained = timm.create_model("test_resnet", num_classes=7)
    state = dict(sorted(trained.state_dict().items()))  # safetensors sorts: `fc` is not the last
    torch.save(state, tmp_path / "w.pt")
    model = load_model("timm:test_resnet", tmp_path / "w.pt")
    assert model.num_classes == 7
    assert ImageOptions.for_model(model).mean == tuple(trained.pretrained_cfg["mean"])


def test_safetensors(tmp_path, user_file):
    safetensors = pytest.importorskip("safetensors.torch")
    state = load_model(f"{user_file}:net").state_dict()
    state["0.bias"] = torch.tensor([1.0, 2.0, 3.0])
    safetensors.save_file(state, tmp_path / "w.safetensors")
    model = load_model(f"{user_file}:net", tmp_path / "w.safetensors")
    assert model.state_dict()["0.bias"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    ],
    ids=["checkpoint", "parallel checkpoint", "parallel compiled"],
)
def test_wrapped_weights(tmp_path, user_file, wrap):
    state = load_model(f"{user_file}:net").state_dict()
    state["0.bias"] = torch.tensor([1.0, 2.0, 3.0])
    torch.save(wrap(state), tmp_path / "w.pth")
    model = load_model(f"{user_file}:net", tmp_path / "w.pth")
    assert model.state_dict()["0.bias"].tolist() == [1, 2, 3]


def test_weights_that_do_not_fit(tmp_path, user_file):
    state = load_model(f"{user_file}:net").state_dict()
    state["extra"] = state.pop("0.bias")
    state["2.weight"] = torch.zeros(9, 9)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="does not fit") as error:
        load_model(f"{user_file}:net", tmp_path / "w.pt")
    assert str(error.value) == (
        f"--weights {tmp_path / 'w.pt'} does not fit {user_file}:net: 1 missing (first: 0.bias), "
        "1 unexpected (first: extra), 1 of another shape (first: 2.weight, (9, 9) in the file, "
        "(2, 3) in the model)."
    )


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 broken"])
def test_weights_that_cannot_be_read(tmp_path, user_file, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pt is not a state dict that torch\.load"):
        load_model(f"{user_file}:net", tmp_path / "w.pt")


def test_weights_that_hold_code_or_no_tensors(tmp_path, user_file):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(ValueError, match="is not a state dict"):
        load_model(f"{user_file}:net", tmp_path / "w.pt")
    torch.save({"a": 1}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_model(f"{user_file}:net", tmp_path / "w.pt")


def test_model_mistakes(tmp_path, user_file):
    with pytest.raises(ValueError, match="MODEL 'resnet18' is none of torchvision:NAME, timm:NAME"):
        load_model("resnet18")
    with pytest.raises(ValueError, match=r"knows no model 'resnet81'; did you mean resnet18"):
        load_model("torchvision:resnet81", untrained=True)
    with pytest.raises(ValueError, match="needs --weights FILE: random weights"):
        load_model("torchvision:resnet18")
    with pytest.raises(FileNotFoundError, match="--weights: there is no file"):
        load_model(f"{user_file}:net", tmp_path / "gone.pt")
    with pytest.raises(TypeError, match=r":data returned TensorDataset; a torch\.nn\.Module"):
        load_model(f"{user_file}:data")


def test_user_file_gives_a_model_and_data(user_file):
    assert isinstance(load_model(f"{user_file}:net"), nn.Sequential)
    data = load_data(f"{user_file}:data")
    assert isinstance(data, TensorDataset)
    assert len(data) == 5


def test_user_file_mistakes(tmp_path, user_file):
    with pytest.raises(FileNotFoundError, match=r"gone\.py:net: there is no file"):
        load_model(f"{tmp_path / 'gone.py'}:net")
    with pytest.raises(ValueError, match=r"mine\.py has no function 'other'"):
        load_model(f"{user_file}:other")
    with pytest.raises(ValueError, match=r"mine\.py has no function 'text'"):
        load_model(f"{user_file}:text")
    with pytest.raises(TypeError, match="returned int; a torch Dataset or DataLoader"):
        load_data(f"{user_file}:number")


def test_a_bug_in_the_users_file_keeps_its_traceback(tmp_path, user_file):
    with pytest.raises(RuntimeError, match=":broken failed") as error:
        load_data(f"{user_file}:broken")
    assert str(error.value.__cause__) == "inside"
    (tmp_path / "bad.py").write_text("import nothing_of_this_name")
    for _ in range(2):  # a failed import is not remembered as a module
        with pytest.raises(RuntimeError, match="failed while it was imported"):
            load_model(f"{tmp_path / 'bad.py'}:net")


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
    got, _ = load_data(npz(tmp_path / "a.npz", x=x, y=y), options)[1]
    want = (x[1] / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]
    np.testing.assert_allclose(got, want.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


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


def test_npz_of_floats_passes_as_float32(tmp_path):
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
    with pytest.raises(ValueError, match=r"1\.png is 6 x 4 and .*0\.png 5 x 4; give --image-size"):
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
        ({"x": pixels(3, 4, 4)}, "has no array 'y'; it has x"),
        ({"x": pixels(3, 4, 4), "y": np.arange(4)}, "y holds 4 labels for 3 examples"),
        ({"x": pixels(3, 4, 4), "y": np.arange(3.0)}, r"y is float64 of shape \(3,\); integers"),
        ({"x": pixels(3, 4, 4), "y": np.eye(3, dtype=int)}, r"y is int64 of shape \(3, 3\)"),
        ({"x": pixels(3, 4), "y": np.arange(3)}, r"x is uint8 of shape \(3, 4\); uint8 images"),
        ({"x": pixels(3, 3, 4, 5), "y": np.arange(3)}, r"x is uint8 of shape \(3, 3, 4, 5\)"),
        ({"x": np.arange(3), "y": np.arange(3)}, r"x is int64 of shape \(3,\)"),
        ({"x": pixels(0, 4, 4), "y": np.arange(0)}, "y is empty"),
        ({"x": np.array([None]), "y": np.arange(1)}, "not an npz file of plain arrays"),
    ],
)
def test_npz_mistakes(tmp_path, arrays, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_data(npz(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken"])
def test_files_that_are_something_else(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="not an npz file of plain arrays"):
        load_data(f"npz:{tmp_path / 'a'}")
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        load_data(f"parquet:{tmp_path / 'a'}")


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"img": [b"a"], "label": [1]}, "has no column 'image'; it has img, label"),
        ({"image": [b"a"], "label": [1.5]}, r"'label' is float64 of shape \(1,\); integers"),
        ({"image": [b"a", b"b"], "label": [1, None]}, "column 'label' has empty entries"),
        ({"image": ["a.png"], "label": [1]}, "column 'image' is string; the bytes of image files"),
        ({"image": [{"bytes": None}], "label": [1]}, "'image'"),
    ],
)
def test_parquet_mistakes(tmp_path, columns, sentence):
    spec = parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(ValueError, match=sentence):
        load_data(spec)


def test_missing_files(tmp_path):
    with pytest.raises(ValueError, match="DATA 'csv:a' is none of imagefolder:DIR, parquet:FILE"):
        load_data("csv:a")
    for spec in (f"npz:{tmp_path}/gone.npz", f"parquet:{tmp_path}/gone.parquet"):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*gone"):
            load_data(spec)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        load_data(f"imagefolder:{tmp_path}/gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="class folder"):
        load_data(f"imagefolder:{tmp_path}/empty")


def test_option_mistakes():
    with pytest.raises(ValueError, match="mean has 2 numbers and std 3; one each"):
        ImageOptions(mean=(0.0, 0.0))
    with pytest.raises(ValueError, match="not positive"):
        ImageOptions(std=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="image size 0"):
        ImageOptions(size=0)


def test_folders_whose_classes_differ_are_refused(tmp_path):
    a = load_data(f"imagefolder:{image_folder(tmp_path / 'a', {n: [pixels(2, 2)] for n in 'xyz'})}")
    b = load_data(f"imagefolder:{image_folder(tmp_path / 'b', {n: [pixels(2, 2)] for n in 'xz'})}")
    inputs.check_same_classes(a, a)
    with pytest.raises(ValueError, match="--queries has 2 class folders and --support 3, and 'y'"):
        inputs.check_same_classes(a, b)


def test_pictures_are_what_the_network_sees(tmp_path):
    x = pixels(3, 4, 5, 3)
    data = load_data(npz(tmp_path / "a.npz", x=x, y=np.arange(3)))
    np.testing.assert_array_equal(inputs.pictures(data, 3)[2], x[2])
    loader = torch.utils.data.DataLoader(TensorDataset(torch.ones(2, 1, 4, 4), torch.zeros(2)))
    assert inputs.pictures(loader, 2)[1].shape == (1, 4, 4)
    assert inputs.pictures(loader, 1) is None  # rows that a sampler chose
    assert inputs.pictures(TensorDataset(torch.ones(2, 9), torch.zeros(2)), 2) is None
    turned = torch.utils.data.Subset(data, [2, 1, 0])
    torch.testing.assert_close(inputs.pictures(turned, 3)[0], data[2][0])


def test_pictures_outlive_a_broken_first_one(tmp_path):
    root = image_folder(tmp_path, {"a": [pixels(4, 4, 3), pixels(5, 4, 3)]})
    (root / "a" / "0.png").write_bytes(b"no")
    shown = inputs.pictures(load_data(f"imagefolder:{root}"), 2)
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
        shown[0]
    assert shown[1].shape == (5, 4, 3)


def test_what_data_says_of_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inputs.absolute("npz:a.npz") == f"npz:{tmp_path}/a.npz"
    assert inputs.absolute("b/nets.py:data") == f"{tmp_path}/b/nets.py:data"
    assert inputs.absolute(f"imagefolder:{tmp_path}") == f"imagefolder:{tmp_path}"
    assert inputs.is_code("nets.py:data")
    assert not inputs.is_code("npz:nets.py")
    root = image_folder(tmp_path, {"a": [pixels(4, 4, 3)], "b": [pixels(4, 4, 3)]})
    assert inputs.labels_of(load_data(f"imagefolder:{root}")).tolist() == [0, 1]
    tensors = TensorDataset(torch.ones(2, 1, 4, 4), torch.tensor([3, 5]))
    assert inputs.labels_of(torch.utils.data.DataLoader(tensors)).tolist() == [3, 5]
    assert inputs.labels_of(torch.utils.data.Subset(tensors, [0])) is None
