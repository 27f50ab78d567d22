"""Functions of users' files: imported once, and anew where a file's text has changed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from pdepth.inputs import call_function, load_function


def test_a_file_is_imported_once(tmp_path: Path) -> None:
    file = tmp_path / "user_file.py"
    file.write_text("made = []\ndef count():\n    made.append(0)\n    return len(made)\n")
    assert [call_function(f"{file}:count", "MODEL") for _ in range(3)] == [1, 2, 3]


def test_a_changed_file_is_imported_anew(tmp_path: Path) -> None:
    """Also where it is as long and as old as before, which stored byte code does not tell."""
    file = tmp_path / "user_file.py"
    for value in range(3):
        file.write_text(f"def net():\n    return {value}\n")
        os.utime(file, (1_700_000_000, 1_700_000_000))
        assert call_function(f"{file}:net", "MODEL") == value
    file.write_text("def other():\n    return 7\n")
    assert call_function(f"{file}:other", "MODEL") == 7
    with pytest.raises(ValueError, match=r"MODEL: expected a function of user_file.py, got 'net'"):
        load_function(f"{file}:net", "MODEL")


def test_what_a_changed_file_made_can_still_be_pickled(tmp_path: Path) -> None:
    file = tmp_path / "user_file.py"
    text = "class Data:\n    size = {}\ndef data():\n    return Data()\n"
    file.write_text(text.format(1))
    made = call_function(f"{file}:data", "DATA")
    file.write_text(text.format(2))
    sizes = [
        pickle.loads(pickle.dumps(each)).size
        for each in (made, load_function(f"{file}:Data", "DATA")())
    ]
    assert sizes == [1, 2]


def test_files_of_one_text_are_two_modules(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "user_file.py").write_text("def where():\n    return __file__\n")
    for name in ("one", "other"):
        file = tmp_path / name / "user_file.py"
        assert call_function(f"{file}:where", "DATA") == str(file.resolve())


def test_a_file_that_failed_is_tried_again(tmp_path: Path) -> None:
    """A file that cannot be read, or whose own code fails or is interrupted, leaves no module."""
    file = tmp_path / "user_file.py"
    file.write_text(
        "import os\nif 'PDEPTH_TEST' in os.environ:\n    {}\ndef net():\n    return 1\n"
    )
    text = file.read_text()
    failures = {"raise KeyError": RuntimeError, "raise KeyboardInterrupt": KeyboardInterrupt}
    for code, error in failures.items():
        file.write_text(text.format(code))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PDEPTH_TEST", "")
            with pytest.raises(error):
                load_function(f"{file}:net", "MODEL")
        assert call_function(f"{file}:net", "MODEL") == 1

    def refuse(path: Path) -> bytes:
        raise PermissionError(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(RuntimeError, match=r"user_file.py failed while it was imported"):
            load_function(f"{file}:net", "MODEL")
