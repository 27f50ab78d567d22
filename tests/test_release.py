"""What a release refuses, and what a build is made for."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pdepth

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / ".ci").is_dir(), reason="an installed copy has no .ci/")
FILES = ("pyproject.toml", "pdepth/__init__.py", "CITATION.cff", "conda/recipe.yaml")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Namespace]:
    """A script of .ci/ as it is run: beside what these share."""
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    return lambda name: Namespace(**runpy.run_path(str(ROOT / ".ci" / name)))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with what names a version, one commit, nothing else."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    for name in (*FILES, "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    git(tmp_path, "init", "-q", "-b", "main")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "all")


def test_one_version(script: Callable[[str], Namespace]) -> None:
    assert script("release").release_version(ROOT) == pdepth.__version__


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_version(
    script: Callable[[str], Namespace], checkout: Path, name: str
) -> None:
    release, path = script("release"), checkout / name
    path.write_text(path.read_text().replace(f"{pdepth.__version__}", "9.8.7", 1))
    expected = "pdepth/__init__.py: expected version 9.8.7" if name == FILES[0] else f"{name}: exp"
    with pytest.raises(release.Failed, match=expected):
        release.release_version(checkout)


def test_a_changelog_without_the_section(
    script: Callable[[str], Namespace], checkout: Path
) -> None:
    release, path = script("release"), checkout / "CHANGELOG.md"
    heading, text = f"## {pdepth.__version__}\n", path.read_text()
    sentence = f"expected a section '## {pdepth.__version__}' with entries, found none"
    for without in (text.replace(heading, "## Other\n"), f"# Changelog\n\n{heading}\n## 0.0.1\n"):
        path.write_text(without)
        with pytest.raises(release.Failed, match=sentence):
            release.release_version(checkout)


def test_a_checkout_with_changes(script: Callable[[str], Namespace], checkout: Path) -> None:
    release, version = script("release"), pdepth.__version__
    assert release.check_tree(checkout, version, allow_dirty=False)
    (checkout / "new.txt").touch()
    with pytest.raises(release.Failed, match=r"without changes, got:\n\?\? new\.txt"):
        release.check_tree(checkout, version, allow_dirty=False)
    release.check_tree(checkout, version, allow_dirty=True)


def test_tags(script: Callable[[str], Namespace], checkout: Path) -> None:
    release, version = script("release"), pdepth.__version__
    git(checkout, "tag", f"v{version}")
    git(checkout, "tag", "nightly")
    release.check_tree(checkout, version, allow_dirty=False)
    with pytest.raises(release.Failed, match=f"expected the tag v9.8.7 .*, got v{version}"):
        release.check_tree(checkout, "9.8.7", allow_dirty=False)
    (checkout / "new.txt").touch()
    commit(checkout)
    with pytest.raises(release.Failed, match="is another commit's: a release needs a new version"):
        release.check_tree(checkout, version, allow_dirty=False)


def test_only_an_earlier_release_is_replaced(
    script: Callable[[str], Namespace], tmp_path: Path
) -> None:
    release, into = script("release"), tmp_path / "new" / "dist"
    assert release.emptied(into).is_dir()
    earlier = ("pdepth-0.1.0.tar.gz", "pdepth-0.1.0-cp311-cp311-linux_x86_64.whl", "SHA256SUMS")
    for name in (*earlier, "thesis.txt"):
        (into / name).touch()
    with pytest.raises(release.Failed, match="a folder of releases alone, got thesis.txt in"):
        release.emptied(into)
    assert len(list(into.iterdir())) == 4
    (into / "thesis.txt").unlink()
    assert not list(release.emptied(into).iterdir())


def test_an_interpreter_that_is_not_here(script: Callable[[str], Namespace]) -> None:
    shared = script("shared.py")
    with pytest.raises(shared.Failed, match=r"expected Python 2\.0 in PATH"):
        shared.interpreter("2.0")


def test_the_newest_release_of_an_interpreter(
    script: Callable[[str], Namespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = script("shared.py")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    for name in ("9.8.2", "9.8.10", "9.8.9", "9.8.11rc1", "9.8.12t", "9.80.1"):
        python = tmp_path / "versions" / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\necho Python {name}\n")
        python.chmod(0o755)
    (tmp_path / "versions" / "9.8.13").mkdir()  # half removed
    assert shared.interpreter("9.8") == str(tmp_path / "versions" / "9.8.10" / "bin" / "python")


def test_every_environment_has_its_job_at_night(script: Callable[[str], Namespace]) -> None:
    nightly = script("nightly")
    workflow = (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    names = re.findall(r"^ {10}- (\S+)$", workflow.split("name:\n")[1], re.MULTILINE)
    assert names == [*(each.name for each in nightly.ENVIRONMENTS), nightly.LIBRARIES]


def test_a_command_that_fails_says_what_it_said(script: Callable[[str], Namespace]) -> None:
    shared = script("shared.py")
    with pytest.raises(shared.Failed, match="(?s)no such.*exit code 3 of"):
        shared.run([sys.executable, "-c", "print('no such'); raise SystemExit(3)"])


def test_archives_of_the_same_files_are_alike(
    script: Callable[[str], Namespace], tmp_path: Path
) -> None:
    (tmp_path / "b").write_text("b")
    (tmp_path / "a").write_text("a")
    (tmp_path / "a").chmod(0o770)
    contents = []
    for number, names in enumerate(("ab", "ba")):
        archive = tmp_path / f"{number}.tar.gz"
        with tarfile.open(archive, "w:gz") as packed:
            for name in names:
                os.utime(tmp_path / name, (number, number))
                packed.add(tmp_path / name, name)
        script("wheels").alike(archive, 1_000_000_000)
        contents.append(archive.read_bytes())
    assert contents[0] == contents[1]
    with tarfile.open(archive) as packed:
        modes = {member.name: (member.mode, member.mtime, member.uid) for member in packed}
    assert modes == {"a": (0o755, 1_000_000_000, 0), "b": (0o644, 1_000_000_000, 0)}


def test_bytes_that_differ(script: Callable[[str], Namespace], tmp_path: Path) -> None:
    release = script("release")
    paths = [tmp_path / "x" / "a.whl", tmp_path / "y" / "a.whl"]
    for path in paths:
        path.parent.mkdir()
        path.write_text("same")
    release.compare_bytes(paths[:1], paths[1:])
    paths[0].write_text("other")
    with pytest.raises(release.Failed, match=r"two builds of this commit differ: a\.whl"):
        release.compare_bytes(paths[:1], paths[1:])


@pytest.mark.parametrize(
    ("platform", "levels"),
    [
        ("linux-x86_64", "bf16 portable avx2 avxvnni avx512 amx avx512vnni"),
        ("linux-aarch64", "bf16 portable neon neondot"),
        ("linux-riscv64", "bf16 portable"),
    ],
)
def test_a_build_is_for_its_target(
    platform: str, levels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever machine compiles it."""
    pytest.importorskip("pybind11")
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    monkeypatch.setattr("sysconfig.get_platform", lambda: platform)
    monkeypatch.chdir(ROOT)
    build: dict[str, Any] = runpy.run_path(str(ROOT / "setup.py"))
    assert " ".join(build["LEVELS"]) == levels
    sources = {f"csrc/{name}.cpp" for name in build["SOURCES"]}
    assert all((ROOT / source).exists() for source in sources)


