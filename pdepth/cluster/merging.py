"""Lists of neighbouring shards meet two by two, until one is of the whole support."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pdepth.cluster.workers import Ref


def met(
    lists: Sequence[tuple[int, Ref]], turn: int, merge: Callable[[int, Ref, Ref], Ref]
) -> tuple[int, Ref]:
    """The list of all, and the worker that has it.

    lists: by worker, in the order of their rows. turn: of each two workers one merges, and the
    other the next turn. merge: has a worker merge two lists, the second of later rows.
    """
    while len(lists) > 1:
        merged = []
        for (left, earlier), (right, later) in zip(lists[::2], lists[1::2], strict=False):
            worker = (left, right)[turn % 2]
            merged.append((worker, merge(worker, earlier, later)))
        lists = [*merged, *lists[2 * len(merged) :]]
    ((worker, last),) = lists
    return worker, last
