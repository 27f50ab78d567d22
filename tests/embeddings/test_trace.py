"""What a forward pass shows: where all that the network knows of a row comes by, and where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import Caller, at_rest
from pdepth.embeddings.inspection import traced
from pdepth.embeddings.trace import Trace, tensors_in

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Free(nn.Module):
    """Linear layers a to e of width 6 and a head, run as a function says."""

    def __init__(self, way: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        for name in "abcde":
            setattr(self, name, nn.Linear(6, 6))
        self.head, self.act, self.way = nn.Linear(6, 3), nn.ReLU(inplace=True), way

    def forward(self, x: Tensor) -> Any:
        return self.way(self, x)


def trace_of(model: nn.Module, *args: Any, rows: int = 2, **kwargs: Any) -> Trace:
    with at_rest(model):
        return traced(Caller(model), Inputs(args, kwargs, rows))[0]


def cuts(model: nn.Module, *args: Any, **kwargs: Any) -> list[str]:
    """The modules, by name and in order, whose output is a cut; "@2" for a second run."""
    trace = trace_of(model, *args, **kwargs)
    return [
        call.name + (f"@{call.number}" if trace.times[call.name] > 1 else "")
        for call in trace.root.walk()
        if call.name and trace.is_cut([call.node])
    ]


def test_all_layers_of_a_chain_are_cuts() -> None:
    model = Free(lambda m, x: m.head(m.b(m.act(m.a(x)))))
    assert cuts(model, X) == ["a", "act", "b", "head"]


def test_a_shortcut_passes_by_what_it_spans() -> None:
    model = Free(lambda m, x: m.head(m.d(m.c(m.b(m.a(x))) + m.a(x))))
    assert cuts(model, X) == ["d", "head"]
    model = Free(lambda m, x: m.head(m.d((y := m.a(x)) + m.c(m.b(y)))))
    assert cuts(model, X) == ["a", "d", "head"]


def test_parallel_branches_are_a_cut_together_only() -> None:
    trace = trace_of(Free(lambda m, x: m.head(m.b(y := m.a(x)) * m.c(y))), X)
    node = {call.name: call.node for call in trace.root.walk()}
    assert trace.is_cut([node["b"], node["c"]])
    assert not trace.is_cut([node["b"]])
    assert not trace.is_cut([node["c"]])
    assert trace.branches(0, len(trace.parents)) == [node["b"], node["c"]]


def test_concatenation_and_parts_of_values() -> None:
    model = Free(lambda m, x: m.head(m.c(torch.cat([m.a(x)[:, :3], m.b(x)[:, 3:]], dim=1))))
    assert cuts(model, X) == ["c", "head"]
    model = Free(lambda m, x: m.head(m.b(torch.cat(m.a(x).chunk(2, dim=1)[::-1], dim=1))))
    assert cuts(model, X) == ["a", "b", "head"]


def in_place_add(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    y += m.b(y)
    return m.head(m.c(y))


def in_place_activation(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    z = m.act(y)
    return m.head(z)


def write_into_a_view(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    y[:, :2] = m.b(x)[:, :2]
    return m.head(m.c(y))


def write_into_fresh_memory(m: Any, x: Tensor) -> Any:
    y = torch.zeros(len(x), 6)
    y[:, :3] = m.b(m.a(x))[:, :3]
    return m.head(y)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (in_place_add, ["a", "c", "head"]),
        (in_place_activation, ["a", "act", "head"]),
        (write_into_a_view, ["c", "head"]),
        (write_into_fresh_memory, ["a", "b", "head"]),
    ],
)
def test_operations_in_place(way: Any, expected: list[str]) -> None:
    """A layer whose value is changed later is a cut by what it gave before."""
    assert cuts(Free(way), X) == expected


@pytest.mark.parametrize(
    "reshape",
    [
        lambda x: x.view(len(x), 2, 3).transpose(1, 2).reshape(len(x), 6),
        lambda x: x.unsqueeze(1).expand(-1, 4, -1).mean(dim=1),
        lambda x: x.reshape(len(x), 3, 2).permute(0, 2, 1).flatten(1).contiguous(),
        lambda x: x.t().t(),
        lambda x: x[:, [5, 4, 3, 2, 1, 0]],
    ],
)
def test_views_carry_all_values(reshape: Callable[[Tensor], Tensor]) -> None:
    assert cuts(Free(lambda m, x: m.head(m.b(reshape(m.a(x))))), X) == ["a", "b", "head"]


def test_gradients_are_not_needed() -> None:
    def way(m: Any, x: Tensor) -> Any:
        with torch.no_grad():
            x = m.b(m.a(x)).detach()
        with torch.inference_mode():
            x = m.c(x)
        return m.head(x.clone())

    assert cuts(Free(way), X) == ["a", "b", "c", "head"]


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(9, 6), nn.Embedding(5, 6)
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        x = self.mix(x)
        if attention_mask is not None:
            x = x * attention_mask.unsqueeze(-1).to(x.dtype)
        return self.head(x.sum(dim=1))


def test_integers_lead_through_an_embedding() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert cuts(Tokens(), ids) == ["words", "mix", "head"]  # positions are no values of a row


def test_a_mask_is_no_path_around_a_layer() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    for mask in (torch.ones(2, 3, dtype=torch.long), ids != 0):
        assert cuts(Tokens(), input_ids=ids, attention_mask=mask) == ["words", "mix", "head"]


def test_a_mask_that_the_network_makes_of_its_input_is_none_either() -> None:
    class Own(Tokens):
        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.mix(self.words(input_ids))
            return self.head(x.masked_fill((input_ids == 0).unsqueeze(-1), 0).sum(dim=1))

    assert cuts(Own(), torch.tensor([[1, 2, 0], [4, 5, 6]])) == ["words", "mix", "head"]


def test_images_of_bytes() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x.float() / 255).mean(dim=(2, 3)))

    assert cuts(Bytes(), torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)) == ["conv", "head"]


def test_auxiliary_heads_lead_nowhere() -> None:
    model = Free(lambda m, x: (m.head(m.b(y := m.a(x))), m.c(y), m.d(m.c(y))))
    assert cuts(model, X) == ["a", "b", "head"]
    trace = trace_of(model, X)
    runs = {call.name: call.node for call in trace.root.walk()}
    assert trace.reaches_output(runs["b"])
    assert not trace.reaches_output(runs["d"])
    assert not trace.has_weights_after(runs["head"])
    assert trace.has_weights_after(runs["b"])


def test_weights_that_are_computed_from_others_are_weights() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)), nn.Linear(6, 3),
    )  # fmt: skip
    trace = trace_of(model, X)
    assert sum(trace.weighted) == 3
    assert [n for n in cuts(model, X) if n.isdigit()] == ["0", "1", "2", "3"]


def test_a_call_that_raises_and_is_caught_leaves_the_others_in_order() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            self.inner(x)
            raise RuntimeError("not these")

    def way(m: Any, x: Tensor) -> Any:
        try:
            x = m.picky(x)
        except RuntimeError:
            x = m.a(x)
        return m.head(m.b(x))

    model = Free(way)
    model.picky = Picky()
    assert cuts(model, X) == ["a", "b", "head"]
    trace = trace_of(model, X)
    by_name = {call.name: call for call in trace.root.walk()}
    assert by_name["a"].parent is by_name["b"].parent is trace.root
    assert by_name["picky"].node is None


def test_runs_of_one_module_are_numbered() -> None:
    model = Free(lambda m, x: m.head(m.a(m.b(m.a(x)))))
    assert cuts(model, X) == ["a@1", "b", "a@2", "head"]


def test_scores_that_do_not_depend_on_the_input() -> None:
    model = Free(lambda m, x: m.head(torch.ones(2, 6)) + 0 * torch.zeros_like(x)[:, :3])
    trace = trace_of(model, X)
    assert trace.output is None
    assert cuts(model, X) == []


def test_two_inputs_meet() -> None:
    def way(m: Any, x: Any) -> Any:
        return m.head(m.c(m.a(x) + m.b(x)))

    class Two(Free):
        def forward(self, left: Tensor, right: Tensor) -> Any:
            return self.head(self.c(self.a(left) + self.b(right)))

    trace = trace_of(Two(way), X, X.flip(0))
    node = {call.name: call.node for call in trace.root.walk()}
    assert trace.is_cut([node["c"]])
    assert trace.is_cut([node["a"], node["b"]])
    assert not trace.is_cut([node["a"]])


def test_attention_is_seen_by_any_kernel() -> None:
    def of(query: Tensor) -> bool:
        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.q, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

            def forward(self, x: Tensor) -> Tensor:
                q = self.q(x)
                return self.head(F.scaled_dot_product_attention(q, q, q).mean(dim=1))

        trace = trace_of(Attention().to(query.device, query.dtype), query)
        return trace.attends(trace.root)

    x = torch.randn(2, 4, 6)
    assert of(x)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert of(x)
    assert of(x.double())
    plain = trace_of(Free(lambda m, x: m.head(m.a(x))), X)
    assert not plain.attends(plain.root)


def test_hooks_are_gone_after_a_pass_and_after_an_error() -> None:
    model = Free(lambda m, x: m.head(m.a(x)))
    trace_of(model, X)
    with pytest.raises(ValueError, match="runs on the data"):
        trace_of(model, X[:, :5])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_tensors_within_outputs() -> None:
    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    packed = nn.utils.rnn.pack_sequence([three, two])
    value = {"a": one, "b": [two, (three, None)], "c": "text", "d": packed}
    assert [t.numel() for t in tensors_in(value)] == [1, 2, 3, 5]
