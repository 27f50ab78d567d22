"""README's tables and the picture, from stored results alone: the same results, the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pdepth.io.atomic import replacing
from pdepth.optional import require

from .. import common
from .engines import BFLOAT16, FLOAT32, MEMORY, ONE_THREAD, PDEPTH, PEER
from .shapes import NETWORKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME, STORED = "pdepth bench", common.RESULTS / "suite.json"
UNFINISHED = STORED.with_suffix(".unfinished")
GROUPS = {  # of shapes, from the picture's top
    "goal": "",
    "layer": "layers of ResNet18, VGG16, MLP",
    "special": "layers that break engines",
}
# Markers and colours of the peers; Okabe and Ito's, the slower ones in greys.
PEERS = (
    *(("s", "#E69F00"), ("^", "#D55E00"), ("v", "#009E73"), ("<", "#CC79A7")),
    *(("D", "#8A939C"), ("P", "#8A939C"), ("X", "#8A939C"), ("p", "#56B4E9")),
)


@dataclass(frozen=True)
class Row:
    """One shape: its sizes, and pytest-benchmark's records of its engines by name."""

    name: str
    params: dict[str, Any]
    engines: dict[str, dict[str, Any]]

    def seconds(self, engine: str) -> float | None:
        found = self.engines.get(engine)
        return None if found is None else median(found["stats"]["data"])

    @property
    def ours(self) -> str:
        """pdepth's fastest level: the engine that each shape begins with."""
        return next(iter(self.engines))

    @property
    def peers(self) -> list[str]:
        """The exact ones, the fastest first."""
        exact = [
            name
            for name, found in self.engines.items()
            if found["extra_info"]["kind"] == PEER and found["extra_info"]["exact"]
        ]
        return sorted(exact, key=lambda name: self.seconds(name) or 0.0)

    def ratio(self, over: str | None, under: str | None) -> float | None:
        """The median over rounds of one engine's time over another's; None if one has none."""
        both = [self.engines.get(name or "") for name in (over, under)]
        if None in both:
            return None
        above, below = (found["stats"]["data"] for found in both if found is not None)
        ratios: float = median(a / b for a, b in zip(above, below, strict=True))
        return ratios

    def size(self) -> tuple[int, int, tuple[int, ...]]:
        return self.params["support"], self.params["queries"], tuple(self.params["widths"])


def rows_of(stored: dict[str, Any]) -> list[Row]:
    rows: dict[str, Row] = {}
    for found in stored["benchmarks"]:
        row = rows.setdefault(found["group"], Row(found["group"], found["params"], {}))
        row.engines[found["name"]] = found
    return list(rows.values())


