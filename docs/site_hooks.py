"""What mkdocs asks while it builds the site: see `hooks` in mkdocs.yml."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
INCLUDE = re.compile(r"<!-- include (?P<file>[\w.]+) -->")
IN_THE_SITE = {"docs/": "", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
COMMANDS = "<!-- commands -->"  # in reference/cli.md, where each command's help goes
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]+)\]\((?P<target>\.\./[^)\s]+)\)")
WIDTH = "100"  # columns of a help page


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in other files and the command line's help; make Markdown inside of <details> Markdown.

    Links to files of the repository, which the site does not have, become their text.
    """
    markdown = INCLUDE.sub(_included, markdown)
    markdown = markdown.replace("<details>", '<details markdown="1">')
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, "\n".join(_commands()))
    folder = posixpath.dirname(page.file.src_uri)

    def text_alone(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["target"]))
        return link["text"] if target.startswith("../") else link[0]

    return LINK.sub(text_alone, markdown)


def _included(match: re.Match[str]) -> str:
    """A file beside docs/, its links as they are from docs/."""
    text = (ROOT / match["file"]).read_text()
    for there, here in IN_THE_SITE.items():
        text = text.replace(f"]({there}", f"]({here}")
    return text


def _commands() -> Iterator[str]:
    os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = WIDTH
    import typer.main
    from typer.testing import CliRunner

    from pdepth.cli import app

    command = typer.main.get_command(app)
    names = list(command.commands)  # type: ignore[attr-defined]
    for arguments in ([], *([name] for name in names)):
        title = " ".join(["pdepth", *arguments])
        result = CliRunner().invoke(app, [*arguments, "--help"], prog_name="pdepth")
        if result.exit_code:
            raise RuntimeError(f"{title} --help failed: {result.output}")
        yield f"## {title}\n\n```text\n{result.output.strip()}\n```\n"
