"""Scan: the body's own state is carried; an If that is left follows the signal."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from holdover.export.fact import Length, Running, Stream
from holdover.export.loom import Loom, State, attribute, stream_of, streams
from holdover.export.refusal import NotStreamable
from holdover.export.rules.elementwise import meet
from holdover.export.rules.heads import batch_size
from holdover.export.rules.recurrent import started


def captured(graph: ir.Graph) -> list[ir.Value]:
    """Values of the outer graph that a body uses."""
    own = {*graph.inputs, *graph.initializers.values()} | {o for n in graph for o in n.outputs}
    found: list[ir.Value] = []
    for node in graph:
        inner = [a.value for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        uses = [*node.inputs, *(v for g in inner for v in captured(g))]
        found += [v for v in uses if v is not None and v not in own and v not in found]
    return found + [o for o in graph.outputs if o not in own and o not in found]


def scan(loom: Loom, node: ir.Node) -> None:
    """Forward in time, every scanned input a stream of the same pace; those that run ahead wait for the others."""
    body, count = attribute(node, "body"), attribute(node, "num_scan_inputs")
    first, scanned = node.inputs[:-count], node.inputs[-count:]
    outputs = len(node.outputs) - len(first)
    for key, n in (("scan_input_directions", count), ("scan_output_directions", outputs)):
        if any(attribute(node, key, [0] * n)):
            raise NotStreamable("it runs backward: the output at the first step needs the last sample")
    facts = [stream_of(loom, v) for v in scanned]
    axes = attribute(node, "scan_input_axes", [0] * count)
    ranks = [loom.whole.rank(v) for v in scanned if v is not None]
    if any(f.axis != a % r for f, a, r in zip(facts, axes, ranks, strict=True)):
        raise NotStreamable("it scans along an axis that is not time")
    if any(f.merged is not None for f in facts):
        raise NotStreamable("time and batch are one axis in what it scans; keep them apart")
    name = node.outputs[-1].name or "scan"
    fact, met = facts[0], {v: loom.need(v) for v in scanned}
    if len({(f.ahead, f.pace) for f in facts}) > 1:
        fact, met = meet(loom, list(streams(loom, scanned)), max(ranks), name)
    _captures(loom, body)
    _rename(loom, body, name)
    inputs, states = [], []
    for k, old in enumerate(first):
        before, state = _state(loom, node, old, k)
        inputs.append(before)
        states.append(state)
    copies = loom.copy(node, [*inputs, *(met[v] for v in scanned)])
    for state, after in zip(states, copies, strict=False):
        state.after = after
    to = attribute(node, "scan_output_axes", [0] * outputs)
    for k, (old, copy) in enumerate(zip(node.outputs, copies, strict=True)):
        place = k - len(first)
        made = Running(fact.ahead) if place < 0 else replace(fact, axis=to[place] % loom.whole.rank(old))
        loom.bind(old, copy, made)


def _captures(loom: Loom, body: ir.Graph) -> None:
    for value in captured(body):
        if isinstance(loom.fact(value), Stream | Running):
            raise NotStreamable(f"its body uses the whole sequence '{value.name}' beside the frame it is given")
        _replace(body, value, loom.need(value))


def _replace(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    for node in graph:
        for i, v in enumerate(node.inputs):
            if v is old:
                node.replace_input_with(i, new)
        for a in node.attributes.values():
            if a.type == ir.AttributeType.GRAPH:
                _replace(a.value, old, new)


def _rename(loom: Loom, graph: ir.Graph, name: str) -> None:
    """Names of a body may not be those of the graph around it, which are new."""
    for value in list(graph.initializers.values()):
        assert value.const_value is not None
        # A new tensor: the old one is the original's own, and takes every name that its value takes.
        value.const_value = ir.tensor(value.const_value.numpy())
    for value in [*graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs)]:
        value.name = loom.name(f"{name}.{value.name}")
    for node in graph:
        for a in node.attributes.values():
            if a.type == ir.AttributeType.GRAPH:
                _rename(loom, a.value, name)


def _state(loom: Loom, node: ir.Node, old: ir.Value | None, k: int) -> tuple[ir.Value, State]:
    assert old is not None
    if isinstance(loom.fact(old), Stream | Running | Length):
        raise NotStreamable("its initial state is computed from the sequence, or from its length")
    value, name = loom.beginning(old), f"{node.outputs[0].name}.{k}"
    state = loom.state(name, [batch_size(d.size, d.batch) for d in loom.dims(old)], value.dtype)
    if not value.any():
        return state.before, state
    if value.dtype.kind == "f" and (value == value.flat[0]).all() and np.isfinite(value).all():
        state.fill = float(value.flat[0])
        return state.before, state
    return started(loom, state.before, value, name), state


def branch(_loom: Loom, _node: ir.Node) -> None:
    """Constant conditions were taken before; what is left follows the signal or the length."""
    raise NotStreamable("which branch it takes follows the signal or the length of the sequence")


RULES = {"Scan": scan, "If": branch}
