"""Checks of shell commands that do not run them: names of commands, options, files and extras."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer.main

from pdepth.cli import app

from .pages import ROOT

COMMANDS: Any = typer.main.get_command(app)
# Of these nothing is checked: they are the reader's own tools.
FREE = ("cd", "export", "git", ".", "ruff", "mypy", "pre-commit", "mkdocs", "pip")
PYTEST = {"-n", "--dist", "-m", "-k", "-q", "-x"}  # options that are pytest's and xdist's own


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each command of a block; comments and variables before a command left out."""
    for line in text.replace("\\\n", " ").splitlines():
        command: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word in ("&&", ";", "|"):
                if command:
                    yield command
                command = []
            elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
                command.append(word)


def check(words: list[str]) -> None:
    """Raise AssertionError or typer's own error for a command that could not work."""
    name, *arguments = words
    for extra in re.findall(r"\[([a-z,]+)\]", " ".join(arguments) if name == "pip" else ""):
        unknown = set(extra.split(",")) - extras()
        assert not unknown, f"no such extra: {unknown}"
    if name == "pdepth":
        check_pdepth(arguments)
    elif name == "pytest":
        check_pytest(arguments)
    elif name == "nox":
        sessions = set(re.findall(r"^def (\w+)\(", (ROOT / "noxfile.py").read_text(), re.M))
        assert {word for word in arguments if word[0] != "-"} <= sessions, f"sessions: {sessions}"
    elif name in ("python", "python3"):
        script = next((word for word in arguments if not word.startswith("-")), "")
        assert arguments[0] == "-m" or (ROOT / script).exists(), f"no such file: {script}"
    elif name.startswith(".") and len(name) > 1:
        assert (ROOT / name).exists(), f"no such file: {name}"
    else:
        assert name in FREE, f"{name}: a command that this test does not know"


def check_pdepth(arguments: list[str]) -> None:
    """Parse arguments as `pdepth` does; nothing is called."""
    if arguments and arguments[0] in COMMANDS.commands:
        command = COMMANDS.commands[arguments[0]]
        if not {"-h", "--help"} & set(arguments):
            command.make_context(arguments[0], arguments[1:])
    else:
        assert arguments[:1] in (["--help"], ["--version"]), f"no such command: {arguments}"


def check_pytest(arguments: list[str]) -> None:
    """Files exist, and options are pytest's or those of tests/conftest.py."""
    ours = set(re.findall(r'"(--[\w-]+)"', (ROOT / "tests" / "conftest.py").read_text()))
    for word in arguments:
        if word.startswith("-"):
            assert word.split("=")[0] in ours | PYTEST, f"no such option: {word}"
        elif word.startswith("tests"):
            assert (ROOT / word.split("::")[0]).exists(), f"no such file: {word}"


def check_mention(text: str) -> None:
    """Inline code such as `pdepth run ... --keep-embeddings DIR`: commands and options exist."""
    words = text.split()
    if words[:1] != ["pdepth"] or len(words) < 2:
        return
    options = [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    command = COMMANDS if words[1].startswith("-") else COMMANDS.commands.get(words[1])
    assert command is not None, f"no such command: pdepth {words[1]}"
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    unknown = set(options) - known - {"-h", "--help"}
    assert not unknown, f"pdepth {words[1]} has no {', '.join(unknown)}"


def extras() -> set[str]:
    """The extras of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^(\w+) = ", section, re.M))
