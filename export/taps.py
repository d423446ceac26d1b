"""Gates as outputs: what a recurrent layer forgets, lets in and shows, computed in the graph beside the layer.

A layer's own node gives its hidden state alone. Its gates follow from that and its input by the textbook equations
(Hochreiter & Schmidhuber 1997; Gers et al. 2000; Cho et al. 2014), so they are written as nodes into the
whole-sequence graph, and are made streaming and proven with all else.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from holdover.export.original import Original
from holdover.export.whole import clean
from holdover.runtime.errors import UsageError

PARTS = {"LSTM": ("forget", "input", "output", "cell"), "GRU": ("update", "reset"), "RNN": ("hidden",)}
"""What is tapped of each kind of layer; `update` of a GRU is the share of the old state that is kept."""
KEEPS = {"LSTM": "forget", "GRU": "update"}
"""The gate whose mean says how long a unit remembers."""
_PLAIN = ("Sigmoid", "Tanh", "Relu", "Softsign")
"""Activations that take no parameters."""
_B, _H0, _C0, _P = 3, 5, 6, 7


@dataclass(frozen=True)
class Tap:
    """A recurrent layer whose gates are outputs.

    Attributes
    ----------
    layer, op : str
        Its name, and "LSTM", "GRU" or "RNN".
    outputs : mapping of str to str
        Graph output by part; each is (time, batch, units).
    """

    layer: str
    op: str
    outputs: dict[str, str]


def tapped(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Tap, ...]]:
    """A copy of a graph with the gates of every recurrent layer as further outputs.

    Parameters
    ----------
    model : onnx.ModelProto
        Of whole sequences or streaming, opset 13 or later.

    Raises
    ------
    UsageError
        It has no recurrent layer, or one whose gates the textbook equations do not give.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    layers = [n for n in model.graph.node if n.op_type in PARTS]
    if not layers:
        ops = sorted({n.op_type for n in model.graph.node})
        raise UsageError("the model has no LSTM, GRU or RNN, so it has no gates to tap; its operators are "
                         f"{', '.join(ops[:12])}{', ...' if len(ops) > 12 else ''}: leave --tap out")  # fmt: skip
    names = _Names(model.graph)
    taps: list[Tap] = []
    for node in layers:
        taps.append(_tap(model.graph, node, _layer(node, [t.layer for t in taps]), names))
    for tap in taps:
        for output in tap.outputs.values():
            shape = [f"{output}.{axis}" for axis in ("time", "batch", "units")]
            model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    return model, tuple(taps)


def tapped_original(original: Original) -> tuple[Original, dict[str, str]]:
    """An original with the gates as outputs, and their meaning by output; raises as `tapped` and `clean`."""
    model, taps = tapped(clean(original.model))
    names = [output for tap in taps for output in tap.outputs.values()]
    sidecar = original.sidecar
    if sidecar is not None:
        sidecar = msgspec.structs.replace(sidecar, outputs=(*sidecar.outputs, *names))
    return replace(original, model=model, sidecar=sidecar), dict.fromkeys(names, "gates")


class _Names:
    """Names that nothing in a graph has, be it a value or a node."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = {*(o for n in graph.node for o in n.output), *(i.name for i in graph.input),
                       *(t.name for t in graph.initializer), *(n.name for n in graph.node)}  # fmt: skip

    def free(self, wish: str) -> str:
        tries = (f"{wish}_{k}" if k else wish for k in range(len(self._taken) + 1))
        name = next(n for n in tries if n not in self._taken)
        self._taken.add(name)
        return name


def _layer(node: onnx.NodeProto, taken: Sequence[str]) -> str:
    """A layer's name in characters that every part of the tool writes, without what exporters put behind it."""
    text = re.sub(r"[^A-Za-z0-9_.]+", "_", next((o for o in node.output if o), node.name))
    text = re.sub(rf"([._](Y|y|Y_h|Y_c|{node.op_type}|directions|output_\d+))+$", "", text).strip("_.")
    text = text or node.op_type.lower()
    return next(t for k in range(len(taken) + 1) if (t := f"{text}_{k}" if k else text) not in taken)


