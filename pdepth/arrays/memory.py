"""How much memory is free, and amounts of it as people write them."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DEVICE_SHARE = 0.8  # of a device's free memory that embeddings and search may take
LIST_BYTES = 16  # of a neighbour in the running lists of a support that comes in chunks
MERGE_BYTES = 80  # of a neighbour while a chunk's lists are merged into them
FREE_SHARE = 0.5  # of the free memory, for a search whose caller sets no limit
UNKNOWN_FREE = 1 << 31  # where the system does not tell what is free
WORK_SHARE = 0.25  # of a search's memory, for what a kernel takes whatever the sizes
PACKED_BYTES = 4  # an element of the support takes in a kernel, at most

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True)
class Budget:
    """Memory that a job may take.

    size: bytes, or None where the system does not tell. given: whether the caller set it.
    """

    size: int | None
    given: bool = False

    @classmethod
    def of(cls, memory: int | str | None) -> Budget:
        """The caller's amount, or what is free now. Raises as `parse_bytes`."""
        return cls(free_bytes()) if memory is None else cls(parse_bytes(memory), given=True)

    def __str__(self) -> str:
        if self.size is None:
            return "unknown"
        return f"budget of {human(self.size)}" if self.given else f"{human(self.size)} free"


def parse_bytes(memory: int | str, name: str = "memory") -> int:
    """Bytes of an amount such as 8_000_000_000, "8GB" (10^9) or "7.5 GiB" (2^30).

    Raises ValueError for amounts that cannot be read or are not positive, TypeError for others.
    """
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*(\d+\.?\d*)\s*([kmgt]?i?)b?\s*", memory.lower())
        if not match or match[2] not in _UNITS:
            raise ValueError(f"{name}: expected bytes or an amount such as '8GiB', got {memory!r}.")
        amount = int(float(match[1]) * _UNITS[match[2]])
    elif isinstance(memory, int) and not isinstance(memory, bool):
        amount = memory
    else:
        raise TypeError(f"{name}: expected bytes or a string, got a {type(memory).__name__}.")
    if amount < 1:
        raise ValueError(f"{name}: expected a positive amount, got {memory!r}.")
    return amount


def human(count: int) -> str:
    """Bytes for people, in powers of ten: "15.1 GB"."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def search_bytes(limit: int | None) -> int:
    """Bytes that a search may take: the caller's limit, or a share of what is free."""
    return limit or int(FREE_SHARE * (free_bytes() or UNKNOWN_FREE))


def free_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory this process can still take: what the system has, or what its control group leaves.

    None where neither is known, as without /proc. The folders are arguments for tests.
    """
    import psutil

    amounts = []
    with suppress(OSError, psutil.Error):
        amounts.append(int(psutil.virtual_memory().available))
    if (proc / "self/cgroup").is_file():
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                amounts += _headroom(cgroups, path, "memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                amounts += _headroom(
                    cgroups / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes",
                    "total_inactive_file",
                )  # fmt: skip
    return max(min(amounts), 0) if amounts else None


def beside(memory: int, row_bytes: int, k: int) -> tuple[int, int]:
    """Of a support that does not fit, and is read once for each query chunk: the queries of one,
    which take half of a search's memory, and the bytes that they leave."""
    usable = int((1 - WORK_SHARE) * memory)
    query = row_bytes + MERGE_BYTES * (k + 1)
    queries = max(1, usable // 2 // query)
    return queries, usable - queries * query


def readings(memory: int, queries: int, row_bytes: int, k: int) -> int:
    """How often a support that does not fit is read: once for each query chunk."""
    return -(-queries // beside(memory, row_bytes, k)[0])


def free_on(device: torch.device) -> int:
    """Bytes of a CUDA device that are free, or held by torch without use."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _headroom(root: Path, path: str, limit: str, usage: str, cache: str) -> list[int]:
    """What each group from `path` up to the root leaves; inside a container only some exist."""
    left = []
    group = root / path.strip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        try:
            most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if most != "max":
            # Cached file pages count as used but are given up on demand.
            left.append(int(most) - used + int(stat.get(cache, 0)))
    return left
