"""Other libraries' own calls beside the same calls of pdepth.compat: time, memory, differences.

    python bench/studies/compat.py             measure, store, render into docs/compat.md
    python bench/studies/compat.py WORD        only calls with this word in their names
    python bench/studies/compat.py --quick     a tenth of the rows; printed, and not stored
    python bench/studies/compat.py --render    the page's table, as stored

20,000 x 512 support rows of 10 classes, 10,000 queries, k = 30; of a graph the support's own rows
are the queries; for lightly, rows of norm one and its own k = 200. The gate: what pdepth's call
answers to 50 of the queries is compared with the definition, and a difference ends the run. Rounds
are interleaved and alternate in which call begins; memory is that of a process of its own. A
library that is not installed is not measured: some need an environment of their own, and
`python bench/studies/libraries.py --bench` measures each in its own. A call that was measured on
another machine than the others has its machine below the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.gate import class_ranks, largest, products_of
from pdepth.bench.pages import load, render, save
from pdepth.bench.peak import memory_now, memory_peak
from pdepth.bench.suite.shapes import Labels, Rows

NAME, STORED, PAGE = (
    "bench/studies/compat.py",
    HOME / RESULTS / "compat.json",
    Path("docs", "compat.md"),
)
SUPPORT, QUERIES, WIDTH, CLASSES, K = 20_000, 10_000, 512, 10, 30
BANK_K, TEMPERATURE = 200, 0.1  # lightly's defaults
ROUNDS, CHECKED = 3, 50
PACKAGES = (
    *("scikit-learn", "faiss-cpu", "faissknn", "cleanlab", "oodeel", "aucurriculum", "lightly"),
    *("pytorch-metric-learning", "torchdr", "numpy", "torch"),
)


def predict(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    return library.KNeighborsClassifier(K).fit(support, labels).predict(queries)


def kneighbors(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    return library.NearestNeighbors(n_neighbors=K).fit(support).kneighbors(queries)[1]


def search_l2(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    index = library.IndexFlatL2(WIDTH)
    index.add(support)
    return index.search(queries, K)[1]


def search_ip(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    index = library.IndexFlatIP(WIDTH)
    index.add(support)
    return index.search(queries, K)[1]


def predict_faissknn(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    return library.FaissKNNClassifier(K).fit(support, labels).predict(queries)


def score_dknn(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    """With a network that returns its input, so that the time is the search's."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    def loader(rows: Rows) -> Any:
        return DataLoader(TensorDataset(torch.from_numpy(rows)), batch_size=128)

    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(WIDTH, CLASSES))
    detector = library.DKNN(nearest=K)
    detector.fit(network, loader(support), feature_layers_id=[0])
    return detector.score(loader(queries))[0]


