"""The cases: what is asked of whom, and whose answers count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from pdepth.bench.cases import contestants as who
from pdepth.bench.cases.contestants import Contestant
from pdepth.bench.cases.tasks import IP, L2, Sizes, Task, components, normal, split
from pdepth.bench.studies.compat import unit
from pdepth.bench.suite import engines
from pdepth.bench.suite.shapes import K, Shape, confident, random_rows
from pdepth.native import simd_level

ROWS, VOTES, RANKS = "rows", "votes", "ranks"
POOL, MOST_BATCHES = 2_000, 20  # queries of small batches, so that none is asked twice in a row
SHORT = {L2: "L2", IP: "inner products"}


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        group: the table it stands in; name: its line there.
        task: makes the rows, for sizes.
        contestants: pdepth first.
        answers: ROWS, VOTES or RANKS.
        beside: whose time is set against pdepth's; "": the fastest that answers exactly.
        fitted: whether fitting is measured, with the first call after it.
    """

    group: str
    name: str
    task: Callable[[Sizes], Task]
    contestants: tuple[Contestant, ...]
    answers: str = ROWS
    beside: str = ""
    fitted: bool = False

    @property
    def title(self) -> str:
        return f"{self.group}: {self.name}"


def of_shape(shape: Shape, sizes: Sizes) -> Task:
    """The rows of a shape of the suite."""
    shape = replace(
        shape, support=sizes.rows(shape.support), queries=max(20, sizes.asked(shape.queries))
    )
    labels, ((support, queries),) = shape.fill(shape)
    return Task(support, labels, queries, K)


