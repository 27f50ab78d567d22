"""Tables, from stored results alone: the same results, the same bytes; and what is published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pdepth.bench import common, pages
from pdepth.bench.pages import save as save
from pdepth.bench.suite import picture
from pdepth.bench.suite.engines import BFLOAT16, FLOAT32, MEMORY, ONE_THREAD
from pdepth.bench.suite.results import Row, rows_of, shown_ratio, shown_seconds
from pdepth.bench.suite.shapes import NETWORKS

NAME, STORED = "pdepth bench", common.RESULTS / "suite.json"
UNFINISHED = STORED.with_suffix(".unfinished")
SUMMARY = "pdepth bench: summary"  # of README
SUMMARY_SHAPES = (  # with the first of NETWORKS below them
    "10,000 x 10,000 x 512",
    "50,000 x 10,000 x 512",
    "softmax, 10,000 x 10,000 x 10",
    "trained network, 10,000 x 10,000 x 11 probes",
)
SHAPE_HEAD = "support x queries x width"


def load() -> dict[str, Any]:
    """The stored results of the last whole run."""
    path = common.HOME / STORED
    if not path.is_file():
        raise FileNotFoundError(
            f"stored results: expected a file {path}, found none; `pdepth bench` measures them."
        )
    stored: dict[str, Any] = pages.load(path)
    return stored


def publish(stored: dict[str, Any]) -> str:
    """Store the results, draw the picture, write the tables of the page and README's summary.

    Returns what was written, in words; and where README has no place for its summary, that it has
    none.
    """
    paths = [common.HOME / path for path in (STORED, common.PICTURE)]
    save(stored, paths[0])
    picture.draw(stored, paths[1])
    image = f"![Time of every engine]({common.PICTURE.name})"
    paths.append(pages.render(NAME, f"{image}\n\n{tables(stored)}"))
    missing = ""
    if (common.HOME / common.README).exists():
        try:
            paths.append(pages.render(SUMMARY, summary(stored), common.README))
        except ValueError as error:
            missing = f"\n{error}"
    return f"Wrote {', '.join(map(str, paths))}.{missing}"


def tables(stored: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    machine, rows = stored["machine_info"], rows_of(stored)
    counts = [len(record["stats"]["data"]) for record in stored["benchmarks"]]
    checked = [record["extra_info"]["checked"] for record in stored["benchmarks"]]
    sections = [
        f"Seconds, medians of {min(counts)} to {max(counts)} interleaved rounds, "
        f"k = {machine['k']}, {machine['classes']} classes, float32; in brackets, how many votes "
        f"of a peer differ from pdepth's, of which {min(checked):,} to {max(checked):,} a shape "
        f"were compared with the definition; {common.describe(machine)}."
        + f" The trained network saw {machine['images']}."
        * any(row.params["kind"] == "trained network" for row in rows),
        _goals(rows, machine["threads"]),
        _networks(rows),
        _special(rows),
        _ceilings(rows),
        "<details><summary>All engines</summary>\n\n"
        "A dash: not measured at this size.\n\n"
        f"{_engines(rows)}\n\n</details>",
    ]
    return "\n\n".join(section for section in sections if section)


def summary(stored: dict[str, Any]) -> str:
    """README's table: a few shapes and a whole network, beside their best exact peer."""
    machine, rows = stored["machine_info"], rows_of(stored)
    table: list[tuple[str, ...]] = [(SHAPE_HEAD, "pdepth", "best exact peer", "peer / pdepth")]
    for row in rows:
        if row.name in SUMMARY_SHAPES and (peer := row.best_peer) is not None:
            table.append(
                (
                    row.name,
                    shown_seconds(row.seconds(row.ours)),
                    f"{shown_seconds(row.seconds(peer))} {peer}",
                    shown_ratio(row.ratio(peer, row.ours)),
                )
            )
    for name, size, probes, *times in _network_rows(rows)[:1]:
        table.append((f"{name}, {size} x {probes} probes", *times))
    note = (
        f"Seconds for all votes, float32, k = {machine['k']}: medians of interleaved rounds on "
        f"{machine['threads']} threads of {machine['processor']} (level {machine['level']}), "
        f"{machine['date']}."
    )
    return f"{_markdown(table)}\n\n{note}"


def lines(stored: dict[str, Any]) -> str:
    """Every engine of every shape, for a terminal."""
    text = [common.describe(stored["machine_info"])]
    for row in rows_of(stored):
        rounds = row.engines[row.ours]["stats"]["rounds"]
        text.append(f"\n{row.name}, {rounds} round{'s' * (rounds > 1)}")
        for name, record in row.engines.items():
            extra = record["extra_info"]
            details = [f"{shown_ratio(row.ratio(name, row.ours))} x {row.ours}"]
            if (ratio := row.ratio(name, FLOAT32.name)) is not None:
                details.append(f"{shown_ratio(ratio)} x {FLOAT32.name}")
            if extra["first"] is not None:
                details.append(f"first call {shown_seconds(extra['first'])} s")
            if extra["extra_bytes"] is not None:
                details.append(f"{extra['extra_bytes'] / 1e6:.0f} MB extra")
            if extra["differing"]:
                votes = row.params["queries"] * len(row.params["widths"])
                details.append(f"{extra['differing']:,} of {votes:,} votes differ")
            seconds = shown_seconds(row.seconds(name))
            text.append(f"  {name:28}{seconds:>9} s   {', '.join(details)}")
    return "\n".join(text)


