"""nn_example_difficulty's prediction depth by pdepth's engine: its names, arguments and values.

    from pdepth.compat.nn_example_difficulty import knn_predict, prediction_depth

The library (github.com/devinkwok/nn_example_difficulty, on no package index) is not needed. As
there, votes are compared with labels, a row that is asked about itself votes for itself too, tied
classes go to the smallest label, and a depth of L stands for a last probe that is not right.

What differs. Neighbours come in the order (distance in float64, row), where scikit-learn's order of
ties follows from its blocks and trees. Rows are asked where they lie, by `backend="auto"`, and not
moved to the CPU: `use_faiss` and `device` are accepted and change nothing. Iterators of unequal
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
    """Whether the k-NN vote on each row of `test_x` is its label: a bool tensor (N,) on the CPU.

    Args:
        train_x: (M, ...), the rows that vote; train_labels: (M,) integers. Tensors.
        test_x: (N, ...), test_labels: (N,); None for both: the rows that vote, themselves among
            their neighbours.
        verbose: accepted.

    Raises AssertionError where only one of the two is given, ValueError for NaN or k beyond M.
    """
    assert (test_x is None) == (test_labels is None), "test_x goes with test_labels"
    votes = pdepth.probe_votes(train_x, train_labels, test_x, k=k, exclude_self=False).votes
    wanted = train_labels if test_labels is None else test_labels
    matches = to_numpy(votes) == to_numpy(wanted)
    return convert_like(matches, train_labels.cpu())


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
    """The first probe (N,) int64 from which on every vote is the row's label; L if the last is not.

    Args:
        train_intermediates: (M, ...) a probe, from input to output: an iterable, of which one is
            held at a time, or a dict. test_intermediates: (N, ...) a probe, likewise; None for the
            rows that vote.
        verbose: print the number of each probe.
        return_matches: return (depth, matches (L, N), of the type of the labels), too.

    Everything else is as in `knn_predict`; results are where `train_labels` is.
    """
    import torch

    assert test_intermediates is not None or test_labels is None, "no test_intermediates"
    probes = _layers(train_intermediates)
    asked = None if test_intermediates is None else _layers(test_intermediates)
    pairs = ((x, None) for x in probes) if asked is None else zip(probes, asked, strict=True)
    found = []
    for number, (train_x, test_x) in enumerate(pairs):
        if verbose:
            print(f"prediction depth: probe {number}")
        found.append(knn_predict(train_x, train_labels, test_x, test_labels, k))
        del train_x, test_x  # before an iterator makes the next
    matches = torch.stack(found).to(train_labels.device)
    depth, _ = pdepth.depth_from_votes(matches, torch.ones(matches.shape[1], dtype=torch.bool))
    return (depth, matches.to(train_labels.dtype)) if return_matches else depth


def _layers(given: Iterable[Any] | Mapping[str, Any]) -> Iterable[Any]:
    return given.values() if isinstance(given, Mapping) else given
