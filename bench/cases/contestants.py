"""Who answers a case: pdepth, libraries by their own calls, and the float32 product alone.

A contestant is fitted to a task's support, and then asked batch by batch. Which functions fit and
ask is all that differs between them, so that a library and its drop-in are the same functions on
two modules.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.bench.cases.tasks import IP, Task, chunks
from pdepth.bench.suite.engines import CEILING, PDEPTH, PEER, Engine, majority
from pdepth.bench.suite.shapes import CLASSES, Problem, Rows
from pdepth.native import default_threads

APPROXIMATE = "approximate"  # a peer that does not search all rows
BLOCK = 1024  # queries whose products torch holds at a time
Fit = Callable[[Any, Task], Any]
Ask = Callable[[Any, Rows | None, Task], Any]


@dataclass(frozen=True)
class Contestant:
    """One who answers.

    Attributes:
        name: in tables.
        module: what is imported, and given to `fit`; package: its distribution.
        fit: takes the module and a task; what it returns is asked.
        ask: takes that, queries (n, D) or None, and the task; returns rows (n, k), votes (n,) or
            whatever the case's answers are.
        kind: PDEPTH, PEER, APPROXIMATE or CEILING, which has no answers.
        limit: the most multiplications of a call.
        start: sets threads, once.
    """

    name: str
    module: str
    fit: Fit
    ask: Ask
    kind: str = PEER
    package: str = ""
    limit: float = math.inf
    start: Callable[[Any], None] = lambda module: None

    def missing(self) -> str | None:
        """Why it cannot answer here; None if it can."""
        if find_spec(self.module.partition(".")[0]) is None:
            return f"{self.name} is left out: {self.package or self.module} is not installed."
        return None

    def library(self) -> Any:
        """The module, its threads set."""
        module = importlib.import_module(self.module)
        self.start(module)
        return module


def fit_index(module: Any, task: Task) -> Any:
    return module.Index(task.support, task.labels, metric=task.metric)


def ask_neighbors(index: Any, queries: Rows | None, task: Task) -> Any:
    return index.kneighbors(queries, k=task.k)[1]


def ask_votes(index: Any, queries: Rows | None, task: Task) -> Any:
    return index.votes(queries, k=task.k).votes


def ask_votes_apart(index: Any, queries: Rows | None, task: Task) -> Any:
    """The votes of all support rows, half of them at a time: no symmetry to be used."""
    halves = np.array_split(np.arange(len(task.support)), 2)
    return np.concatenate([index.votes(query_rows=rows, k=task.k).votes for rows in halves])


def fit_flat(module: Any, task: Task) -> Any:
    kind = module.IndexFlatIP if task.metric == IP else module.IndexFlatL2
    index = kind(task.support.shape[1])
    index.add(task.support)
    return index


def ask_flat(index: Any, queries: Rows | None, task: Task) -> Any:
    if queries is None:
        return without_own(index.search(task.support, task.k + 1)[1])
    return index.search(queries, task.k)[1]


def without_own(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the k + 1 nearest (M, k + 1) of each support row the k that are not itself."""
    others = rows != np.arange(len(rows))[:, None]
    others[others.all(axis=1), -1] = False  # equal rows came first
    kept: NDArray[np.int64] = rows[others].reshape(len(rows), -1)
    return kept


def voting(ask: Ask) -> Ask:
    """Votes of the rows that a contestant finds."""
    return lambda fitted, queries, task: majority(task.labels[ask(fitted, queries, task)])


def fit_neighbors(module: Any, task: Task) -> Any:
    return module.NearestNeighbors(n_neighbors=task.k, algorithm="brute").fit(task.support)


def fit_tree(module: Any, task: Task) -> Any:
    """By scikit-learn's own choice of algorithm."""
    return module.NearestNeighbors(n_neighbors=task.k).fit(task.support)


def ask_sklearn(estimator: Any, queries: Rows | None, task: Task) -> Any:
    return estimator.kneighbors(queries)[1]


def fit_classifier(module: Any, task: Task) -> Any:
    return module.KNeighborsClassifier(task.k).fit(task.support, task.labels)


def ask_classifier(estimator: Any, queries: Rows | None, task: Task) -> Any:
    return estimator.predict(queries)