class _Writer:
    """Nodes and constants that are added to a graph for one layer."""

    def __init__(self, graph: onnx.GraphProto, layer: str, names: _Names) -> None:
        self.graph, self.layer, self.names = graph, layer, names

    def op(self, op: str, inputs: Sequence[str], wish: str, **attributes: Any) -> str:
        return self.ops(op, inputs, [wish], **attributes)[0]

    def ops(self, op: str, inputs: Sequence[str], wishes: Sequence[str], **attributes: Any) -> list[str]:
        outputs = [self.names.free(f"{self.layer}.{w}") for w in wishes]
        self.graph.node.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def ints(self, *values: int) -> str:
        name = self.names.free(f"{self.layer}.ints")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def squeeze(self, x: str, axis: int, wish: str) -> str:
        return self.op("Squeeze", [x, self.ints(axis)], wish)

    def rows(self, x: str, first: int, end: int, axis: int, wish: str) -> str:
        return self.op("Slice", [x, self.ints(first), self.ints(end), self.ints(axis)], wish)


def _tap(graph: onnx.GraphProto, node: onnx.NodeProto, layer: str, names: _Names) -> Tap:
    _check(node)
    if not node.output or not node.output[0]:
        rest = list(node.output[1:])
        del node.output[:]
        node.output.extend([names.free(f"{layer}.sequence"), *rest])
    w = _Writer(graph, layer, names)
    y = w.squeeze(node.output[0], 1, "hidden")
    outputs = _EQUATIONS[node.op_type](w, node, y)
    return Tap(layer, node.op_type, dict(zip(PARTS[node.op_type], outputs, strict=True)))


def _check(node: onnx.NodeProto) -> None:
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    gate, candidate = (*_activations(node), "")[:2]
    reasons = {
        f"it runs {given.get('direction', b'forward').decode()}": given.get("direction", b"forward") != b"forward",
        "its layout is 1, batch first": given.get("layout", 0),
        f"its activations are {gate} and {candidate}": node.op_type != "RNN"
        and not (gate in (*_PLAIN, "HardSigmoid") and candidate in _PLAIN),
        "it clips": given.get("clip", 0),
        "it ties input and forget gate": given.get("input_forget", 0),
        "it has peepholes": len(node.input) > _P and node.input[_P],
    }
    if why := next((reason for reason, found in reasons.items() if found), None):
        raise UsageError(f"the gates of {node.op_type} '{node.name or node.output[0]}' cannot be tapped: {why}; "
                         "expected a forward layer of the textbook form: leave --tap out")  # fmt: skip


def _activations(node: onnx.NodeProto) -> list[str]:
    """Of the gates and of the candidate, by their operators' names."""
    named = next((a.strings for a in node.attribute if a.name == "activations"), None) or [b"Sigmoid", b"Tanh"]
    return [n.decode() for n in named][:2]


def _gate(w: _Writer, node: onnx.NodeProto, pre: str, wish: str) -> str:
    op = _activations(node)[0]
    given = {a.name: a.floats[0] for a in node.attribute if a.name in ("activation_alpha", "activation_beta")}
    soft = {"alpha": given.get("activation_alpha", 0.2), "beta": given.get("activation_beta", 0.5)}
    return w.op(op, [pre], wish, **(soft if op == "HardSigmoid" else {}))


def _hidden(_writer: _Writer, _node: onnx.NodeProto, y: str) -> list[str]:
    return [y]


def _lstm(w: _Writer, node: onnx.NodeProto, y: str) -> list[str]:
    """f, i, o and C_t = f * C_{t-1} + i * c~; ONNX stacks the gates i, o, f, c."""
    pre = _before_activation(w, node, y, gates=4, used=4)
    hidden = _hidden_size(node)
    sizes = w.ints(*[hidden] * 4)
    parts = w.ops("Split", [pre, sizes], ["pre.i", "pre.o", "pre.f", "pre.c"], axis=2)
    i, o, f = (_gate(w, node, part, gate) for part, gate in zip(parts, ("input", "output", "forget"), strict=False))
    let_in = w.op("Mul", [i, w.op(_activations(node)[1], [parts[3]], "candidate")], "let_in")
    first = _initial(w, node, _C0, y, hidden, "cell.first")
    return [f, i, o, _scan(w, _cell_step, first, [f, let_in], "cell")]


def _gru(w: _Writer, node: onnx.NodeProto, y: str) -> list[str]:
    """z and r; ONNX stacks the gates z, r, h."""
    pre = _before_activation(w, node, y, gates=3, used=2)
    hidden = _hidden_size(node)
    parts = w.ops("Split", [pre, w.ints(hidden, hidden)], ["pre.z", "pre.r"], axis=2)
    return [_gate(w, node, part, gate) for part, gate in zip(parts, ("update", "reset"), strict=True)]


