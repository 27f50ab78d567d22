"""Broken files of images and arrays: a sentence with the file's name, or values; nothing else."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.broken_files import changed, fault, forms

for module in ("pyarrow", "torchvision"):
    pytest.importorskip(module)

FORMS = {name: make() for name, make in forms().items()}


def archive(**members):
    """A zip file of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


# What once ended in another exception, or in one without the file's name.
FINDS = [
    ("rows.csv", b"\xffext,label\na,1\n"),
    ("rows.jsonl", b'{"text": "\xf8", "label": 1}\n'),
    ("rows.jsonl", b'{"te\xfext": "a", "label": 1}\n'),
    ("plain.npz", archive(x=b"no array", y=b"nor this")),
]


@pytest.mark.parametrize("name", FORMS)
def test_whole_files_are_read(tmp_path, name):
    assert fault(name, FORMS[name], tmp_path) == ""


def test_the_check_notices_what_is_wrong(tmp_path, monkeypatch):
    """A check that could not fail would show nothing."""
    for error, expected in ((KeyError("a"), "raw KeyError"), (ValueError("a"), "unnamed ValueErr")):

        def fail(path, error=error):
            raise error

        monkeypatch.setattr("helpers.broken_files.read_all", fail)
        assert fault("RGB.png", b"", tmp_path).startswith(expected)


@pytest.mark.parametrize(("name", "content"), FINDS)
def test_finds(tmp_path, name, content):
    assert fault(name, content, tmp_path) == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("broken")


@pytest.mark.fuzz
@given(name=st.sampled_from(sorted(FORMS)), seed=st.integers(0, 2**63 - 1))
def test_changed_files(folder, name, seed):
    assert fault(name, changed(FORMS[name], seed), folder) == ""


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain.npz", "checked.parquet", "images.parquet", "P.png"])
@given(at=st.integers(0, 10**6), values=st.binary(min_size=1, max_size=8))
def test_bytes_written_over(folder, name, at, values):
    content = bytearray(FORMS[name])
    at %= len(content)
    content[at : at + len(values)] = values
    assert fault(name, bytes(content), folder) == ""
