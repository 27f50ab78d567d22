"""Results for tests of the page, and what the page holds, read back."""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from pdepth.analysis.ensemble import Ensemble, Member
from pdepth.analysis.runs import RunComparison, compare
from pdepth.io.map_file import KeptMap
from pdepth.io.neighbor_file import KeptNeighbors
from pdepth.result import DepthResult, depth_of

NAMES = ["cat", "<script>alert(1)</script>", '=dog, "old"', "ship"]
N, LAYERS = 240, 4
PATIENCE = 60  # seconds that a page may take on a busy machine


def example(n: int = N, labels: bool = True, early: bool = False) -> DepthResult:
    """Depths cycle through 0..4, the undefined; every seventh row is wrong."""
    rows = np.arange(n)
    depth = rows % (LAYERS + 1)
    given_labels = (rows // 5) % 4
    predictions = np.where(rows % 7 == 0, (given_labels + 1) % 4, given_labels)
    agree = np.arange(LAYERS)[:, None] >= depth
    votes = np.where(agree, predictions, (predictions + 2) % 4)
    known = agree | (not early)
    return DepthResult(
        depth=depth,
        undefined=depth == LAYERS,
        votes=np.where(known, votes, -1),
        known=known,
        predictions=predictions,
        labels=given_labels if labels else None,
        probes=("input", "block<1>", "block2", "softmax"),
        k=30,
    )


def neighbors_example(n: int = N, own: bool = False, early: bool = False) -> DepthResult:
    """The example with three neighbours kept of a support of 50 rows, or of its own; of four
    classes the first two have votes, the second as many as the row's number tells."""
    result, rng = replace(example(n, early=early), leave_one_out=own), np.random.default_rng(2)
    count = n if own else 50
    codes = (np.arange(count) // 5 if own else rng.integers(0, 4, count)) % 4
    whole = example(n)
    votes, shape = whole.votes, (LAYERS, n)
    searched = result.known.copy()
    searched[:-1] |= result.known[1:]  # and where the first other vote was met
    rows = np.where(searched[..., None], rng.integers(0, count, (*shape, 3)), -1)
    second = np.broadcast_to(np.arange(n) % 15, shape)
    ranked = np.stack([votes, (votes + 1) % 4, (votes + 2) % 4, (votes + 3) % 4], axis=-1)
    counts = np.stack([30 - second, second, 0 * second, 0 * second], axis=-1)
    kept = KeptNeighbors(
        k=30,
        probes=result.probes,
        distances=np.where(rows < 0, np.nan, rng.random(rows.shape)),
        rows=rows.astype(np.int32),
        ranked=np.where(searched[..., None], ranked, 0).astype(np.uint8),
        counts=np.where(searched[..., None], counts, 0).astype(np.uint8),
        classes=np.arange(4),
        codes=codes.astype(np.int32),
        row_numbers=None if own else np.arange(50) * 2 + 1,
    )
    return replace(result, neighbors=kept)


def map_example(n: int = N, early: bool = False) -> DepthResult:
    """The example with a map, on which early exit leaves examples out at the first probes."""
    result, rng = example(n, early=early), np.random.default_rng(3)
    places = rng.normal(size=(n, LAYERS, 2)) * [3, 1]
    kept = KeptMap(
        method="pca",
        probes=result.probes,
        queries=np.where(result.known.T[..., None], places, np.nan).astype(np.float32),
        explained=np.array([[0.5, 0.25], [0.4, 0.1], [0.3, 0.2], [np.nan, np.nan]]),
        units=np.ones(LAYERS),
    )
    return replace(result, map=kept)


def comparison_example() -> RunComparison:
    """Two networks, the second of which has two probes more; one is called by markup."""
    first, rng = example(), np.random.default_rng(0)
    probes = (*first.probes[:-1], "block3", "block4", first.probes[-1])
    agree = rng.random((len(probes), N)) < np.linspace(0.4, 0.98, len(probes))[:, None]
    depth, undefined = depth_of(agree)
    second = replace(
        first,
        depth=depth,
        undefined=undefined,
        votes=np.where(agree, first.predictions, (first.predictions + 1) % 4),
        known=np.ones(agree.shape, bool),
        probes=probes,
    )
    return compare(first, second, names=("small", "<b>large</b>"))


def ensemble_example(n: int = 60, networks: int = 4) -> Ensemble:
    """The last tenth of the examples is never held out."""
    rng = np.random.default_rng(0)
    ensemble = Ensemble(np.arange(n) % 3)
    for name in range(networks):
        out = (np.arange(n) % networks == name) | (rng.random(n) < 0.4)
        out[-n // 10 :] = False
        depth = np.minimum(np.arange(n) // 10 + rng.integers(0, 2, n), 4)
        predicted = np.where(rng.random(n) < 0.2, 0, np.arange(n) % 3)
        ensemble.add(Member(depth, predicted, out, 4, name))
    return ensemble


def grey_images(n: int = N) -> np.ndarray:
    """Different grey images (n, 6, 6)."""
    return np.random.default_rng(1).integers(0, 256, (n, 6, 6), np.uint8)


class PartlyReadable:
    """Images of which every tenth cannot be read."""

    def __init__(self, n: int = N) -> None:
        self.images = grey_images(n)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> np.ndarray:
        if row % 10 == 3:
            raise ValueError(f"image {row} is broken")
        return self.images[row]


def read_script(text: str, name: str) -> str:
    actual = re.search(rf'<script type="[a-z/]+" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert actual is not None
    return actual[1]


def read_columns(text: str) -> dict[str, np.ndarray]:
    """What the page's code reads, read here."""
    data = gzip.decompress(base64.b64decode(read_script(text, "data")))
    actual, begin = {}, 0
    for entry in json.loads(read_script(text, "header"))["columns"]:
        chunk = data[begin : begin + entry["length"]]
        kind = entry["type"]
        actual[entry["name"]] = (
            np.array(json.loads(chunk)) if kind == "json" else np.frombuffer(chunk, f"<{kind}")
        )
        begin += -(-entry["length"] // 8) * 8
    assert begin == len(data)
    return actual


class PageReader(HTMLParser):
    """Elements that open, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self._inside = tag
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)


def read_words(file: Path) -> str:
    """The text of a page, with single spaces."""
    return " ".join(" ".join(PageReader(file.read_text()).words).split())


class Tab:
    """A page in the browser, inspected by JavaScript."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def __call__(self, code: str) -> Any:
        return self.browser.execute_script(f"return {code}")

    def open(self, path: Path | str) -> Tab:
        """path: of a file, or an address."""
        self.browser.get_log("browser")
        self.browser.get(path if isinstance(path, str) else path.as_uri())
        self.until(lambda: self("document.documentElement.dataset.ready") == "yes")
        self("(document.documentElement.style.scrollBehavior = 'auto')")
        return self

    def until(self, done: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while not (value := done()):
            assert time.monotonic() < end, f"not within {PATIENCE} s"
            time.sleep(0.02)
        return value

    def choose(self, name: str, value: object) -> None:
        self(
            f"(() => {{ const s = document.getElementById('{name}'); s.value = '{value}'; "
            "s.dispatchEvent(new Event('change')); })()"
        )

    def press(self, text: str, within: str = "body") -> None:
        """Click the button with this text."""
        buttons = f"[...document.querySelectorAll('{within} button')]"
        self(f"{buttons}.find((each) => each.textContent === '{text}').click()")

    def download(self, name: str, start: Callable[[], Any]) -> Path:
        """The file with this name, once it is downloaded."""
        file: Path = self.browser.downloads / name
        file.unlink(missing_ok=True)
        start()
        self.until(file.exists)
        self.until(lambda: not list(self.browser.downloads.glob("*.crdownload")))
        return file

    def search(self, row: int) -> None:
        self(
            f"(() => {{ const s = document.getElementById('search'); s.value = '{row}'; "
            "s.dispatchEvent(new Event('input')); })()"
        )
        self.until(lambda: [cells[0] for cells in self.table()] == [str(row)])

    def count(self) -> str:
        return str(self("document.getElementById('count').textContent"))

    def settled(self, count: int) -> None:
        """Wait until the plots are of so many rows."""
        self.until(lambda: self("document.documentElement.dataset.drawn") == str(count))

    def table(self) -> list[list[str]]:
        """Cells of the rows that are drawn, without ticks, pictures and decisions."""
        return self(
            "(() => { const names = [...document.querySelectorAll('#scroll thead th')]"
            ".map((th) => th.dataset.column); const shown = (_, i) => names[i] && "
            "!['decision', 'new_label'].includes(names[i]); "
            "return [...document.querySelectorAll('#scroll tbody tr:not(.gap)')].map((row) => "
            "[...row.cells].filter(shown).map((cell) => cell.textContent)); })()"
        )

    def show(self, key: str) -> None:
        """Scroll to a view, and wait for its plot."""
        self(f"document.getElementById('{key}').scrollIntoView()")
        self.until(lambda: self(f"document.querySelector('#{key} .plot').data?.length"))

    def mouse(self, kind: str, x: float, y: float, modifiers: int = 0, **more: float) -> None:
        """modifiers: 1 for Alt, 2 for Control, 8 for Shift."""
        event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        self.browser.execute_cdp_cmd(
            "Input.dispatchMouseEvent", {**event, "modifiers": modifiers, **more}
        )

    def errors(self) -> list[str]:
        return [e["message"] for e in self.browser.get_log("browser") if e["level"] == "SEVERE"]