class Windows:
    """setuptools' compiler there, as far as a build sees it: notes the commands."""

    compiler_type, initialized = "msvc", False

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def initialize(self, platform: str) -> None:
        assert not self.initialized
        self.initialized, self.cc, self.compile_options = True, "cl.exe", ["/O2", "/GL", "/MD"]

    def compile(self, sources: list[str], *, extra_postargs: list[str], **_: Any) -> list[str]:
        self.commands.append([self.cc, *self.compile_options, *sources, *extra_postargs])
        return ["made.obj"]


def test_windows_is_built_by_clang_cl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As far as one sees elsewhere: the compiler, and each level's own flags."""
    pytest.importorskip("pybind11")
    setuptools = pytest.importorskip("setuptools")
    build_ext = pytest.importorskip("setuptools.command.build_ext").build_ext
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: given.update(options))
    monkeypatch.setattr("sysconfig.get_platform", lambda: "win-amd64")
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PDEPTH_BUILD_CACHE", raising=False)
    runpy.run_path(str(ROOT / "setup.py"))
    command = given["cmdclass"]["build_ext"](
        setuptools.Distribution({"ext_modules": given["ext_modules"]})
    )
    command.build_temp, command.plat_name, command.parallel = str(tmp_path), "win-amd64", None
    command.extensions, command.compiler = given["ext_modules"], Windows()
    linked: list[Any] = []
    monkeypatch.setattr(build_ext, "build_extension", lambda _, ext: linked.append(ext))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SystemExit, match="expected clang-cl on the PATH, got none; install LLVM"):
        command.build_extensions()
    monkeypatch.setattr("shutil.which", lambda name: f"C:/{name}.exe")
    command.build_extensions()
    of = {Path(each[3]).stem: each for each in command.compiler.commands}
    assert of["filter"][:3] == ["C:/clang-cl.exe", "/O2", "/MD"]
    assert {"/clang:-std=c++17", "/clang:-ffp-contract=off"} <= set(of["filter"])
    assert "/clang:-mavx2" in of["level_avx2"]
    assert "/clang:-mavx2" not in of["filter"]
    assert not any("pthread" in flag for each in of.values() for flag in each)
    (extension,) = linked
    assert extension.extra_link_args == []
    assert set(extension.extra_objects) == {"made.obj"}