def _before_activation(w: _Writer, node: onnx.NodeProto, y: str, gates: int, used: int) -> str:
    """W x_t + R h_{t-1} + b of the first gates, (time, batch, used * hidden)."""
    hidden = _hidden_size(node)
    first = _initial(w, node, _H0, y, hidden, "hidden.first")
    earlier = _scan(w, _shift_step, first, [y], "hidden.earlier")
    total = ""
    for value, weight, letter in ((node.input[0], node.input[1], "w"), (earlier, node.input[2], "r")):
        rows = w.rows(w.squeeze(weight, 0, letter), 0, used * hidden, 0, f"{letter}.used")
        product = w.op("MatMul", [value, w.op("Transpose", [rows], f"{letter}.t", perm=[1, 0])], f"{letter}.product")
        total = w.op("Add", [total, product], "pre") if total else product
    if len(node.input) <= _B or not node.input[_B]:
        return total
    pair = w.op("Reshape", [node.input[_B], w.ints(2, gates * hidden)], "bias.pair")
    bias = w.op("ReduceSum", [pair, w.ints(0)], "bias.sum", keepdims=0)
    return w.op("Add", [total, w.rows(bias, 0, used * hidden, 0, "bias")], "pre.biased")


def _hidden_size(node: onnx.NodeProto) -> int:
    size = next((a.i for a in node.attribute if a.name == "hidden_size"), 0)
    if size < 1:
        raise UsageError(
            f"{node.op_type} '{node.name or node.output[0]}' does not say its hidden_size; export it again"
        )
    return int(size)


def _initial(w: _Writer, node: onnx.NodeProto, index: int, y: str, hidden: int, wish: str) -> str:
    """The state before the first step, (batch, hidden): the layer's own, or zeros."""
    if len(node.input) > index and node.input[index]:
        return w.squeeze(node.input[index], 0, wish)
    streams = w.op("Shape", [y], f"{wish}.shape", start=1, end=2)
    shape = w.op("Concat", [streams, w.ints(hidden)], f"{wish}.size", axis=0)
    zero = numpy_helper.from_array(np.zeros(1, np.float32))
    return w.op("ConstantOfShape", [shape], wish, value=zero)


def _scan(w: _Writer, step: Callable[[str], onnx.GraphProto], first: str, frames: Sequence[str], wish: str) -> str:
    """The second output of a step, over all frames, (time, batch, hidden)."""
    body = step(w.names.free(f"{w.layer}.{wish}.step"))
    return w.ops("Scan", [first, *frames], [f"{wish}.last", wish], body=body, num_scan_inputs=len(frames))[1]


def _body(p: str, nodes: list[onnx.NodeProto], inputs: Sequence[str], outputs: Sequence[str]) -> onnx.GraphProto:
    ends = ([helper.make_tensor_value_info(f"{p}.{n}", TensorProto.FLOAT, [None, None]) for n in names]
            for names in (inputs, outputs))  # fmt: skip
    return helper.make_graph(nodes, "step", *ends)


def _shift_step(p: str) -> onnx.GraphProto:
    nodes = [helper.make_node("Identity", [f"{p}.now"], [f"{p}.next"]),
             helper.make_node("Identity", [f"{p}.before"], [f"{p}.earlier"])]  # fmt: skip
    return _body(p, nodes, ["before", "now"], ["next", "earlier"])


def _cell_step(p: str) -> onnx.GraphProto:
    # Two sums of the same bits: one value given out twice, as passes leave of an Identity, is garbage in onnxruntime.
    nodes = [helper.make_node("Mul", [f"{p}.forget", f"{p}.before"], [f"{p}.kept"]),
             helper.make_node("Add", [f"{p}.kept", f"{p}.let_in"], [f"{p}.next"]),
             helper.make_node("Add", [f"{p}.let_in", f"{p}.kept"], [f"{p}.cell"])]  # fmt: skip
    return _body(p, nodes, ["before", "forget", "let_in"], ["next", "cell"])


_EQUATIONS: dict[str, Callable[[_Writer, onnx.NodeProto, str], list[str]]] = {
    "LSTM": _lstm, "GRU": _gru, "RNN": _hidden,
}  # fmt: skip
