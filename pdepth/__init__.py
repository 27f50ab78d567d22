"""Exact prediction depth for whole datasets (Baldock, Maennel, Neyshabur, arXiv 2106.09647)."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pdepth import moved
from pdepth.arrays.sources import open_source
from pdepth.backends import availability as backends
from pdepth.io.decisions import Decisions, Selection, read_selection
from pdepth.io.embedding_store import EmbeddingStore, open_store
from pdepth.io.map_file import KeptMap, open_map
from pdepth.io.neighbor_file import KeptNeighbors, open_neighbors
from pdepth.optional import imported_later
from pdepth.result import DepthResult, Votes
from pdepth.search.index import Index
from pdepth.votes import depth_from_embeddings, depth_from_votes, kneighbors, probe_votes

if TYPE_CHECKING:
    from pdepth.analysis.forward_pass import ForwardPass, capture
    from pdepth.depth import prediction_depth
    from pdepth.planning import Plan, plan
    from pdepth.report.decisions import apply_decisions, issue_decisions, run_of
    from pdepth.report.explain import explain
    from pdepth.report.explanation import Explanation
    from pdepth.report.figures.depth import plot
    from pdepth.report.label_issues import label_issues

moved.register()

__version__ = "0.1.0"
__all__ = [
    "Decisions",
    "DepthResult",
    "EmbeddingStore",
    "Explanation",
    "ForwardPass",
    "Index",
    "KeptMap",
    "KeptNeighbors",
    "Plan",
    "Selection",
    "Votes",
    "apply_decisions",
    "backends",
    "capture",
    "depth_from_embeddings",
    "depth_from_votes",
    "explain",
    "issue_decisions",
    "kneighbors",
    "label_issues",
    "open_map",
    "open_neighbors",
    "open_source",
    "open_store",
    "plan",
    "plot",
    "prediction_depth",
    "probe_votes",
    "read_selection",
    "run_of",
]

_LATER = {
    "ForwardPass": "pdepth.analysis.forward_pass",
    "capture": "pdepth.analysis.forward_pass",
    "prediction_depth": "pdepth.depth",
    "Plan": "pdepth.planning",
    "plan": "pdepth.planning",
    "apply_decisions": "pdepth.report.decisions",
    "issue_decisions": "pdepth.report.decisions",
    "run_of": "pdepth.report.decisions",
    "plot": "pdepth.report.figures.depth",
    "Explanation": "pdepth.report.explanation",
    "explain": "pdepth.report.explain",
    "label_issues": "pdepth.report.label_issues",
}
__getattr__: Callable[[str], Any] = imported_later(__name__, _LATER)

if find_spec("torch") is None:  # `from pdepth import *` and help(pdepth) ask for what is there
    __all__[:] = [name for name in __all__ if name not in ("Plan", "plan", "prediction_depth")]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
