"""Every code block of README.md, CONTRIBUTING.md and docs/ works, or says why it is not run.

Python blocks run in order, a page in one namespace, from a folder of its own: `prepared` says what
is there beforehand. A block of output after one (```text) is what it prints. Shell blocks are
checked for commands, options, files and extras that do not exist; `<!-- run -->` before one runs
its `pdepth` commands too. `<!-- not run: REASON -->` leaves a block out.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import warnings
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pdepth.cli import app

from . import prepared, shell
from .pages import PAGES, ROOT, Block, blocks_of, inline_code, prose_of

LANGUAGES = {"python", "py", "sh", "text", "bibtex", "toml", "yaml"}
REPOSITORY_PATH = re.compile(r"(pdepth|kernels|csrc|bench|tests|docs|\.ci)/[\w/.]*")
NEEDS = {  # packages; the page is skipped without them
    "docs/compat.md": ("sklearn", "cleanlab"),
    "docs/text.md": ("transformers", "tokenizers", "PIL", "torchvision"),
}


SLOW = {"docs/compat.md"}  # pages that import large libraries, when they are run


def named(pages: list[Path], slow: Collection[str] = ()) -> list[object]:
    """The pages as parameters of a test, by their paths."""
    return [
        pytest.param(page, id=name, marks=[pytest.mark.slow] if name in slow else [])
        for page in pages
        for name in [page.relative_to(ROOT).as_posix()]
    ]


PYTHON = [page for page in PAGES if any(b.language == "python" for b in blocks_of(page))]
SHELL = [page for page in PAGES if any(b.language == "sh" for b in blocks_of(page))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder while a page runs. Networks are so small that threads would cost."""
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", named(PYTHON, SLOW))
def test_python_blocks_run(page: Path, folder: Path) -> None:
    for module in NEEDS.get(page.relative_to(ROOT).as_posix(), ()):
        pytest.importorskip(module)
    namespace = prepared.names()
    prepared.write_files(folder, namespace["layers"])
    if page.name == "text.md":
        namespace |= prepared.names_of_transformers()
    blocks = blocks_of(page)
    for block, after in pairwise([*blocks, Block("", "", 0, "")]):
        if block.language != "python" or not block.runs:
            continue
        output = run(block, page, namespace)
        if after.language == "text" and not after.note:
            assert output.strip() == after.text.strip(), f"line {after.line} of {page.name}"


def run(block: Block, page: Path, namespace: dict[str, object]) -> str:
    """What a block prints. Errors show the page's own lines."""
    name = f"{page}:{block.line}"
    text = "\n" * (block.line - 1) + block.text + "\n"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        warnings.filterwarnings("default", category=DeprecationWarning, module="matplotlib")
        exec(compile(text, name, "exec"), namespace)
    return output.getvalue()


@pytest.mark.parametrize("page", named(SHELL))
def test_shell_blocks_name_what_exists(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "sh" and block.runs:
            for words in shell.commands_of(block.text):
                try:
                    shell.check(words)
                except Exception as error:
                    raise AssertionError(f"{page.name}:{block.line}: {error}") from error


def blocks_to_run() -> Iterator[object]:
    for page in SHELL:
        for block, after in pairwise([*blocks_of(page), Block("", "", 0, "")]):
            if block.language == "sh" and block.note == "run":
                yield pytest.param(block, after, id=f"{page.name}:{block.line}")


@pytest.mark.parametrize(("block", "after"), list(blocks_to_run()))
def test_cheap_commands_run(block: Block, after: Block, folder: Path) -> None:
    output = ""
    for name, *arguments in shell.commands_of(block.text):
        assert name == "pdepth"
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        output += result.output
    if after.language == "text":
        assert plain(output) == plain(after.text)


def plain(output: str) -> list[list[str]]:
    """The words of each line; lines without any, and rules of tables, are left out."""
    lines = [re.sub("[─━]+", "", line).split() for line in output.splitlines()]
    return [words for words in lines if words]


@pytest.mark.parametrize("page", named(PAGES))
def test_what_is_mentioned_exists(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"line {block.line}: a block without its language"
    for text in inline_code(page):
        shell.check_mention(text)
        if REPOSITORY_PATH.fullmatch(text) and "NAME" not in text:
            assert (ROOT / text).exists(), f"{text} is not there"
    for names in re.findall(r"pdepth\[([a-z,]+)\]", page.read_text()):
        assert set(names.split(",")) <= shell.extras(), names
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", prose_of(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), f"a link to {target}, which is not there"
