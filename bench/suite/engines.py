"""The engines: pdepth, its peers, and the ceilings of the machine.

Another engine is a small class in any file, `pdepth bench --with mine.py:Mine`:

    from pdepth.bench.suite.engines import Engine

    class Mine(Engine):
        name, module, package = "mine", "mylibrary.neighbors", "my-library"

        def votes(self, support, labels, queries, k):
            return self.library.vote(support, labels, queries, k)

Every peer here searches by brute force in float32 or better, as its users run it: `exact`. None of
their code is copied; "... way" in a name says that we wrote down how a library computes.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

import pdepth
from pdepth import native
from pdepth.backends import triton
from pdepth.bench.suite.shapes import Labels, Problem, Rows, select

PDEPTH, PEER, CEILING = "pdepth", "peer", "ceiling"
ONE_THREAD = ", 1 thread"  # after the name of the engine that has one


class Engine:
    """Something that votes; the library it needs is imported before any clock runs.

    Attributes:
        name: its name in tables.
        kind: PDEPTH (its votes must be the definition's), PEER or CEILING (no votes).
        module, package: what must be importable, and the distribution whose version is stored.
        exact: whether it searches all rows in float32 or better; the fastest such peer is the one
            that pdepth is compared with.
        limit: the largest shape that it runs, in floating-point operations.
        spec: the FILE.py:CLASS of a user's own class.
    """

    name: str
    kind = PEER
    module = package = ""
    exact = True
    limit: float = math.inf
    spec = ""

    def __init_subclass__(cls) -> None:
        """Take `prepare` under its name of version 0.1, `take`."""
        if "take" in vars(cls) and "prepare" not in vars(cls):
            warnings.warn(
                f"{cls.__name__}.take is now called prepare; the old name goes in version 0.3.",
                DeprecationWarning,
                stacklevel=2,
            )
            cls.prepare = cls.take  # type: ignore[attr-defined, method-assign]

    def missing(self) -> str | None:
        """Why it cannot run here; None if it can."""
        if self.module and find_spec(self.module.partition(".")[0]) is None:
            return f"{self.package or self.module} is not installed"
        return None

    @property
    def library(self) -> Any:
        return importlib.import_module(self.module)

    def start(self) -> None:
        """Import the library and set its number of threads."""
        if self.module:
            _ = self.library

    def prepare(self, problem: Problem) -> Any:
        """The input of `run`; not timed."""
        return problem

    def run(self, prepared: Any, k: int) -> Any:
        """The votes (L, N) of all probes: what is timed."""
        return np.stack([self.votes(y, prepared.labels, x, k) for y, x in prepared.layers])

    def votes(self, support: Rows, labels: Labels, queries: Rows, k: int) -> Labels:
        """The votes (N,) of one probe."""
        raise NotImplementedError

    def __reduce__(self) -> Any:  # to a process that has not read the user's file
        return (load_engine, (self.spec,)) if self.spec else super().__reduce__()


class Pdepth(Engine):
    """pdepth: one instruction set of the cpu backend, or another backend."""

    level: str | None
    backend: str
    threads: int | None
    limit: float

    kind = PDEPTH

    def __init__(
        self,
        level: str | None = None,
        backend: str = "cpu",
        threads: int | None = None,
        limit: float = math.inf,
    ) -> None:
        self.level, self.backend, self.threads, self.limit = level, backend, threads, limit
        self.name: str = f"pdepth {level or backend}" + (ONE_THREAD if threads == 1 else "")

    @contextmanager
    def at_level(self) -> Iterator[None]:
        """Use this instruction set for calls inside."""
        before = os.environ.get(native.SIMD)
        os.environ[native.SIMD] = self.level or ""
        try:
            yield
        finally:
            os.environ.pop(native.SIMD)
            if before is not None:
                os.environ[native.SIMD] = before

    def run(self, prepared: Problem, k: int) -> Any:
        supports, queries = zip(*prepared.layers, strict=True)
        options: dict[str, Any] = {"k": k, "backend": self.backend, "num_threads": self.threads}
        with self.at_level():
            return pdepth.probe_votes(supports, prepared.labels, queries, **options).votes


class ScikitLearn(Engine):
    name: str = "scikit-learn"
    module: str = "sklearn.neighbors"
    package: str = "scikit-learn"
    limit: float = 3e11

    def votes(self, support: Rows, labels: Labels, queries: Rows, k: int) -> Labels:
        classifier = self.library.KNeighborsClassifier(k, algorithm="brute").fit(support, labels)
        votes: Labels = classifier.predict(queries)
        return votes


class ScikitLearnIntelex(ScikitLearn):
    name = package = "scikit-learn-intelex"
    module = "sklearnex.neighbors"
    limit: float = math.inf


class NnExampleDifficulty(Engine):
    """scikit-learn's neighbours, by an algorithm of its own choice, then a vote."""

    name: str = "nn_example_difficulty's way"
    module: str = "sklearn.neighbors"
    package: str = "scikit-learn"
    limit: float = 3e11

    def votes(self, support: Rows, labels: Labels, queries: Rows, k: int) -> Labels:
        search = self.library.NearestNeighbors(n_neighbors=k).fit(support)
        return majority(labels[search.kneighbors(queries, return_distance=False)])


class Faiss(Engine):
    name: str = "faiss"
    module: str = "faiss"
    package: str = "faiss-cpu"

    def start(self) -> None:
        self.library.omp_set_num_threads(native.default_threads())

    def votes(self, support: Rows, labels: Labels, queries: Rows, k: int) -> Labels:
        index = self.library.IndexFlatL2(support.shape[1])
        index.add(support)
        return majority(labels[index.search(queries, k)[1]])


class Torch(Engine):
    """Blocks of distances in memory, then `topk`."""

    module = package = "torch"
    block = 1024

    def start(self) -> None:
        self.library.set_num_threads(native.default_threads())

    def votes(self, support: Rows, labels: Labels, queries: Rows, k: int) -> Labels:
        torch = self.library
        distances, voters = self.distances_to(torch.from_numpy(support)), torch.from_numpy(labels)
        neighbors = [
            voters[distances(x).topk(k, largest=False).indices]
            for x in torch.from_numpy(queries).split(self.block)
        ]
        return self.vote(torch.cat(neighbors))

    def distances_to(self, support: Any) -> Callable[[Any], Any]:
        """A function that gives a block of queries its distances to the support."""
        raise NotImplementedError

    def vote(self, neighbors: Any) -> Labels:
        return majority(neighbors.numpy())


class TorchMatmul(Torch):
    name = "torch matmul + topk"
    limit: float = 5e12

    def distances_to(self, support: Any) -> Callable[[Any], Any]:
        norms = self.library.linalg.vector_norm(support, dim=1).square()
        # without the query's own norm, which changes no order
        return lambda x: self.library.addmm(norms, x, support.T, alpha=-2)


class TorchCdist(Torch):
    name = "torch.cdist + topk"
    limit: float = 3e11

    def distances_to(self, support: Any) -> Callable[[Any], Any]:
        return lambda x: self.library.cdist(x, support)


class Aucurriculum(TorchCdist):
    """Batches of 1024 queries, distances, their k smallest, and the mode of the labels."""

    name = "aucurriculum's way"

    def vote(self, neighbors: Any) -> Labels:
        votes: Labels = neighbors.mode(dim=1).values.numpy()
        return votes


class MatrixProduct(Torch):
    """The products of support and queries alone: an engine's limit if selection were free."""

    dtype: str
    name: str
    limit: float

    kind = CEILING

    def __init__(self, dtype: str) -> None:
        self.dtype, self.name = dtype, f"{dtype} product"

    def start(self) -> None:
        super().start()
        if self.dtype == "bfloat16" and not self.library.ops.mkldnn._is_mkldnn_bf16_supported():
            self.limit = 3e10  # emulated, and slower than float32

    def prepare(self, problem: Problem) -> Any:
        torch = self.library
        dtype = getattr(torch, self.dtype)
        return [
            (torch.from_numpy(y).to(dtype), torch.from_numpy(x).to(dtype))
            for y, x in problem.layers
        ]

    def run(self, prepared: Any, k: int) -> None:
        for y, x in prepared:
            out = self.library.empty(self.block, len(y), dtype=y.dtype)
            for chunk in x.split(self.block):
                self.library.matmul(chunk, y.T, out=out[: len(chunk)])


class MemoryRead(Torch):
    """Every row read once."""

    name: str = "memory read"
    kind: str = CEILING

    def run(self, prepared: Problem, k: int) -> None:
        for y, x in prepared.layers:
            self.library.from_numpy(y).sum()
            self.library.from_numpy(x).sum()


def majority(neighbors: Labels) -> Labels:
    """The most frequent label in each row of `neighbors` (N, k), integers >= 0; of tied ones the
    smallest."""
    classes = int(neighbors.max()) + 1
    cells = neighbors + classes * np.arange(len(neighbors))[:, None]
    counts = np.bincount(cells.ravel(), minlength=len(neighbors) * classes)
    votes: Labels = counts.reshape(len(neighbors), classes).argmax(axis=1)
    return votes


FLOAT32, BFLOAT16, MEMORY = MatrixProduct("float32"), MatrixProduct("bfloat16"), MemoryRead()


def registry() -> list[Engine]:
    """Every engine, pdepth's levels from the fastest on; `Engine.missing` says what cannot run."""
    levels = [level for level, runs in native.simd_levels().items() if runs]
    levels.remove("bf16")  # for tests: AMX's arithmetic in plain C++
    fastest, *slower = reversed(levels)
    on_gpu = triton.unavailable() is None and not triton.interpreted()
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


def load_engine(spec: str) -> Engine:
    """A user's engine, from FILE.py:CLASS."""
    from pdepth.inputs import call_function

    if not re.fullmatch(r".+\.py:\w+", spec):
        raise ValueError(f"--with: expected FILE.py:CLASS, got {spec!r}.")

    engine = call_function(spec, "--with")
    if not isinstance(engine, Engine):
        raise TypeError(
            f"--with {spec}: expected a subclass of pdepth.bench.suite.engines.Engine, got "
            f"{type(engine).__name__}."
        )
    if not isinstance(getattr(engine, "name", None), str):
        raise TypeError(f"--with {spec}: expected a class attribute `name`, a str; got none.")
    if engine.name in [known.name for known in registry()]:
        raise ValueError(
            f"--with {spec}: expected a name that no engine of the suite has, got {engine.name!r}."
        )
    engine.spec = spec
    return engine


def pick(pattern: str | None, spec: str | None) -> tuple[list[Engine], list[str]]:
    """The engines of a run, and a sentence for each that cannot run here.

    pdepth's fastest comes first, since votes and ratios refer to it, and the ceilings last;
    the pattern chooses among the rest.

    Args:
        pattern: of names, such as "faiss*"; None for all.
        spec: FILE.py:CLASS of a user's engine.
    """
    known = registry()
    selected = select("--engine", pattern, known)
    users = [load_engine(spec)] if spec else []
    ceilings = [engine for engine in known if engine.kind == CEILING]
    others = [engine for engine in selected if engine not in ceilings and engine is not known[0]]
    engines = [known[0], *others, *users, *ceilings]
    reasons = {engine.name: engine.missing() for engine in engines}
    return (
        [engine for engine in engines if reasons[engine.name] is None],
        [f"{name} is left out: {reason}." for name, reason in reasons.items() if reason],
    )
