"""Amounts of memory: as people write them, and what a machine or its control groups leave."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from pdepth.arrays.memory import free_bytes, human, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (5, 5),
        ("8GB", 8 * 10**9),
        ("8 GiB", 8 * 2**30),
        ("1.5g", 15 * 10**8),
        ("12", 12),
        ("2kib", 2048),
    ],
)
def test_amounts_of_memory(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "8 apples", "-1GB", "0", 0, "1 i"])
def test_amounts_that_are_none(text):
    with pytest.raises(ValueError, match="memory: expected "):
        parse_bytes(text)


def test_people_read_powers_of_ten():
    assert [human(n) for n in (17, 1500, 20_400_000, 15_100_000_000)] == [
        "17 bytes", "1.5 kB", "20.4 MB", "15.1 GB",
    ]  # fmt: skip


def test_free_memory_heeds_the_tightest_group(tmp_path, monkeypatch):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    leaf = groups / "outer" / "inner"
    for folder in (proc / "self", leaf, groups / "memory"):
        folder.mkdir(parents=True)
    system = SimpleNamespace(available=8000 * 1024)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: system)
    assert free_bytes(proc, groups) == 8000 * 1024
    (proc / "self" / "cgroup").write_text("0::/outer/inner\n")
    for folder, most in ((leaf, "max"), (leaf.parent, "5000")):
        (folder / "memory.max").write_text(most)
        (folder / "memory.current").write_text("3000\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    assert free_bytes(proc, groups) == 5000 - 3000 + 500
    (proc / "self" / "cgroup").write_text("4:cpu,memory:/elsewhere\n")
    (groups / "memory" / "memory.limit_in_bytes").write_text("700")
    (groups / "memory" / "memory.usage_in_bytes").write_text("900")
    (groups / "memory" / "memory.stat").write_text("total_inactive_file 0\n")
    assert free_bytes(proc, groups) == 0
    assert free_bytes(tmp_path / "none", groups) == 8000 * 1024


def test_a_system_that_does_not_tell_what_is_free(tmp_path, monkeypatch):
    def absent():
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", absent)
    assert free_bytes(tmp_path / "none", tmp_path) is None


def test_free_memory_of_this_machine():
    assert 0 < free_bytes() <= psutil.virtual_memory().total
