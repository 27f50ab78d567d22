"""prediction_depth from end to end against the definition, its arguments, and what it reports."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pdepth import definition
from pdepth.depth import prediction_depth
from pdepth.progress import Event, ProbeMeter, RowMeter, format_seconds, watch

K = 3


def blobs(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    x = torch.randn(rows, 6, generator=generator) + 1.2 * nn.functional.one_hot(labels, 6)
    return TensorDataset(x, labels)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Linear(8, 3),
    )  # fmt: skip


def depth(model, support, queries=None, **options):
    settings = {"k": K, "progress": False, "backend": "reference"}
    return prediction_depth(model, support, queries, **(settings | options))


@torch.no_grad()
def by_hand(model, support, queries=None):
    """(depth, undefined, votes, predictions), from a forward pass and the definition alone."""
    model = model.eval()

    def embed(x):
        first = model[0](x)
        second = model[2](first.relu())
        scores = model[5](second.relu())
        return [x, first, second, scores.softmax(1)], scores.argmax(1)

    mine, predictions = embed(support.tensors[0])
    others = [None] * len(mine)
    if queries is not None:
        others, predictions = embed(queries.tensors[0])
    labels = support.tensors[1].numpy()
    votes = np.stack(
        [definition.probe_votes(s, labels, q, k=K).votes for s, q in zip(mine, others, strict=True)]
    )
    return (*definition.depth_from_votes(votes, predictions), votes, predictions.numpy())


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("early_exit", [False, True])
@pytest.mark.parametrize("held_out", [False, True])
def test_depths_are_the_definitions(held_out, early_exit, backend):
    support, queries = blobs(40), blobs(25, seed=1) if held_out else None
    result = depth(network(), support, queries, early_exit=early_exit, backend=backend)
    wanted, undefined, votes, predictions = by_hand(network(), support, queries)
    assert len(set(wanted)) > 2  # the case is not a trivial one
    np.testing.assert_array_equal(result.depth, wanted)
    np.testing.assert_array_equal(result.undefined, undefined)
    np.testing.assert_array_equal(result.votes[result.known], votes[result.known])
    np.testing.assert_array_equal(result.predictions, predictions)
    np.testing.assert_array_equal(result.labels, (queries or support).tensors[1])
    assert result.probes == ("input", "0", "2", "softmax")
    assert result.widths == (6, 8, 8, 3)
    assert result.leave_one_out is not held_out
    assert result.meta["model"] == "Sequential"


OPTIONS = {"weights": "exp", "temperature": 0.5, "metric": "cosine"}


@pytest.mark.parametrize("reference", ["prediction", "label", "last_probe", "array"])
def test_every_way_to_vote_reaches_the_search(reference):
    """The same as from the embeddings, by hand; several k, and the work that progress reports."""
    model, support, queries = network(), blobs(40), blobs(25, seed=1)
    given = np.arange(25) % 3 if reference == "array" else reference
    events = []
    found = depth(
        model, support, queries, k=[9, 2], reference=given, progress=events.append, **OPTIONS
    )
    embeddings = []
    with torch.no_grad():
        for x in (support.tensors[0], queries.tensors[0]):
            first = model.eval()[0](x)
            second = model[2](first.relu())
            embeddings.append([x, first, second, model[5](second.relu()).softmax(1)])
    labels, asked = support.tensors[1].numpy(), queries.tensors[1].numpy()
    predictions = embeddings[1][-1].argmax(1).numpy()
    for k in (9, 2):
        votes = np.stack(
            [
                definition.probe_votes(s, labels, q, k=k, **OPTIONS).votes
                for s, q in zip(*embeddings, strict=True)
            ]
        )
        against = {
            "prediction": predictions, "label": asked, "last_probe": votes[-1], "array": given,
        }[reference]  # fmt: skip
        np.testing.assert_array_equal(
            found[k].depth, definition.depth_from_votes(votes, against)[0]
        )
        assert (found[k].k, found[k].reference) == (k, reference)
        assert found[k].meta["model"] == "Sequential"
        assert found[k].meta["weights"] == "exp"
    depths = np.minimum(found[9].depth, found[2].depth)
    work = sum(w * (depths <= p + 1).sum() for p, w in enumerate((6, 8, 8, 3)))
    assert events[-1].done == 2 * 40 * work
    assert max(e.done for e in events[:-1] if e.stage == "probes") <= events[-1].done


def test_counted_votes_are_all_asked():
    result = depth(network(), blobs(40), return_counts=True)
    assert result.known.all()
    assert result.margins.shape == result.tied.shape == (4, 40)
    assert ((result.margins == 0) == result.tied).all()


def same(one, other):
    np.testing.assert_array_equal(one.depth, other.depth)
    np.testing.assert_array_equal(one.votes, other.votes)
    np.testing.assert_array_equal(one.labels, other.labels)


def test_a_shuffling_loader_gives_the_datasets_order():
    data = blobs(40)
    plain = depth(network(), data, blobs(20, 1), batch_size=8)
    loaders = [DataLoader(d, batch_size=8, shuffle=True) for d in (data, blobs(20, 1))]
    same(depth(network(), *loaders), plain)


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        yield from self.data


def test_streams_of_unknown_length():
    plain = depth(network(), blobs(40), blobs(20, 1), batch_size=8)
    same(depth(network(), Stream(blobs(40)), Stream(blobs(20, 1)), batch_size=8), plain)


def test_the_users_layers():
    assert depth(network(), blobs(20), layers=["2"]).probes == ("input", "2", "softmax")


def test_the_model_comes_back_as_it_was():
    model = network().train()
    model[4].eval()
    before = [m.training for m in model.modules()]
    same(depth(model, blobs(40), device="cpu"), depth(network(), blobs(40)))
    assert [m.training for m in model.modules()] == before
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (
            {"k": 20},
            ValueError,
            r"k: expected at most 19 \(support has 20 rows, less the row .*\), got 20",
        ),
        (
            {"k": 21, "queries": blobs(4)},
            ValueError,
            r"k: expected at most 20 \(support has 20 rows\), got 21",
        ),
        ({"k": 0}, ValueError, "k: expected an integer >= 1, got 0"),
        ({"k": 2.0}, TypeError, r"k: expected an integer, got 2\.0"),
        ({"k": True}, TypeError, "k: expected an integer, got True"),
        ({"k": [3, 20]}, ValueError, r"k: expected at most 19 \(support has 20 rows, .*\), got 20"),
        ({"metric": "l1"}, ValueError, "metric: expected one of sqeuclidean, cosine, inner_p"),
        (
            {"weights": "far"},
            ValueError,
            "weights: expected one of uniform, distance, exp, got 'far'",
        ),
        ({"temperature": 2}, ValueError, "temperature: expected None unless weights='exp', got 2"),
        ({"reference": "truth"}, ValueError, "reference: expected one of .* integers, got 'truth'"),
        ({"reference": np.arange(3)}, ValueError, "reference: expected 20 entries, got 3"),
        ({"batch_size": 0}, ValueError, "batch_size: expected an integer >= 1, got 0"),
        ({"num_threads": 0}, ValueError, "num_threads: expected an integer >= 1, got 0"),
        (
            {"device": "toaster"},
            ValueError,
            "device: expected a device that can be used, got 'toaster'",
        ),
        ({"layers": ["9"]}, ValueError, "layers: expected names of .*, got '9'"),
        (
            {"memory": "lots"},
            ValueError,
            "memory: expected bytes or an amount such as .*, got 'lots'",
        ),
        (
            {"memory": 900},
            MemoryError,
            "memory: expected at least 9.* for input, of .* 6, got 900 b",
        ),
        ({"queries": 3}, TypeError, "queries: expected a DataLoader, .*, got a int"),
        (
            {"queries": TensorDataset(torch.zeros(4, 6))},
            ValueError,
            "queries: expected .* rows, got .* without labels",
        ),
        (
            {"progress": "loud"},
            TypeError,
            "progress: expected True, False or a callable, got a str",
        ),
        ({"backend": "abacus"}, ValueError, "backend: expected one of auto, .*, got 'abacus'"),
    ],
)
def test_wrong_arguments_show_before_the_forward_pass(options, error, sentence):
    passes = []
    model = network()
    model.register_forward_hook(lambda module, args, output: passes.append(len(output)))
    with pytest.raises(error, match=sentence) as caught:
        depth(model, blobs(20), **options)
    assert all(rows <= 3 for rows in passes)  # no more than the dry passes
    assert "\n" not in str(caught.value)


def test_k_of_a_stream_is_checked_when_its_length_is_known():
    with pytest.raises(
        ValueError, match=r"k: expected at most 19 \(support has 20 rows, .*\), got 30"
    ):
        depth(network(), Stream(blobs(20)), k=30)


def test_a_stream_has_to_fit_since_it_cannot_be_read_again():
    need = (6 + 8 + 8 + 3) * 4 * 30
    depth(network(), blobs(20), Stream(blobs(10)), memory=need)
    with pytest.raises(MemoryError, match="30 rows"):
        depth(network(), blobs(20), Stream(blobs(10)), memory=need - 1)
    need = ((6 + 8 + 8 + 3) * 4 + 4 * 16) * 20  # cosine takes a norm and a factor of each row
    depth(network(), Stream(blobs(20)), metric="cosine", memory=need)
    with pytest.raises(MemoryError, match="20 rows"):
        depth(network(), Stream(blobs(20)), metric="cosine", memory=need - 1)


def test_queries_of_another_shape():
    model = nn.Sequential(nn.AdaptiveAvgPool1d(6), network())
    other = TensorDataset(torch.zeros(5, 9), torch.zeros(5).long())
    sentence = r"queries: expected inputs like the support's, of shape \(6,\), got inputs .* \(9,\)"
    with pytest.raises(ValueError, match=sentence):
        depth(model, blobs(20), other)


def test_an_interruption_comes_through():
    def interrupt(event):
        if event.stage == "support" and event.done:
            raise KeyboardInterrupt

    model = network().train()
    with pytest.raises(KeyboardInterrupt):
        depth(model, blobs(20), progress=interrupt)
    assert all(m.training for m in model.modules())


def test_an_observer_hears_of_every_stage():
    events: list[Event] = []
    depth(
        network(), blobs(40), blobs(20, 1), batch_size=8, early_exit=False, progress=events.append
    )
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["note", "support", "queries", "probes"]
    support = [event for event in events if event.stage == "support"]
    assert [e.done for e in support] == [8, 16, 24, 32, 40]
    assert [e.finished for e in support] == [False] * 4 + [True]
    assert re.fullmatch(r"[\d,]+ rows, [\d,]+ rows/s, .* left", support[0].detail)
    probes = [event for event in events if event.stage == "probes"]
    assert [e.finished for e in probes] == [False] * (len(probes) - 1) + [True]
    assert "20 active queries" in probes[0].detail
    assert probes[-1].done == 2 * 20 * 40 * (6 + 8 + 8 + 3)


def test_plain_lines_where_there_is_no_terminal(capsys):
    depth(network(), blobs(40), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert re.match(r"embeddings: 4\.0 kB in memory for 40 rows x 4 probes \(.* free\)", lines[0])
    assert re.match(r"support 100 %: 40 rows, [\d,]+ rows/s, ", lines[1])
    assert re.match(r"probes 100 %: 4 of 4 probes searched, ", lines[2])


def test_silence(capsys):
    depth(network(), blobs(20), progress=False)
    assert capsys.readouterr() == ("", "")


def test_bars_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with watch(True, stream) as observer:
        observer(Event("note", "embeddings: [little]"))
        rows = RowMeter(observer, "support", 10)
        rows(5)
        rows(10, finished=True)
        search = ProbeMeter(observer, ["a", "b"], [4, 2], 10)
        search(1, 0.5, 10)
        search.finish([0, 10])
    text = stream.getvalue()
    assert "embeddings: [little]" in text
    assert "10 rows" in text
    assert "1 of 2 probes searched" in text


def test_work_ahead_is_counted_with_the_active_queries():
    events: list[Event] = []
    meter = ProbeMeter(events.append, ["a", "b", "c"], [5, 3, 2], 100)
    meter(2, 0.5, 10)
    meter(2, 1.0, 10)
    meter(1, 0.0, 4)
    assert events[0].done == 2 * 10 * 100 * 2 * 0.5
    assert events[0].total == 2 * 10 * 100 * (2 + 3 + 5)
    assert events[2].total == 2 * 100 * (10 * 2 + 4 * 3 + 4 * 5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_clock(seconds, text):
    assert format_seconds(seconds) == text
