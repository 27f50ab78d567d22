"""Write files and folders whole or not at all, and name a full disk."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|removed)")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    When the block raises (a full disk, Ctrl-C), the temporary file is removed and `path` is left
    as it was. Raises as `check_replaceable`.
    """
    target = check_replaceable(path)
    # No tempfile.mkstemp: its files are private to the user, and a result should obey the umask.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # its content is on the disk before its name is
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_path(path: Any, name: str = "path") -> Path:
    """`path` as a Path. Raises TypeError for anything else."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name}: expected a path, got {path!r:.60}.")
    return Path(path)


def check_suffix(path: Any, suffixes: Sequence[str]) -> str:
    """The suffix of `path`, which is one of `suffixes`, in lower case.

    Raises ValueError for another, TypeError for what is no path.
    """
    suffix = check_path(path).suffix.lower()
    if suffix not in suffixes:
        raise ValueError(
            f"path: expected a suffix of {', '.join(suffixes)}, got {os.fspath(path)!r}."
        )
    return suffix


def check_replaceable(path: Any) -> Path:
    """The file that is written for `path`: a link stays a link, what it points to is replaced.

    Raises:
        FileNotFoundError: its folder does not exist.
        IsADirectoryError: it is a folder.
        FileExistsError: a device, a pipe or a socket, which a rename would take away.
        TypeError: no path.
    """
    target = Path(os.path.realpath(check_path(path)))
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: expected an existing folder, got none at {target.parent}."
        )
    if target.is_dir():
        raise IsADirectoryError(f"{path}: expected the path of a file, got a folder.")
    if target.exists() and not target.is_file():
        raise FileExistsError(
            f"{path}: expected a regular file or none, got a device, a pipe or a socket."
        )
    return target


@contextmanager
def replacing_folder(path: Path, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a new folder beside `path`; it takes that name when the block succeeds.

    ours: whether a file in the old folder may be removed. Raises FileExistsError where one may not.
    """
    check_ours(path, ours)
    path = Path(os.path.realpath(path))  # a link stays a link, as of `replacing`
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        remove_folder(path, lambda: os.replace(temporary, path))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path, after: Callable[[], object] = lambda: None) -> None:
    """Remove a folder, if it is there, so that none half removed is ever under its name.

    after: called when it has gone from its name. What a process leaves that is killed meanwhile is
    removed by `remove_leftovers`.
    """
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.removed")
    with suppress(FileNotFoundError):
        os.replace(path, hidden)
    after()
    shutil.rmtree(hidden, ignore_errors=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove from a folder what `replacing`, `replacing_folder` and `remove_folder` leave within it
    when they are killed; of one file or folder, or of all. No other process may write them."""
    for path in folder.glob(".*"):
        match = LEFTOVER.fullmatch(path.name)
        if match and name in (None, match[1]):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def check_ours(path: Path, ours: Callable[[Path], bool]) -> None:
    """Raise FileExistsError where `path` is a file, or a folder of which not all may be removed."""
    if path.exists() and not path.is_dir():
        kind = "file" if path.is_file() else "device, a pipe or a socket"
        raise FileExistsError(f"{path}: expected a folder, got a {kind}.")
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
