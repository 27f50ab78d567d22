"""Inspect a network: a pass over the first rows shows where it is probed, and what comes there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import (
    Caller,
    call,
    form_of,
    must_cast,
    probabilities,
    runs_channels_last,
    unwrap,
)
from pdepth.embeddings.forward import scores, values_of
from pdepth.embeddings.heads import resolve
from pdepth.embeddings.layout import Layout, ranges_of
from pdepth.embeddings.placement import Placement, Probe, ProbeOptions, check_pools, place
from pdepth.embeddings.pooling import Mask, grid_for
from pdepth.embeddings.trace import Call, Recorder, Trace

DRY_ROWS = (3, 2, 5, 7)  # the first that is no other size of the inputs, lest axes be mistaken
REPEATED = 1e-3  # of a probability, from which on two passes differ
INPUT, SOFTMAX = Probe("input", "", "input"), Probe("softmax", "", "output", "softmax")


def inspect(
    model: nn.Module, options: ProbeOptions, inputs: Inputs, *, varies: bool = False
) -> Layout:
    """Place a network's probes by a forward pass over the first rows, and see their values.

    Call it inside `at_rest`. varies: rows of other batches have other shapes. Raises ValueError for
    an output that is no class scores, for chosen modules that do not run or give no row for each
    input, and for a network whose layers cannot be seen.
    """
    layout, inputs = placed(model, options, inputs, varies=varies)
    dry = _dry(inputs)
    values = values_of(layout, dry)
    layout = narrowed(_with_shapes(layout, values), inputs, options.max_width)
    again = probabilities(scores(layout, dry), layout.form)
    if torch.allclose(values[-1], again, rtol=0.0, atol=REPEATED, equal_nan=True):
        return layout
    doubt = (
        "the network gives other class scores when it runs again on the same rows, as dropout or a "
        "random transform within it does; depths are those of one draw"
    )
    return replace(layout, doubts=(*layout.doubts, doubt))


def placed(
    model: nn.Module, options: ProbeOptions, inputs: Inputs, *, varies: bool = False
) -> tuple[Layout, Inputs]:
    """`inspect`, but for the shapes and types of values; and the inputs, whose rows are known."""
    dry = _dry(inputs)
    caller = Caller(unwrap(model), options.output)
    caller = replace(caller, casts=must_cast(caller, dry))
    caller = replace(caller, channels_last=runs_channels_last(caller, dry))
    trace, returned, placement = _placed(caller, dry, options)
    rows = len(caller.scores(returned, dry.rows))
    if inputs.rows is None:
        dry = inputs = replace(inputs, rows=rows, whole=True)
    form = form_of(caller, returned, trace.last_operations)
    graph = dry.graph
    nodes = None if graph is None or graph.num_nodes == rows else int(graph.num_nodes)
    _check_evaluates(caller.model)
    _check_seen(trace, placement, options)
    check_pools(options, placement)
    probes = [replace(p, pool=options.pool_of(p.name, p.pool)) for p in placement.probes]
    calls = {(c.name, c.number): c for c in trace.root.walk()}
    by_name = {p.name: _shape_at(calls[p.module, p.call], p) for p in probes}
    probes, mask, doubts = resolve(caller, inputs, probes, by_name)
    varies = varies or _has_padding(caller, inputs, mask)
    notes = []
    if form in ("logit", "probability"):
        threshold = "0" if form == "logit" else "0.5"
        notes.append(f"one {form} for each row: two classes, 1 where it is above {threshold}")
    if varies:
        pooled_now = [_of_any_length(p, by_name[p.name]) for p in probes]
        changed = [p.name for p, q in zip(probes, pooled_now, strict=True) if p != q]
        if changed:
            where = ranges_of([probe.name for probe in probes], changed)
            notes.append(f"rows differ in length: averaged over their positions at {where}")
        probes = pooled_now
        if mask is None and dry.graph is None:
            doubts.append(
                "rows differ in length and nothing says which positions are padding, so that "
                "padding within a batch votes; give the network a mask, or batches of one length"
            )
    accepted = set(caller.accepted(dry.kwargs))
    if accepted and (left_out := sorted(set(dry.kwargs) - accepted)):
        notes.append(f"not given to the network, which does not take it: {', '.join(left_out)}")
    first, note = _input_probe(caller, dry, options, varies, nodes is not None)
    notes += [note] if note else []
    layout = Layout(
        probes=(*first, *probes, SOFTMAX),
        shapes=(),
        dtypes=(),
        caller=caller,
        form=form,
        mask=mask,
        rule=placement.rule,
        notes=tuple(notes),
        doubts=(*(f"not probed: {sentence}" for sentence in placement.dropped), *doubts),
    )
    return layout, inputs


def _placed(caller: Caller, inputs: Inputs, options: ProbeOptions) -> tuple[Trace, Any, Placement]:
    """A trace of a forward pass, what it returned, and the probes that it shows.

    Of several values the first alone is followed, too, as others may be a condition or an adjacency
    that each layer takes; what shows more is returned. Comparisons are followed where nothing else
    shows a layer.
    """
    best: tuple[Trace, Any, Placement] | None = None
    for first_only, through_comparisons in ((False, False), (True, False), (False, True)):
        if first_only and len(caller.followed(inputs)) < 2:
            continue
        if through_comparisons and best is not None and best[2].probes:
            break
        trace, returned = traced(
            caller, inputs, first_only=first_only, through_comparisons=through_comparisons
        )
        rows = len(caller.scores(returned, inputs.rows))
        graph = inputs.graph
        nodes = None if graph is None or graph.num_nodes == rows else int(graph.num_nodes)
        alone = inputs.sliceable and inputs.rows is not None
        placement = place(trace, options, rows, nodes, alone=alone)
        if best is None or len(placement.probes) > len(best[2].probes):
            best = trace, returned, placement
    assert best is not None
    return best


def traced(
    caller: Caller,
    inputs: Inputs,
    *,
    first_only: bool = False,
    through_comparisons: bool = False,
) -> tuple[Trace, Any]:
    """Run a network once and record what it does; the trace, and what it returned.

    first_only: follow the first of the tensors that hold values, and no others.
    through_comparisons: see `Recorder`.
    """
    moved = caller.moved(inputs)
    followed = [tensor for _, tensor in caller.followed(moved)]
    recorder = Recorder(
        caller.model,
        followed[:1] if first_only else followed,
        through_comparisons=through_comparisons,
    )
    with recorder.recording():
        returned = call(caller.run, moved)
        scores = caller.raw_scores(returned)
    return recorder.trace(scores if isinstance(scores, Tensor) else None), returned


def _dry(inputs: Inputs) -> Inputs:
    """The first few rows, as many as no other axis of the inputs is long."""
    sizes = {size for _, tensor in inputs.tensors() for size in tensor.shape[1:]}
    fitting = [n for n in DRY_ROWS if n not in sizes and (inputs.rows is None or n <= inputs.rows)]
    return inputs.first(fitting[0] if fitting else DRY_ROWS[1])


def _has_padding(caller: Caller, inputs: Inputs, mask: Mask | None) -> bool:
    """Whether some of the rows are shorter than others."""
    valid = None if mask is None else mask.read(caller, inputs)
    return valid is not None and not bool(valid.all())


def _check_evaluates(model: nn.Module) -> None:
    """Raise ValueError where a network put itself into training mode while it ran."""
    if any(module.training for module in model.modules()):
        raise ValueError(
            "model: expected a network that stays in evaluation mode, got one that calls train() "
            "in its forward pass; remove that call."
        )


def measured(layout: Layout, inputs: Inputs) -> Layout:
    """A layout with the shapes and types that its probes have on some rows."""
    return _with_shapes(layout, values_of(layout, _dry(inputs)))


def _with_shapes(layout: Layout, values: Sequence[Tensor]) -> Layout:
    return replace(
        layout,
        shapes=tuple(tuple(value.shape[1:]) for value in values),
        dtypes=tuple(value.dtype for value in values),
    )


def _shape_at(call: Call, probe: Probe) -> tuple[int, ...]:
    """Of the first of the values that a probe takes."""
    if probe.at == "input":
        return call.entry_shape
    return call.shapes[probe.parts[0]] if call.shapes else ()


def _check_seen(trace: Trace, placement: Placement, options: ProbeOptions) -> None:
    """Raise ValueError where a network has layers and none of them can be probed."""
    if placement.probes or options.layers != "auto":
        return
    layers = sum(
        weighted and trace.reaches_output(node) for node, weighted in enumerate(trace.weighted)
    )
    if layers < 2 and not placement.dropped:
        return
    model = trace.root.module
    reason = "; ".join(placement.dropped)
    if isinstance(model, torch.jit.ScriptModule):
        reason = "a torch.jit module runs as one piece; pass the network it was made from"
    elif isinstance(model, torch.fx.GraphModule):
        reason = "an exported module runs as one piece; pass the network it was made from"
    elif not reason:
        reason = (
            "its layers are not called as modules, or a shortcut passes by all of them; name "
            "modules by layers=[...], or run it yourself and pass its embeddings to "
            "pdepth.depth_from_embeddings"
        )
    raise ValueError(
        "model: expected a network with a layer that can be probed between its input and its "
        f"class scores, got a {type(model).__name__}: {reason}."
    )


def _input_probe(
    caller: Caller, inputs: Inputs, options: ProbeOptions, varies: bool, of_graphs: bool
) -> tuple[list[Probe], str]:
    """The input's probe, or none with the reason."""
    if options.input is False:
        return [], ""
    tensors = [tensor for _, tensor in caller.followed(inputs)]
    reason = ""
    if of_graphs:
        reason = "graphs have nodes of any number"
    elif varies:
        reason = "rows differ in length"
    elif (
        options.input is None
        and any(isinstance(module, nn.Embedding) for module in caller.model.modules())
        and all(not tensor.is_floating_point() and tensor.ndim <= 2 for tensor in tensors)
    ):
        reason = "token ids are names, not values"
    elif any(tensor.shape[:1] != (inputs.rows,) for tensor in tensors):
        reason = "it has not one row for each prediction"
    if not reason:
        return [replace(INPUT, pool=options.own_pool("input"))], ""
    if options.input:
        raise ValueError(f"input: expected None or False for this data, got True: {reason}.")
    return [], f"the input is no probe: {reason}"


