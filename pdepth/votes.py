"""Votes, neighbours and depths of embeddings: the public functions over arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.arguments import Problem, Voting
from pdepth.arrays.rows import is_torch
from pdepth.arrays.sources import is_single
from pdepth.backends import Progress, backend_named
from pdepth.io.embedding_store import EmbeddingStore
from pdepth.result import DepthResult, Votes
from pdepth.search import chunks
from pdepth.search.backward import Targets, Walk, suffix

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pdepth.options import DepthOptions, VoteOptions


@overload
def probe_votes(
    support: Any, labels: Any, queries: Any = None, *, k: int = 30, **options: Unpack[VoteOptions]
) -> Votes: ...


@overload
def probe_votes(
    support: Any,
    labels: Any,
    queries: Any = None,
    *,
    k: Sequence[int],
    **options: Unpack[VoteOptions],
) -> dict[int, Votes]: ...


def probe_votes(
    support: Any,
    labels: Any,
    queries: Any = None,
    *,
    query_rows: Any = None,
    k: int | Sequence[int] = 30,
    metric: str = "sqeuclidean",
    weights: str = "uniform",
    temperature: float | None = None,
    exclude_self: bool = True,
    backend: str = "auto",
    num_threads: int | None = None,
    memory: int | str | None = None,
    return_counts: bool = False,
) -> Votes | dict[int, Votes]:
    """The k-NN majority votes of queries at one probe or several: exactly those of the definition.

    Args:
        support: (M, D) array, or a sequence, mapping or iterator of them, one a probe, of any
            widths. NumPy or torch; float16, bfloat16, float32, float64 or integers; further
            dimensions are flattened. An iterator is read one probe at a time. For an array may
            stand the path of a file or directory of shards, see `open_source`; Arrow's fixed-size
            lists; or any `pdepth.arrays.sources.Source`: rows that are read in slices.
        labels: (M,) integers, the classes of the support.
        queries: (N, D), or one such array a probe. None: the support's own rows, each left out of
            its own vote by its row number unless `exclude_self` is false.
        query_rows: (N,) rows of the support to ask instead of all, where `queries` is None.
        k: neighbours that vote, in the order (float64 squared distance, row). Of several k, all
            are answered from one search of the largest.
        metric: "sqeuclidean", or "cosine": rows are divided by their norms first, into float64
            copies of the arrays.
        weights: "uniform", one vote a neighbour; "distance", 1 / distance, as scikit-learn's
            KNeighborsClassifier; or "exp", exp(-squared distance / (2 temperature)), which with the
            cosine metric is the exp(cos / temperature) of Wu et al., arXiv 1805.01978, and of the
            evaluations of DINO and lightly. `pdepth.definition.vote_weights` is the rule, the order
            of summation that of the neighbours. Weights are computed by NumPy on the host, for all
            backends alike; exp, and so a tie of sums to the last bit, is that of its version.
        temperature: of "exp"; None for 0.07.
        backend: "auto", the GPU engine for a support on a CUDA device and else the CPU engine; or
            a name of `pdepth.backends()`.
        num_threads: threads of the CPU engine; None for the process's share of the cores.
        memory: bytes, or an amount such as "8GiB", that rows of sources may take while they are in
            work: a chunk of the support, the one that is read ahead, and a block of queries. None:
            half of what is free. Where reading is the limit, the logger `pdepth` says so (INFO).
        return_counts: also return how many votes each class had, and so the votes' margins.

    Returns:
        Votes, in arrays of the support's kind and device; for several k, a dict of them by k.

    Raises:
        ValueError, TypeError: before any work, one sentence that names the argument; NaN in a
            source, or a file that cannot be read, when it is met.
        FileNotFoundError: a path leads nowhere.
        MemoryError: `memory` does not suffice for one row of a source.
    """
    ballot = arguments.check_voting(k, weights, temperature)
    answer = _ask(
        arguments.problems(
            support,
            queries,
            labels,
            query_rows=query_rows,
            k=max(ballot.ks),
            metric=metric,
            exclude_self=exclude_self,
            num_threads=num_threads,
            memory=memory,
        ),
        ballot,
        backend,
        counting="counts" if return_counts else "",
    )
    problem = answer.problem

    def given_back(array: NDArray[Any] | None) -> Any:
        if array is not None and is_single(support):
            array = array[0]
        return _on(problem.device, array)

    found = {
        each: Votes(
            votes=given_back(problem.classes[coded.votes]),
            classes=_on(problem.device, problem.classes),
            tied=given_back(coded.tied),
            counts=given_back(coded.counts),
        )
        for each, coded in zip(ballot.ks, answer.walk.found, strict=True)
    }
    return found if ballot.several else found[ballot.ks[0]]


def kneighbors(
    support: Any,
    queries: Any = None,
    *,
    query_rows: Any = None,
    k: int = 30,
    metric: str = "sqeuclidean",
    exclude_self: bool = True,
    backend: str = "auto",
    num_threads: int | None = None,
    memory: int | str | None = None,
) -> tuple[Any, Any]:
    """Squared distances (N, k) float64 and rows (N, k) int64 of each query's k nearest rows.

    Sorted by (distance, row). Arguments, array kinds and errors as in `probe_votes`, for one
    array (M, D); with `metric="cosine"` the distances are those of the normalised rows.
    """
    if not is_single(support):
        raise TypeError(f"support is a {type(support).__name__}; one array is wanted.")
    (problem,) = arguments.problems(
        support,
        queries,
        None,
        query_rows=query_rows,
        k=k,
        metric=metric,
        exclude_self=exclude_self,
        num_threads=num_threads,
        memory=memory,
    )
    engine = chunks.engine_for(problem, backend_named(backend, problem.device))
    distances, rows = engine.neighbors(problem)
    return _on(problem.device, distances), _on(problem.device, rows)


def depth_from_votes(votes: Any, reference: Any) -> tuple[Any, Any]:
    """Depth (N,) int64 of votes (L, N) against `reference` (N,), and where it is undefined (N,).

    The depth is the start of the last unbroken run of votes that equal the reference; where the
    last vote does not, it is L and the example is undefined (arXiv 2106.09647, section 2). With
    predictions at checkpoints for votes, it is the iteration learned. Arrays of the votes' kind.

    Raises ValueError or TypeError for shapes that do not fit or votes that are not integers.
    """
    given = votes.detach().cpu().numpy() if is_torch(votes) else np.asarray(votes)
    if given.ndim != 2 or given.shape[0] == 0:
        raise ValueError(f"votes has shape {given.shape}; (probes, examples) is wanted.")
    if given.dtype.kind not in "iub":
        raise TypeError(f"votes has elements of type {given.dtype}; integers are wanted.")
    agrees = given == arguments.check_integers(reference, "reference", given.shape[1])
    depth, undefined = suffix(agrees)
    device = votes.device if is_torch(votes) else None
    return _on(device, depth), _on(device, undefined)


@overload
def depth_from_embeddings(
    support: Any,
    labels: Any = None,
    predictions: Any = None,
    queries: Any = None,
    *,
    k: int = 30,
    **options: Unpack[DepthOptions],
) -> DepthResult: ...


@overload
def depth_from_embeddings(
    support: Any,
    labels: Any = None,
    predictions: Any = None,
    queries: Any = None,
    *,
    k: Sequence[int],
    **options: Unpack[DepthOptions],
) -> dict[int, DepthResult]: ...


def depth_from_embeddings(
    support: Any,
    labels: Any = None,
    predictions: Any = None,
    queries: Any = None,
    *,
    query_rows: Any = None,
    k: int | Sequence[int] = 30,
    early_exit: bool = True,
    exclude_self: bool = True,
    metric: str = "sqeuclidean",
    weights: str = "uniform",
    temperature: float | None = None,
    reference: Any = "prediction",
    backend: str = "auto",
    num_threads: int | None = None,
    memory: int | str | None = None,
    return_counts: bool = False,
    probes: Sequence[str] | None = None,
    query_labels: Any = None,
    progress: Progress | None = None,
) -> DepthResult | dict[int, DepthResult]:
    """The prediction depth of queries whose embeddings are at hand, one array a probe.

    Arguments as in `probe_votes`, and:

    Args:
        support: or a store, `pdepth.open_store(DIR)`, alone: it has labels, predictions, queries,
            probes and query_labels of its own. Labels or predictions that are given go before.
        predictions: (N,) integers, the network's class of each query.
        early_exit: walk from the last probe backward, ask only whether each query's vote is its
            prediction, and drop it where it is not: the same depths, sooner. Votes are `known` from
            a query's depth on. An iterator is read forward and answers all votes. Of several k, a
            query is dropped when its votes of all of them have differed.
        reference: what votes have to equal: "prediction"; "label", the query's own; "last_probe",
            the last probe's vote, whatever the network says; or (N,) integers.
        return_counts: keep in the result which votes were tied and their margins; all votes are
            asked then.
        probes: names, one a probe; by default the mapping's keys, or "probe 0" and so on.
        query_labels: (N,) the queries' own labels, kept in the result; with `queries=None` they
            are those of the support.
        progress: called with (probe, fraction of it done, queries asked), some times a second.

    Returns:
        DepthResult; for several k, a dict of them by k.

    Raises:
        ValueError, TypeError: before any work, one sentence that names the argument.
    """
    ballot = arguments.check_voting(k, weights, temperature)
    arguments.check_reference(reference)
    if isinstance(support, EmbeddingStore):
        for what, given in (("queries", queries), ("probes", probes)):
            if given is not None:
                raise TypeError(
                    f"{what} is given beside a store, which has its own; None is wanted."
                )
        store, asked = support, support.asked
        support, probes = store.support.embeddings, store.probes
        labels = store.support.labels if labels is None else labels
        if store.queries is not None:
            queries = store.queries.embeddings
            query_labels = asked.labels if query_labels is None else query_labels
        if predictions is None:
            predictions = asked.predictions
            if query_rows is not None and queries is None:
                predictions = predictions[arguments.check_query_rows(query_rows, len(predictions))]
        meta = dict(store.meta)
    else:
        meta = {}
    for what, given in (("labels", labels), ("predictions", predictions)):
        if given is None:
            raise TypeError(f"{what} is None; integers are wanted, unless support is a store.")
    problems = arguments.problems(
        support,
        queries,
        labels,
        names=probes,
        query_rows=query_rows,
        k=max(ballot.ks),
        metric=metric,
        exclude_self=exclude_self,
        num_threads=num_threads,
        memory=memory,
    )
    answer = _ask(
        problems,
        ballot,
        backend,
        counting="margins" if return_counts else "",
        belonging=partial(
            Targets.of, predictions=predictions, labels=query_labels, reference=reference
        ),
        early_exit=early_exit and not return_counts and not isinstance(support, Iterator),
        progress=progress,
    )
    if metric != "sqeuclidean":
        meta["metric"] = metric
    assert answer.given is not None  # what belongs to the queries was asked for
    return answer.walk.results(
        answer.problem,
        answer.given,
        answer.layers,
        queries is None and exclude_self,
        meta | ballot.meta,
    )


@dataclass(frozen=True, eq=False)
class _Answer:
    """A call's problem (its first, without arrays), its layers' names and widths, its votes.

    given: what belongs to the queries, where it was asked for.
    """

    problem: Problem
    layers: list[tuple[str, int]]
    walk: Walk
    given: Targets | None


def _ask(
    problems: Iterator[Problem],
    ballot: Voting,
    backend: str,
    *,
    counting: str = "",
    belonging: Callable[[Problem], Targets] | None = None,
    early_exit: bool = False,
    progress: Progress | None = None,
) -> _Answer:
    """Check what belongs to the queries, then have every problem answered in turn."""
    backend_named(backend)
    answer: _Answer | None = None
    for problem in problems:
        if answer is None:
            given = belonging(problem) if belonging else None
            walk = Walk(
                len(problem.layers),
                problem.count,
                ballot,
                backend,
                early_exit=early_exit,
                wanted=given.wanted if given else None,
                counting=counting,
            )
            # No array of a probe that has been answered.
            answer = _Answer(replace(problem, layers=()), [], walk, given)
        answer.walk.ask(len(answer.layers), problem, progress)
        answer.layers.extend((layer.name, layer.support.width) for layer in problem.layers)
    assert answer is not None  # a call without a probe is refused
    return answer


def _on(device: Any, array: NDArray[Any] | None) -> Any:
    """`array` as the caller's kind: NumPy for None, or a torch tensor on that device."""
    if array is None or device is None:
        return array
    import torch

    return torch.from_numpy(array).to(device)
