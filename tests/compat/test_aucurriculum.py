"""pdepth.compat.aucurriculum against aucurriculum, and against the definition in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pdepth import definition
from pdepth.compat.aucurriculum import ParallelKNN, patch, unpatch

from helpers.cases import KINDS, cast

SCORING = "aucurriculum.curricula.scoring"
RNG = np.random.default_rng(0)
SUPPORT, QUERIES = (torch.from_numpy(RNG.normal(size=(n, 24)).astype("f4")) for n in (400, 60))
LABELS = torch.from_numpy(RNG.integers(0, 5, 400))
CPU = torch.device("cpu")


@pytest.fixture
def library() -> Any:
    """aucurriculum's scoring functions, as they are."""
    result = pytest.importorskip(SCORING, reason="aucurriculum is not installed")
    yield result
    unpatch()


def predicted(kind: Any, rows: Any, labels: Any, queries: Any, k: int = 30) -> NDArray[np.int64]:
    knn = kind(k, 128, CPU, progress_bar=False)
    knn.fit(rows, labels)
    votes = knn.predict(queries)
    assert isinstance(votes, torch.Tensor)
    assert votes.dtype == torch.int64
    return votes.numpy()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_votes_are_the_definitions_with_self_votes_kept(kind: Callable[..., Any]) -> None:
    values = cast(kind(np.random.default_rng(1), 170, 11), "float32")
    rows, queries = torch.from_numpy(values[:150]), torch.from_numpy(values[150:])
    labels = torch.from_numpy(RNG.integers(0, 4, 150))
    with np.errstate(over="ignore"):
        own = definition.probe_votes(rows, labels, k=7, exclude_self=False).votes
        expected = definition.probe_votes(rows, labels, queries, k=7).votes
    assert (predicted(ParallelKNN, rows, labels, rows, 7) == own).all()
    assert (predicted(ParallelKNN, rows, labels, rows.clone(), 7) == own).all()
    assert (predicted(ParallelKNN, rows, labels, queries, 7) == expected).all()
    if kind.__name__ == "normal":  # a row's own vote counts
        assert (own != definition.probe_votes(rows, labels, k=7).votes).any()


def whole_numbers() -> dict[str, tuple[Any, Any, Any]]:
    """Problems whose squared distances float32 holds exactly."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.data.astype("f4"))
    grid = torch.from_numpy(RNG.integers(-40, 41, (600, 24)).astype("f4"))
    labels = torch.from_numpy(digits.target)
    return {
        "digits": (pixels[:700], labels[:700], pixels[700:900]),
        "digits, themselves": (pixels[:700], labels[:700], pixels[:700]),
        "grid": (grid[:500], torch.from_numpy(RNG.integers(0, 10, 500)), grid[500:]),
    }


@pytest.mark.parametrize("problem", ["digits", "digits, themselves", "grid"])
@pytest.mark.parametrize("k", [1, 5, 30])
def test_the_same_votes_where_float32_is_exact(library: Any, problem: str, k: int) -> None:
    """All, but where the k-th and the next are equally near: there torch.topk takes any."""
    rows, labels, queries = whole_numbers()[problem]
    near = definition.kneighbors(rows, queries, k=k + 1)[0]
    clear = near[:, k - 1] < near[:, k]
    assert clear.mean() > 0.6
    theirs, ours = (
        predicted(kind, rows, labels, queries, k)
        for kind in (library.utils.ParallelKNN, ParallelKNN)
    )
    assert (ours[clear] == theirs[clear]).all()


def test_elsewhere_votes_differ_only_by_float32s_rounding(library: Any) -> None:
    """Of rows far from zero aucurriculum's distances are rounding alone."""
    differing = 0
    for offset in (0, 300):
        rows, queries = SUPPORT + offset, QUERIES + offset
        theirs, ours = (
            predicted(kind, rows, LABELS, queries)
            for kind in (library.utils.ParallelKNN, ParallelKNN)
        )
        near = definition.kneighbors(rows, queries, k=31)[0]
        largest = (rows.double() ** 2).sum(1).max().item()
        doubtful = near[:, 30] - near[:, 29] < 4 * (24 + 4) * np.finfo(np.float32).eps * largest
        assert (ours == theirs)[~doubtful].all()
        assert (ours == definition.probe_votes(rows, LABELS, queries).votes).all()
        differing += int((ours != theirs).sum())
    assert differing