def _of_any_length(probe: Probe, shape: tuple[int, ...]) -> Probe:
    """A probe whose value has one width whatever the length."""
    if probe.layer is None and probe.pool == "flatten" and len(shape) > 2:
        return replace(probe, pool="mean")
    return probe


def narrowed(layout: Layout, inputs: Inputs, max_width: int | None) -> Layout:
    """A layout in which no probe but the softmax is wider, where averaging can help."""
    if max_width is None:
        return layout
    probes = [
        narrower(probe, shape, max_width)
        for probe, shape in zip(layout.probes, layout.shapes, strict=True)
    ]
    averaged = with_grids(layout, probes, max_width)
    return layout if averaged is layout else measured(averaged, inputs)


def narrower(probe: Probe, shape: tuple[int, ...], max_width: int) -> Probe:
    """A probe whose values, of this shape a row, are averaged where they are wider."""
    if probe.pool != "flatten":
        return probe
    return replace(probe, grid=grid_for(shape, max_width, probe.tokens))


def with_grids(layout: Layout, probes: Sequence[Probe], max_width: int) -> Layout:
    """A layout with probes that `narrower` made, and a note that says which are averaged."""
    averaged = [probe.name for probe in probes if probe.grid is not None]
    if not averaged:
        return layout
    note = f"max_width {max_width}: averaged to fewer positions at "
    note += ranges_of(layout.names, averaged)
    return replace(layout, probes=tuple(probes), notes=(*layout.notes, note))