def asked_of(
    rows: int, width: int, batch: int, k: int, metric: str, sizes: Sizes, *, norm_one: bool = False
) -> Task:
    """Normal rows, asked by batches of others."""
    support, size = sizes.rows(rows), sizes.asked(batch)
    count = size * min(MOST_BATCHES, max(1, POOL // size))
    values = normal(support + count, width)
    options = {"k": min(k, support // 2), "metric": metric, "batch": size}
    return split(unit(values) if norm_one else values, support, **options)


def graph_of(rows: int, width: int, k: int, sizes: Sizes) -> Task:
    return split(components(sizes.rows(rows), width), sizes.rows(rows), k=k)


def own_of(rows: int, width: int, sizes: Sizes) -> Task:
    return split(normal(sizes.rows(rows), width), sizes.rows(rows), k=K)


PEERS = (who.FAISS, who.INTELEX, who.TORCH, who.SKLEARN)


def fitted(batch: int, k: int, metric: str) -> Case:
    """An index of 50,000 x 128 that is asked again and again."""
    peers = PEERS if metric == L2 else (who.FAISS, who.TORCH)
    group = "small batches" if k == 10 else "many neighbours"
    noun = "query" if batch == 1 else "queries"
    return Case(
        group,
        f"{batch:,} {noun}, {SHORT[metric]}" + (f", k = {k:,}" if k != 10 else ""),
        partial(asked_of, 50_000, 128, batch, k, metric),
        (who.OURS, *peers, who.PRODUCT),
        fitted=True,
    )


def library(
    name: str,
    modules: tuple[str, str, str],
    calls: tuple[who.Fit, who.Ask],
    task: Callable[[Sizes], Task],
    answers: str = ROWS,
    *,
    whole: bool = False,
) -> Case:
    """A library's own call and the same of pdepth.compat.

    Args:
        name: of the case.
        modules: the library's name, its module and pdepth's.
        calls: to fit and to ask.
        task: makes the rows.
        answers: what the call returns.
        whole: whether each call fits anew.
    """
    label, theirs, ours = modules
    fit, ask = who.whole_call(*calls) if whole else calls
    pair = (
        Contestant(ours, ours, fit, ask, engines.PDEPTH),
        Contestant(label, theirs, fit, ask, package=label),
    )
    return Case("libraries", name, task, (*pair, who.PRODUCT), answers, label, fitted=not whole)


SCIKIT_LEARN = ("scikit-learn", "sklearn.neighbors", "pdepth.compat.sklearn")
FAISS = ("faiss-cpu", "faiss", "pdepth.compat.faiss")
LIGHTLY = ("lightly", "lightly.utils.benchmarking.knn", "pdepth.compat.lightly")


def libraries() -> Iterator[Case]:
    """Each library's own call."""
    predict = who.fit_classifier, who.ask_classifier
    for batch in (10_000, 1):
        yield library(
            "scikit-learn `predict`, 20,000 x 512, "
            + ("10,000 queries, with `fit`" if batch > 1 else "1 query, fitted"),
            SCIKIT_LEARN,
            predict,
            partial(asked_of, 20_000, 512, batch, K, L2),
            VOTES,
            whole=batch > 1,
        )
    for batch in (1, 1_000):
        yield library(
            f"scikit-learn `kneighbors`, its tree, 200,000 x 7, {batch:,} "
            + ("queries" if batch > 1 else "query"),
            SCIKIT_LEARN,
            (who.fit_tree, who.ask_sklearn),
            partial(asked_of, 200_000, 7, batch, 10, L2),
        )
    for metric, kind in ((L2, "IndexFlatL2"), (IP, "IndexFlatIP")):
        yield library(
            f"faiss `{kind}.search`, 50,000 x 128, 1 query",
            FAISS,
            (who.fit_flat, who.ask_flat),
            partial(asked_of, 50_000, 128, 1, 10, metric),
        )
    for batch in (256, 10_000):
        yield library(
            f"lightly `knn_predict`, 20,000 x 512, {batch:,} queries, k = 200",
            LIGHTLY,
            (who.fit_bank, who.ask_bank),
            partial(asked_of, 20_000, 512, batch, 200, IP, norm_one=True),
            RANKS,
        )


def graphs() -> Iterator[Case]:
    """Graphs of nearest neighbours, beside an approximate search."""
    for rows in (50_000, 100_000):
        yield Case(
            "graphs",
            f"k = 15, {rows:,} x 50",
            partial(graph_of, rows, 50, 15),
            (who.OURS, who.DESCENT, who.FAISS, who.PRODUCT),
            beside=who.DESCENT.name,
        )


def own_rows() -> Iterator[Case]:
    """All votes of a support, each row left out of its own."""
    apart = replace(who.OUR_VOTES, name="pdepth, in halves", ask=who.ask_votes_apart)
    faiss = replace(who.FAISS, ask=who.voting(who.ask_flat))
    everyone = (who.OUR_VOTES, apart, faiss, who.PRODUCT)
    for name, beside in (("20,000 x 512", ""), ("20,000 x 512, without symmetry", apart.name)):
        chosen = everyone if not beside else everyone[:2]
        yield Case(
            "leave-one-out", name, partial(own_of, 20_000, 512), chosen, VOTES, beside, fitted=False
        )


def whole_votes() -> tuple[Contestant, ...]:
    """Whose votes of one layer are compared: engines of the suite."""
    known = (
        engines.Pdepth(simd_level()),
        engines.ScikitLearnIntelex(),
        engines.Faiss(),
        engines.TorchMatmul(),
        engines.FLOAT32,
    )
    ours, *others = map(who.of_engine, known)
    return (replace(ours, name="pdepth"), *others)


def shapes() -> Iterator[Case]:
    """Layers of invented rows, as in the suite."""
    for kind, width, fill in (
        ("random", 64, random_rows),
        ("random", 512, random_rows),
        ("softmax", 10, confident),
    ):
        shape = Shape(kind, 10_000, 10_000, (width,), fill)
        yield Case("shapes", shape.name, partial(of_shape, shape), whole_votes(), VOTES)


def catalogue() -> list[Case]:
    """Every case but those of real layers, which are in layers.py."""
    return [
        *(fitted(batch, 10, m) for m in (L2, IP) for batch in (1, 10, 100, 1_000, 10_000)),
        *(fitted(1_000, k, m) for m in (L2, IP) for k in (1, 30, 100, 1_000, 10_000)),
        fitted(10_000, 100, IP),
        *libraries(),
        *graphs(),
        *own_rows(),
        *shapes(),
    ]
