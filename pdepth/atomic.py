"""Writing a file whole or not at all, and what a full disk says."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
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
def disk(path: Path, then: str) -> Iterator[None]:
    """A full disk becomes an OSError in one sentence; `then` says what is left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise
        raise OSError(f"The disk of {path} is full; {then}.") from None
