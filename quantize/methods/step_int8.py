"""Recurrent layers taken apart into steps: products in 8 bits, gates and cell state in float32.

onnxruntime has no kernel of 8 bits with fixed ranges for an LSTM, and none at all for a GRU or an RNN. The product with
the input becomes one product over all frames, quantized as any other; that with the hidden state, which lies between -1
and 1, is one of integers in the body of a Scan, whose sums are exact on every machine.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from holdover.export.whole import clean
from holdover.quantize.calibration import Calibration
from holdover.quantize.grid import is_worth_it, scales
from holdover.quantize.method import Made, Parent, Refused
from holdover.quantize.methods.static_int8 import FROM_WHOLE, in_integers

Array = NDArray[np.float32]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PLAIN = {"hidden_size", "direction", "linear_before_reset", "layout"}
"""Attributes that are followed; peepholes, clipping and other activations stay as they are."""
LARGEST = 63
"""7 bits and a sign; see `static_int8.quantize_products`."""
UNIT = np.float32(1 / 127)
"""The hidden state's step: it lies between -1 and 1."""
MIDDLE = 128
NOTES = ("a Scan costs some microseconds a frame: this pays from some hundreds of units on, below that in size only",)


def step_int8(parent: Parent, calibration: Calibration) -> Made | Refused:
    """Recurrent layers as steps of integers, the rest as static-int8; see `Method`."""
    if parent.whole is None:
        return FROM_WHOLE
    model = clean(parent.whole)
    if not take_apart(model):
        return Refused("it has no plain LSTM, GRU or RNN large enough to be worth it; try static-int8")
    # Clean once more: the layers' own weights are not used any more.
    return in_integers(clean(model), parent, calibration, NOTES)


def take_apart(model: onnx.ModelProto) -> int:
    """Put a product and a Scan in place of each large LSTM, GRU and RNN, in place; how many."""
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes, count = [], 0
    for node in [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]:
        if not _is_plain(node, weights):
            nodes.append(node)
            continue
        layer = _Layer(node, weights, f"step{count}")
        nodes += layer.nodes()
        model.graph.initializer.extend(layer.constants)
        count += 1
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return count


def _is_plain(node: onnx.NodeProto, weights: Mapping[str, Array]) -> bool:
    if node.op_type not in GATES or {a.name for a in node.attribute} - PLAIN:
        return False
    given = {a.name: a for a in node.attribute}
    forward = "direction" not in given or given["direction"].s == b"forward"
    first = not ("layout" in given and given["layout"].i)
    known = all(name in weights for name in node.input[1:4] if name)
    apart = not any(node.input[4:5]) and not any(node.input[7:8])
    return forward and first and known and apart and is_worth_it(weights[node.input[2]])


class _Layer:
    """One recurrent layer as nodes."""

    def __init__(self, node: onnx.NodeProto, weights: Mapping[str, Array], name: str) -> None:
        self._node, self._name = node, name
        self._kind = node.op_type
        self._lbr = any(a.name == "linear_before_reset" and a.i for a in node.attribute)
        self._w, self._r = weights[node.input[1]][0], weights[node.input[2]][0]
        rows = len(self._w)
        both = weights[node.input[3]][0] if len(node.input) > 3 and node.input[3] else np.zeros(2 * rows, np.float32)
        self._bias, self._recurrent_bias = np.split(both, 2)
        self._hidden = rows // GATES[self._kind]
        self.constants: list[onnx.TensorProto] = []

    def _const(self, what: str, value: Any) -> str:
        name = f"{self._name}.{what}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def nodes(self) -> list[onnx.NodeProto]:
        """The product over all frames, the Scan, and the layer's own outputs."""
        x, name = self._node.input[0], self._name
        after_reset = self._kind == "GRU" and self._lbr
        outside = self._bias + self._recurrent_bias
        if after_reset:
            outside[2 * self._hidden :] = self._bias[2 * self._hidden :]
        made = [
            helper.make_node("MatMul", [x, self._const("input", self._w.T)], [f"{name}.product"]),
            helper.make_node("Add", [f"{name}.product", self._const("bias", outside)], [f"{name}.open"]),
        ]
        states = [self._first(k, made) for k in range(len(_CELLS[self._kind].states))]
        body = _CELLS[self._kind].body(self._r, self._recurrent_bias[2 * self._hidden :], self._lbr)
        ends = [f"{name}.{s}.end" for s in _CELLS[self._kind].states]
        made.append(helper.make_node("Scan", [*states, f"{name}.open"], [*ends, f"{name}.y"], body=body,
                                     num_scan_inputs=1, name=name))  # fmt: skip
        return made + self._ends([f"{name}.y", *ends])

    def _first(self, k: int, made: list[onnx.NodeProto]) -> str:
        """The state before the first frame, (batch, hidden)."""
        name, given = f"{self._name}.first{k}", self._node.input[5 + k : 6 + k]
        if any(given):
            made.append(helper.make_node("Squeeze", [given[0], self._const(f"axis{k}", np.array([0]))], [name]))
            return name
        ends = [self._const(f"{what}{k}", np.array([n])) for what, n in (("from", 1), ("to", 2))]
        size = self._const(f"size{k}", np.array([self._hidden]))
        made += [
            helper.make_node("Shape", [self._node.input[0]], [f"{name}.shape"]),
            helper.make_node("Slice", [f"{name}.shape", *ends], [f"{name}.streams"]),
            helper.make_node("Concat", [f"{name}.streams", size], [f"{name}.size"], axis=0),
            helper.make_node("Expand", [self._const(f"zero{k}", np.zeros((1, 1), np.float32)), f"{name}.size"], [name]),
        ]
        return name

    def _ends(self, found: list[str]) -> list[onnx.NodeProto]:
        """The operator's outputs have an axis of directions."""
        axes = [1] + [0] * (len(found) - 1)
        return [
            helper.make_node("Unsqueeze", [mine, self._const(f"direction{k}", np.array([axis]))], [theirs])
            for k, (mine, axis, theirs) in enumerate(zip(found, axes, self._node.output, strict=False))
            if theirs
        ]


