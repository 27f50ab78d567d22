"""The figure of an ensemble's groups: what is drawn, looked up in the figure itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from pdepth.analysis.ensemble import Ensemble
from pdepth.analysis.groups import groups as find_groups
from pdepth.report.figures.groups import figure_of, plot_groups


def test_the_figure_of_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, ensemble = 90, Ensemble(np.arange(90) % 3)
    ensemble.layers = 3
    ensemble.depths = rng.integers(0, 3, (2, n, 4)).astype(np.int32)
    ensemble.predicted = rng.integers(0, 4, (2, n, 3)).astype(np.int32)
    ensemble.names = ("a", "b")
    groups = find_groups(*ensemble.mean_depth())
    drawn = figure_of(ensemble, groups, rng.random((n, 5, 5)), ["x", "y", "z"])
    assert drawn.get_suptitle() == "Depth of 90 examples under 2 networks"
    text = " ".join(t.get_text() for ax in drawn.axes for t in ax.texts)
    for name, rows in groups.corners.items():
        assert f"{len(rows)}" in text, name
    shown = [ax for ax in drawn.axes if ax.images]
    assert len(shown) == sum(min(5, len(rows)) for rows in groups.corners.values())
    columns = ensemble.examples()
    first = next(rows[0] for rows in groups.corners.values() if len(rows))
    label, consensus = "xyz"[first % 3], "xyz"[columns["consensus"][0][first]]
    share = f"by {100 * columns['consistency'][0][first]:.0f} %"
    assert shown[0].get_xlabel().split("\n") == [f"label {label}", f"seen as {consensus}", share]
    plot_groups(ensemble, groups, tmp_path / "g.png")
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")
    dots = next(ax for ax in figure_of(ensemble, groups, None, None).axes).collections[0]
    assert len(dots.get_offsets()) > 4
    both = groups.depths[:, ~np.isnan(groups.depths).any(axis=0)]
    np.testing.assert_allclose(dots.get_offsets().max(axis=0), both.max(axis=1), atol=0.2)
    with pytest.raises(ValueError, match="images: expected 90, one per example, got 3"):
        plot_groups(ensemble, groups, tmp_path / "h.png", images=np.zeros((3, 4, 4)))
    with pytest.raises(ValueError, match="path: expected a suffix of"):
        plot_groups(ensemble, groups, tmp_path / "h.txt")
    assert not list(tmp_path.glob("h.*"))
