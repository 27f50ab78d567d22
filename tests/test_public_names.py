"""Names that README, the documentation and the changelog of 0.1.0 imported or named keep working.

A module that has moved since is found under its old path too, with a DeprecationWarning.
"""

from __future__ import annotations

import importlib
import warnings
from importlib.util import find_spec
from typing import Any

import pytest

from helpers.torch_or_skip import HAS_TORCH

NAMES: dict[str, tuple[str, ...]] = {
    "pdepth": (
        "Decisions",
        "Decisions.read",
        "DepthResult",
        "DepthResult.load",
        "EmbeddingStore",
        "ForwardPass",
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
    ),
    "pdepth.analysis": (),
    "pdepth.analysis.compare": ("compare",),
    "pdepth.analysis.deep_knn": ("DeepKNN", "calibration_scores", "conformity", "kth_distances"),
    "pdepth.analysis.ensemble": ("Ensemble",),
    "pdepth.analysis.export": ("cartography", "label_issues", "table", "write"),
    "pdepth.analysis.fragments": ("neighbourhood_agreement",),
    "pdepth.analysis.groups": ("groups",),
    "pdepth.analysis.lightning": ("DepthCallback",),
    "pdepth.analysis.middle": ("MiddleProbeClassifier", "mislabelled", "precision_recall"),
    "pdepth.analysis.neighbourhood": ("class_purity", "hubs", "purity"),
    "pdepth.analysis.network": (
        "against_depth",
        "agreement",
        "confused_pairs",
        "confusion",
        "settling",
    ),
    "pdepth.analysis.outputs": ("outputs",),
    "pdepth.analysis.ranks": ("correlate", "spearman"),
    "pdepth.analysis.training": (
        "Recorder",
        "Training",
        "forgetting",
        "from_checkpoints",
        "learned",
        "over_training",
    ),
    "pdepth.certify": (),
    "pdepth.compat": (),
    "pdepth.compat.aucurriculum": ("ParallelKNN", "patch"),
    "pdepth.compat.aucurriculum_scoring": ("PredictionDepth",),
    "pdepth.compat.cleanlab": ("knn_graph", "label_quality", "outlier_scores", "patch", "unpatch"),
    "pdepth.compat.dino": ("KnnModule", "knn_classifier"),
    "pdepth.compat.faiss": (
        "FaissKNNClassifier",
        "FaissKNNMultilabelClassifier",
        "FaissKNeighbors",
        "IndexFlat",
        "IndexFlatIP",
        "IndexFlatL2",
        "knn",
    ),
    "pdepth.compat.fiftyone": ("PdepthSimilarityConfig", "write_depth"),
    "pdepth.compat.lightly": ("KnnPredictor", "knn_predict", "patch", "unpatch"),
    "pdepth.compat.metric_learning": ("FaissKNN", "knn_func"),
    "pdepth.compat.nn_example_difficulty": ("knn_predict", "prediction_depth"),
    "pdepth.compat.oodeel": ("DKNN",),
    "pdepth.compat.presets": ("depth", "scores"),
    "pdepth.compat.sklearn": ("KNeighborsClassifier", "NearestNeighbors", "patch", "unpatch"),
    "pdepth.compat.torchdr": ("pairwise_distances", "patch", "unpatch"),
    "pdepth.definition": ("vote_weights",),
    "pdepth.progress": ("Event",),
    "pdepth.report": (),
    "pdepth.report.network": (
        "plot_against_depth",
        "plot_agreement",
        "plot_confused_pairs",
        "plot_settling",
    ),
    "pdepth.report.page": ("write",),
    "pdepth.report.training": ("plot_over_training",),
}

NEEDS = {  # modules that say which library they need, and raise where it is missing
    "pdepth.analysis.lightning": "lightning",
    "pdepth.compat.aucurriculum_scoring": "aucurriculum",
    "pdepth.compat.fiftyone": "fiftyone",
    "pdepth.compat.oodeel": "oodeel",
}


EVERY = [(module, name) for module, names in NAMES.items() for name in ("", *names)]


@pytest.mark.parametrize(("module", "name"), EVERY)
def test_documented_names_work(module: str, name: str) -> None:
    library = NEEDS.get(module)
    if library is not None and find_spec(library) is None:
        with pytest.raises(ImportError, match=library):  # the module is there, and says so
            importlib.import_module(module)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            value: Any = importlib.import_module(module)
            for part in name.split(".") if name else ():
                value = getattr(value, part)
        except ImportError as error:
            if HAS_TORCH or error.name != "torch":
                raise
            pytest.skip("torch is not installed")