def tables(stored: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    about, rows = stored["machine_info"], rows_of(stored)
    counts = [len(found["stats"]["data"]) for found in stored["benchmarks"]]
    checked = [found["extra_info"]["checked"] for found in stored["benchmarks"]]
    parts = [
        f"Seconds, medians of {min(counts)} to {max(counts)} interleaved rounds, k = {about['k']}, "
        f"{about['classes']} classes, "
        "float32; in brackets, how many votes of a peer differ from pdepth's, of which "
        f"{min(checked):,} to {max(checked):,} a shape were compared with the definition; "
        f"{common.where(about)}."
        + f" The trained network saw {about['images']}."
        * any(row.params["kind"] == "trained network" for row in rows),
        _goals(rows, about["threads"]),
        _networks(rows),
        _special(rows),
        _ceilings(rows),
        "<details><summary>All engines</summary>\n\n"
        "A dash: not asked at this size.\n\n"
        f"{_engines(rows)}\n\n</details>",
    ]
    return "\n\n".join(part for part in parts if part)


def lines(stored: dict[str, Any]) -> str:
    """Every engine of every shape, for a terminal."""
    said = [common.where(stored["machine_info"])]
    for row in rows_of(stored):
        rounds = row.engines[row.ours]["stats"]["rounds"]
        said.append(f"\n{row.name}, {rounds} round{'s' * (rounds > 1)}")
        for name, found in row.engines.items():
            extra = found["extra_info"]
            about = [f"{_times(row.ratio(name, row.ours))} x {row.ours}"]
            if (over := row.ratio(name, FLOAT32.name)) is not None:
                about.append(f"{_times(over)} x {FLOAT32.name}")
            if extra["first"] is not None:
                about.append(f"first call {_time(extra['first'])} s")
            if extra["extra_bytes"] is not None:
                about.append(f"{extra['extra_bytes'] / 1e6:.0f} MB extra")
            if extra["differing"]:
                votes = row.params["queries"] * len(row.params["widths"])
                about.append(f"{extra['differing']:,} of {votes:,} votes differ")
            said.append(f"  {name:28}{_time(row.seconds(name)):>9} s   {', '.join(about)}")
    return "\n".join(said)


def _goals(rows: list[Row], threads: int) -> str:
    table = [
        (
            "support x queries x width",
            "pdepth",
            "best exact peer",
            "peer / pdepth",
            "pdepth / float32 product",
            "first call / warm",
            f"1 thread / {threads}",
            "extra memory (/ bf16 support)",
        )
    ]
    for row in rows:
        if row.params["group"] != "goal":
            continue
        ours, peer = row.ours, next(iter(row.peers), None)
        extra = row.engines[ours]["extra_info"]
        warm, first, held = row.seconds(ours), extra["first"], extra["extra_bytes"]
        assert warm is not None
        packed = 2 * row.params["support"] * max(row.params["widths"])  # the widest probe's
        table.append(
            (
                row.name,
                _time(warm),
                "-" if peer is None else f"{_cell(row, peer)} {peer}",
                _times(row.ratio(peer, ours)),
                _times(row.ratio(ours, FLOAT32.name)),
                _times(None if first is None else first / warm),
                _times(row.ratio(ours + ONE_THREAD, ours)),
                "-" if held is None else f"{held / 1e6:.0f} MB ({held / packed:.1f})",
            )
        )
    return _markdown(table)


def _networks(rows: list[Row]) -> str:
    """Whole networks, each probe at the time of its shape; "" where a shape is missing."""
    by_width = {row.params["widths"][0]: row for row in rows if row.params["group"] == "layer"}
    sizes = {f"{rows:,} x {asked:,}" for rows, asked, _ in (r.size() for r in by_width.values())}
    table = [
        (
            f"all probes, {' or '.join(sizes)}",
            "probes",
            "pdepth",
            "best exact peer",
            "peer / pdepth",
        )
    ]
    for name, widths in NETWORKS.items():
        if not by_width.keys() >= set(widths):
            continue
        layers = [by_width[width] for width in widths]
        sums = {}
        for engine in layers[0].engines:
            seconds = [layer.seconds(engine) for layer in layers]
            if None not in seconds:
                sums[engine] = sum(filter(None, seconds))
        ours = layers[0].ours
        peers = set(sums).intersection(*(layer.peers for layer in layers))
        peer = min(peers, key=lambda each: sums[each], default=None)
        table.append(
            (
                name,
                str(len(widths)),
                _time(sums[ours]),
                "-" if peer is None else f"{_time(sums[peer])} {peer}",
                _times(None if peer is None else sums[peer] / sums[ours]),
            )
        )
    return _markdown(table)


def _special(rows: list[Row]) -> str:
    """Layers that break engines, beside random ones of the same size."""
    random = {row.size(): row for row in rows if row.params["kind"] == "random"}
    table = [("layer", "random layer", "this layer", "ratio")]
    for row in rows:
        other = random.get(row.size())
        if other is None or other is row or len(row.params["widths"]) > 1:
            continue
        ours, usual = row.seconds(row.ours), other.seconds(other.ours)
        assert ours is not None
        assert usual is not None
        table.append((row.name, _time(usual), _time(ours), _times(ours / usual)))
    return _markdown(table)


def _ceilings(rows: list[Row]) -> str:
    """The best rate that the machine reached at any shape, measured among the engines."""

    def best(engine: str, units: Any) -> float | None:
        rates = [units(row) / seconds / 1e9 for row in rows if (seconds := row.seconds(engine))]
        return max(rates, default=None)

    def operations(row: Row) -> float:
        support, queries, widths = row.size()
        return 2.0 * support * queries * sum(widths)

    def read(row: Row) -> float:
        support, queries, widths = row.size()
        return 4.0 * (support + queries) * sum(widths)

    said = [
        f"{engine} {rate:,.0f} {unit}"
        for engine, units, unit in (
            (FLOAT32.name, operations, "GFLOP/s"),
            (BFLOAT16.name, operations, "GFLOP/s"),
            (MEMORY.name, read, "GB/s"),
        )
        if (rate := best(engine, units)) is not None
    ]
    return f"Ceilings, the best of the same run: {', '.join(said)}." if said else ""


def _engines(rows: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.engines))
    table = [("support x queries x width", *names)]
    for row in rows:
        table.append((row.name, *(_cell(row, name) for name in names)))
    return _markdown(table)


def _cell(row: Row, name: str) -> str:
    """The time, and in brackets how many votes differ from the definition's, if any."""
    wrong = row.engines[name]["extra_info"]["differing"] if name in row.engines else 0
    return _time(row.seconds(name)) + (f" ({wrong:,})" if wrong else "")


