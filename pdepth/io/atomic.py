"""Write files and folders whole or not at all, and name a full disk."""

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
        raise FileNotFoundError(
            f"{path}: expected an existing folder, got none at {target.parent}."
        )
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

    ours: whether a file in the old folder may be removed. Raises FileExistsError where one may not.
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
    """Raise FileExistsError where `path` is a file, or a folder of which not all may be removed."""
    if path.is_file():
        raise FileExistsError(f"{path}: expected a folder, got a file.")
    for file in path.glob("*"):
        if not ours(file):
            raise FileExistsError(
                f"{path}: expected a folder that may be replaced, got one that holds {file.name}."
            )


@contextmanager
def disk(path: Path, then: str) -> Iterator[None]:
    """Turn a full disk into an OSError in one sentence, of which `then` is the end."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise
        raise OSError(f"The disk of {path} is full; {then}.") from None
