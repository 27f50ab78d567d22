"""Votes, neighbours and depths of embeddings: the public functions over arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict, overload

import numpy as np

from pdepth.arrays import arguments
from pdepth.arrays.convert import to_device
from pdepth.arrays.problem import problems
from pdepth.arrays.rows import is_torch
from pdepth.arrays.sources import is_single
from pdepth.backends import backend_named
from pdepth.io.embedding_store import EmbeddingStore
from pdepth.progress import ProbeProgress
from pdepth.result import DepthResult, Votes, depth_of
from pdepth.search.backward import OpenVoter, ProbeSearch, Targets, open_here, open_session
from pdepth.search.mapping import MapTable, check_map
from pdepth.search.nearest import Labelled, NearestTable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pdepth.cluster.options import Cluster


class VotingOptions(TypedDict, total=False):
    """Options of every function that votes, for the overloads of one k and of several."""

    metric: str
    weights: str
    temperature: float | None
    backend: str
    num_threads: int | None
    memory: int | str | None
    return_counts: bool
    return_neighbors: int | None


class VoteOptions(VotingOptions, total=False):
    """Of `probe_votes`."""

    query_rows: Any
    exclude_self: bool
    cluster: str | Cluster | None


class DepthOptions(VoteOptions, total=False):
    """Of `depth_from_embeddings`."""

    early_exit: bool
    reference: Any
    return_map: str | None
    probes: Sequence[str] | None
    query_labels: Any
    progress: ProbeProgress | None


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
    return_neighbors: int | None = None,
    cluster: str | Cluster | None = None,
) -> Votes | dict[int, Votes]:
    """Compute the k-NN majority votes of queries at one probe or several, as the definition says.

    Args:
        support: (M, D) array, or a sequence, mapping or iterator of them, one a probe, of any
            widths. NumPy or torch; float16, bfloat16, float32, float64 or integers; further
            dimensions are flattened. An iterator is read one probe at a time. In place of an array
            also the path of a file or directory of shards, see `open_source`; Arrow's fixed-size
            lists; or any `pdepth.arrays.sources.Source`, whose rows are read in slices.
        labels: (M,) integers, the classes of the support.
        queries: (N, D), or one such array a probe. None: the support's own rows, each left out of
            its own vote by its row number unless `exclude_self` is false.
        query_rows: (N,) rows of the support that are the queries, where `queries` is None; all by
            default.
        k: neighbours that vote, in the order (float64 squared distance, row). Of several k, all
            are answered from one search of the largest.
        metric: "sqeuclidean"; "cosine": rows are divided by their norms as they are read, in
            float64 (on a device, in copies); or "inner_product": the neighbours are the rows with
            the largest products, in the order (product descending, row).
        weights: "uniform", one vote a neighbour; "distance", 1 / distance, as scikit-learn's
            KNeighborsClassifier; or "exp", exp(-squared distance / (2 temperature)), which with the
            cosine metric is the exp(cos / temperature) of Wu et al., arXiv 1805.01978, and of the
            evaluations of DINO and lightly, as a share of the nearest neighbour's: that weighs 1,
            and counts are in its units. `pdepth.definition.vote_weights` is the rule, the order
            of summation that of the neighbours. Weights are computed by NumPy on the host, for all
            backends alike; exp, and so a tie of sums to the last bit, is that of its version.
        temperature: of "exp"; None for 0.07.
        backend: "auto", triton for a support on a CUDA device and else cpu; or a name of
            `pdepth.backends()`.
        num_threads: threads of the cpu backend; None for the process's share of the cores.
        memory: bytes, or an amount such as "8GiB", that rows of sources may take while they are in
            work: a chunk of the support, the one that is read ahead, and a query chunk. None: half
            of what is free. Where reading is the limit, the logger `pdepth` says so (INFO).
        return_counts: also return how many votes each class had, which gives the votes' margins.
        return_neighbors: also return so many of the nearest rows, in order, with their distances,
            and all counts; of any number up to k, votes are certified all the same.
        cluster: search on a Ray cluster (extra `ray`), whose workers have some rows of the support
            each: "auto", an address or a `pdepth.cluster.Cluster`. The same votes to the bit; paths
            have to be readable there. memory and num_threads are then this process's own.

    Returns:
        Votes, in arrays of the support's kind and device; for several k, a dict of them by k.

    Raises:
        ValueError, TypeError: for wrong arguments, before any work; for NaN in a source, or a file
            that cannot be read, when it is read.
        FileNotFoundError: there is nothing at a path.
        MemoryError: `memory` does not suffice for one row of a source.

    Examples:
        >>> support = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
        >>> labels = np.array([3, 3, 3, 7, 7, 7])
        >>> queries = np.array([[0.5], [11.2]])
        >>> votes = pdepth.probe_votes(support, labels, queries, k=3, return_counts=True)
        >>> votes.votes.tolist(), votes.classes.tolist(), votes.counts.tolist()
        ([3, 7], [3, 7], [[3, 0], [0, 3]])
    """
    voting = arguments.check_voting(k, weights, temperature, return_neighbors)
    options = arguments.check_search(voting, metric, exclude_self, num_threads, memory)
    backend_named(backend)
    search: ProbeSearch | None = None
    done = 0
    with _voters(cluster, backend) as open_voter:
        for problem in problems(support, queries, labels, options, query_rows=query_rows):
            if search is None:
                keep = "counts" if return_counts or voting.nearest else ""
                search = ProbeSearch(
                    len(problem.probes), problem.num_queries, voting, backend, keep=keep,
                    open_voter=open_voter,
                )  # fmt: skip
                device, classes = problem.device, problem.classes
            search.search(problem, done)
            done += len(problem.probes)
    assert search is not None  # a call without a probe is refused
    del problem  # and its arrays, before results are made
    return search.tables(classes, device, single=is_single(support))


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
    """Find each query's k nearest rows: squared distances (N, k) float64 and rows (N, k) int64.

    Sorted by (distance, row). Arguments, array kinds and errors as in `probe_votes`, for one
    array (M, D). With `metric="cosine"` the distances are those of rows divided by their norms;
    with `metric="inner_product"` they are the products, largest first.

    Examples:
        >>> support = np.array([[0.0], [1.0], [10.0]])
        >>> distances, rows = pdepth.kneighbors(support, np.array([[0.75]]), k=2)
        >>> distances.tolist(), rows.tolist()
        ([[0.0625, 0.5625]], [[1, 0]])
        >>> pdepth.kneighbors(support, k=1)[1].tolist()  # each row's nearest other one
        [[1], [0], [1]]
    """
    if not is_single(support):
        raise TypeError(f"support: expected one array, got a {type(support).__name__}.")
    voting = arguments.check_voting(k)
    if voting.several:
        raise TypeError(f"k: expected an integer, got {k!r}.")
    options = arguments.check_search(voting, metric, exclude_self, num_threads, memory)
    (problem,) = problems(support, queries, None, options, query_rows=query_rows)
    opened = open_session(problem, backend_named(backend, problem.device))
    with problem.watched([0]), opened as session:
        distances, rows = session.neighbors(0)
    if metric == "inner_product":
        distances = -distances
    return to_device(distances, problem.device), to_device(rows, problem.device)


def depth_from_votes(votes: Any, reference: Any, *, stable: int | None = None) -> tuple[Any, Any]:
    """Compute the depth (N,) int64 of votes (L, N), and where it is undefined (N,).

    The depth is the start of the last unbroken run of votes that equal the reference; where the
    last vote does not, it is L and the example is undefined (arXiv 2106.09647, section 2). With
    predictions at checkpoints as votes, it is the iteration learned. Arrays of the votes' kind.

    stable: with 1 or more, the depth is the first probe whose vote and the next ones, so many in
    all, equal the reference; near the end all that are left, so that L is the depth as above.

    Raises ValueError or TypeError for shapes that do not fit or votes that are not integers.

    Examples:
        >>> votes = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 0]])  # of three probes, by row
        >>> depth, undefined = pdepth.depth_from_votes(votes, np.array([1, 1, 1]))
        >>> depth.tolist(), undefined.tolist()
        ([2, 0, 3], [False, False, True])
    """
    if stable is not None:
        arguments.check_int(stable, "stable")
    array = votes.detach().cpu().numpy() if is_torch(votes) else np.asarray(votes)
    if array.ndim != 2 or array.shape[0] == 0:
        raise ValueError(f"votes: expected shape (L, N) with L >= 1, got {array.shape}.")
    if array.dtype.kind not in "iub":
        raise TypeError(f"votes: expected integers, got elements of type {array.dtype}.")
    agrees = array == arguments.check_integers(reference, "reference", array.shape[1])
    depth, undefined = depth_of(agrees, stable)
    device = votes.device if is_torch(votes) else None
    return to_device(depth, device), to_device(undefined, device)


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
    return_neighbors: int | None = None,
    return_map: str | None = None,
    probes: Sequence[str] | None = None,
    query_labels: Any = None,
    progress: ProbeProgress | None = None,
    cluster: str | Cluster | None = None,
) -> DepthResult | dict[int, DepthResult]:
    """Compute the prediction depth of queries from their embeddings, one array a probe.

    Arguments as in `probe_votes`, and:

    Args:
        support: also a store, `pdepth.open_store(DIR)`, which has queries, probes, labels,
            predictions and query_labels; the last three may be passed in place of the store's.
        predictions: (N,) integers, the network's class of each query.
        early_exit: search from the last probe to the first, and drop each query at its first vote
            that is not its reference: the same depths, sooner. Votes are `known` from a query's
            depth on. An iterator is read forward, and all votes are known. Of several k, a query
            is dropped when its votes of all of them have differed.
        reference: what votes have to equal: "prediction"; "label", the query's own; "last_probe",
            the last probe's vote, whatever the network says; or (N,) integers.
        return_counts: keep in the result which votes were tied and their margins; all votes are
            searched then.
        return_neighbors: keep in the result so many of the nearest rows of each query, at each
            probe where it is searched, and all counts: `DepthResult.neighbors`.
        return_map: "pca" or "umap" (extra `umap`): keep in the result where queries and support lie
            at each probe, in two dimensions: `DepthResult.map`. Not with a cluster.
        probes: names, one a probe; by default the mapping's keys, or "probe 0" and so on.
        query_labels: (N,) the queries' own labels, kept in the result; with `queries=None` they
            are those of the support.
        progress: called with (probe, fraction of it done, active queries), some times a second.

    Returns:
        DepthResult; for several k, a dict of them by k.

    Raises:
        ValueError, TypeError: for wrong arguments, before any work.

    Examples:
        >>> first = np.array([[0.0], [9.0], [1.0], [8.0], [2.0], [7.0]])  # parts nothing yet
        >>> last = np.array([[0.0], [1.0], [2.0], [7.0], [8.0], [9.0]])
        >>> classes = np.array([0, 0, 0, 1, 1, 1])
        >>> result = pdepth.depth_from_embeddings([first, last], classes, classes, k=2)
        >>> result.depth.tolist()
        [0, 1, 0, 1, 1, 1]
    """
    voting = arguments.check_voting(k, weights, temperature, return_neighbors)
    options = arguments.check_search(voting, metric, exclude_self, num_threads, memory)
    arguments.check_reference(reference)
    backend_named(backend)
    method = check_map(return_map, metric, cluster=cluster)
    meta: dict[str, str] = {}
    if isinstance(support, EmbeddingStore):
        for name, value in (("queries", queries), ("probes", probes)):
            if value is not None:
                raise TypeError(f"{name}: expected None beside a store, which has its own.")
        store, meta = support, dict(support.meta)
        for probe in store.probes:
            store.check(probe)
        labels, predictions, query_labels = _of_store(
            store, labels, predictions, query_labels, query_rows
        )
        support, probes = store.support.embeddings, store.probes
        queries = None if store.queries is None else store.queries.embeddings
    for name, value in (("labels", labels), ("predictions", predictions)):
        if value is None:
            raise TypeError(f"{name}: expected integers unless support is a store, got None.")
    if metric != "sqeuclidean":
        meta["metric"] = metric
    early_exit = early_exit and not isinstance(support, Iterator)
    search: ProbeSearch | None = None
    widths: list[tuple[str, int]] = []
    with _voters(cluster, backend) as open_voter:
        for problem in problems(
            support, queries, labels, options, query_rows=query_rows, names=probes
        ):
            if search is None:
                labelled = Labelled(problem.classes, problem.codes, metric)
                targets = Targets.of(problem, predictions, query_labels, reference)
                search = ProbeSearch(
                    len(problem.probes),
                    problem.num_queries,
                    voting,
                    backend,
                    early_exit=early_exit,
                    target=targets.codes,
                    keep="margins" if return_counts else "",
                    table=NearestTable.of(voting, len(problem.probes), problem.num_queries),
                    maps=MapTable.of(method, problem.num_queries),
                    open_voter=open_voter,
                )
            search.search(problem, len(widths), progress=progress)
            widths.extend([(probe.name, probe.support.width) for probe in problem.probes])
    assert search is not None  # a call without a probe is refused
    del problem  # and its arrays, before results are made
    leave_one_out = queries is None and exclude_self
    return search.results(labelled, targets, widths, leave_one_out, meta | voting.meta)


@contextmanager
def _voters(cluster: str | Cluster | None, backend: str) -> Iterator[OpenVoter]:
    """Who answers the votes of a call: this process, or the workers of a cluster."""
    if cluster is None:
        yield open_here
        return
    from pdepth.cluster.voter import voters_of

    with voters_of(cluster, backend) as open_voter:
        yield open_voter


def _of_store(
    store: EmbeddingStore, labels: Any, predictions: Any, query_labels: Any, query_rows: Any
) -> tuple[Any, Any, Any]:
    """Labels, predictions and the queries' labels: the caller's, or else those of a store."""
    labels = store.support.labels if labels is None else labels
    if query_labels is None and store.queries is not None:
        query_labels = store.queries.labels
    if predictions is None:
        predictions = store.asked.predictions
        if query_rows is not None and store.queries is None:
            predictions = predictions[arguments.check_query_rows(query_rows, len(predictions))]
    return labels, predictions, query_labels
