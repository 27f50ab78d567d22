"""Other libraries' own calls beside the same calls of pdepth.compat: time, memory, differences.

    python bench/studies/compat.py             measures; stored, and rendered into docs/compat.md
    python bench/studies/compat.py WORD        only calls with this word in their names; the others stay
    python bench/studies/compat.py --quick     likewise of a tenth of the rows; printed, and not stored
    python bench/studies/compat.py --render    the page's table from the stored result

20,000 x 512 support rows of 10 classes, 10,000 queries, k = 30; of a graph the support's own rows
are the queries; for lightly, rows of norm one and its own k = 200. The gate: what pdepth's call
answers to 50 of the queries is compared with the definition, and a difference ends the run. Rounds
are interleaved, and take turns in who begins; memory is that of a process of its own. What is not
installed is not measured: some want an environment of their own, and `python bench/studies/libraries.py
--bench` measures each in its own. A call that was measured elsewhere than the others says where.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pdepth import definition
from pdepth.bench.common import HOME, RESULTS, machine, memory_now, memory_peak, render, where
from pdepth.bench.suite.shapes import Labels, Rows
from pdepth.io.atomic import replacing

NAME, STORED, PAGE = (
    "bench/studies/compat.py",
    HOME / RESULTS / "compat.json",
    Path("docs", "compat.md"),
)
SUPPORT, QUERIES, WIDTH, CLASSES, K = 20_000, 10_000, 512, 10, 30
BANK_K, TEMPERATURE = 200, 0.1  # lightly's own
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
    """Of a network that hands its input on: what it takes is the search's time."""
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
    bank = torch.from_numpy(unit(support).T.copy())
    asked = torch.from_numpy(unit(queries)), bank, torch.from_numpy(labels)
    return library.knn_predict(*asked, CLASSES).numpy()


