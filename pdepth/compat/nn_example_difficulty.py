"""nn_example_difficulty's prediction depth: its names, arguments and values.

    from pdepth.compat.nn_example_difficulty import knn_predict, prediction_depth

The library (github.com/devinkwok/nn_example_difficulty, on no package index) is not needed. As
there, votes are compared with labels, a support row among the queries votes for itself too, tied
classes go to the smallest label, and a depth of L stands for a last probe that is not right.

What differs. Neighbours come in the order (distance in float64, row), where scikit-learn's order of
ties follows from its blocks and trees. Rows are searched where they lie, by `backend="auto"`, and
not moved to the CPU: `use_faiss` and `device` are accepted and change nothing. Iterators of unequal
lengths are an error, not cut to the shorter one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pdepth
from pdepth.arrays.convert import convert_like, to_numpy

__all__ = ["knn_predict", "prediction_depth"]


def knn_predict(
    train_x: Any,
    train_labels: Any,
    test_x: Any = None,
    test_labels: Any = None,
    k: int = 30,
    use_faiss: bool = False,
    device: str = "cuda",
    verbose: bool = False,
) -> Any:
    """Tell whether the k-NN vote on each row of `test_x` is its label.

    Args:
        train_x: (M, ...), the support; train_labels: (M,) integers. Tensors.
        test_x: (N, ...), test_labels: (N,); None for both: the support's own rows, themselves among
            their neighbours.
        verbose: accepted.

    Returns:
        A bool tensor (N,) on the CPU.

    Raises:
        AssertionError: only one of test_x and test_labels is passed.
        ValueError: NaN, or k beyond M.
    """
    assert (test_x is None) == (test_labels is None), "test_x: expected with test_labels"
    votes = pdepth.probe_votes(train_x, train_labels, test_x, k=k, exclude_self=False).votes
    labels = train_labels if test_labels is None else test_labels
    return convert_like(to_numpy(votes) == to_numpy(labels), train_labels.cpu())


def prediction_depth(
    train_intermediates: Iterable[Any] | Mapping[str, Any],
    train_labels: Any,
    test_intermediates: Iterable[Any] | Mapping[str, Any] | None = None,
    test_labels: Any = None,
    k: int = 30,
    verbose: bool = False,
    return_matches: bool = False,
    use_faiss: bool = False,
    device: str = "cuda",
) -> Any:
    """Find the first probe (N,) int64 from which on every vote is the row's label; L if none is.

    Args:
        train_intermediates: (M, ...) a probe, from input to output: an iterable, of which one is
            held at a time, or a dict.
        test_intermediates: (N, ...) a probe, likewise; None for the support's own rows.
        verbose: print the number of each probe.
        return_matches: return (depth, matches (L, N), of the type of the labels), too.

    Everything else is as in `knn_predict`; results are where `train_labels` is.
    """
    import torch

    assert test_intermediates is not None or test_labels is None, (
        "test_labels: expected with test_intermediates"
    )
    support = _probes(train_intermediates)
    queries = None if test_intermediates is None else _probes(test_intermediates)
    pairs = ((x, None) for x in support) if queries is None else zip(support, queries, strict=True)
    matched = []
    for number, (train_x, test_x) in enumerate(pairs):
        if verbose:
            print(f"prediction depth: probe {number}")
        matched.append(knn_predict(train_x, train_labels, test_x, test_labels, k))
        del train_x, test_x  # before an iterator makes the next
    matches = torch.stack(matched).to(train_labels.device)
    depth, _ = pdepth.depth_from_votes(
        matches, torch.ones(matches.shape[1], dtype=torch.bool, device="cpu")
    )
    return (depth, matches.to(train_labels.dtype)) if return_matches else depth


def _probes(intermediates: Iterable[Any] | Mapping[str, Any]) -> Iterable[Any]:
    return intermediates.values() if isinstance(intermediates, Mapping) else intermediates
