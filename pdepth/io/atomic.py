"""Writing a file or a folder whole or not at all, and what a full disk says."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    When the block raises (a full disk, Ctrl-C), the temporary file is removed and `path` is left
    as it was. The folder of `path` must exist: FileNotFoundError otherwise.
    """
    target = Path(os.path.realpath(path))  # a link stays a link; what it points to is replaced
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {path}: the folder {target.parent} does not exist.")
    # No tempfile.mkstemp: its files are private to the user, and a result should obey the umask.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # its content is on the disk before its name is
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a new folder beside `path`; it takes that name when the block succeeds.

    ours: whether a file in the old folder may go. Raises FileExistsError where one may not.
    """
    check_ours(path, ours)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_ours(path: Path, ours: Callable[[Path], bool]) -> None:
    """Raise FileExistsError where `path` is a file, or a folder of which not all may go."""
    if path.is_file():
        raise FileExistsError(f"{path} is a file; a folder of that name is to be written.")
    for file in path.glob("*"):
        if not ours(file):
            raise FileExistsError(f"{path} holds {file.name}, and would be replaced.")


@contextmanager
def disk(path: Path, then: str) -> Iterator[None]:
    """A full disk becomes an OSError in one sentence; `then` says what is left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise
        raise OSError(f"The disk of {path} is full; {then}.") from None
