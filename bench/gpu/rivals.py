"""Other ways to the same votes on a device: torch, FlashLib, faiss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch

from pdepth.bench.suite.shapes import K
from pdepth.kernels.search import majority


def query_chunks(queries: torch.Tensor, columns: int) -> Sequence[torch.Tensor]:
    """Queries a few at a time, so that their distances take a gigabyte."""
    return torch.split(queries, max(1, (1 << 28) // columns))


def rivals(
    support: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor
) -> dict[str, Callable[[], Any]]:
    """Other ways to the same votes; those whose library is missing are left out."""

    def vote(rows: torch.Tensor) -> torch.Tensor:
        votes: torch.Tensor = majority(labels[rows])[0]
        return votes

    def matmul(precision: str) -> torch.Tensor:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            return products()
        finally:
            torch.set_float32_matmul_precision(before)

    def products() -> torch.Tensor:
        norms = support.square().sum(dim=1)
        return torch.cat(
            [
                vote((norms - 2 * (chunk @ support.T)).topk(K, largest=False).indices)
                for chunk in query_chunks(queries, len(support))
            ]
        )

    def cdist() -> torch.Tensor:
        return torch.cat(
            [
                vote(torch.cdist(chunk, support).topk(K, largest=False).indices)
                for chunk in query_chunks(queries, len(support))
            ]
        )

    def flashlib() -> torch.Tensor:
        from flashlib import flash_knn

        return vote(flash_knn(queries[None], support[None], K)[1][0].long())

    def faiss() -> torch.Tensor:
        library, resources = _faiss()
        _, rows = library.knn_gpu(resources, queries, support, K)
        return vote(rows)

    return {
        "torch matmul + topk": partial(matmul, "highest"),
        "torch matmul + topk, TF32": partial(matmul, "high"),
        "torch.cdist + topk": cdist,
        "flashlib": flashlib,
        "faiss": faiss,
    }


@lru_cache
def _faiss() -> tuple[Any, Any]:
    """faiss, taught torch's tensors, and its memory on the device: once, and in no time taken."""
    import faiss
    import faiss.contrib.torch_utils

    return faiss, faiss.StandardGpuResources()
