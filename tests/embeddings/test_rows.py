"""Rows of every form are the tensors that one would make by hand, or refused in one sentence."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pdepth.embeddings import dataset
from pdepth.embeddings.batch import Batch, Inputs, same_shapes
from pdepth.embeddings.dataset import Batches, Changed

from helpers.networks import Stream
from helpers.rows import assert_batches, read

torch.manual_seed(0)
X, Z, Y = torch.randn(10, 3), torch.randint(0, 9, (10, 2, 2)), torch.arange(10) % 3
ROWS = range(10)
Pair = namedtuple("Pair", "image label")


class Rows(Dataset):
    """A map-style dataset of rows that a function makes."""

    def __init__(self, make, rows=10):
        self.make, self.rows = make, rows

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        return self.make(row)


FORMS = {
    "pair": (lambda i: (X[i], Y[i]), {"0": X}),
    "index": (lambda i: (X[i], int(Y[i]), i), {"0": X}),
    "weight and None": (lambda i: [X[i], Y[i], 0.5, None], {"0": X}),
    "named tuple": (lambda i: Pair(X[i], int(Y[i])), {"0": X}),
    "numpy": (lambda i: (X[i].double().numpy(), np.int32(Y[i])), {"0": X.double()}),
    "list": (lambda i: (Z[i].tolist(), int(Y[i])), {"0": Z}),
    "number": (lambda i: (float(X[i, 0]), int(Y[i])), {"0": X[:, 0].double()}),
    "dict, label": (lambda i: {"x": X[i], "label": int(Y[i])}, {"x": X}),
    "dict, labels": (lambda i: {"labels": Y[i], "x": X[i], "z": Z[i]}, {"x": X, "z": Z}),
    "mapping": (lambda i: UserDict(x=X[i], label=Y[i]), {"x": X}),
    "two inputs": (lambda i: ((X[i], Z[i]), Y[i]), {"0": X, "1": Z}),
    "named input": (lambda i: ({"x": X[i]}, Y[i]), {"x": X}),
    "nested": (
        lambda i: ({"a": {"x": X[i], "y": [Z[i], X[i]]}, "z": Z[i]}, Y[i]),
        {"a.x": X, "a.y.0": Z, "a.y.1": X, "z": Z},
    ),
    "text beside": (lambda i: {"x": X[i], "text": f"row {i}", "id": None, "label": Y[i]}, {"x": X}),
    "name beside": (lambda i: ((X[i], f"row {i}"), Y[i]), {"0": X}),
}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_rows_of_every_form(form, workers):
    make, inputs = FORMS[form]
    assert_batches(read(Rows(make)), inputs, Y)
    assert_batches(read(DataLoader(Rows(make), 3, True, num_workers=workers)), inputs, Y, size=3)
    assert_batches(read([make(row) for row in ROWS]), inputs, Y)
    assert_batches(read(Stream([make(row) for row in ROWS])), inputs, Y)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_again_and_fingerprinted(form):
    make, _ = FORMS[form]
    source = Batches(Rows(make), "support", 4)
    source.remembers = True
    first = list(source)
    for number, (begin, batch) in zip([2, 0], source.again([2, 0]), strict=True):
        assert begin == 4 * number
        assert batch.same_as(first[number])
    whole = Batches(Rows(make), "support", 10).read_rows()
    assert source.known_rows.fingerprint == whole.fingerprint
    rows = source.checks[2]
    changed = rows.checksums ^ np.array([0, 1], np.uint64)
    source.checks[2] = dataset.Rows(rows.labels, changed)
    with pytest.raises(Changed, match=r"support: expected the same values .* in row 9; read "):
        list(source.again([2]))


def rows_of(*batches):
    """The fingerprint of some batches as one dataset."""
    checksums = np.concatenate([batch.row_checksums() for batch in batches])
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    return dataset.Rows(labels, checksums).fingerprint


def test_a_rows_checksum_is_blake2b_of_its_kind_and_bytes():
    checksums = Batch(Inputs.of(X, 10), Y).row_checksums()
    for row, checksum in zip(X, checksums, strict=True):
        content = f"0 torch.float32 {tuple(X.shape[1:])} True".encode() + row.numpy().tobytes()
        assert checksum.tobytes() == blake2b(content, digest_size=8).digest()


def test_one_row_that_differs_has_another_checksum():
    before = Batch(Inputs.of((X, Z), 10), Y).row_checksums()
    other = Z.clone()
    other[3, -1] += 1
    after = Batch(Inputs.of((X, other), 10), Y).row_checksums()
    assert np.flatnonzero(before != after).tolist() == [3]


def test_a_checksum_is_of_a_row_without_the_padding_of_its_batch():
    def batch(rows, left=False, pad=0):
        length = max(map(len, rows))
        padded = [[pad] * (length - len(row)) for row in rows]
        masks = [[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p)
                 for p, r in zip(padded, rows, strict=True)]  # fmt: skip
        ids = [p + r if left else r + p for p, r in zip(padded, rows, strict=True)]
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks)}
        return Batch(Inputs.of(inputs, len(rows)), torch.zeros(len(rows)).long()).row_checksums()

    long, longer, short, shorter = [1, 2, 3, 4], [1, 2, 3, 4, 5], [5, 6], [7]
    assert (
        batch([long, short, shorter])[1:].tolist() == batch([longer, short, shorter])[1:].tolist()
    )
    assert batch([long, short])[0] != batch([longer, short])[0]
    for other in ([5, 7], [5], [5, 6, 0]):
        assert batch([longer, short])[1] != batch([longer, other])[1]
    assert batch([long, short])[1] != batch([long, short], pad=9)[1]
    assert batch([long, short])[1] != batch([long, short], left=True)[1]


def test_a_checksum_sees_what_is_no_tensor_of_rows():
    def of(shared):
        return Batch(Inputs.of({"x": X, "shared": shared}, 10), Y).row_checksums()

    shared = torch.arange(3)
    assert (of(shared) == of(shared.clone())).all()
    assert (of(shared) != of(shared + 1)).all()


def test_a_fingerprint_sees_each_tensor_its_name_and_its_shape():
    def of(**arguments):
        return rows_of(Batch(Inputs.of(arguments, 10), Y))

    assert of(x=X, z=Z) == of(z=Z, x=X)
    variants = [
        {"x": X, "z": Z},
        {"x": X, "z": Z + 1},
        {"x": X, "y": Z},
        {"x": X, "z": Z.view(10, 4)},
    ]
    assert len({of(**variant) for variant in variants}) == 4


def test_a_fingerprint_of_batches_of_several_shapes():
    def of(*shapes):
        labels = [torch.zeros(shape[0]).long() for shape in shapes]
        inputs = [Inputs.of(torch.zeros(shape), shape[0]) for shape in shapes]
        return rows_of(*map(Batch, inputs, labels))

    assert len({of((2, 3), (2, 6)), of((2, 3), (4, 3)), of((2, 6), (2, 3))}) == 3


SCALARS = [
    st.integers(-5, 5).map(lambda n: torch.full((2,), n)),
    st.floats(width=32).map(lambda x: torch.tensor([[x]])),
    st.floats(-9, 9).map(lambda x: np.array([x, -x])),
    st.booleans().map(np.bool_),
    st.integers(0, 9),
]


def trees(leaves):
    """Inputs of rows: a leaf, or tuples and dicts of leaves, two levels of them."""
    names = st.sampled_from("abc")
    inner = st.one_of(leaves, st.tuples(leaves, leaves), st.dictionaries(names, leaves, min_size=1))
    return st.one_of(inner, st.tuples(inner, inner), st.dictionaries(names, inner, min_size=1))


def leaves_of(prefix, value):
    if isinstance(value, Mapping):
        entries = value.items()
    elif isinstance(value, tuple):
        entries = enumerate(value)
    else:
        return {prefix or "0": value}
    found = {}
    for name, item in entries:
        found |= leaves_of(f"{prefix}.{name}" if prefix else str(name), item)
    return found


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_nested_inputs_keep_their_form_and_bits(data):
    tree = data.draw(trees(st.sampled_from(range(len(SCALARS)))))

    def drawn(value):
        if isinstance(value, Mapping):
            return {name: drawn(item) for name, item in value.items()}
        if isinstance(value, tuple):
            return tuple(map(drawn, value))
        return data.draw(SCALARS[value])

    rows = [(drawn(tree), row % 2) for row in range(data.draw(st.integers(1, 3)))]
    (batch,) = read(rows)
    by_row = [leaves_of("", inputs) for inputs, _ in rows]
    wanted = {
        name: torch.stack([torch.as_tensor(leaves[name]) for leaves in by_row])
        for name in by_row[0]
    }
    mine = Batch(batch.inputs, batch.labels)
    hand = Batch(Inputs.of(wanted, len(rows)), torch.arange(len(rows)) % 2)
    assert mine.same_as(hand)


def test_a_loaders_own_collation_is_kept():
    def collate(rows):
        return {"x": torch.stack([x for x, _ in rows]), "name": ["row"] * len(rows)}, [
            int(y) for _, y in rows
        ]

    assert_batches(read(DataLoader(TensorDataset(X, Y), 4, collate_fn=collate)), {"x": X}, Y)

    def arrays(rows):
        return np.stack([x.numpy() for x, _ in rows]), [y for _, y in rows]

    assert_batches(read(DataLoader(TensorDataset(X, Y), 4, collate_fn=arrays)), {"0": X}, Y)


def test_ready_batches():
    batches = [{"x": X[:4], "labels": Y[:4]}, {"x": X[4:], "labels": Y[4:]}]
    source = Batches(DataLoader(batches, batch_size=None), "support", 4)
    assert source.rows is None
    assert [len(batch.labels) for batch in source] == [4, 6]


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_columns(kind):
    for columns in (
        {"x": X, "label": Y, "z": Z},
        {"x": X.numpy(), "label": Y.numpy(), "z": Z.numpy()},
        {"x": list(X), "label": Y.tolist(), "z": Z.tolist()},
    ):
        source = Batches(kind(columns), "support", 4)
        assert source.rows == 10
        assert_batches(list(source), {"x": X, "z": Z}, Y)


def test_a_named_column_of_labels():
    data = [{"x": X[i], "fine": int(Y[i]), "label": "text"} for i in ROWS]
    assert_batches(read(data, label_column="fine"), {"x": X}, Y)


def test_a_packed_sequence_is_one_argument():
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.randn(2, 3, 4), [3, 2], batch_first=True, enforce_sorted=False
    )
    (batch,) = read(DataLoader([(packed, torch.tensor([0, 1]))], batch_size=None))
    assert torch.equal(batch.inputs.args[0].data, packed.data)
    assert len(batch.inputs.args) == 1


@pytest.mark.parametrize(
    ("shapes", "varies"),
    [
        ([(5,)] * 9, False),
        ([(5, 2)] * 9, False),
        ([(5, 2)] * 4 + [(6, 2)] * 4, True),  # two batches: the last differs
        ([(5,)] * 4 + [(7,)] * 4 + [(5,)] * 4, True),  # the middle one
        ([(3, 8, 8)] * 4 + [(3, 9, 9)] * 4, False),  # images are not read for it
    ],
)
def test_whether_lengths_vary(shapes, varies):
    reads = []

    def make(row):
        reads.append(row)
        return torch.zeros(shapes[row]), 0

    source = Batches(Rows(make, len(shapes)), "support", 4)
    assert reads == [0, 1, 2, 3] * 2
    assert source.varies is varies
    assert source.varies is varies
    others = [] if len(shapes[0]) == 3 else list(range(4, len(shapes)))
    assert reads[8:] == (others[:4] if varies else others)  # none after the first that differs
    assert source.checks == []


def test_lengths_of_a_stream_are_not_known():
    assert Batches(Stream([(torch.zeros(3), 0)]), "support", 4).varies is False


def test_same_shapes():
    assert same_shapes(Inputs.of({"x": X, "z": Z}, 10), Inputs.of({"x": X[:2], "z": Z[:2]}, 2))
    assert not same_shapes(Inputs.of(X, 10), Inputs.of(X[:, :2], 10))


class Miscounts(Rows):
    def __len__(self):
        return 10


def test_another_number_of_rows_than_the_dataset_says():
    loader = DataLoader(
        TensorDataset(X, Y), 4, collate_fn=lambda rows: (X[: len(rows) - 1], Y[: len(rows) - 1])
    )
    with pytest.raises(ValueError, match="support: expected 10 rows by its length, got 7"):
        read(loader)
    loader = DataLoader(TensorDataset(X, Y), 4, collate_fn=lambda rows: (X[:4], Y[:4]))
    with pytest.raises(ValueError, match="support: expected 10 rows by its length, got more"):
        read(loader)
