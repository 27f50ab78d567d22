"""The site: it builds without a warning, and its reference reads pdepth's docstrings rightly."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .pages import ROOT

pytest.importorskip("mkdocstrings", reason="the site needs pip install 'pdepth[docs]'")


@pytest.fixture
def docstrings() -> ModuleType:
    """The griffe extension of the site."""
    path = ROOT / "docs" / "site_docstrings.py"
    spec = importlib.util.spec_from_file_location("site_docstrings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TEXT = """Search what is there: nothing else.

Of a paragraph, no line is an entry, even if it
goes on: like this.

rows: (N, D), which
    may be long.
k, metric: as there.

The end.
"""


def test_paragraphs_become_sections(docstrings: ModuleType) -> None:
    assert docstrings.sections(TEXT, "Args:").split("\n\n") == [
        "Search what is there: nothing else.",
        "Of a paragraph, no line is an entry, even if it\ngoes on: like this.",
        "\nArgs:\n    rows: (N, D), which\n        may be long.\n    k, metric: as there.",
        "\nThe end.",
    ]
    assert "- **rows**: (N, D), which\n    may be long.\n- **k, metric**: as there." in (
        docstrings.bullets(TEXT)
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    commands = (tmp_path / "reference" / "cli" / "index.html").read_text()
    assert "pdepth run" in commands
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r'<(script|link|img)[^>]+(src|href)="https?://', text), page.name