def _goals(rows: list[Row], threads: int) -> str:
    table = [
        (
            SHAPE_HEAD,
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
        ours, peer = row.ours, row.best_peer
        extra = row.engines[ours]["extra_info"]
        warm, first, extra_bytes = row.seconds(ours), extra["first"], extra["extra_bytes"]
        assert warm is not None
        packed = 2 * row.params["support"] * max(row.params["widths"])  # the widest probe's
        memory = "-"
        if extra_bytes is not None:
            memory = f"{extra_bytes / 1e6:.0f} MB ({extra_bytes / packed:.1f})"
        table.append(
            (
                row.name,
                shown_seconds(warm),
                "-" if peer is None else f"{_cell(row, peer)} {peer}",
                shown_ratio(row.ratio(peer, ours)),
                shown_ratio(row.ratio(ours, FLOAT32.name)),
                shown_ratio(None if first is None else first / warm),
                shown_ratio(row.ratio(ours + ONE_THREAD, ours)),
                memory,
            )
        )
    return _markdown(table)


def _networks(rows: list[Row]) -> str:
    """Whole networks, each probe at the time of its shape; "" where a shape is missing."""
    networks = _network_rows(rows)
    sizes = " or ".join(dict.fromkeys(size for _, size, *_ in networks))
    head = (f"all probes, {sizes}", "probes", "pdepth", "best exact peer", "peer / pdepth")
    return _markdown([head, *((name, *cells) for name, _, *cells in networks)])


def _network_rows(rows: list[Row]) -> list[tuple[str, ...]]:
    """Networks whose probes' shapes are all measured.

    Of each its name, size, probes, pdepth's seconds, the best exact peer's, and their ratio.
    """
    by_width = {row.params["widths"][0]: row for row in rows if row.params["group"] == "layer"}
    table: list[tuple[str, ...]] = []
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
        peer = min(peers, key=lambda engine: sums[engine], default=None)
        support, queries, _ = layers[0].size()
        table.append(
            (
                name,
                f"{support:,} x {queries:,}",
                str(len(widths)),
                shown_seconds(sums[ours]),
                "-" if peer is None else f"{shown_seconds(sums[peer])} {peer}",
                shown_ratio(None if peer is None else sums[peer] / sums[ours]),
            )
        )
    return table


def _special(rows: list[Row]) -> str:
    """Layers that break engines, beside random ones of the same size."""
    random = {row.size(): row for row in rows if row.params["kind"] == "random"}
    table = [("layer", "random layer", "this layer", "ratio")]
    for row in rows:
        other = random.get(row.size())
        if other is None or other is row or len(row.params["widths"]) > 1:
            continue
        special, usual = row.seconds(row.ours), other.seconds(other.ours)
        assert special is not None
        assert usual is not None
        cells = shown_seconds(usual), shown_seconds(special), shown_ratio(special / usual)
        table.append((row.name, *cells))
    return _markdown(table)


def _ceilings(rows: list[Row]) -> str:
    """The best rate that the machine reached at any shape, measured among the engines."""

    def best(engine: str, units: Callable[[Row], float]) -> float | None:
        rates = [units(row) / seconds / 1e9 for row in rows if (seconds := row.seconds(engine))]
        return max(rates, default=None)

    def operations(row: Row) -> float:
        support, queries, widths = row.size()
        return float(2.0 * support * queries * sum(widths))

    def bytes_read(row: Row) -> float:
        support, queries, widths = row.size()
        return float(4.0 * (support + queries) * sum(widths))

    rates = [
        f"{engine} {rate:,.0f} {unit}"
        for engine, units, unit in (
            (FLOAT32.name, operations, "GFLOP/s"),
            (BFLOAT16.name, operations, "GFLOP/s"),
            (MEMORY.name, bytes_read, "GB/s"),
        )
        if (rate := best(engine, units)) is not None
    ]
    return f"Ceilings, the best of the same run: {', '.join(rates)}." if rates else ""


def _engines(rows: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.engines))
    table = [(SHAPE_HEAD, *names)]
    for row in rows:
        table.append((row.name, *(_cell(row, name) for name in names)))
    return _markdown(table)


def _cell(row: Row, name: str) -> str:
    """The time, and in brackets how many votes differ from pdepth's, if any."""
    differing = row.engines[name]["extra_info"]["differing"] if name in row.engines else 0
    return f"{shown_seconds(row.seconds(name))}{f' ({differing:,})' if differing else ''}"


def _markdown(table: Sequence[tuple[str, ...]]) -> str:
    """The first row is the head; "" for a table without another."""
    if len(table) == 1:
        return ""
    head, *body = table
    rows = [head, ("---", *["---:"] * (len(head) - 1)), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
