"""Loop: one that takes a frame a step is a Scan, and a Scan over the step of a cell is that cell's node.

tf2onnx writes a GRU of Keras as a Loop, jax2onnx every `lax.scan`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.convenience import get_const_tensor, replace_all_uses_with
from onnx_ir.passes.common import RemoveUnusedNodesPass

from holdover.export.loom import Array, Loom, attribute
from holdover.export.refusal import NotStreamable
from holdover.export.rules.cell import swap, to_cell
from holdover.export.rules.scan import captured

SIZES = (((24, 25), (41, 42)), ((3, 480), (4, 720)), ((480, 3), (720, 4)), ((3, 1920), (4, 2880)))
"""Of a free first axis and of other free axes, twice, at which a replacement must give what the loop gives: the first
pair that the model runs at, since time may be either and kernels may be long."""
TOLERANCE = 1e-5
"""Of the largest value, which rounding in another order explains."""


def loop(_loom: Loom, node: ir.Node) -> NoReturn:
    """Those that follow the signal frame by frame were replaced before."""
    Recurrence.of(node)
    raise NotStreamable("it runs one frame a step, but a Scan in its place did not give what it gives; write it as an "
                        "LSTM, GRU or RNN")  # fmt: skip


@dataclass(frozen=True)
class Recurrence:
    """A Loop whose step i takes frame i.

    Attributes
    ----------
    node : ir.Node
        The Loop.
    body : ir.Graph
    frames : tuple of ir.Node
        Gathers of frame i from a sequence outside.
    fixed : mapping of ir.Value to ir.Value
        Inputs of the body that never change, and what they are.
    states : tuple of int
        What is carried, by place after the condition.
    """

    node: ir.Node
    body: ir.Graph
    frames: tuple[ir.Node, ...]
    fixed: Mapping[ir.Value, ir.Value]
    states: tuple[int, ...]

    @staticmethod
    def of(node: ir.Node) -> "Recurrence":
        """Read a Loop.

        Raises
        ------
        NotStreamable
            It takes no frame a step, counts, or the signal decides when it stops.
        """
        body: ir.Graph = attribute(node, "body")
        carried, after = body.inputs[2:], body.outputs[1:]
        rows = list(zip(carried, node.inputs[2:], after, strict=False))
        fixed = {v: first for v, first, end in rows if first is not None and _plain(end) is v}
        counted = {v for v, first, end in rows if _counts(v, first, end)}
        counters = _same_number(body, {body.inputs[0], *counted})
        frames = tuple(n for n in body if _takes_frame(n, counters, fixed, body))
        if not frames:
            raise NotStreamable("it takes no frame of a sequence by the number of its step, so it is no recurrence "
                                "over time; unroll it, or write it with other operators")  # fmt: skip
        states = tuple(k for k, (v, _, _) in enumerate(rows) if v not in fixed and v not in counted)
        found = Recurrence(node, body, frames, fixed, states)
        found._check(counters, counted)
        return found

    def _check(self, counters: set[ir.Value], counted: set[ir.Value]) -> None:
        taken = {n.outputs[0] for n in self.frames}
        limits = [v for v in (*self.node.inputs[:2], self.body.outputs[0]) if v is not None]
        sequences = [self.fixed.get(v, v) for v in map(_first, self.frames)]
        moving = {self.body.inputs[2 + k] for k in self.states} | taken
        if moving & _cone([self.body.outputs[0]], taken):
            raise NotStreamable("it decides from the signal when to stop")
        if not all(_is_length(v, self, _cone(sequences, set())) for v in limits):
            raise NotStreamable("it may stop before the last frame: the number of its steps is not plainly the length "
                                "of what it takes; loop over all of it")  # fmt: skip
        if counters & _cone(self.results, taken):
            raise NotStreamable("its result follows the number of the step, a position that a stream does not have")
        for v, out in zip(self.body.inputs[2:], self.node.outputs, strict=False):
            if v in counted and (out.uses() or out.is_graph_output()):
                raise NotStreamable("its number of steps is used, which is the length of the sequence")

    @property
    def results(self) -> list[ir.Value]:
        """Outputs of the body: states, then what is kept of every step."""
        after = self.body.outputs[1:]
        return [after[k] for k in self.states] + list(after[len(self.node.inputs) - 2 :])

    def to_scan(self) -> None:
        """Put a Scan in the Loop's place; the body becomes that of the Scan."""
        node, body, results = self.node, self.body, self.results
        unchanged = [(out, self.fixed[v]) for v, out in zip(body.inputs[2:], node.outputs, strict=False)
                     if v in self.fixed]  # fmt: skip
        sequences = [self.fixed.get(v, v) for v in (_first(n) for n in self.frames)]
        body.outputs[:] = results
        for inner, outer in self.fixed.items():
            replace_all_uses_with(inner, outer)
        frames = {n.outputs[0]: _frame(n) for n in self.frames}
        replace_all_uses_with(list(frames), list(frames.values()), replace_graph_outputs=True)
        body.inputs[:] = [*(body.inputs[2 + k] for k in self.states), *frames.values()]
        alive = _cone(body.outputs, set())
        body.remove([n for n in body if not alive & set(n.outputs)])
        inputs = [*(node.inputs[2 + k] for k in self.states), *sequences]
        axes = [attribute(n, "axis", 0) for n in self.frames]
        del node.attributes["body"]
        attributes = {"body": body, "num_scan_inputs": len(frames), "scan_input_axes": axes}
        kept = [node.outputs[k] for k in self.states] + list(node.outputs[len(node.inputs) - 2 :])
        for old, new in unchanged:
            replace_all_uses_with(old, new)
        scan = ir.node("Scan", inputs, attributes, outputs=[ir.Value(name=f"{v.name}.scan") for v in kept])
        swap(node, [scan], dict(zip(kept, scan.outputs, strict=True)))


