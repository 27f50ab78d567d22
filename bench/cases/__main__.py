"""What people do with a search, measured beside the libraries they would do it with.

    python bench/cases                      every case: measure, store, render into docs/cases.md
    python bench/cases 'small*' 'ViT*'      cases whose titles match, such as "small batches: ..."
    python bench/cases --list               titles
    python bench/cases --tiny               seconds; printed, and not stored
    python bench/cases --render             the tables, as stored

`--level avx2` holds pdepth and its peers to that instruction set on a machine with more. `--as
before` stores a run beside the others, and the page shows both: measure the old state so, once.
`--seconds` is after how long a case begins no further round; `--support` and `--queries` are the
most rows of a real layer, whose embeddings `python bench/studies/networks.py` makes.

The gate: on a sample of the queries pdepth's answers are compared with the definition's, and a
difference leaves the case without a number. Exit code: 0; 1 where a case was refused.
"""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pdepth.bench.cases import level
from pdepth.bench.common import HOME, RESULTS

NAME, STORED, PAGE = "bench/cases", HOME / RESULTS / "cases.json", Path("docs", "cases.md")
NOW = "now"
PACKAGES = (
    *("numpy", "torch", "faiss-cpu", "scikit-learn", "scikit-learn-intelex", "lightly"),
    "pynndescent",
)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("patterns", nargs="*", metavar="PATTERN")
    parser.add_argument("--level", choices=list(level.HELD))
    parser.add_argument("--as", dest="label", default=NOW, metavar="LABEL")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--support", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--into", type=Path, metavar="DIR")
    for flag in ("--tiny", "--list", "--render"):
        parser.add_argument(flag, action="store_true")
    return parser.parse_args(arguments)


def chosen(patterns: list[str], into: Path | None) -> tuple[list[Any], list[str]]:
    """The cases that match, and a sentence for each network without embeddings."""
    from pdepth.bench.cases.catalogue import catalogue
    from pdepth.bench.cases.layers import layers

    real, missing = layers() if into is None else layers(into)
    known = [*catalogue(), *real]
    wanted = patterns or ["*"]
    cases = [case for case in known if any(fnmatchcase(case.title, each) for each in wanted)]
    if not cases:
        raise SystemExit(
            f"PATTERN: expected one that matches a title of --list, got {' '.join(patterns)}."
        )
    return cases, missing


def store(record: dict[str, Any], label: str, about: dict[str, Any], order: list[str]) -> None:
    """Put a case's record in the place of its earlier one, of this label and level."""
    from pdepth.bench.cases.table import title
    from pdepth.bench.pages import load, save

    runs = load(STORED)["runs"] if STORED.exists() else []
    key = label, about["level"]
    earlier = [case for run in runs if (run["label"], run["level"]) == key for case in run["cases"]]
    by_title = {title(case): case for case in [*earlier, record]}
    places = {name: place for place, name in enumerate(order)}
    cases = sorted(by_title.values(), key=lambda case: places.get(title(case), len(places)))
    run = {"label": label, "level": about["level"], "machine": about, "cases": cases}
    others = [each for each in runs if (each["label"], each["level"]) != key]
    save({"runs": [*others, run]}, STORED)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    level.hold(options.level)
    import pdepth
    from pdepth.bench import common
    from pdepth.bench.cases.gate import Refused
    from pdepth.bench.cases.measure import measure
    from pdepth.bench.cases.table import table, text
    from pdepth.bench.cases.tasks import Sizes
    from pdepth.bench.pages import load, render

    if options.render:
        render(NAME, table(load(STORED)), PAGE)
        return 0
    cases, missing = chosen(options.patterns, options.into)
    if options.list:
        print("\n".join(case.title for case in cases))
        return 0
    print("\n".join(missing), file=sys.stderr)
    sizes = Sizes(1, options.support, options.queries)
    if options.tiny:
        sizes, options.seconds = Sizes(100, 20_000, 2_000), 0.0
    about = common.machine(*PACKAGES) | {"held": level.held(), "index": hasattr(pdepth, "Index")}
    order = [case.title for case in chosen([], options.into)[0]]
    said: set[str] = set()
    refused = 0

    def report(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            print(sentence, file=sys.stderr, flush=True)

    for case in cases:
        try:
            record = measure(case, sizes, options.seconds, report)
        except Refused as error:
            print(f"{case.title}: no number: {error}", file=sys.stderr, flush=True)
            refused += 1
            continue
        print(text(record), flush=True)
        if not options.tiny:
            store(record | {"commit": about["commit"]}, options.label, about, order)
    if not options.tiny:
        render(NAME, table(load(STORED)), PAGE)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
