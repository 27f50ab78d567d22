"""Writing a file whole or not at all."""

from __future__ import annotations

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
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