class _Body:
    """The graph of one step as it is drawn."""

    def __init__(self) -> None:
        self.made: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.made.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def const(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def split(self, x: str, names: list[str], sizes: list[int]) -> None:
        given = self.const(f"{x}.sizes", np.array(sizes))
        self.made.append(helper.make_node("Split", [x, given], names, axis=1))

    def product(self, h: str, weight: Array, name: str) -> str:
        """h . weight^T, h between -1 and 1, in integers."""
        scale = scales(weight, 0) * np.float32(127 / LARGEST)
        integers = np.clip(np.rint(weight / scale), -LARGEST, LARGEST).astype(np.int8)
        unit = self.const(f"{name}.unit", np.asarray(UNIT))
        middle = self.const(f"{name}.middle", np.asarray(MIDDLE, np.uint8))
        quantized = self.op("QuantizeLinear", [h, unit, middle], f"{name}.int8")
        kernel = [self.const(f"{name}.kernel", integers.T), middle, self.const(f"{name}.none", np.zeros((), np.int8))]
        total = self.op("MatMulInteger", [quantized, *kernel], f"{name}.sum")
        total = self.op("Cast", [total], f"{name}.float", to=TensorProto.FLOAT)
        return self.op("Mul", [total, self.const(f"{name}.scale", (scale[:, 0] * UNIT).astype(np.float32))], name)

    def graph(self, states: list[str], after: list[str], hidden: int, rows: int) -> onnx.GraphProto:
        def info(name: str, width: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])

        self.op("Identity", [after[0]], "y")
        inputs = [*(info(s, hidden) for s in states), info("x", rows)]
        outputs = [*(info(s, hidden) for s in after), info("y", hidden)]
        return helper.make_graph(self.made, "step", inputs, outputs, self.constants)


def _lstm(weight: Array, _bias: Array, _lbr: bool) -> onnx.GraphProto:
    """ONNX's order of gates: input, output, forget, cell."""
    b, hidden = _Body(), len(weight) // 4
    b.split(b.op("Add", [b.product("h", weight, "hr"), "x"], "gates"), ["i0", "o0", "f0", "g0"], [hidden] * 4)
    i, o, f = (b.op("Sigmoid", [f"{g}0"], g) for g in "iof")
    kept = b.op("Mul", [f, "c"], "kept")
    new = b.op("Mul", [i, b.op("Tanh", ["g0"], "g")], "new")
    cell = b.op("Add", [kept, new], "c_after")
    b.op("Mul", [o, b.op("Tanh", [cell], "shown")], "h_after")
    return b.graph(["h", "c"], ["h_after", "c_after"], hidden, len(weight))


def _gru(weight: Array, bias: Array, lbr: bool) -> onnx.GraphProto:
    """ONNX's order of gates: update, reset, hidden."""
    b, hidden = _Body(), len(weight) // 3
    two = 2 * hidden
    b.split("x", ["x_zr", "x_h"], [two, hidden])
    if lbr:
        b.split(b.product("h", weight, "hr"), ["h_zr", "h_h"], [two, hidden])
    else:
        b.product("h", weight[:two], "h_zr")
    b.split(b.op("Sigmoid", [b.op("Add", ["x_zr", "h_zr"], "zr0")], "zr"), ["z", "r"], [hidden, hidden])
    if lbr:
        past = b.op("Mul", ["r", b.op("Add", ["h_h", b.const("bias", bias)], "h_open")], "past")
    else:
        past = b.product(b.op("Mul", ["r", "h"], "kept"), weight[two:], "past")
    new = b.op("Tanh", [b.op("Add", ["x_h", past], "new0")], "new")
    # (1 - z) new + z h, as new + z (h - new)
    step = b.op("Mul", ["z", b.op("Sub", ["h", new], "gap")], "step")
    b.op("Add", [new, step], "h_after")
    return b.graph(["h"], ["h_after"], hidden, len(weight))


def _rnn(weight: Array, _bias: Array, _lbr: bool) -> onnx.GraphProto:
    b = _Body()
    b.op("Tanh", [b.op("Add", [b.product("h", weight, "hr"), "x"], "gate")], "h_after")
    return b.graph(["h"], ["h_after"], len(weight), len(weight))


class _Cell:
    """A kind of layer: its states, and the graph of its step."""

    def __init__(self, states: str, body: Callable[[Array, Array, bool], onnx.GraphProto]) -> None:
        self.states, self.body = states, body


_CELLS = {"LSTM": _Cell("hc", _lstm), "GRU": _Cell("h", _gru), "RNN": _Cell("h", _rnn)}