WRONG: dict[str, Callable[[Any], Any]] = {
    "not fitted": lambda kind: kind(3, 8, CPU, False).predict(QUERIES),
    "width": lambda kind: predicted(kind, SUPPORT, LABELS, QUERIES[:, :5]),
    "one dimension": lambda kind: predicted(kind, SUPPORT, LABELS, QUERIES[0]),
    "k": lambda kind: predicted(kind, SUPPORT[:9], LABELS[:9], QUERIES),
}
TYPES = {"not fitted": ValueError, "width": RuntimeError, "one dimension": RuntimeError}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_are_named(what: str) -> None:
    with pytest.raises(TYPES.get(what, RuntimeError), match="expected"):
        WRONG[what](ParallelKNN)


@pytest.mark.parametrize("what", WRONG)
def test_the_same_mistakes_have_the_same_errors(library: Any, what: str) -> None:
    for kind in (library.utils.ParallelKNN, ParallelKNN):
        with pytest.raises(TYPES.get(what, RuntimeError)):
            WRONG[what](kind)


def test_nan_is_an_error() -> None:
    spoiled = SUPPORT.clone()
    spoiled[5, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in row 5\\b"):
        predicted(ParallelKNN, spoiled, LABELS, QUERIES)


def test_a_tensor_that_is_trained_through_is_taken() -> None:
    rows = SUPPORT.clone().requires_grad_()
    assert (
        predicted(ParallelKNN, rows, LABELS, rows)
        == predicted(ParallelKNN, SUPPORT, LABELS, SUPPORT)
    ).all()


def test_without_aucurriculum(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("aucurriculum")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aucurriculum", None)
    monkeypatch.delitem(sys.modules, "pdepth.compat.aucurriculum_scoring", raising=False)
    assert len(predicted(ParallelKNN, SUPPORT, LABELS, QUERIES)) == 60
    with pytest.raises(ImportError, match="needs aucurriculum: pip install 'pdepth.aucurriculum.'"):
        patch()
    with pytest.raises(ImportError, match="pdepth.compat.aucurriculum_scoring needs aucurriculum"):
        __import__("pdepth.compat.aucurriculum_scoring")


# ---- the scoring function, on aucurriculum's own toy data ----

PLACEMENTS = ["linear", "re_lu"]
RUN = "run_b_12345678"


class Toy:
    """A network for autrainer's ToyDataset, as a training run leaves it behind, and its scores."""

    def __init__(self, path: Path) -> None:
        from autrainer.models import FFNN
        from omegaconf import OmegaConf

        self.path = path
        self.config = OmegaConf.create(
            {
                "seed": 1,
                "augmentation": None,
                "batch_size": 32,
                "dataset": {
                    "_target_": "autrainer.datasets.ToyDataset",
                    "task": "classification",
                    "size": 250,
                    "num_targets": 4,
                    "feature_shape": 16,
                    "dev_split": 0.2,
                    "test_split": 0.2,
                    "metrics": ["autrainer.metrics.Accuracy"],
                    "tracking_metric": "autrainer.metrics.Accuracy",
                    "transform": {"type": "tabular"},
                },
                "model": {
                    "_target_": "autrainer.models.FFNN",
                    "input_size": 16,
                    "hidden_size": 24,
                    "num_layers": 3,
                    "transform": {"type": "tabular"},
                },
            }
        )
        torch.manual_seed(0)
        self.model = FFNN(4, 16, 24, 3)
        self.reads = 0
        self.keep()

    def keep(self) -> None:
        home = self.path / "grid" / "training" / "run" / "_best"
        home.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), home / "model.pt")

    def scores(self, kind: Any, name: str, **options: Any) -> Any:
        """The table that a scoring function writes."""
        import pandas
        from omegaconf import OmegaConf

        function = kind(
            output_directory=str(self.path / name),
            results_dir=str(self.path),
            experiment_id="grid",
            run_name="run",
            probe_placements=list(PLACEMENTS),
            knn_n_neighbors=10,
            **options,
        )
        function.run(OmegaConf.create({"device": "cpu"}), self.config.copy(), RUN)
        assert (self.path / name / RUN / "timer.yaml").is_file()
        return pandas.read_csv(self.path / name / RUN / "scores.csv")

    def freeze(self, monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
        """The toy data as of one reading, for a network that was trained on them."""
        data, _ = library.AbstractScore.prepare_data_and_model(self.config.copy())
        toy, items = self, [data.train_dataset[row] for row in range(len(data.train_dataset))]

        class Frozen(torch.utils.data.Dataset):  # type: ignore[type-arg]
            def __len__(self) -> int:
                return len(items)

            def __getitem__(self, row: int) -> Any:
                toy.reads += 1
                return items[row]

        monkeypatch.setattr(
            library.AbstractScore, "get_dataset_subset", staticmethod(lambda *_: Frozen())
        )
        inputs = torch.stack([item[0] for item in items])
        labels = torch.tensor([item[1] for item in items])
        trained = torch.optim.Adam(self.model.parameters(), 1e-2)
        for _ in range(60):
            trained.zero_grad()
            torch.nn.functional.cross_entropy(self.model(inputs), labels).backward()
            trained.step()
        self.keep()


@pytest.fixture
def toy(library: Any, tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def ours() -> Any:
    from pdepth.compat.aucurriculum_scoring import PredictionDepth

    return PredictionDepth


@pytest.mark.parametrize("subset", ["train", "dev"])
def test_scores_of_its_toy_data_are_the_same(library: Any, toy: Toy, subset: str) -> None:
    """Which it draws anew at each reading: there is a pass for every probe, as there."""
    expected = toy.scores(library.PredictionDepth, "theirs", subset=subset)
    result = toy.scores(ours(), "ours", subset=subset)
    assert result.equals(expected)
    assert expected["scores"].nunique() > 2
    # Seven probes; the column of the network's predictions is counted with them.
    depth, _ = definition.depth_from_votes(
        expected[[f"probe_{n}" for n in range(7)]].to_numpy().T, expected["predictions"]
    )
    assert (expected["scores"] == depth / 8).all()


def test_one_pass_serves_all_probes(
    library: Any, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.freeze(monkeypatch, library)
    expected = toy.scores(library.PredictionDepth, "theirs")
    assert toy.reads == 7 * (150 + 32)
    toy.reads = 0
    assert toy.scores(ours(), "ours").equals(expected)
    assert toy.reads == 150 + 32
    assert expected["scores"].nunique() > 3


@pytest.mark.parametrize("options", [{"max_embedding_size": 7}, {"match_dimensions": True}])
def test_pooled_embeddings(
    library: Any, toy: Toy, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    toy.freeze(monkeypatch, library)
    result, expected = (
        toy.scores(kind, kind.__module__, **options) for kind in (ours(), library.PredictionDepth)
    )
    assert result.equals(expected)


def test_as_many_probes_at_a_time_as_fit(
    library: Any, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdepth.arrays.memory import Budget
    from pdepth.compat import aucurriculum_scoring

    toy.freeze(monkeypatch, library)
    expected = toy.scores(library.PredictionDepth, "theirs")
    # Of widths 16, 24, 24, 24, 24, 4, 4: two, two and three; or each alone.
    for floats, passes in ((50, 3), (0, 7)):
        held = Budget(int(4 * 150 * floats / aucurriculum_scoring.SHARE), given=True)
        monkeypatch.setattr(Budget, "of", classmethod(lambda cls, _, held=held: held))
        toy.reads = 0
        assert toy.scores(ours(), f"ours {floats}").equals(expected)
        assert toy.reads == passes * (150 + 32)


class InPlace(torch.nn.Module):
    """Whose ReLU changes the value that the probe before it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.re_lu = torch.nn.Linear(16, 24), torch.nn.ReLU(inplace=True)
        self.head = torch.nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.re_lu(self.linear(x)))


def test_what_is_changed_in_place_is_taken_before(
    library: Any, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.model = InPlace()
    toy.freeze(monkeypatch, library)
    prepared = library.AbstractScore.prepare_data_and_model
    monkeypatch.setattr(
        library.AbstractScore,
        "prepare_data_and_model",
        staticmethod(lambda config: (prepared(config)[0], InPlace())),
    )
    expected = toy.scores(library.PredictionDepth, "theirs")
    assert (expected["probe_1"] != expected["probe_2"]).any()
    assert toy.scores(ours(), "ours").equals(expected)


def test_a_configuration_names_it(library: Any, tmp_path: Path) -> None:
    import autrainer
    from omegaconf import OmegaConf

    config = OmegaConf.create(
        {
            "_target_": "pdepth.compat.aucurriculum_scoring.PredictionDepth",
            "run_name": "run",
            "probe_placements": PLACEMENTS,
        }
    )
    made = autrainer.instantiate(
        config=config,
        instance_of=library.AbstractScore,
        output_directory=str(tmp_path),
        results_dir=str(tmp_path),
        experiment_id="grid",
    )
    assert type(made) is ours()


def test_patch_and_unpatch(library: Any) -> None:
    theirs = library.PredictionDepth, library.utils.ParallelKNN

    def bound() -> tuple[Any, Any]:
        return library.PredictionDepth, library.prediction_depth.ParallelKNN

    with patch():
        assert bound() == (ours(), ParallelKNN)
        with patch():
            pass
        assert bound() == (ours(), ParallelKNN)
    assert bound() == theirs
    patch()
    assert bound() == (ours(), ParallelKNN)
    unpatch()
    unpatch()
    assert bound() == theirs
