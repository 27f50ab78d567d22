"""DATA of texts and of other libraries: what each form opens, and the sentence for each mistake."""

from __future__ import annotations

import csv
import json
import warnings

import pytest

from pdepth import inputs
from pdepth.inputs import ImageOptions, load_data

from helpers.image_files import encoded, parquet, pixels
from helpers.torch_or_skip import torch

RAW = ImageOptions(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def text_file(path, rows):
    """CSV or JSON lines of rows, and its DATA."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return f"jsonl:{path}"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t"
        )
        writer.writeheader()
        writer.writerows(rows)
    return f"csv:{path}"


TEXTS = ["so good", 'a, b\nand "c"', "", "ünïcode", "42"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_texts(tmp_path, name):
    pytest.importorskip("pyarrow")
    labels = [3, 0, -1, 3, 1]
    if name == "a.parquet":
        spec = parquet(tmp_path / name, text=TEXTS, label=labels, more=list("abcde"))
    else:
        rows = [
            {"text": text, "label": label, "more": "x"}
            for text, label in zip(TEXTS, labels, strict=True)
        ]
        spec = text_file(tmp_path / name, rows)
    data = load_data(spec)
    expected = [{"text": t, "label": n} for t, n in zip(TEXTS, labels, strict=True)]
    assert [data[row] for row in range(len(data))] == expected
    assert type(data[0]["label"]) is int
    assert inputs.known_labels(data).tolist() == labels
    assert inputs.class_names(data) is None
    assert inputs.dataset_images(data, 5) is None
    assert inputs.absolute_spec(spec) == spec
    assert not inputs.runs_code(spec)


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (("sentence", "id", "source"), ["text"]),
        (("review",), ["text"]),
        (("text", "id"), ["text"]),
        (("premise", "hypothesis"), ["premise", "hypothesis"]),
        (("text", "text_pair"), ["text", "text_pair"]),
    ],
)
def test_columns_of_texts(tmp_path, columns, names):
    pytest.importorskip("pyarrow")
    rows = [{name: f"{name} {row}" for name in columns} | {"labels": row} for row in range(2)]
    data = load_data(text_file(tmp_path / "a.jsonl", rows))
    assert list(data[1]) == [*names, "label"]
    assert data[1][names[0]] == f"{columns[0]} 1"
    assert data[1][names[-1]] == f"{columns[len(names) - 1]} 1"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_labels_that_are_names_are_numbered(tmp_path, suffix):
    pytest.importorskip("pyarrow")

    def spec(name, labels):
        rows = [{"text": "a", "stars": label} for label in labels]
        return text_file(tmp_path / f"{name}.{suffix}", rows)

    with pytest.warns(UserWarning, match="labels are names; .* in their order: bad, good, so-so"):
        support = load_data(spec("a", ["so-so", "bad", "good", "bad"]), label_column="stars")
    assert support[0] == {"text": "a", "stars": 2}
    assert support.labels.tolist() == [2, 0, 1, 0]
    names = inputs.class_names(support)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        queries = load_data(spec("b", ["good"]), label_column="stars", class_names=names)
        of_network = ["so-so", "good", "unused", "bad"]
        numbered = load_data(
            spec("c", ["so-so", "bad"]), label_column="stars", class_names=of_network
        )
    assert queries.labels.tolist() == [1]
    inputs.check_same_classes(support, queries)
    assert numbered.labels.tolist() == [0, 3]
    assert inputs.class_names(numbered) == of_network
    with pytest.warns(UserWarning, match="in their order: bad, other"):
        others = load_data(spec("d", ["other", "bad"]), label_column="stars", class_names=names)
    with pytest.raises(ValueError, match=r"queries: expected the 3 classes of support, got 2, and"):
        inputs.check_same_classes(support, others)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"text": "a", "y": 1}], "expected a column 'label', got text, y; pass --label-column"),
        (
            [{"a": "a", "b": "b", "c": "c", "label": 1}],
            "expected a column 'text', or only one of strings, got a, b, c; rename the texts'",
        ),
        ([{"a": 1, "label": 1}], "got none of strings but a, label; rename"),
        ([{"text": "a", "label": 1.5}], r"'label': expected integers of shape \(1,\), got float64"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": None}], "'label': expected no empty"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_text_mistakes(tmp_path, rows, sentence, suffix):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=sentence):
        load_data(text_file(tmp_path / f"a.{suffix}", rows))


def test_text_files_that_are_something_else(tmp_path):
    pytest.importorskip("pyarrow")
    for kind, form, content in (
        ("csv", "CSV", b"text,label\na,1,2\n"),
        ("jsonl", "JSON lines", b'{"text": '),
    ):
        (tmp_path / kind).write_bytes(content)
        with pytest.raises(ValueError, match=f"DATA {kind}: expected a readable {form} file, got"):
            load_data(f"{kind}:{tmp_path / kind}")
    with pytest.raises(ValueError, match=r"expected a column 'other', got text, label"):
        load_data(text_file(tmp_path / "a.csv", [{"text": "a", "label": 1}]), label_column="other")


def test_saved_datasets_of_texts(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"sentence": datasets.Value("string"), "label": names})
    table = datasets.Dataset.from_dict(
        {"sentence": ["a", "b", "c"], "label": [1, 0, -1]}, features=features
    )
    table.select([2, 0, 1]).save_to_disk(str(tmp_path / "a"))
    data = load_data(f"dataset:{tmp_path / 'a'}")
    assert [data[row] for row in range(3)] == [
        {"text": "c", "label": -1}, {"text": "a", "label": 1}, {"text": "b", "label": 0}
    ]  # fmt: skip
    assert inputs.class_names(data) == ["neg", "pos"]
    turned = load_data(f"dataset:{tmp_path / 'a'}", class_names=["pos", "neg"])
    assert turned.labels.tolist() == [-1, 0, 1]
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "b"))
    with pytest.raises(
        ValueError, match=r"expected one split in .*, got train, test; pass dataset"
    ):
        load_data(f"dataset:{tmp_path / 'b'}")
    assert len(load_data(f"dataset:{tmp_path / 'b' / 'train'}")) == 3
    with pytest.raises(ValueError, match="expected a column 'kind', got sentence, label"):
        load_data(f"dataset:{tmp_path / 'a'}", label_column="kind")
    with pytest.raises(ValueError, match="expected a folder that save_to_disk of datasets wrote"):
        load_data(f"dataset:{tmp_path}")


def test_saved_datasets_of_images(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = pixels(2, 4, 5, 3)
    table = datasets.Dataset.from_dict(
        {"img": [{"bytes": encoded(image)} for image in images], "kind": ["b", "a"]}
    ).cast_column("img", datasets.Image())
    table.save_to_disk(str(tmp_path / "a"))
    with pytest.warns(UserWarning, match="labels are names"):
        data = load_data(f"dataset:{tmp_path / 'a'}", RAW, label_column="kind")
    assert [label for _, label in data] == [1, 0]
    torch.testing.assert_close(data[1][0], torch.from_numpy(images[1]).permute(2, 0, 1) / 255)


def test_datasets_of_a_users_function(tmp_path, user_file):
    datasets = pytest.importorskip("datasets")
    user_file.write_text(
        user_file.read_text()
        + "\n\ndef rows():\n    import datasets\n"
        + "    names = datasets.ClassLabel(names=['no', 'yes'])\n"
        + "    rows = datasets.Dataset.from_dict({'text': ['a'], 'label': [1]})\n"
        + "    return rows.cast_column('label', names)\n"
        + "\n\ndef splits():\n    import datasets\n    return datasets.DatasetDict(train=rows())\n"
    )
    data = load_data(f"{user_file}:rows")
    assert isinstance(data, datasets.Dataset)
    assert inputs.class_names(data) == ["no", "yes"]
    assert inputs.dataset_images(data, 1) is None
    with pytest.raises(
        TypeError, match="expected one split from .*splits, got a DatasetDict of tr"
    ):
        load_data(f"{user_file}:splits")


def test_data_modules_of_lightning_are_read_later(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")
    file = tmp_path / "module.py"
    file.write_text("from pytorch_lightning import LightningDataModule as Rows\n")
    module = load_data(f"{file}:Rows")
    assert isinstance(module, lightning.LightningDataModule)
    assert inputs.known_labels(module) is None
    assert inputs.class_names(module) is None
    assert inputs.dataset_images(module, 1) is None
