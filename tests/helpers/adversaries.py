"""Rows made to break a filter's error bound, and how near they come.

python tests/helpers/adversaries.py          writes docs/bound.md: error / bound of each filter
                                             stage of the levels that run here, and a GPU's
python tests/helpers/adversaries.py neon     prints the table of a level, for a machine without
                                             torch
python tests/helpers/adversaries.py --from F docs/bound.md with the printed tables of a file
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import _native, certify, native

Rows = NDArray[np.float64]
Pair = tuple[Rows, Rows]  # support (M, D), queries (N, D)
Adversary = Callable[[np.random.Generator, int], Pair]

PAGE = Path(__file__).parents[2] / "docs" / "bound.md"
GPU = "a GPU's settlement"  # what its table is known by
OF_ARM = ("neon", "neondot")  # levels that a build for x86-64 has not
WIDTHS = (13, 33, 64, 127, 320, 511, 1300)


def random(rng: np.random.Generator, width: int) -> Pair:
    """No malice: what an ordinary layer sees."""
    return rng.standard_normal((40, width)), rng.standard_normal((7, width))


def one_sign(rng: np.random.Generator, width: int) -> Pair:
    """Every element loses the same share, and every loss points along the other row."""
    signs = rng.choice([-1.0, 1.0], width)
    heights = 1 + rng.uniform(0, 1, (40, 1)) * 2.0 ** rng.integers(-9, 1, (40, 1))
    return signs * heights, signs * heights[::6]


def edge_of_bfloat16(rng: np.random.Generator, width: int) -> Pair:
    """Just below half a unit in bfloat16's last place, and just below the next binade."""
    signs = rng.choice([-1.0, 1.0], width)
    heights = np.array([1 + 2.0**-8 * (1 - 2.0**-10), 1 + 2.0**-8, 2 - 2.0**-9, 2 - 2.0**-10])
    rows = signs * np.repeat(heights, 4)[:, None] * 2.0 ** rng.integers(-3, 4, (16, 1))
    return rows, -rows[::3]


def edge_of_float32(rng: np.random.Generator, width: int) -> Pair:
    """Just below half a unit in float32's last place."""
    signs = rng.choice([-1.0, 1.0], width)
    rows = signs * (1 + 2.0**-24 * rng.choice([1 - 2.0**-20, 1, 3 - 2.0**-20], (20, width)))
    return rows, rows[::3]


def swallowed(rng: np.random.Generator, width: int) -> Pair:
    """Each addition is just too small to move the sum: all of them are lost, in one direction."""
    rows = []
    for every in (13, 32, 320, 640, width):  # so that chunks have a large number of their own
        for small in (2.0**-12.51, 2.0**-12.9, 2.0**-8.3):
            row = np.full(width, small)
            row[::every] = 1.0
            rows.append(row)
    support = np.stack(rows)
    return np.concatenate([support, -support]), support


def mixed_scales(rng: np.random.Generator, width: int) -> Pair:
    """Elements of a row between 1 and 2^-60."""

    def rows(count: int) -> Rows:
        return rng.standard_normal((count, width)) * 2.0 ** rng.uniform(-60, 0, (count, width))

    return rows(40), rows(7)


def mixed_norms(rng: np.random.Generator, width: int) -> Pair:
    """Rows between 1 and 2^-110 times the largest."""
    support, queries = random(rng, width)
    return support * 2.0 ** rng.uniform(-110, 0, (40, 1)), queries * 2.0 ** rng.uniform(
        -110, 0, (7, 1)
    )


def cancelling(rng: np.random.Generator, width: int) -> Pair:
    """Products of large magnitude whose sum is nearly nought."""
    support, queries = random(rng, width)
    along = (support @ queries.T) / (queries**2).sum(axis=1)
    support = np.concatenate([support - along[:, [i]] * queries[i] for i in range(3)])
    return np.concatenate([support, queries * (1 + 1e-7)]), queries


def denormals(rng: np.random.Generator, width: int) -> Pair:
    """Beside rows of ordinary size, such that fall below float32's or the tiles' normal numbers."""
    support, queries = random(rng, width)
    support[::2] *= 2.0 ** rng.uniform(-195, -150, (20, 1))
    queries[::2] *= 2.0 ** rng.uniform(-195, -150, (4, 1))
    support[1::4] *= 2.0 ** rng.uniform(-190, 0, (10, width))
    support[3] = 0
    return support, queries


def one_heavy(rng: np.random.Generator, width: int) -> Pair:
    """One element takes all the range that 16 bits have; the others share what is left."""
    support, queries = random(rng, width)
    support[:, rng.integers(width)] = 2.0 ** rng.uniform(0, 12, 40)
    queries[:, rng.integers(width)] = 2.0 ** rng.uniform(0, 12, 7)
    return support, queries


