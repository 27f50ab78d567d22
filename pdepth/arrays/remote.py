"""Files at URLs (s3://, gs://, hf://, ...), through fsspec: as much of pathlib as shards need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

from pdepth.optional import require


@dataclass(frozen=True)
class RemotePath:
    """A file or folder by its URL. Where it is pickled, the URL alone travels."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Its last part."""
        return PurePosixPath(self.url.rstrip("/")).name

    @property
    def suffix(self) -> str:
        """Of the name."""
        return PurePosixPath(self.name).suffix

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    def open(self, mode: str = "rb", buffering: int = -1) -> Any:
        """The file, to be read; fsspec reads ahead."""
        system, path = self._found
        return system.open(path, mode)

    def exists(self) -> bool:
        system, path = self._found
        return bool(system.exists(path))

    def is_file(self) -> bool:
        system, path = self._found
        return bool(system.isfile(path))

    def stat(self) -> Any:
        """An object with `st_size`, in bytes."""
        system, path = self._found
        return SimpleNamespace(st_size=system.size(path))

    def iterdir(self) -> Iterator[RemotePath]:
        """The entries of a folder."""
        system, path = self._found
        for entry in system.ls(path, detail=False):
            yield self / PurePosixPath(entry.rstrip("/")).name

    @property
    def _found(self) -> tuple[Any, str]:
        """The file system of the URL, which fsspec keeps, and the path in it."""
        fsspec = require("fsspec.core", f"Reading {self.url}", "remote")
        try:
            system, path = fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"{self.url}: expected a URL that fsspec can open, got: {error}"
            ) from None
        return system, path


def is_url(path: object) -> bool:
    """Whether a path is a URL."""
    return isinstance(path, str) and "://" in path
