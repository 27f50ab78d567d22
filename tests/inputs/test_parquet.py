"""Parquet: images a row group at a time, shards as one dataset, and what `datasets` notes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from pdepth import inputs
from pdepth.inputs import ImageOptions, load_data
from pdepth.inputs.parquet import BATCH_ROWS, ParquetTable

from helpers.image_files import encoded, parquet
from helpers.torch_or_skip import torch

pa = pytest.importorskip("pyarrow")
pytest.importorskip("PIL")
pq = pytest.importorskip("pyarrow.parquet")

RAW = ImageOptions(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def image_of(number):
    return np.full((2, 2, 3), number, np.uint8)


def table_of(numbers, image="image", label="label", **more):
    """A table of images that say their number, with labels a third of it."""
    entries = [{"bytes": encoded(image_of(number)), "path": f"{number}.png"} for number in numbers]
    return pa.table({image: entries, label: [number // 3 for number in numbers]} | more)


def numbers_of(data, rows):
    return [int(data.image(row)[0, 0, 0]) for row in rows]


@pytest.mark.parametrize("group", [1, 7, 16, 100])
def test_rows_in_any_order(tmp_path, group):
    count = 3 * BATCH_ROWS + 5
    pq.write_table(table_of(range(count)), tmp_path / "a.parquet", row_group_size=group)
    data = load_data(f"parquet:{tmp_path / 'a.parquet'}", RAW)
    assert data.labels.tolist() == [number // 3 for number in range(count)]
    orders = [range(count), range(count - 1, -1, -1)]
    orders += [np.random.default_rng(0).permutation(count), [5, 5, 0, 40, 4]]
    for order in orders:
        assert numbers_of(data, order) == list(order)


def test_groups_without_rows(tmp_path):
    table = table_of(range(5))
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for part in (table.slice(0, 0), table.slice(0, 2), table.slice(0, 0), table.slice(2)):
            writer.write_table(part)
    data = load_data(f"parquet:{tmp_path / 'a.parquet'}", RAW)
    assert numbers_of(data, range(5)) == [0, 1, 2, 3, 4]


def test_only_what_is_read_is_in_memory(tmp_path, monkeypatch):
    """In order, each row group is opened once, and a few of its rows are held at a time."""
    pq.write_table(table_of(range(50)), tmp_path / "a.parquet", row_group_size=20)
    images = ParquetTable(tmp_path / "a.parquet").images("image")
    opened = []
    batches = images._batches
    monkeypatch.setattr(images, "_batches", lambda group: opened.append(group) or batches(group))
    for row in range(50):
        images[row]
        assert len(images._place.values) <= BATCH_ROWS
    assert opened == [0, 1, 2]


def test_workers_read_the_same_rows(tmp_path):
    pytest.importorskip("torch")
    pq.write_table(table_of(range(60)), tmp_path / "a.parquet", row_group_size=20)
    data = load_data(f"parquet:{tmp_path / 'a.parquet'}", RAW)
    data[30]  # the parent has a file open when the workers are forked
    alone = torch.stack([data[row][0] for row in range(60)])
    loader = torch.utils.data.DataLoader(
        data, batch_size=7, num_workers=2, multiprocessing_context="fork"
    )
    assert torch.equal(torch.cat([x for x, _ in loader]), alone)


@pytest.mark.parametrize(
    ("kind", "struct"),
    [
        (pa.binary(), False),
        (pa.large_binary(), False),
        (pa.dictionary(pa.int32(), pa.binary()), False),
        (pa.binary(), True),
        (pa.large_binary(), True),
    ],
)
def test_types_of_bytes(tmp_path, kind, struct):
    column = pa.array([encoded(image_of(number)) for number in range(3)], pa.binary()).cast(kind)
    if struct:
        column = pa.StructArray.from_arrays([column, pa.array(["a", "b", "c"])], ["bytes", "path"])
    spec = parquet(tmp_path / "a.parquet", image=column, label=[0, 1, 2])
    assert numbers_of(load_data(spec, RAW), range(3)) == [0, 1, 2]


def test_empty_entries_are_named(tmp_path):
    column = pa.array([{"bytes": encoded(image_of(1))}, {"bytes": None}, None])
    data = load_data(parquet(tmp_path / "a.parquet", image=column, label=[0, 1, 2]), RAW)
    assert numbers_of(data, [0]) == [1]
    for row in (1, 2):
        sentence = rf"Row {row} of .*a\.parquet cannot be read as an image: .* image's file, got no"
        with pytest.raises(ValueError, match=sentence):
            data[row]


@pytest.mark.parametrize("how", ["folder", "pattern"])
def test_shards_are_one_dataset_in_the_order_of_their_numbers(tmp_path, how):
    for shard in range(12):
        numbers = range(4 * shard, 4 * shard + 4)
        pq.write_table(table_of(numbers), tmp_path / f"train-{shard}-of-12.parquet")
    spec = f"parquet:{tmp_path}"
    if how == "pattern":
        pq.write_table(table_of([200]), tmp_path / "test.parquet")
        spec = f"parquet:{tmp_path}/train-*.parquet"
    (tmp_path / ".hidden.parquet").write_bytes(b"none")
    (tmp_path / "_metadata.parquet").write_bytes(b"none")
    order = r"shards are read in natural order, train-9-of-12\.parquet before train-10-of-12"
    with pytest.warns(UserWarning, match=order):
        data = load_data(spec, RAW)
    assert numbers_of(data, range(48)) == list(range(48))
    assert numbers_of(data, [47, 0]) == [47, 0]
    assert data.labels.tolist() == [number // 3 for number in range(48)]
    assert inputs.absolute_spec(spec) == spec


def test_a_row_of_shards_is_named_with_its_file(tmp_path):
    pq.write_table(table_of(range(3)), tmp_path / "a0.parquet", row_group_size=1)
    broken = pa.table({"image": [{"bytes": b"no", "path": ""}] * 2, "label": [0, 0]})
    pq.write_table(broken, tmp_path / "a1.parquet", row_group_size=1)
    with pytest.raises(
        ValueError, match=rf"Row 4 of {tmp_path}, row 1 of .*a1\.parquet, cannot be"
    ):
        load_data(f"parquet:{tmp_path}", RAW)[4]


def test_folders_of_several_splits_or_columns_or_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected files \.parquet in .*, got none"):
        load_data(f"parquet:{tmp_path}")
    with pytest.raises(
        FileNotFoundError, match="expected an existing file, got .*; pass a file, a"
    ):
        load_data(f"parquet:{tmp_path}/*.parquet")
    pq.write_table(table_of(range(3)), tmp_path / "train-0.parquet")
    pq.write_table(table_of(range(3)), tmp_path / "test-0.parquet")
    sentence = r"got test-0\.parquet and train-0\.parquet; pass 'parquet:.*/test\*\.parquet'"
    with pytest.raises(ValueError, match=sentence):
        load_data(f"parquet:{tmp_path}")
    (tmp_path / "test-0.parquet").unlink()
    pq.write_table(table_of(range(3), label="kind"), tmp_path / "train-1.parquet")
    with pytest.raises(ValueError, match=r"train-1\.parquet: expected a column 'label' as in .*-0"):
        load_data(f"parquet:{tmp_path}")


def with_features(table, features):
    """A table with the features that `datasets` notes in a file."""
    noted = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({b"huggingface": noted.encode()})


NAMES = ["cat", "dog", "owl"]


def test_features_of_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine": datasets.ClassLabel(names=NAMES),
            "n": datasets.Value("int64"),
        }
    )
    rows = {"img": [{"bytes": encoded(image_of(n)), "path": None} for n in range(3)]}
    rows |= {"fine": [2, 0, -1], "n": [1, 2, 3]}
    datasets.Dataset.from_dict(rows, features).to_parquet(str(tmp_path / "a.parquet"))
    data = load_data(f"parquet:{tmp_path / 'a.parquet'}", RAW)
    assert inputs.class_names(data) == NAMES
    assert data.labels.tolist() == [2, 0, -1]
    assert numbers_of(data, range(3)) == [0, 1, 2]
    numbered = load_data(f"parquet:{tmp_path / 'a.parquet'}", RAW, class_names=NAMES[::-1])
    assert numbered.labels.tolist() == [0, 2, -1]


def test_columns_by_name_and_by_feature(tmp_path):
    pq.write_table(table_of(range(6), image="img"), tmp_path / "a.parquet")
    assert numbers_of(load_data(f"parquet:{tmp_path / 'a.parquet'}", RAW), range(6)) == [*range(6)]
    table = table_of(range(6), image="photo", label="kind", again=table_of(range(6))["image"])
    image, label = {"_type": "Image"}, {"_type": "ClassLabel", "names": NAMES}
    pq.write_table(with_features(table, {"photo": image, "kind": label}), tmp_path / "b.parquet")
    data = load_data(f"parquet:{tmp_path / 'b.parquet'}", RAW)
    assert (data.labels.tolist(), inputs.class_names(data)) == ([0, 0, 0, 1, 1, 1], NAMES)
    both = with_features(table, {"photo": image, "again": image, "kind": label})
    pq.write_table(both, tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="expected one column of images, got photo, again; rename"):
        load_data(f"parquet:{tmp_path / 'c.parquet'}")


def test_texts_have_names_from_features_too(tmp_path):
    table = pa.table({"text": ["a", "b"], "label": [1, 0]})
    features = {"label": {"_type": "ClassLabel", "names": ["neg", "pos"]}}
    pq.write_table(with_features(table, features), tmp_path / "a.parquet")
    data = load_data(f"parquet:{tmp_path / 'a.parquet'}")
    assert (data.labels.tolist(), inputs.class_names(data)) == ([1, 0], ["neg", "pos"])


def test_labels_that_features_do_not_name_are_refused(tmp_path):
    features = {"label": {"_type": "ClassLabel", "names": ["one"]}}
    pq.write_table(with_features(table_of(range(4)), features), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="numbers of the 1 classes that its features name, got 1"):
        load_data(f"parquet:{tmp_path / 'a.parquet'}")


@pytest.mark.parametrize(
    "noted", [b"", b"{", b"[]", b'{"info": 3}', b'{"info": {"features": []}}', b"[" * 9999, b"\xff"]
)
def test_metadata_of_another_kind_is_none(tmp_path, noted):
    table = table_of(range(3)).replace_schema_metadata({b"huggingface": noted})
    pq.write_table(table, tmp_path / "a.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(f"parquet:{tmp_path / 'a.parquet'}", RAW)
    assert inputs.class_names(data) is None
    assert numbers_of(data, range(3)) == [0, 1, 2]


WRITE = """
import sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from helpers.image_files import encoded

path, groups = sys.argv[1], int(sys.argv[2])
content = encoded(np.full((4, 4, 3), 7, np.uint8))
content += bytes(4_000_000 - len(content))  # Pillow reads no further than the image
image = pa.StructArray.from_arrays(
    [pa.array([content] * 92, pa.binary()), pa.array(["x.png"] * 92)], names=["bytes", "path"]
)
table = pa.table({"image": image, "label": pa.array(np.arange(92) % 3)})
table = pa.concat_tables([table] * 6)  # the same memory six times
pq.write_table(
    table, path, compression="zstd", row_group_size=len(table) // groups, write_batch_size=4
)
"""
READ = """
import resource, sys
from pdepth.inputs import load_data

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = load_data(f"parquet:{sys.argv[1]}")
assert len(data) == 6 * 92
for row in range(0, len(data), 13):
    assert (data.image(row) == 7).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 6])
def test_more_than_2_gib_of_images(tmp_path, groups):
    """2.2 GB of image bytes, in one row group or in six, are read in a small part of that."""

    def run(script):
        command = [sys.executable, "-c", script, str(tmp_path / "a.parquet"), str(groups)]
        path = {"PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(WRITE)
    assert int(run(READ)) < 600_000  # KiB