def recognise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put a Scan in the place of a Loop over frames, and an RNN, GRU or LSTM in the place of a Scan over its step.

    Every replacement is run beside what it replaces, at two lengths; one that differs is left out.

    Parameters
    ----------
    model : onnx.ModelProto
        Cleaned.

    Returns
    -------
    onnx.ModelProto
        The same model if there is nothing to replace.
    """
    if not any(n.op_type in ("Loop", "Scan") for n in model.graph.node):
        return model
    found = ((sizes, _answers(model, sizes)) for sizes in SIZES)
    sizes, wanted = next(((s, answers) for s, answers in found if answers is not None), (SIZES[0], None))
    if wanted is None:  # whoever runs it next says why it does not run
        return model
    for op, change in _CHANGES:
        for outputs in [set(n.output) for n in model.graph.node if n.op_type == op]:
            place = next(k for k, n in enumerate(model.graph.node) if outputs & set(n.output) - {""})
            candidate = _changed(model, place, change, _shapes(model, place, sizes))
            if candidate is not None and _agree(_answers(candidate, sizes), wanted):
                model = candidate
    return model


Shapes = Sequence[tuple[int, ...]]
Sizes = tuple[tuple[int, int], tuple[int, int]]


def _to_scan(node: ir.Node, _shapes: Shapes) -> None:
    Recurrence.of(node).to_scan()


def _along_first_axis(node: ir.Node, shapes: Shapes) -> None:
    """Lay what a Scan scans along another axis so that it is the first, as a cell's node has it."""
    graph, axes = node.graph, attribute(node, "scan_input_axes", [])
    if not any(axes):
        raise NotStreamable("it scans along the first axis")
    assert isinstance(graph, ir.Graph)
    for k, axis in enumerate(axes, len(node.inputs) - len(axes)):
        if axis:
            perm = list(range(len(shapes[k])))
            perm.insert(0, perm.pop(axis))
            laid = ir.Value(name=f"{node.outputs[-1].name}.laid{k}")
            graph.insert_before(node, ir.node("Transpose", [node.inputs[k]], {"perm": perm}, outputs=[laid]))
            node.replace_input_with(k, laid)
    node.attributes["scan_input_axes"] = ir.AttrInt64s("scan_input_axes", [0] * len(axes))


Change = Callable[[ir.Node, Shapes], None]
_CHANGES: tuple[tuple[str, Change], ...] = (("Loop", _to_scan), ("Scan", _along_first_axis), ("Scan", to_cell))
"""In this order: what becomes of an operator, given the shapes of its inputs."""


def _changed(model: onnx.ModelProto, place: int, change: Change, shapes: Shapes) -> onnx.ModelProto | None:
    """The model with one node changed, None if it is not what the change is for."""
    read = ir.from_proto(model)
    try:
        change(read.graph[place], shapes)
    except NotStreamable:
        return None
    RemoveUnusedNodesPass()(read)
    return ir.to_proto(read)


def _shapes(model: onnx.ModelProto, place: int, sizes: Sizes) -> Shapes:
    """Of a node's inputs, at the first size."""
    names = [name for name in model.graph.node[place].input if name]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=n) for n in dict.fromkeys(names))
    found = dict(zip(dict.fromkeys(names), (_answers(shown, sizes) or [[]])[0], strict=False))
    return [found[n].shape for n in names if n in found]