def knn_func(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    return library.FaissKNN()(torch.from_numpy(queries), K, torch.from_numpy(support))[1].numpy()


def pairwise(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    given = map(torch.from_numpy, (queries, support))
    return library.pairwise_distances(*given, k=K, return_indices=True)[1].numpy()


def unit(rows: Rows) -> Rows:
    """Rows divided by their norms."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    found: Rows = (rows / norms[:, None]).astype(np.float32)
    return found


def predict_parallel(library: Any, support: Rows, labels: Labels, queries: Rows) -> Any:
    knn = library.ParallelKNN(K, 1024, torch.device("cpu"), False)
    knn.fit(torch.from_numpy(support), torch.from_numpy(labels))
    return knn.predict(torch.from_numpy(queries)).numpy()


@dataclass(frozen=True)
class Call:
    """One call, of a library's module and of pdepth's.

    truth: what it answers: a key of `truths`.
    within: up to which difference theirs is the same answer.
    """

    name: str
    theirs: str
    ours: str
    ask: Callable[[Any, Rows, Labels, Rows], Any]
    truth: str
    within: float = 0


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
        within=1e-5,
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


def problem(part: int) -> tuple[Rows, Labels, Rows]:
    """Support, labels and queries, random and always the same; one in `part` of the rows."""
    support, queries = SUPPORT // part, QUERIES // part
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((support + queries, WIDTH), np.float32)
    return rows[:support], rng.integers(0, CLASSES, support), rows[support:]


def truths(
    support: Rows, labels: Labels, queries: Rows, some: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """What the definition answers to some queries, by `Call.truth`.

    "furthest": a distance between unit rows, as oodeel has them. "graph": to the support rows of
    these numbers, by cleanlab's metric of this width.
    """
    asked = queries[some]
    rows = definition.kneighbors(support, asked, k=K)[1]
    products = np.stack([largest(each, K)[1] for each in products_of(support, asked)])
    counts = np.stack([np.bincount(labels[near], minlength=CLASSES) for near in rows])
    scores = np.zeros((len(asked), CLASSES))
    for score, each in zip(scores, products_of(unit(support), unit(asked)), strict=True):
        near, chosen = largest(each, BANK_K)
        np.add.at(score, labels[chosen], np.exp((near - near[0]) / TEMPERATURE))
    divided = [
        each / (np.linalg.norm(each, axis=1, keepdims=True) + 1e-10) for each in (support, asked)
    ]
    return {
        "rows": rows,
        "products": products,
        "votes": counts.argmax(axis=1),
        "ranks": np.argsort(-scores, axis=1, kind="stable"),
        "furthest": definition.kneighbors(*divided, k=K)[0][:, -1].astype(np.float32),
        "graph": definition.kneighbors(support, query_rows=some, k=K, metric="cosine")[1],
    }


def products_of(support: Rows, queries: Rows) -> Iterator[NDArray[np.float64]]:
    """Each query's products with the support, by the definition's sum."""
    own = definition.as_rows(support)
    for query in definition.as_rows(queries):
        yield definition.total(own * query)


def largest(products: NDArray[np.float64], k: int) -> tuple[NDArray[np.float64], Labels]:
    """The k largest, and their rows."""
    rows = definition.nearest(-products, k)
    return products[rows], rows


def extra_bytes(module: str, call: int, part: int) -> int | None:
    """By how much a call's peak exceeds what its process held before; in a process of its own."""
    library, given = importlib.import_module(module), problem(part)
    before = memory_now()
    CALLS[call].ask(library, *given)
    return None if before is None else memory_peak() - before


def apart(module: str, call: int, part: int) -> int | None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(extra_bytes, module, call, part).result()


def measure(word: str = "", part: int = 1) -> dict[str, Any]:
    support, labels, queries = problem(part)
    some = np.sort(np.random.default_rng(1).choice(len(queries), CHECKED, replace=False))
    wanted = truths(support, labels, queries, some)
    measured = []
    for number, call in enumerate(CALLS):
        if word not in call.name:
            continue
        if not importlib.util.find_spec(call.theirs.partition(".")[0]):
            print(f"{call.name}: not measured", flush=True)
            continue
        modules = [call.theirs, call.ours]
        libraries = [importlib.import_module(module) for module in modules]
        theirs, ours = (call.ask(library, support, labels, queries) for library in libraries)
        if (ours[some] != wanted[call.truth]).any():
            raise SystemExit(f"{call.name}: the answers differ from the definition's: no number.")
        seconds: list[list[float]] = [[], []]
        for turn in range(ROUNDS):
            for which in (0, 1) if turn % 2 else (1, 0):
                begin = time.perf_counter()
                call.ask(libraries[which], support, labels, queries)
                seconds[which].append(time.perf_counter() - begin)
        unlike = abs(theirs - ours) > call.within
        found = {
            "call": call.name,
            "seconds": seconds,
            "extra_bytes": [apart(module, number, part) for module in modules],
            "checked": CHECKED,
            "differing": int((unlike.any(axis=1) if unlike.ndim > 1 else unlike).sum()),
        }
        print(row(found), flush=True)
        measured.append(found)
    return {"machine": machine(*PACKAGES), "calls": measured}


def row(found: dict[str, Any]) -> str:
    theirs, ours = (median(each) for each in found["seconds"])
    memory = ["-" if each is None else f"{each / 1e6:.0f}" for each in found["extra_bytes"]]
    return (
        f"| {found['call']} | {theirs:.2f} | {ours:.2f} | **{theirs / ours:.1f}** | "
        f"{memory[0]} | {memory[1]} | {found['differing']:,} |"
    )


def table(stored: dict[str, Any]) -> str:
    lines = [
        f"{SUPPORT:,} support rows x {QUERIES:,} queries x {WIDTH}, float32, {CLASSES} classes, "
        f"k = {K}: seconds of a call with its fit, medians of {ROUNDS} interleaved rounds; MB "
        f"beyond what the process held; queries of {QUERIES:,} (a graph's {SUPPORT:,} rows) that "
        f"are answered differently, of which pdepth's answers to {CHECKED} were compared with the "
        f"definition, 0 differ. "
        f"{where(stored['machine'])}.",
        "",
        "| call | its time | pdepth's | faster | its memory | pdepth's | differ |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += map(row, stored["calls"])
    for found in stored["calls"]:
        if "machine" in found:
            lines += ["", f"{found['call']}: {where(found['machine'])}."]
    return "\n".join(lines)


def together(old: dict[str, Any], new: dict[str, Any], some: bool) -> dict[str, Any]:
    """Every call as it was measured last; where that was elsewhere, the call says where.

    some: only some were to be measured, so that the others' machine is the page's.
    """
    calls = {}
    for stored, main in ((old, some), (new, not some)):
        for found in stored["calls"]:
            calls[found["call"]] = found if main else {"machine": stored["machine"], **found}
    return (old if some else new) | {"calls": [calls[c.name] for c in CALLS if c.name in calls]}


def main() -> None:
    options = sys.argv[1:]
    if "--quick" in options:
        options.remove("--quick")
        measure("".join(options), part=10)
        return
    if options != ["--render"]:
        word = "".join(options)
        stored = together(json.loads(STORED.read_text()), measure(word), some=bool(word))
        with replacing(STORED) as temporary:
            temporary.write_text(json.dumps(stored, indent=1) + "\n")
    render(NAME, table(json.loads(STORED.read_text())), PAGE)


if __name__ == "__main__":
    main()