def fullest_sums(rng: np.random.Generator, width: int) -> Pair:
    """Equal rows: their product is the largest that integer sums can meet."""
    row = rng.choice([-1.0, 1.0], width)
    shaped = row * 2.0 ** rng.integers(-2, 3, width)
    support = np.stack([row, -row, shaped, -shaped, np.abs(row), np.eye(width)[0]])
    return support, support


def signs(count: int) -> NDArray[np.float64]:
    """Those that csrc/bytes.inc changes before it turns a row."""
    state, found = 0x9E3779B9, []
    for _ in range(count):
        state = (state ^ state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state = (state ^ state << 5) & 0xFFFFFFFF
        found.append(-1.0 if state >> 31 else 1.0)
    return np.array(found)


def turned_back(rows: Rows) -> Rows:
    """What csrc/bytes.inc turns into these rows, whose width is a power of two up to 1,024."""
    turned, width = rows.copy(), rows.shape[1]
    half = 1
    while half < width:
        pairs = turned.reshape(len(rows), -1, 2, half)
        turned = np.stack(
            [pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2
        )
        turned, half = turned.reshape(len(rows), width), 2 * half
    return turned / np.sqrt(width) * signs(width)


def edge_of_bytes(rng: np.random.Generator, width: int) -> Pair:
    """Just below a half of an 8-bit unit, all losses along the other row, when rows are turned."""
    block = 2 ** int(np.log2(min(1024, max(width, 32))))
    flat = np.full((12, block), 126.49)
    flat[:, 0] = 127
    rows = np.zeros((12, max(width, block)))
    rows[:, :block] = turned_back(flat * rng.choice([-1.0, 1.0], block))
    rows = rows[:, :width] * 2.0 ** rng.integers(-3, 4, (12, 1))
    return rows, rows[::3]


ADVERSARIES: tuple[Adversary, ...] = (
    *(random, one_sign, edge_of_bfloat16, edge_of_float32, swallowed, mixed_scales, mixed_norms),
    *(cancelling, denormals, one_heavy, fullest_sums, edge_of_bytes),
)


def scaled(pair: Pair) -> Pair:
    """Norms brought to just below 2^60 by a power of two, as the cpu backend does."""
    largest = max(np.linalg.norm(rows, axis=1).max() for rows in pair)
    factor = 2.0 ** (59 - np.floor(np.log2(largest)))
    return pair[0] * factor, pair[1] * factor


def true_scores(support: Rows, queries: Rows, differences: bool) -> NDArray[np.longdouble]:
    """(N, M), in extended precision where the platform has it."""
    y, x = support.astype(np.longdouble), queries.astype(np.longdouble)
    if differences:
        return np.stack([((row - y) ** 2).sum(axis=1) for row in x])
    return (y**2).sum(axis=1) / 2 - np.stack([(row * y).sum(axis=1) for row in x])


def score_pair(level: str, name: str, pair: Pair) -> dict[str, Any]:
    """Scores and bounds of a filter stage, with the `true` scores beside."""
    support, queries = pair
    scores = _native.filter_scores((support, "float64"), (queries, "float64"), level, name)
    return {**scores, "true": true_scores(support, queries, differences="differences" in name)}


def share_of_bound(scored: dict[str, Any]) -> NDArray[np.float64]:
    """Error / bound of each score: above 1 the bound is broken."""
    true, score = scored["true"], scored["scores"]
    bound = np.where(true > score, scored["upper"] - score, score - scored["lower"])
    error = np.abs(true - score)
    return np.asarray(
        np.where(error == 0, 0, error / np.where(bound > 0, bound, 2.0**-1000)), float
    )


def attacks(seed: int) -> Iterator[tuple[str, Pair]]:
    """Every adversary at every width."""
    rng = np.random.default_rng(seed)
    for adversary in ADVERSARIES:
        for width in WIDTHS:
            yield adversary.__name__, scaled(adversary(rng, width))


def climb(level: str, name: str, width: int, steps: int, seed: int) -> float:
    """The largest share that random changes of one pair of rows, kept while they help, reach."""
    rng = np.random.default_rng(seed)
    pair = scaled((rng.standard_normal((1, width)), rng.standard_normal((1, width))))
    best = float(share_of_bound(score_pair(level, name, pair)).max())
    for _ in range(steps):
        near = [rows.copy() for rows in pair]
        changed = near[rng.integers(2)][0]
        at = rng.integers(0, width, 1 + rng.integers(max(1, width // 4)))
        changed[at] *= rng.choice([1 + 2.0 ** rng.uniform(-25, 0), 0.5, 2, -1, 0.99], len(at))
        near = scaled((near[0], near[1]))
        share = float(share_of_bound(score_pair(level, name, near)).max())
        if share >= best:
            best, pair = share, near
    return best


def table(level: str, seeds: int = 20) -> str:
    """Of each filter stage: worst error / bound by adversary, and the median bound / error."""
    stages = [stage["name"] for stage in _native.filter_stages(level)]
    stages = [name for name in stages if "leaves" not in name]  # the scores of differences
    worst = {name: dict.fromkeys((a.__name__ for a in ADVERSARIES), 0.0) for name in stages}
    usual: dict[str, list[float]] = {name: [] for name in stages}
    for name in stages:
        for seed in range(seeds):
            for adversary, pair in attacks(seed):
                shares = share_of_bound(score_pair(level, name, pair))
                worst[name][adversary] = max(worst[name][adversary], float(shares.max()))
                if adversary == "random":
                    usual[name].append(float(np.median(1 / np.maximum(shares, 1e-30))))
        worst[name]["climbing"] = max(climb(level, name, width, 600, 0) for width in (13, 64))
    lines = [
        f"| {level} | {' | '.join(stages)} |",
        "| --- |" + " ---: |" * len(stages),
        *(
            f"| {kind.replace('_', ' ')} | {' | '.join(f'{worst[s][kind]:.3f}' for s in stages)} |"
            for kind in worst[stages[0]]
        ),
        f"| random: bound / error | {' | '.join(f'{np.median(usual[s]):.0f}' for s in stages)} |",
    ]
    return "\n".join(lines)


def lost_sections(width: int, lanes: int, section: int) -> Pair:
    """Beside a 1 the other terms of its section are just too small to move the sum, and what is
    beyond the 1 just too little to move the difference."""
    first = np.arange(width) // lanes % section == 0
    row = np.where(first, 1.0, 2.0**-12 * (1 - 2.0**-20))
    return row[None], np.where(first, -(2.0**-24), 0.0)[None]


def rescored(seeds: int = 20) -> str:
    """The same of the distances by which a GPU's settlement is spared float64 ones."""
    import torch

    from pdepth.kernels import rescore

    lanes, section = rescore.LANES.value, rescore.SECTION.value

    def shares(pair: Pair) -> NDArray[np.float64]:
        support, queries = (rows.astype(np.float32) for rows in pair)
        found = rescore.reference(torch.from_numpy(queries), torch.from_numpy(support)).numpy()
        bound = certify.Differences(rescore.SUMS, support.shape[1], 0.0)
        lower, upper = bound.bounds(found, np.zeros_like(found))
        true = true_scores(support, queries, differences=True)
        return share_of_bound({"true": true, "scores": found, "lower": lower, "upper": upper})

    worst: dict[str, float] = {}
    usual = []
    for seed in range(seeds):
        for adversary, pair in attacks(seed):
            found = shares(pair)
            worst[adversary] = max(worst.get(adversary, 0.0), float(found.max()))
            if adversary == "random":
                usual.append(float(np.median(1 / np.maximum(found, 1e-30))))
    made = [lost_sections(width, lanes, section) for width in WIDTHS if width > lanes * section]
    worst["lost_sections"] = max(float(shares(pair).max()) for pair in made)
    lines = [f"| {GPU} | float32 sections |", "| --- | ---: |"]
    lines += [f"| {kind.replace('_', ' ')} | {share:.3f} |" for kind, share in worst.items()]
    return "\n".join([*lines, f"| random: bound / error | {np.median(usual):.0f} |"])


def tables_of(text: str) -> dict[str, str]:
    """The tables of a page, by what stands first in them."""
    found = [block.strip() for block in text.split("\n\n") if block.lstrip().startswith("| ")]
    return {block.split("|", 2)[1].strip(): block for block in found}


def write(tables: dict[str, str]) -> None:
    """The page with these tables, and those of other levels that it has."""
    kept = tables_of(PAGE.read_text()) if PAGE.exists() else {}
    kept |= tables
    about = [f"- {each.__name__.replace('_', ' ')}: {each.__doc__}" for each in ADVERSARIES]
    page = (
        "# How near rows made for it come to the error bound",
        "Written by `python tests/helpers/adversaries.py`, of each level where it runs. Worst "
        "error / bound of its filter stages, and of a GPU's settlement, over 20 draws of every "
        f"kind at widths {WIDTHS[0]} to {WIDTHS[-1]}: above 1 the bound of "
        "[`pdepth/certify.py`](../pdepth/certify.py) would be broken; near 1 it could not be much "
        "smaller (its margin alone keeps it at 0.94). The last line is what that costs: the median "
        "of bound / error over random rows. `neon` and `neondot` ran under an emulator.",
        *(kept[name] for name in (*native.simd_levels(), *OF_ARM, GPU) if name in kept),
        "\n".join(
            [
                *about,
                "- climbing: random changes of one pair of rows, kept while they help.",
                "- lost sections: beside a 1 the other terms of its section are just too small to "
                "move the sum, and what is beyond the 1 just too little to move the difference.",
            ]
        ),
    )
    PAGE.write_text("\n\n".join(page) + "\n")


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--from"]:
        write(tables_of(Path(arguments[1]).read_text()))
    elif arguments:
        print("\n\n".join(map(table, arguments)))
    else:
        tables = {level: table(level) for level, runs in native.simd_levels().items() if runs}
        write({**tables, GPU: rescored()})


if __name__ == "__main__":
    main(sys.argv[1:])