def _answers(model: onnx.ModelProto, sizes: Sizes) -> list[list[Array]] | None:
    """Outputs over noise, twice; None if the model does not run."""
    from holdover.export.whole import session

    rng = np.random.default_rng(23)
    try:
        run = session(model)
        return [run.run(None, {i.name: _noise(rng, i, *size) for i in model.graph.input}) for size in sizes]
    except Exception:  # onnxruntime's own types
        return None


def _noise(rng: np.random.Generator, info: onnx.ValueInfoProto, first: int, other: int) -> Array:
    dims = info.type.tensor_type.shape.dim
    return rng.normal(size=[d.dim_value or (other if k else first) for k, d in enumerate(dims)]).astype(np.float32)


def _agree(found: list[list[Array]] | None, wanted: list[list[Array]]) -> bool:
    if found is None:
        return False
    pairs = [pair for a, b in zip(found, wanted, strict=True) for pair in zip(a, b, strict=True)]
    return all(a.shape == b.shape and np.allclose(a, b, 0, TOLERANCE * max(1.0, np.abs(b).max(initial=0)))
               for a, b in pairs)  # fmt: skip


def _first(node: ir.Node) -> ir.Value:
    assert node.inputs[0] is not None
    return node.inputs[0]


def _frame(gather: ir.Node) -> ir.Value:
    """What a Scan hands the body in a Gather's place."""
    return ir.Value(name=f"{gather.outputs[0].name}.frame", type=ir.TensorType(ir.DataType.FLOAT))


def _plain(value: ir.Value) -> ir.Value:
    """What a value is behind Identity."""
    node = value.producer()
    return value if node is None or node.op_type != "Identity" else _plain(_first(node))


def _number(value: ir.Value | None) -> float | None:
    """A constant's only number, None for other values."""
    tensor = get_const_tensor(value) if value is not None else None
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def _counts(carried: ir.Value, first: ir.Value | None, after: ir.Value) -> bool:
    """Whether a carried value is the number of the step: from 0, one more a step."""
    node = _plain(after).producer()
    if node is None or node.op_type != "Add" or _number(first) != 0:
        return False
    others = [v for v in node.inputs if v is not None and _plain(v) is not carried]
    return len(others) == 1 and _number(_plain(others[0])) == 1


def _same_number(body: ir.Graph, counters: set[ir.Value]) -> set[ir.Value]:
    """Those values, and others that are only another type of them."""
    for node in body:
        if node.op_type in ("Identity", "Cast") and _first(node) in counters:
            counters.add(node.outputs[0])
    return counters


def _takes_frame(node: ir.Node, counters: set[ir.Value], fixed: Mapping[ir.Value, ir.Value], body: ir.Graph) -> bool:
    """Whether a node takes frame i of a sequence that does not change."""
    if node.op_type != "Gather" or node.inputs[1] not in counters:
        return False
    x = _first(node)
    return x in fixed or (x not in body.inputs and x.graph is not body)


def _is_length(value: ir.Value, loop: Recurrence, sequence: set[ir.Value]) -> bool:
    """Whether a limit of a loop is the length of its sequences, no limit, or a count compared with such."""
    value = loop.fixed.get(value, value)
    constant = get_const_tensor(value)
    if constant is not None:
        return bool(np.all(constant.numpy() if constant.dtype == ir.DataType.BOOL else constant.numpy() >= ENDLESS))
    node = value.producer()
    if node is None:
        return value in loop.body.inputs[:2]
    if node.op_type == "Shape":
        extra = (v.producer() for v in _cone([_first(node)], set()) - sequence)
        return not any(n is not None and n.op_type in _CROPS for n in extra)
    # Of a comparison, count < limit, the limit.
    taken = {"And": slice(2), "Less": slice(1, 2), "Concat": slice(None)}.get(node.op_type, slice(1))
    parts = [v for v in node.inputs[taken] if v is not None]
    return node.op_type in _PLAIN and all(_is_length(v, loop, sequence) for v in parts)


_PLAIN = frozenset(("And", "Cast", "Concat", "Gather", "Identity", "Less", "Reshape", "Slice", "Squeeze", "Unsqueeze"))
"""Operators between a shape and a limit that leave the length as it is."""
_CROPS = frozenset(("Compress", "Expand", "Gather", "Pad", "Resize", "Slice", "Split", "Tile"))
ENDLESS = 2**31 - 1


def _cone(values: Iterable[ir.Value], stop: set[ir.Value]) -> set[ir.Value]:
    """All that values are made of, those included; what the stops are made of left out."""
    found: set[ir.Value] = set()
    left = list(values)
    while left:
        value = left.pop()
        if value in found:
            continue
        found.add(value)
        node = value.producer()
        if node is not None and value not in stop:
            bodies = [a.value for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
            left += [v for v in node.inputs if v is not None] + [v for g in bodies for v in captured(g)]
    return found


RULES = {"Loop": loop}
