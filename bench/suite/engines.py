"""Who is asked: pdepth, its peers, and the ceilings of the machine.

Another engine is a small class in any file, `pdepth bench --with mine.py:Mine`:

    from pdepth.bench.suite.engines import Engine

    class Mine(Engine):
        name, module, package = "mine", "mylibrary.neighbors", "my-library"

        def votes(self, support, labels, queries, k):
            return self.library.vote(support, labels, queries, k)

Every peer here searches by brute force in float32 or better, as its users run it: `exact`. None of
them is copied; "way" names our own writing of how a library computes.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

import pdepth
from pdepth import native
from pdepth.backends import triton as gpu

from .shapes import Labels, Problem, Rows, chosen

PDEPTH, PEER, CEILING = "pdepth", "peer", "ceiling"
ONE_THREAD = ", 1 thread"  # after the name of the engine that has one


class Engine:
    """Casts votes; what it needs is named here, and imported before any clock runs.

    Attributes:
        name: in tables.
        kind: PDEPTH (its votes must be the definition's), PEER or CEILING (no votes).
        module, package: what must be importable, and the distribution whose version is stored.
        exact: it searches all rows in float32 or better; the fastest such peer is the one to beat.
        limit: most floating-point operations of a shape that it is asked for.
        spec: where a user's own class came from.
    """

    name: str
    kind = PEER
    module = package = ""
    exact = True
    limit = math.inf
    spec = ""

    def missing(self) -> str | None:
        """None, or why it cannot run here."""
        if self.module and find_spec(self.module.partition(".")[0]) is None:
            return f"{self.package or self.module} is not installed"
        return None

    @property
    def library(self) -> Any:
        return importlib.import_module(self.module)

    def start(self) -> None:
        """Import what it needs and give it this process's share of the cores."""
        if self.module:
            _ = self.library

    def take(self, problem: Problem) -> Any:
        """What `run` is given; not timed."""
        return problem

    def run(self, taken: Any, k: int) -> Any:
        """The votes (L, N) of all probes: what is timed."""
        return np.stack([self.votes(y, taken.labels, x, k) for y, x in taken.layers])

    def votes(self, support: Rows, labels: Labels, queries: Rows, k: int) -> Labels:
        """The votes (N,) of one probe."""
        raise NotImplementedError

    def __reduce__(self) -> Any:  # to a process that has not read the user's file
        return (own, (self.spec,)) if self.spec else super().__reduce__()


class Pdepth(Engine):
    """One instruction set of the CPU engine, or another backend."""

    kind = PDEPTH

    def __init__(
        self,
        level: str | None = None,
        backend: str = "cpu",
        threads: int | None = None,
        limit: float = math.inf,
    ) -> None:
        self.level, self.backend, self.threads, self.limit = level, backend, threads, limit
        self.name = f"pdepth {level or backend}" + (ONE_THREAD if threads == 1 else "")

    @contextmanager
    def at_level(self) -> Iterator[None]:
        """Calls inside use this instruction set."""
        before = os.environ.get(native.SIMD)
        os.environ[native.SIMD] = self.level or ""
        try:
            yield
        finally:
            os.environ.pop(native.SIMD)
            if before is not None:
                os.environ[native.SIMD] = before

    def run(self, taken: Problem, k: int) -> Any:
        supports, queries = zip(*taken.layers, strict=True)
        options: dict[str, Any] = {"k": k, "backend": self.backend, "num_threads": self.threads}
        with self.at_level():
            return pdepth.probe_votes(supports, taken.labels, queries, **options).votes


class ScikitLearn(Engine):
    name, module, package = "scikit-learn", "sklearn.neighbors", "scikit-learn"
    limit = 3e11

    def votes(self, support: Rows, labels: Labels, queries: Rows, k: int) -> Labels:
        found = self.library.KNeighborsClassifier(k, algorithm="brute").fit(support, labels)
        votes: Labels = found.predict(queries)
        return votes


class ScikitLearnIntelex(ScikitLearn):
    name = package = "scikit-learn-intelex"
    module = "sklearnex.neighbors"
    limit = math.inf


class NnExampleDifficulty(Engine):
    """scikit-learn's neighbours, by an algorithm of its own choice, then a vote."""

    name, module, package = "nn_example_difficulty's way", "sklearn.neighbors", "scikit-learn"
    limit = 3e11

    def votes(self, support: Rows, labels: Labels, queries: Rows, k: int) -> Labels:
        found = self.library.NearestNeighbors(n_neighbors=k).fit(support)
        return _majority(labels[found.kneighbors(queries, return_distance=False)])


class Faiss(Engine):
    name, module, package = "faiss", "faiss", "faiss-cpu"

    def start(self) -> None:
        self.library.omp_set_num_threads(native.default_threads())

    def votes(self, support: Rows, labels: Labels, queries: Rows, k: int) -> Labels:
        index = self.library.IndexFlatL2(support.shape[1])
        index.add(support)
        return _majority(labels[index.search(queries, k)[1]])


class Torch(Engine):
    """Blocks of distances in memory, then `topk`."""

    module = package = "torch"
    block = 1024

    def start(self) -> None:
        self.library.set_num_threads(native.default_threads())

    def votes(self, support: Rows, labels: Labels, queries: Rows, k: int) -> Labels:
        torch = self.library
        distances, voters = self.distances_to(torch.from_numpy(support)), torch.from_numpy(labels)
        near = [
            voters[distances(x).topk(k, largest=False).indices]
            for x in torch.from_numpy(queries).split(self.block)
        ]
        return self.vote(torch.cat(near))

    def distances_to(self, support: Any) -> Callable[[Any], Any]:
        raise NotImplementedError

    def vote(self, near: Any) -> Labels:
        return _majority(near.numpy())


class TorchMatmul(Torch):
    name = "torch matmul + topk"
    limit = 5e12

    def distances_to(self, support: Any) -> Callable[[Any], Any]:
        norms = self.library.linalg.vector_norm(support, dim=1).square()
        # less the query's own norm, which moves no neighbour
        return lambda x: self.library.addmm(norms, x, support.T, alpha=-2)


class TorchCdist(Torch):
    name = "torch.cdist + topk"
    limit = 3e11

    def distances_to(self, support: Any) -> Callable[[Any], Any]:
        return lambda x: self.library.cdist(x, support)


class Aucurriculum(TorchCdist):
    """Batches of 1024 queries, distances, their k smallest, and the mode of the labels."""

    name = "aucurriculum's way"

    def vote(self, near: Any) -> Labels:
        votes: Labels = near.mode(dim=1).values.numpy()
        return votes


class MatrixProduct(Torch):
    """The products of support and queries alone: any engine's limit, were selection free."""

    kind = CEILING

    def __init__(self, dtype: str) -> None:
        self.dtype, self.name = dtype, f"{dtype} product"

    def start(self) -> None:
        super().start()
        if self.dtype == "bfloat16" and not self.library.ops.mkldnn._is_mkldnn_bf16_supported():
            self.limit = 3e10  # emulated, and slower than float32

    def take(self, problem: Problem) -> Any:
        torch = self.library
        dtype = getattr(torch, self.dtype)
        return [
            (torch.from_numpy(y).to(dtype), torch.from_numpy(x).to(dtype))
            for y, x in problem.layers
        ]

    def run(self, taken: Any, k: int) -> None:
        for y, x in taken:
            out = self.library.empty(self.block, len(y), dtype=y.dtype)
            for part in x.split(self.block):
                self.library.matmul(part, y.T, out=out[: len(part)])


class MemoryRead(Torch):
    """Every row read once."""

    name, kind = "memory read", CEILING

    def run(self, taken: Problem, k: int) -> None:
        for y, x in taken.layers:
            self.library.from_numpy(y).sum()
            self.library.from_numpy(x).sum()


def _majority(near: Labels) -> Labels:
    """The most frequent label in each row of `near` (N, k), whole numbers from 0; of equals the
    smallest."""
    classes = int(near.max()) + 1
    places = near + classes * np.arange(len(near))[:, None]
    counts = np.bincount(places.ravel(), minlength=near.shape[0] * classes)
    votes: Labels = counts.reshape(len(near), classes).argmax(axis=1)
    return votes


FLOAT32, BFLOAT16, MEMORY = MatrixProduct("float32"), MatrixProduct("bfloat16"), MemoryRead()


def registry() -> list[Engine]:
    """Every engine, pdepth's levels from the fastest on; whether each can run says `missing`."""
    levels = [level for level, runs in native.simd_levels().items() if runs]
    levels.remove("bf16")  # for tests: AMX's arithmetic in plain C++
    fastest, *slower = reversed(levels)
    on_gpu = gpu.available() is None and not gpu.interpreted()
    return [
        Pdepth(fastest),
        *(Pdepth(level, limit=5e10 if level == "portable" else 2e12) for level in slower),
        *([Pdepth(backend="triton")] if on_gpu else []),
        Pdepth(fastest, threads=1, limit=2e12),
        Pdepth(backend="reference", limit=1e8),
        ScikitLearnIntelex(),
        Faiss(),
        TorchMatmul(),
        TorchCdist(),
        ScikitLearn(),
        NnExampleDifficulty(),
        Aucurriculum(),
        FLOAT32,
        BFLOAT16,
        MEMORY,
    ]


def own(spec: str) -> Engine:
    """The user's engine at FILE.py:CLASS."""
    from pdepth.inputs import call_function

    if not re.fullmatch(r".+\.py:\w+", spec):
        raise ValueError(f"--with is {spec!r}; FILE.py:CLASS is wanted.")

    engine = call_function(spec, "--with")
    if not isinstance(engine, Engine):
        raise TypeError(f"--with {spec} is a {type(engine).__name__}; an Engine is wanted.")
    if not isinstance(getattr(engine, "name", None), str):
        raise TypeError(f"--with {spec} has no name; a class attribute `name` is wanted.")
    if engine.name in [each.name for each in registry()]:
        raise ValueError(f"--with {spec}: the name {engine.name!r} is taken.")
    engine.spec = spec
    return engine


def pick(pattern: str | None, spec: str | None) -> tuple[list[Engine], list[str]]:
    """The engines of a run, and why others are left out.

    pdepth's fastest comes first, since votes and ratios refer to it, and the ceilings last;
    the pattern chooses among the rest.
    """
    offered = registry()
    wanted = chosen("--engine", pattern, offered)
    users = [own(spec)] if spec else []
    ceilings = [engine for engine in offered if engine.kind == CEILING]
    others = [each for each in wanted if each not in ceilings and each is not offered[0]]
    every = [offered[0], *others, *users, *ceilings]
    reasons = {engine.name: engine.missing() for engine in every}
    return (
        [engine for engine in every if reasons[engine.name] is None],
        [f"{name} is left out: {why}." for name, why in reasons.items() if why is not None],
    )
