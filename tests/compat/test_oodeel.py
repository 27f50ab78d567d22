"""pdepth.compat.oodeel against oodeel's DKNN, and against the definition in float64."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from pdepth import definition

RNG = torch.Generator().manual_seed(0)


def test_without_oodeel() -> None:
    code = "import sys; sys.modules['oodeel'] = None; import pdepth.compat.oodeel"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = "ImportError: pdepth.compat.oodeel needs oodeel: pip install 'pdepth[oodeel]'."
    assert expected in run.stderr


def both() -> list[Any]:
    library = pytest.importorskip("oodeel.methods")
    from pdepth.compat import oodeel

    return [library.DKNN, oodeel.DKNN]


def network(width: int) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(width, 24), torch.nn.ReLU(), torch.nn.Linear(24, 12), torch.nn.Linear(12, 5)
    )


def loaders(data: str) -> tuple[DataLoader, DataLoader]:
    if data == "digits":
        values = torch.from_numpy(load_digits().data.astype(np.float32))
    else:
        values = torch.randn(500, 30, generator=RNG)
    labels = torch.randint(0, 5, (len(values),), generator=RNG)
    return tuple(
        DataLoader(TensorDataset(values[some], labels[some]), batch_size=32)
        for some in (slice(0, -100), slice(-100, None))
    )


@pytest.mark.parametrize("data", ["normals", "digits"])
@pytest.mark.parametrize("layers", [[1], [0, 2], ["1", "2", "3"]])
@pytest.mark.parametrize("nearest", [1, 20])
def test_scores_are_oodeels(data: str, layers: list[Any], nearest: int) -> None:
    """To the rounding of products in float32; the labels and logits that go with them, too."""
    own, queries = loaders(data)
    model = network(own.dataset.tensors[0].shape[1])
    result = []
    for kind in both():
        detector = kind(nearest=nearest)
        detector.fit(model, own, feature_layers_id=list(layers))
        result.append((detector, *detector.score(queries), detector.score(queries.dataset[:9])))
    (theirs, expected, info, few), (ours, scores, given, some) = result
    assert isinstance(ours, type(theirs))
    assert scores.dtype == expected.dtype
    # Squared distances of unit rows, at most 4: float32 products are this far off.
    scale = 1 if ours.aggregator is None else 1 / ours.aggregator.stds.min()
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-6 * scale)
    np.testing.assert_allclose(some[0], few[0], rtol=0, atol=2e-6 * scale)
    assert (scores[:9] == some[0]).all()
    for name in ("labels", "logits"):
        assert (np.asarray(given[name]) == np.asarray(info[name])).all()
    if ours.aggregator is not None:
        np.testing.assert_allclose(ours.aggregator.stds, theirs.aggregator.stds, rtol=1e-5)


def test_a_score_is_the_definitions_rounded_once() -> None:
    own, held_out = loaders("digits")
    model = network(64)
    detector = both()[1](nearest=7)
    detector.fit(model, own, feature_layers_id=[1])
    with torch.no_grad():
        rows, queries = (
            torch.cat([model[:2](batch) for batch, _ in each]).numpy() for each in (own, held_out)
        )
    rows, queries = (
        each / (np.linalg.norm(each, axis=-1, keepdims=True) + 1e-10) for each in (rows, queries)
    )
    squared = definition.kneighbors(rows, queries, k=7)[0][:, -1]
    assert (detector.score(held_out)[0] == squared.astype(np.float32)).all()


def test_perturbed_inputs_and_mistakes() -> None:
    own, queries = loaders("normals")
    model = network(30)
    result = []
    for kind in both():
        detector = kind(nearest=5, eps=0.05)
        with pytest.raises(AssertionError, match="fit"):
            detector.score(queries)
        with pytest.raises(ValueError, match="feature_layers_id"):
            detector.fit(model, own)
        detector.fit(model, own, feature_layers_id=[1])
        with pytest.raises(NotImplementedError):
            detector.score({1, 2})
        result.append(detector.score(queries)[0])
    np.testing.assert_allclose(*result, rtol=0, atol=2e-6)
