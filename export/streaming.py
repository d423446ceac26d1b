"""From a whole-sequence graph to one that takes a block and the carried state: the walk over the rules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    CheckerPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
    TopologicalSortPass,
)

from holdover.export.fact import Fact, Length, PerBatch, Refused, Running, Static, Stream
from holdover.export.far import RANDOM, same
from holdover.export.loom import Loom, NotYet, State, Weave
from holdover.export.refusal import NotStreamable, Refusal
from holdover.export.rules import pad, slices
from holdover.export.rules.scan import captured
from holdover.export.rules.table import RULES
from holdover.export.whole import Whole

SIGNAL = "x"


@dataclass(frozen=True)
class Port:
    """An output of the streaming graph, (batch, frames, width).

    Attributes
    ----------
    name : str
    fact : Stream or Running
        Its pace and delay; Running gives one frame a call.
    width : int
    rank, batch : int
        Axes of the original's output, and which is the batch.
    """

    name: str
    fact: Stream | Running
    width: int
    rank: int
    batch: int | None


@dataclass(frozen=True)
class Woven:
    """A streaming graph without its contract.

    Attributes
    ----------
    model : onnx.ModelProto
        Input `x` (batch, samples, channels), the states, and `eos` where the end must be announced.
    states : tuple of State
    ports : tuple of Port
    hop, first_chunk_min : int
        Model samples of which every call takes a multiple, and that the first takes at least.
    eos : str or None
    approximations : tuple of str
        What is not exact, because the user asked for it.
    """

    model: onnx.ModelProto
    states: tuple[State, ...]
    ports: tuple[Port, ...]
    hop: int
    first_chunk_min: int
    eos: str | None
    approximations: tuple[str, ...]


def weave(whole: Whole, how: Weave) -> Woven | tuple[Refusal, ...]:
    """Make a whole-sequence graph streaming.

    Parameters
    ----------
    whole : Whole
        The original.
    how : Weave
        `exact_end` is found out here.

    Returns
    -------
    Woven
        The streaming graph.
    tuple of Refusal
        Every node that cannot be streamed exactly.
    """
    loom = _walk(whole, how)
    if loom.refusals:
        return tuple(loom.refusals)
    facts = [loom.fact(o) for o in loom.model.graph.outputs]
    if needs_end(facts) or loom.eos is not None:
        loom = _walk(whole, replace(how, exact_end=True))
    return _assemble(loom)


def needs_end(facts: Sequence[Fact]) -> bool:
    """Whether the end must be announced for the last frames to be those of the original."""
    return any(isinstance(f, Running) or (isinstance(f, Stream) and f.needs_end) for f in facts)


def _walk(whole: Whole, how: Weave) -> Loom:
    model = ir.from_proto(whole.proto)
    for simpler in (pad.fuse, slices.fuse):
        simpler(model)
    loom = Loom(whole, model, how)
    for node in loom.order:
        _mark_independent(loom, node)
    _signal(loom)
    pending = [n for n in loom.order if n not in loom.done and n in _needed(loom)]
    while pending:
        later = [n for n in pending if not _visited(loom, n)]
        if len(later) == len(pending):
            raise AssertionError(f"nothing is known of what {later[0].op_type} takes")
        pending = later
    return loom


def _needed(loom: Loom) -> set[ir.Node]:
    """Nodes of which the outputs are made: those of which the shape alone is used are left out."""
    found: set[ir.Node] = set()
    left = [o.producer() for o in loom.model.graph.outputs]
    while left:
        node = left.pop()
        if node is not None and node not in found and node not in loom.done:
            found.add(node)
            left += [v.producer() for v in _uses(node)]
    return found


def _visited(loom: Loom, node: ir.Node) -> bool:
    """Weave a node; False where what it takes comes later."""
    if node in loom.done:
        return True
    if not all(map(loom.known, _uses(node))):
        return False
    try:
        _node(loom, node)
    except NotYet:
        return False
    except NotStreamable as why:
        loom.refusals.append(Refusal(node.outputs[0].name or node.name or "?", node.op_type, str(why)))
        for output in node.outputs:
            loom.set_fact(output, Refused())
    return True


def _node(loom: Loom, node: ir.Node) -> None:
    facts = [loom.fact(v) for v in node.inputs]
    if any(isinstance(f, Refused) for f in facts):
        for output in node.outputs:
            loom.set_fact(output, Refused())
        return
    if node.op_type in RANDOM:
        raise NotStreamable("it draws random numbers, so that no two runs agree; export the model for inference")
    rule = RULES.get(node.op_type)
    if rule is None:
        raise NotStreamable(
            f"no rule knows what {node.op_type} does over time; write it with other operators, or compute it before "
            "the model"
        )
    rule(loom, node)


def _mark_independent(loom: Loom, node: ir.Node) -> None:
    """Tell apart what follows the signal from shapes, positions, masks and constants."""
    if node.op_type in RANDOM or not (node.op_type in ("Shape", "Size") or all(map(loom.known, _uses(node)))):
        return
    loom.done.add(node)
    for output in node.outputs:
        loom.set_fact(output, _independent(loom, output))


def _uses(node: ir.Node) -> list[ir.Value]:
    bodies = [a.value for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return [v for v in node.inputs if v is not None] + [v for g in bodies for v in captured(g)]


def _independent(loom: Loom, value: ir.Value) -> Fact:
    """What a tensor follows that does not follow the signal: nothing, the batch, or the length."""
    if not value.uses() and not value.is_graph_output():
        return Length()
    name, far = value.name or "", loom.whole.far
    short, long, many = loom.whole.values(value)
    if far.follows_length(name) or not same(short, long):
        return Length()
    return PerBatch() if far.follows_batch(name) or not same(short, many) else Static()


def _signal(loom: Loom) -> None:
    """From x, (batch, samples, channels), to the inputs of the original."""
    whole = loom.whole
    x = ir.Value(name=loom.name(SIGNAL), type=ir.TensorType(ir.DataType.FLOAT))
    x.shape = ir.Shape(["batch" if whole.batch_free else 1, "samples", whole.channels])
    loom.signal = x
    start = 0
    inputs = {v.name: v for v in loom.model.graph.inputs}
    for layout in whole.layouts:
        new, k = x, layout.channels
        if k != whole.channels:
            new = loom.cut(x, 2, start, start + k, name=f"{layout.name}.channels")
        start += k
        consts = [n for n in layout.dims if isinstance(n, int)]
        if consts != [k]:
            new = loom.op("Reshape", [new, loom.ints(0, -1, *consts)], f"{layout.name}.split")
        number = iter(range(2, 2 + len(consts)))
        axes = [next(number) if isinstance(n, int) else {"batch": 0, "time": 1}[n] for n in layout.dims]
        if "batch" not in layout.dims:
            new = loom.op("Squeeze", [new, loom.ints(0)], f"{layout.name}.alone")
            axes = [a - 1 for a in axes]
        if axes != sorted(axes):
            new = loom.op("Transpose", [new], f"{layout.name}.laid", perm=axes)
        loom.bind(inputs[layout.name], new, Stream(axis=layout.time))


def _assemble(loom: Loom) -> Woven | tuple[Refusal, ...]:
    ports, values = [], []
    for old in loom.model.graph.outputs:
        fact = loom.fact(old)
        if not isinstance(fact, Stream | Running):
            return (Refusal(old.name or "?", "output", "it does not follow the signal"),)
        if isinstance(fact, Stream) and fact.merged is not None:
            return (Refusal(old.name or "?", "output", "time and batch are one axis in it; keep them apart"),)
        value, port = _port(loom, old, fact)
        ports.append(port)
        values.append(value)
    hop = math.lcm(loom.weave.hop, *loom.paces)
    first = max(-(-(loom.ahead + 1) // hop), 1) * hop
    graph = _graph(loom, ports, values)
    model = ir.Model(graph, ir_version=8 if loom.opset <= 17 else 9, producer_name="holdover")
    for clean in (CommonSubexpressionEliminationPass(), _name_outputs, RemoveUnusedNodesPass(),
                  DeduplicateInitializersPass(), TopologicalSortPass(), CheckerPass()):  # fmt: skip
        clean(model)
    proto = ir.to_proto(model)
    eos = loom.eos.name if loom.eos is not None else None
    return Woven(proto, tuple(loom.states), tuple(ports), hop, first, eos, tuple(loom.approximations))


def _graph(loom: Loom, ports: Sequence[Port], values: Sequence[ir.Value]) -> ir.Graph:
    outputs = []
    for port, value in zip(ports, values, strict=True):
        out = ir.Value(name=port.name, type=ir.TensorType(ir.DataType.FLOAT))
        batch: int | str = "batch" if loom.whole.batch_free else 1
        out.shape = ir.Shape([batch, f"{port.name}.frames", port.width])
        loom.nodes.append(ir.node("Identity", [value], outputs=[out], name=port.name))
        outputs.append(out)
    for state in loom.states:
        shape: list[Any] = [f"{state.name}.frames" if i == state.grows else n for i, n in enumerate(state.shape)]
        kind = ir.TensorType(ir.DataType.from_numpy(state.dtype))
        state.before.shape = ir.Shape(shape)
        after = ir.Value(name=f"{state.name}.out", type=kind, shape=ir.Shape(shape))
        loom.nodes.append(ir.node("Identity", [state.after], outputs=[after], name=after.name))
        outputs.append(after)
    inputs = [loom.signal, *(s.before for s in loom.states), *([loom.eos] if loom.eos is not None else [])]
    opsets = dict(loom.model.graph.opset_imports)
    weights = list(loom.initializers.values())
    return ir.Graph(inputs, outputs, nodes=loom.nodes, initializers=weights, opset_imports=opsets, name="streaming")


def _name_outputs(model: ir.Model) -> None:
    """Let a tensor be the output itself; one that is an input, a weight or two outputs keeps the Identity after it."""
    for out in list(model.graph.outputs):
        node = out.producer()
        value = node.inputs[0] if node is not None and node.op_type == "Identity" else None
        if value is None or value.is_graph_input() or value.is_initializer() or value.is_graph_output():
            continue
        value.name, value.type, value.shape = out.name, out.type, out.shape
        ir.convenience.replace_all_uses_with(out, value, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)  # type: ignore[arg-type]


def _port(loom: Loom, old: ir.Value, fact: Stream | Running) -> tuple[ir.Value, Port]:
    """An output laid out as (batch, frames, width)."""
    dims, new, name = loom.dims(old), loom.need(old), old.name or "output"
    if loom.whole.values(old)[0].dtype != np.float32:
        new = loom.op("Cast", [new], f"{name}.float", to=ir.DataType.FLOAT.value)
    time = fact.axis if isinstance(fact, Stream) else None
    batch = next((i for i, d in enumerate(dims) if d.batch and d.size == 1), None)
    if batch is None and not loom.whole.batch_free:
        batch = next((i for i, d in enumerate(dims) if d.size == 1 and i != time), None)
    lead = [i for i in (batch, time) if i is not None]
    perm = lead + [i for i in range(len(dims)) if i not in lead]
    if perm != sorted(perm):
        new = loom.op("Transpose", [new], f"{name}.laid", perm=perm)
    width = int(np.prod([dims[i].size for i in perm[len(lead) :]], dtype=int))
    if time is None or batch is None or len(perm) != 3:
        # -1 is the batch of a value over all time, else the frames
        shape = (-1, 1, width) if time is None else (0, -1, width) if batch is not None else (1, -1, width)
        new = loom.op("Reshape", [new, loom.ints(*shape)], f"{name}.frames")
    return new, Port(loom.port_names[old], fact, width, len(dims), batch)