def _markdown(table: Sequence[tuple[str, ...]]) -> str:
    """The first row is the head; a table without another is none."""
    if len(table) == 1:
        return ""
    head, *body = table
    rows = [head, ("---", *["---:"] * (len(head) - 1)), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.1:
        return f"{seconds:.3g}"
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def picture(stored: dict[str, Any], path: Path) -> None:
    """Every engine's time over that of the float32 matrix product, a line a shape."""
    require("matplotlib", "The picture", "bench")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from pdepth.report.figures.drawing import STYLE

    path.parent.mkdir(parents=True, exist_ok=True)
    settings: Any = {**STYLE, "axes.grid.axis": "x"}
    with rc_context(settings):
        rows = [row for row in rows_of(stored) if row.seconds(FLOAT32.name)]
        rows.sort(key=lambda row: list(GROUPS).index(row.params["group"]))
        figure = Figure(figsize=(10, 2.1 + 0.3 * len(rows)), layout="constrained")
        _dots(figure.subplots(), rows)
        figure.suptitle(
            "Time of all votes over the float32 matrix product of the same shape (left is faster)",
            x=0.01, ha="left", fontsize=13, fontweight="bold",
        )  # fmt: skip
        figure.legend(loc="outside lower left", ncols=4, handletextpad=0.3, columnspacing=1.4)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=160)


def _dots(ax: Axes, rows: list[Row]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from pdepth.report.style import FAINT, INK, MUTED

    at = {row.name: 0.0 for row in rows}
    low = 0.0
    for before, row in zip([None, *rows], rows, strict=False):
        low += 1.0 if before is None or before.params["group"] == row.params["group"] else 1.9
        at[row.name] = low
    drawn = {
        name: [(over, at[row.name]) for row in rows if (over := row.ratio(name, FLOAT32.name))]
        for name in _marks(rows)
    }
    fastest = min(
        over for name, points in drawn.items() if name != MEMORY.name for over, _ in points
    )
    for name, style in _marks(rows).items():
        # of the memory only what is near: where distances cost most it is far out of the picture
        if near := [point for point in drawn[name] if point[0] > fastest / 2]:
            ax.scatter(*zip(*near, strict=True), label=name, **style)
    across = ax.get_yaxis_transform()
    ax.hlines(list(at.values()), 0, 1, transform=across, color=FAINT, linewidth=0.8, zorder=0)
    ax.axvline(1, color=INK, linewidth=1.3, zorder=1, label=FLOAT32.name)
    for row in rows:
        text = _times(row.ratio(next(iter(row.peers), None), row.ours))
        ax.text(1.015, at[row.name], text, transform=across, va="center", weight="bold")
    small: dict[str, Any] = {"transform": across, "fontsize": 8, "color": MUTED}
    ax.text(1.015, 0.25, "best exact peer\n/ pdepth", va="bottom", **small)
    ax.text(-0.01, 0.25, "support x queries x width", va="bottom", ha="right", **small)
    for group, title in GROUPS.items():
        first = next((at[row.name] for row in rows if row.params["group"] == group), None)
        if first is not None and first > 1:
            ax.text(-0.01, first - 0.95, title, va="center", ha="right", **small)
    ax.set_yticks(list(at.values()), list(at), color=INK)
    ax.set_ylim(low + 0.7, 0.3)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _marks(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """How each engine is drawn, in the order of the legend; float32's product is the line at 1."""
    from pdepth.report.style import INK, MUTED, RIGHT

    kinds = {n: found["extra_info"]["kind"] for row in rows for n, found in row.engines.items()}
    ours, *levels = [name for name, kind in kinds.items() if kind == PDEPTH]
    marks: dict[str, dict[str, Any]] = {
        ours: {"s": 90, "color": RIGHT, "edgecolor": "white", "zorder": 5}
    }
    for name, marker in zip(levels, "odvs*", strict=False):
        marks[name] = {
            "s": 34, "marker": marker, "facecolor": "white", "edgecolor": RIGHT, "zorder": 4
        }  # fmt: skip
    peers = [name for name, kind in kinds.items() if kind == PEER]
    for name, (marker, color) in zip(peers, cycle(PEERS)):
        marks[name] = {"s": 34, "marker": marker, "color": color, "zorder": 3, "linewidth": 0}
    for name, color in ((BFLOAT16.name, INK), (MEMORY.name, MUTED)):
        if name in kinds:
            marks[name] = {"s": 110, "marker": "|", "color": color, "zorder": 2}
    return marks


def load() -> dict[str, Any]:
    path = common.HOME / STORED
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; `pdepth bench` measures and writes it.")
    stored: dict[str, Any] = json.loads(path.read_text())
    return stored


def save(stored: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(stored, indent=1) + "\n")


def publish(stored: dict[str, Any]) -> str:
    """Store the results, draw the picture, put the tables into README.md; says where."""
    paths = [common.HOME / path for path in (STORED, common.PICTURE, common.README)]
    save(stored, paths[0])
    picture(stored, paths[1])
    image = f"![Time of every engine]({common.PICTURE.as_posix()})"
    common.render(NAME, f"{image}\n\n{tables(stored)}")
    return f"Wrote {', '.join(map(str, paths))}."