def whole_call(fit: Fit, ask: Ask) -> tuple[Fit, Ask]:
    """Fitted anew in each call: as in a script that fits and predicts once."""
    return (
        lambda module, task: module,
        lambda module, queries, task: ask(fit(module, task), queries, task),
    )


def fit_torch(module: Any, task: Task) -> Any:
    support = module.from_numpy(task.support)
    norms = None if task.metric == IP else module.linalg.vector_norm(support, dim=1).square()
    return module, support, norms


def ask_torch(fitted: Any, queries: Rows | None, task: Task) -> Any:
    torch, support, norms = fitted
    rows = []
    for block in torch.from_numpy(queries).split(BLOCK):
        if norms is None:
            rows.append((block @ support.T).topk(task.k).indices)
        else:
            distances = torch.addmm(norms, block, support.T, alpha=-2)
            rows.append(distances.topk(task.k, largest=False).indices)
    return torch.cat(rows).numpy()


def fit_bank(module: Any, task: Task) -> Any:
    import torch

    bank = torch.from_numpy(np.ascontiguousarray(task.support.T))
    return module, bank, torch.from_numpy(task.labels)


def ask_bank(fitted: Any, queries: Rows | None, task: Task) -> Any:
    import torch

    module, bank, labels = fitted
    rows = torch.from_numpy(queries)
    return module.knn_predict(rows, bank, labels, CLASSES, knn_k=task.k).numpy()


def fit_descent(module: Any, task: Task) -> Any:
    """pynndescent's graph as umap asks for it: each row is its own first neighbour there."""
    return module, task.k + 1


def ask_descent(fitted: Any, queries: Rows | None, task: Task) -> Any:
    module, k = fitted
    graph = module.NNDescent(task.support, n_neighbors=k, random_state=0).neighbor_graph[0]
    return without_own(graph.astype(np.int64))


def product_of(module: Any, task: Task) -> Any:
    return module, module.from_numpy(task.support)


def multiply(fitted: Any, queries: Rows | None, task: Task) -> None:
    torch, support = fitted
    rows = support if queries is None else torch.from_numpy(queries)
    out = torch.empty(min(BLOCK, len(rows)), len(support))
    for part in chunks(len(rows), BLOCK):
        block = rows[part]
        torch.matmul(block, support.T, out=out[: len(block)])


def of_engine(engine: Engine) -> Contestant:
    """An engine of the suite, whose call is the whole search of votes."""

    def ask(fitted: Any, queries: Rows | None, task: Task) -> Any:
        assert queries is not None
        problem = Problem(task.labels, [(task.support, queries)])
        votes = engine.run(engine.prepare(problem), task.k)
        return None if votes is None else votes[0]

    return Contestant(
        engine.name,
        engine.module or "pdepth",
        lambda module, task: None,
        ask,
        engine.kind,
        engine.package,
        engine.limit / 2,
        lambda module: engine.start(),
    )


def _set_faiss(module: Any) -> None:
    module.omp_set_num_threads(default_threads())


def _set_torch(module: Any) -> None:
    module.set_num_threads(default_threads())


OURS = Contestant("pdepth", "pdepth", fit_index, ask_neighbors, PDEPTH)
OUR_VOTES = Contestant("pdepth", "pdepth", fit_index, ask_votes, PDEPTH)
FAISS = Contestant("faiss", "faiss", fit_flat, ask_flat, package="faiss-cpu", start=_set_faiss)
SKLEARN = Contestant(
    "scikit-learn", "sklearn.neighbors", fit_neighbors, ask_sklearn,
    package="scikit-learn", limit=2e10,
)  # fmt: skip
INTELEX = Contestant(
    "scikit-learn-intelex", "sklearnex.neighbors", fit_neighbors, ask_sklearn,
    package="scikit-learn-intelex",
)  # fmt: skip
TORCH = Contestant(
    "torch matmul + topk", "torch", fit_torch, ask_torch, package="torch", start=_set_torch
)
DESCENT = Contestant(
    "pynndescent", "pynndescent", fit_descent, ask_descent, APPROXIMATE, "pynndescent"
)
PRODUCT = Contestant(
    "float32 product", "torch", product_of, multiply, CEILING, "torch", start=_set_torch
)