def graph_cleanlab(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    graph, _ = library.create_knn_graph_and_index(support, n_neighbors=K)
    return graph.indices.reshape(len(support), K)


def knn_predict(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    import torch

    bank = torch.from_numpy(unit(support).T.copy())
    rows = torch.from_numpy(unit(queries))
    return library.knn_predict(rows, bank, torch.from_numpy(labels), CLASSES).numpy()


def knn_func(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    import torch

    return library.FaissKNN()(torch.from_numpy(queries), K, torch.from_numpy(support))[1].numpy()


def pairwise(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    import torch

    rows = map(torch.from_numpy, (queries, support))
    return library.pairwise_distances(*rows, k=K, return_indices=True)[1].numpy()


def unit(rows: Rows) -> Rows:
    """Rows divided by their norms."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    scaled: Rows = (rows / norms[:, None]).astype(np.float32)
    return scaled


def predict_parallel(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    import torch

    knn = library.ParallelKNN(K, 1024, torch.device("cpu"), False)
    knn.fit(torch.from_numpy(support), torch.from_numpy(labels))
    return knn.predict(torch.from_numpy(queries)).numpy()


@dataclass(frozen=True)
class Call:
    """One call, of a library's module and of pdepth's.

    Attributes:
        name: in the table.
        theirs, ours: the modules.
        run: makes the call, of a module, support, labels and queries.
        expected: the kind of its result, a key of `expected_results`.
        tolerance: the largest difference of their results that counts as none.
    """

    name: str
    theirs: str
    ours: str
    run: Callable[[Any, Rows, Labels, Rows], Any]
    expected: str
    tolerance: float = 0


SKLEARN, FAISS = "pdepth.compat.sklearn", "pdepth.compat.faiss"
CALLS = (
    Call(
        "scikit-learn `KNeighborsClassifier.predict`",
        "sklearn.neighbors",
        SKLEARN,
        predict,
        "votes",
    ),
    Call(
        "scikit-learn `NearestNeighbors.kneighbors`",
        "sklearn.neighbors",
        SKLEARN,
        kneighbors,
        "rows",
    ),
    Call("faiss `IndexFlatL2.search`", "faiss", FAISS, search_l2, "rows"),
    Call("faiss `IndexFlatIP.search`", "faiss", FAISS, search_ip, "products"),
    Call("faissknn `FaissKNNClassifier.predict`", "faissknn", FAISS, predict_faissknn, "votes"),
    Call(
        "oodeel `DKNN`, differences over 1e-5",
        "oodeel.methods",
        "pdepth.compat.oodeel",
        score_dknn,
        "furthest",
        tolerance=1e-5,
    ),
    Call(
        "cleanlab `create_knn_graph_and_index`",
        "cleanlab.internal.neighbor.knn_graph",
        "pdepth.compat.cleanlab",
        graph_cleanlab,
        "graph",
    ),
    Call(
        "lightly `knn_predict`, k = 200",
        "lightly.utils.benchmarking.knn",
        "pdepth.compat.lightly",
        knn_predict,
        "ranks",
    ),
    Call(
        "pytorch-metric-learning `FaissKNN`",
        "pytorch_metric_learning.utils.inference",
        "pdepth.compat.metric_learning",
        knn_func,
        "rows",
    ),
    Call(
        "TorchDR `pairwise_distances`",
        "torchdr",
        "pdepth.compat.torchdr",
        pairwise,
        "rows",
    ),
    Call(
        "aucurriculum `ParallelKNN.predict`",
        "aucurriculum.curricula.scoring.utils",
        "pdepth.compat.aucurriculum",
        predict_parallel,
        "votes",
    ),
)


def problem(divisor: int) -> tuple[Rows, Labels, Rows]:
    """Support, labels and queries, the same in every run; `divisor` makes them smaller."""
    support, queries = SUPPORT // divisor, QUERIES // divisor
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((support + queries, WIDTH), np.float32)
    return rows[:support], rng.integers(0, CLASSES, support), rows[support:]


def expected_results(
    support: Rows, labels: Labels, queries: Rows, sample: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """The definition's results for a sample of the queries, by `Call.expected`.

    "furthest": a distance between unit rows, as oodeel has them. "graph": for the support rows of
    these numbers, by cleanlab's metric of this width.
    """
    sampled = queries[sample]
    rows = definition.kneighbors(support, sampled, k=K)[1]
    products = np.stack([largest(values, K)[1] for values in products_of(support, sampled)])
    counts = np.stack([np.bincount(labels[near], minlength=CLASSES) for near in rows])
    divided = [
        values / (np.linalg.norm(values, axis=1, keepdims=True) + 1e-10)
        for values in (support, sampled)
    ]
    return {
        "rows": rows,
        "products": products,
        "votes": counts.argmax(axis=1),
        "ranks": class_ranks(unit(support), labels, unit(sampled), BANK_K, TEMPERATURE),
        "furthest": definition.kneighbors(*divided, k=K)[0][:, -1].astype(np.float32),
        "graph": definition.kneighbors(support, query_rows=sample, k=K, metric="cosine")[1],
    }


def extra_bytes(module: str, call: int, divisor: int) -> int | None:
    """By how much a call's peak exceeds what its process held before."""
    library, rows = importlib.import_module(module), problem(divisor)
    before = memory_now()
    CALLS[call].run(library, *rows)
    return None if before is None else memory_peak() - before


def extra_bytes_apart(module: str, call: int, divisor: int) -> int | None:
    """`extra_bytes` of a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(extra_bytes, module, call, divisor).result()


def measure(word: str = "", divisor: int = 1) -> dict[str, Any]:
    """Time, memory and differences of the calls with `word` in their names."""
    support, labels, queries = problem(divisor)
    sample = np.sort(np.random.default_rng(1).choice(len(queries), CHECKED, replace=False))
    expected = expected_results(support, labels, queries, sample)
    measured = []
    for number, call in enumerate(CALLS):
        if word not in call.name:
            continue
        if not importlib.util.find_spec(call.theirs.partition(".")[0]):
            print(f"{call.name}: not measured", flush=True)
            continue
        modules = [call.theirs, call.ours]
        libraries = [importlib.import_module(module) for module in modules]
        theirs, ours = (call.run(library, support, labels, queries) for library in libraries)
        if (ours[sample] != expected[call.expected]).any():
            raise SystemExit(f"{call.name}: the answers differ from the definition's: no number.")
        seconds = time_in_turns([partial(call.run, library) for library in libraries], divisor)
        differs = abs(theirs - ours) > call.tolerance
        record = {
            "call": call.name,
            "seconds": seconds,
            "extra_bytes": [extra_bytes_apart(module, number, divisor) for module in modules],
            "checked": CHECKED,
            "differing": int((differs.any(axis=1) if differs.ndim > 1 else differs).sum()),
        }
        print(row(record), flush=True)
        measured.append(record)
    return {"machine": machine(*PACKAGES), "calls": measured}


def time_in_turns(calls: list[Callable[..., Any]], divisor: int) -> list[list[float]]:
    """Seconds of both calls, a round each; the second begins the first round."""
    rows = problem(divisor)
    seconds: list[list[float]] = [[], []]
    for turn in range(ROUNDS):
        for number in (0, 1) if turn % 2 else (1, 0):
            begin = time.perf_counter()
            calls[number](*rows)
            seconds[number].append(time.perf_counter() - begin)
    return seconds


def row(record: dict[str, Any]) -> str:
    """A line of the table."""
    theirs, ours = (median(seconds) for seconds in record["seconds"])
    memory = ["-" if extra is None else f"{extra / 1e6:.0f}" for extra in record["extra_bytes"]]
    return (
        f"| {record['call']} | {theirs:.2f} | {ours:.2f} | **{theirs / ours:.1f}** | "
        f"{memory[0]} | {memory[1]} | {record['differing']:,} |"
    )


def table(stored: dict[str, Any]) -> str:
    lines = [
        f"{SUPPORT:,} support rows x {QUERIES:,} queries x {WIDTH}, float32, {CLASSES} classes, "
        f"k = {K}: seconds of a call with its fit, medians of {ROUNDS} interleaved rounds; MB "
        f"beyond what the process held; queries of {QUERIES:,} (a graph's {SUPPORT:,} rows) that "
        f"are answered differently, of which pdepth's answers to {CHECKED} were compared with the "
        f"definition, 0 differ. "
        f"{describe(stored['machine'])}.",
        "",
        "| call | its time | pdepth's | faster | its memory | pdepth's | differ |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += map(row, stored["calls"])
    for record in stored["calls"]:
        if "machine" in record:
            lines += ["", f"{record['call']}: {describe(record['machine'])}."]
    return "\n".join(lines)


def merged(old: dict[str, Any], new: dict[str, Any], partly: bool) -> dict[str, Any]:
    """Every call as it was measured last; where that was on another machine, the call has its own.

    partly: whether only some calls were to be measured, so that the page's machine stays.
    """
    calls = {}
    for stored, main in ((old, partly), (new, not partly)):
        for record in stored["calls"]:
            calls[record["call"]] = record if main else {"machine": stored["machine"], **record}
    return (old if partly else new) | {
        "calls": [calls[call.name] for call in CALLS if call.name in calls]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("word", nargs="?", default="", metavar="WORD")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    if options.quick:
        measure(options.word, divisor=10)
        return
    if not options.render:
        old = load(STORED) if STORED.exists() else {"calls": []}
        save(
            merged(old, measure(options.word), partly=bool(options.word) and bool(old["calls"])),
            STORED,
        )
    render(NAME, table(load(STORED)), PAGE)


if __name__ == "__main__":
    main()
