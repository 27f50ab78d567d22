"""`pdepth info`, and what an installation says that is not whole."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import pdepth
from pdepth import _native, native, optional
from pdepth.report.environment import Environment

from helpers.commands import invoke

PACKAGE = Path(pdepth.__file__).parent


def test_all_that_a_report_of_a_bug_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdepth.report.environment.free_bytes", lambda: 8_000_000_000)
    here = Environment.here()
    said = invoke("info")
    assert (said.exit_code, said.stdout) == (0, f"{here}\n")
    assert json.loads(invoke("info", "--json").stdout) == here.to_dict()
    assert here.levels == dict(_native.levels())
    assert here.backends == pdepth.backends()
    assert here.libraries["numpy"] == np.__version__
    fields = dict(line.split(maxsplit=1) for line in said.stdout.splitlines())
    assert fields["pdepth"] == f"{pdepth.__version__}, {PACKAGE}"
    assert fields["level"] == native.simd_level()
    assert fields["threads"] == str(native.default_threads())
    assert fields["memory"] == "8.0 GB free"
    for level, runs in here.levels.items():
        assert (level if runs else f"{level} (not here)") in fields["levels"].split(", ")


def test_the_level_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SIMD, "portable")
    assert Environment.here().level == "portable"
    monkeypatch.setenv(native.SIMD, "sse9")
    assert Environment.here().level.startswith("PDEPTH_SIMD: expected one of ")


def test_extras_and_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = [
        "numpy>=1.26",
        'numpy>=1; extra == "whole"',
        'pdepth[whole,halved]; extra == "more"',
        'pdepth[halved]; extra == "more"',
        'not-there.at_all[x]<2,>=1; extra == "halved"',
        'elsewhere; platform_system == "Amiga" and extra == "whole"',
    ]
    about = {"Provides-Extra": ["whole", "halved", "more"]}
    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    monkeypatch.setattr(metadata, "metadata", lambda name: metadata_of(about))
    here = Environment.here()
    lacking = ["not-there.at_all"]
    assert here.extras == {"whole": [], "halved": lacking, "more": lacking}
    lines = str(here).splitlines()
    assert lines[-2].split() == ["extras", "whole"]
    assert lines[-1].split() == ["not", "installed", "halved,", "more"]


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", absent)
    assert Environment.here().extras == {}


def metadata_of(about: dict[str, list[str]]) -> object:
    return type("Metadata", (), {"get_all": lambda self, name: about[name]})()


def test_a_portable_level_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a processor that could have a faster one, and not where the caller chose it."""
    caplog.set_level(logging.INFO, "pdepth")
    monkeypatch.setattr(native, "simd_levels", lambda: {"portable": True, "avx2": False})
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    native._say_portable.cache_clear()
    monkeypatch.setenv(native.SIMD, "portable")
    native.simd_level()
    assert caplog.messages == []
    monkeypatch.delenv(native.SIMD)
    assert [native.simd_level(), native.simd_level()] == ["portable"] * 2
    assert caplog.messages == [
        "The cpu backend runs at level portable: this build or processor has none of the faster "
        "levels, which need AVX2 and FMA. Votes are the same, and take longer."
    ]
    native._say_portable.cache_clear()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    native.simd_level()
    assert len(caplog.messages) == 1
    native._say_portable.cache_clear()


@pytest.mark.parametrize("damage", ["missing", "of another Python", "cut short", "no library"])
def test_a_compiled_part_that_is_not_whole(tmp_path: Path, damage: str) -> None:
    copied = tmp_path / "pdepth"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("_native.*", "__pycache__"))
    native_file = Path(_native.__file__)
    got = {"missing": "none", "of another Python": "_native.cpython-37-x86_64-linux-gnu.so"}
    name = got.get(damage, native_file.name)
    if damage != "missing":
        content = native_file.read_bytes()[:100_000]  # which the loader would map, and die of
        (copied / name).write_bytes(b"no library" if damage == "no library" else content)
    # An editable installation would find the part that the copy lacks.
    code = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]"
    run = [sys.executable, "-c", f"{code}\nimport pdepth"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"ImportError: pdepth: expected its compiled part for {sys.implementation.cache_tag} in "
        f"{copied}, got {name}"
    )
    reason = ", which cannot be loaded (" in last
    assert reason == (damage in ("cut short", "no library"))
    assert ("(it is cut short)" in last) == (damage == "cut short")
    assert last.endswith(f"{sys.executable} -m pip install --force-reinstall --no-deps pdepth.")
    assert done.stderr.count("Error: ") == 1


def test_an_old_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    optional.check_oldest("numpy", "1.26")
    monkeypatch.setattr(np, "__version__", "1.25.2")
    sentence = "pdepth needs numpy 1.26 or later, got 1.25.2: pip install --upgrade numpy."
    with pytest.raises(ImportError) as caught:
        optional.check_oldest("numpy", "1.26")
    assert str(caught.value) == sentence
