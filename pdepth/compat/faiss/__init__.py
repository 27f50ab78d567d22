"""faiss' exact search, and k-NN classifiers that are built on it, with pdepth's search.

    from pdepth.compat import faiss

    index = faiss.IndexFlatL2(512)  # or IndexFlatIP
    index.add(support)
    distances, rows = index.search(queries, 30)

faiss itself is not needed. As there, rows are taken as float32, distances are squared and float32,
and where fewer than k rows are held the results end in row -1, at float32's largest number (least,
for inner products). An index holds its rows, packs them at the first search, and keeps that: about
2 bytes a number and 30 to 50 a row more. `add` packs what is new.

What is here: flat indexes and maps of ids over them, with search, range search, selectors, removal,
reconstruction and files; `knn`, `pairwise_distances`, `normalize_L2`, and what moves an index to a
GPU. Anything else is an AttributeError that says so.

What differs. Distances and products are float64 sums, rounded to float32 once; neighbours come in
the order (distance in float64, row), and rows within a range in the order of their numbers. faiss
takes distances of wide rows from products in float32, so that near ones swap and a row may be 1e-3,
say, away from its own copy. NaN is an error, not a row without neighbours.

Results are tensors on the queries' device where these are a tensor, without
`faiss.contrib.torch_utils`; so `knn` replaces `knn_gpu` too. Inner products of rows on a GPU are
settled on the CPU, see `pdepth.compat.shared.inner_products`.
"""

from __future__ import annotations

from typing import Any

from pdepth.compat.faiss.classifiers import (
    FaissKNeighbors,
    FaissKNNClassifier,
    FaissKNNMultilabelClassifier,
)
from pdepth.compat.faiss.files import (
    IO_FLAG_MMAP,
    IO_FLAG_READ_ONLY,
    deserialize_index,
    read_index,
    serialize_index,
    write_index,
)
from pdepth.compat.faiss.flat import IndexFlat, IndexFlatIP, IndexFlatL2
from pdepth.compat.faiss.functions import (
    StandardGpuResources,
    clone_index,
    downcast_index,
    get_num_gpus,
    index_cpu_to_all_gpus,
    index_cpu_to_gpu,
    index_factory,
    index_gpu_to_cpu,
    knn,
    knn_gpu,
    normalize_L2,
    omp_get_max_threads,
    omp_set_num_threads,
    pairwise_distances,
    vector_to_array,
)
from pdepth.compat.faiss.id_maps import IndexIDMap, IndexIDMap2
from pdepth.compat.faiss.rows import METRIC_INNER_PRODUCT, METRIC_L2
from pdepth.compat.faiss.selectors import (
    IDSelector,
    IDSelectorAll,
    IDSelectorAnd,
    IDSelectorArray,
    IDSelectorBatch,
    IDSelectorBitmap,
    IDSelectorNot,
    IDSelectorOr,
    IDSelectorRange,
    IDSelectorTranslated,
    IDSelectorXOr,
    SearchParameters,
)

__all__ = [
    "IO_FLAG_MMAP",
    "IO_FLAG_READ_ONLY",
    "METRIC_INNER_PRODUCT",
    "METRIC_L2",
    "FaissKNNClassifier",
    "FaissKNNMultilabelClassifier",
    "FaissKNeighbors",
    "IDSelector",
    "IDSelectorAll",
    "IDSelectorAnd",
    "IDSelectorArray",
    "IDSelectorBatch",
    "IDSelectorBitmap",
    "IDSelectorNot",
    "IDSelectorOr",
    "IDSelectorRange",
    "IDSelectorTranslated",
    "IDSelectorXOr",
    "IndexFlat",
    "IndexFlatIP",
    "IndexFlatL2",
    "IndexIDMap",
    "IndexIDMap2",
    "SearchParameters",
    "StandardGpuResources",
    "clone_index",
    "deserialize_index",
    "downcast_index",
    "get_num_gpus",
    "index_cpu_to_all_gpus",
    "index_cpu_to_gpu",
    "index_factory",
    "index_gpu_to_cpu",
    "knn",
    "knn_gpu",
    "normalize_L2",
    "omp_get_max_threads",
    "omp_set_num_threads",
    "pairwise_distances",
    "read_index",
    "serialize_index",
    "vector_to_array",
    "write_index",
]

__version__ = "1.15.1"  # of the faiss whose calls and answers these are, and are tested with


def __getattr__(name: str) -> Any:
    """Say what there is, where something is asked for that is not here."""
    raise AttributeError(
        f"pdepth.compat.faiss: no attribute {name!r}; it has exact search by flat indexes alone, "
        f"that is {', '.join(__all__)}. For others use faiss itself."
    )
