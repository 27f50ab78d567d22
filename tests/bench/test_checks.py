"""What the study of checks times: each check of a run, and what was in its place stays."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow")

from pdepth.bench.studies import checks
from pdepth.embeddings.dataset import Batches
from pdepth.io import array_files, journal

from helpers.spans import QUERIES, SUPPORT, network


@pytest.mark.parametrize("kept", [False, True])
def test_every_check_is_timed(kept: bool) -> None:
    before = Batches._compare, array_files.zlib, journal.locked
    case = checks.Case(len(SUPPORT), len(QUERIES), "1GiB", kept)
    record = checks.measure(network(), SUPPORT, QUERIES, case)
    assert (Batches._compare, array_files.zlib, journal.locked) == before
    seconds, calls = record["seconds"], record["calls"]
    assert seconds.keys() == calls.keys()
    assert (checks.STORE in calls) == kept
    assert calls[checks.FIRST_TWICE] == 2  # of support and of queries
    assert calls[checks.VALUES] == 1
    assert min(seconds.values()) >= 0
    assert 0 < sum(seconds.values()) < record["processor_seconds"]


def test_a_check_that_is_never_called_has_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after its name has changed: the study ends rather than leave it out."""
    monkeypatch.setattr(checks.Costs, "timed", lambda self, check, call: call)
    with pytest.raises(SystemExit, match="expected a call of every check"):
        checks.measure(network(), SUPPORT, QUERIES, checks.Case(1, 1, "1GiB"))
