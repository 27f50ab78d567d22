"""The journal of a run: what it keeps, whose it is, and of which version."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pdepth.arrays.encoded import EncodedVotes
from pdepth.io.journal import ABOUT, Journal, OtherRun
from pdepth.search.chunks import KeptLists

ABOUT_RUN = {"k": "5", "the network": "0123456789abcdef0123456789abcdef"}


def test_votes_come_back_for_the_same_queries(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run", ABOUT_RUN)
    queries = np.array([3, 8])
    votes = [
        EncodedVotes(np.array([[1, 0]], np.int32), margins=np.array([[2, 7]], np.int32)),
        EncodedVotes(np.array([[2, 2]], np.int32), tied=np.array([[True, False]])),
    ]
    journal.write_votes(4, 2, queries, votes)
    journal.close()
    journal = Journal(tmp_path / "run", ABOUT_RUN)
    known = journal.read_votes(4, 2, queries)
    assert known is not None
    for ours, others in zip(known, votes, strict=True):
        for (name, array), (other_name, other) in zip(ours.arrays(), others.arrays(), strict=True):
            assert name == other_name
            assert array.dtype == other.dtype
            np.testing.assert_array_equal(array, other)
    assert journal.read_votes(4, 2, np.array([3, 9])) is None
    assert journal.read_votes(4, 1, queries) is None
    journal.remove("votes-004-00002")
    assert journal.read_votes(4, 2, queries) is None
    journal.close()


@pytest.mark.parametrize("entry", [{}, {"journal": "1"}])
def test_a_journal_of_version_1_is_refused(entry: dict[str, str], tmp_path: Path) -> None:
    """Its directory stays as it is, and is not locked."""
    path = tmp_path / "run"
    path.mkdir()
    about = json.dumps({"kind": "pdepth run", **entry, **ABOUT_RUN})
    (path / ABOUT).write_text(about)
    for _ in range(2):
        with pytest.raises(OtherRun) as caught:
            Journal(path, ABOUT_RUN)
        assert str(caught.value) == (
            f"run_dir {path} holds a journal of version 1, and this pdepth writes version 3; use "
            "another directory to begin anew."
        )
    assert (path / ABOUT).read_text() == about


def test_another_programs_file_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / ABOUT).write_text('{"kind": "notes"}')
    with pytest.raises(FileExistsError, match="about.json was not written by pdepth"):
        Journal(tmp_path, ABOUT_RUN)


class Reading:
    chunk_rows = 10

    def __init__(self, fingerprint: list[int]) -> None:
        self.fingerprint = np.array(fingerprint)


def test_lists_resume_where_everything_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of other values, probes or queries begin anew, and stay as they were."""
    monkeypatch.setattr(KeptLists, "pause", -1.0)
    journal = Journal(tmp_path / "run", ABOUT_RUN)
    queries = np.array([1, 4, 5])
    rng = np.random.default_rng(0)
    lists = [(rng.random((3, 2)), rng.integers(0, 9, (3, 2))) for _ in range(2)]
    KeptLists(journal, 2, 4, queries).keep(Reading([7, 8]), lists, 30)

    def resumed(first: int, end: int, queries: list[int], fingerprint: list[int]) -> int:
        empty = [(np.full((len(queries), 2), np.nan), np.full((len(queries), 2), -1))] * 2
        empty = [(distances.copy(), rows.copy()) for distances, rows in empty]
        kept = KeptLists(journal, first, end, np.array(queries))
        rows = kept.resume(Reading(fingerprint), empty)
        for ours, others in zip(empty, lists, strict=True):
            if rows:
                np.testing.assert_array_equal(ours[0], others[0])
                np.testing.assert_array_equal(ours[1], others[1])
            else:
                assert np.isnan(ours[0]).all()
                assert (ours[1] == -1).all()
        return rows

    assert resumed(2, 4, [1, 4, 5], [7, 8]) == 30
    assert resumed(2, 4, [1, 4, 5], [7, 9]) == 0
    assert resumed(1, 4, [1, 4, 5], [7, 8]) == 0
    assert resumed(2, 5, [1, 4, 5], [7, 8]) == 0
    assert resumed(2, 4, [1, 4], [7, 8]) == 0
    assert KeptLists.first_probe(journal, 4, queries) == 2
    assert KeptLists.first_probe(journal, 3, queries) is None
    assert KeptLists.first_probe(journal, 4, queries[1:]) is None
    journal.remove(KeptLists.NAME)
    assert resumed(2, 4, [1, 4, 5], [7, 8]) == 0
    journal.close()


def test_lists_are_not_written_at_every_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "run", ABOUT_RUN)
    kept = KeptLists(journal, 0, 1, np.arange(2))
    kept.keep(Reading([1]), [(np.zeros((2, 1)), np.zeros((2, 1), np.int64))], 10)
    assert not (tmp_path / "run" / "lists.npz").exists()
    journal.close()
