"""Preprocessing as ONNX nodes over (time, batch, channels) in double precision; what recurs is a Scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from holdover.export.front_end_sections import Array, Step
from holdover.export.whole import Layout

_END = np.iinfo(np.int64).max
Inner = Sequence[tuple[str, Sequence[str], str, Mapping[str, int]]]
"""Nodes of a body: operator, inputs, output, attributes."""


@dataclass
class FrontGraph:
    """Nodes and constants before an input, or behind an output; tensors are (time, batch, channels), double."""

    name: str
    channels: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one output."""
        return self.ops(op, inputs, 1, **attributes)[0]

    def ops(self, op: str, inputs: Sequence[str], outputs: int, wish: str = "", **attributes: Any) -> list[str]:
        """A node with several outputs."""
        stem = f"{self.name}.{wish or op.lower()}{len(self.nodes)}"
        names = [stem if k == 0 else f"{stem}.{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=stem, **attributes))
        return names

    def const(self, value: Any, dtype: Any = np.float64) -> str:
        """A constant."""
        name = f"{self.name}.const{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        """A one-dimensional int64 constant."""
        return self.const(values, np.int64)

    def zeros(self, x: str, *shape: int) -> str:
        """Zeros of shape (batch, ...), for as many streams as x has."""
        batch = self.op("Slice", [self.op("Shape", [x]), self.ints(1), self.ints(2)])
        shape_of = self.op("Concat", [batch, self.ints(*shape)], axis=0)
        return self.op("ConstantOfShape", [shape_of], value=numpy_helper.from_array(np.zeros(1)))

    def scan(self, body: onnx.GraphProto, state: str, x: str, wish: str) -> str:
        """What a body gives at each step over the time of x; the name is that of the state in the contract."""
        return self.ops("Scan", [state, x], 2, wish, body=body, num_scan_inputs=1)[1]


def state_space(sections: Array) -> tuple[Array, Array, Array, Array]:
    """A, B, C, D of a cascade: h' = A h + B x, y = C h + D x, each section in transposed direct form II.

    Parameters
    ----------
    sections : array
        (sections, 6).

    Returns
    -------
    tuple of array
        (n, n), (n, 1), (1, n), (1, 1), n two a section.
    """
    a, b, c, d = np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), np.ones((1, 1))
    for b0, b1, b2, _, a1, a2 in sections:
        own, gain = np.array([[-a1, 1.0], [-a2, 0.0]]), np.array([[b1 - a1 * b0], [b2 - a2 * b0]])
        a = np.block([[a, np.zeros((len(a), 2))], [gain @ c, own]])
        b, c, d = np.vstack([b, gain @ d]), np.hstack([b0 * c, [[1.0, 0.0]]]), b0 * d
    return a, b, c, d


def cascade(g: FrontGraph, x: str, sections: Array) -> str:
    """A cascade over each channel: one product a sample gives the next state and the result beside it."""
    a, b, c, d = state_space(sections)
    n, k = len(a) + 1, g.channels
    step: Array = np.kron(np.eye(k), np.vstack([np.hstack([a.T, c.T]), np.zeros((1, n))])).astype(np.float64)
    entry = np.kron(np.eye(k), np.hstack([b.T, d]))
    every = _recurrence(g, g.op("MatMul", [x, g.const(entry)]), step, "filter")
    return g.op("Gather", [every, g.ints(*range(n - 1, n * k, n))], axis=2)


def _recurrence(g: FrontGraph, u: str, step: Array, wish: str) -> str:
    """z' = z . step + u for every sample, (time, batch, width) to the same."""
    width = len(step)
    nodes: Inner = (("Gemm", ("z", "step", "u"), "after", {}), ("Identity", ("after",), "said", {}))
    body = _body(g, nodes, {"z": [width], "u": [width]}, ("after", "said"), {"step": step})
    return g.scan(body, g.zeros(u, width), u, wish)


def _body(
    g: FrontGraph,
    nodes: Inner,
    inputs: Mapping[str, list[int]],
    outputs: Sequence[str],
    constants: Mapping[str, Any],
) -> onnx.GraphProto:
    """What one step of a Scan does: in come the state and a frame, out the next state and a frame.

    Names get a stem that nothing else has: a name within a body must not be one outside.
    """
    stem = f"{g.name}.step{len(g.nodes)}."
    shapes = zip([*inputs, *outputs], [*inputs.values()] * 2, strict=True)
    infos = [helper.make_tensor_value_info(stem + n, TensorProto.DOUBLE, ["batch", *shape]) for n, shape in shapes]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(v), stem + name) for name, v in constants.items()]
    made = [
        helper.make_node(op, [stem + n for n in given], [stem + gives], **attributes)
        for op, given, gives, attributes in nodes
    ]
    return helper.make_graph(made, "step", infos[: len(inputs)], infos[len(inputs) :], tensors)


def fir(g: FrontGraph, x: str, step: Step, _rate_hz: float) -> str:
    """The samples before are carried; one product a sample, where Conv would give other bits for other blocks."""
    taps, k = np.asarray(step["taps"], np.float64), g.channels
    if len(taps) == 1:
        return g.op("Mul", [x, g.const(taps)])
    nodes: Inner = (
        ("Concat", ("past", "x"), "window", {"axis": 1}),
        ("MatMul", ("taps", "window"), "y", {}),
        ("Slice", ("window", "one", "end", "one"), "after", {}),
    )
    constants = {"taps": taps[None, ::-1], "one": np.ones(1, np.int64), "end": np.full(1, _END)}
    past = len(taps) - 1
    body = _body(g, nodes, {"past": [past, k], "x": [1, k]}, ("after", "y"), constants)
    y = g.scan(body, g.zeros(x, past, k), g.op("Unsqueeze", [x, g.ints(2)]), "fir")
    return g.op("Squeeze", [y, g.ints(2)])


def gained(g: FrontGraph, x: str, step: Step, _rate_hz: float) -> str:
    """Times a factor."""
    return g.op("Mul", [x, g.const([step["factor"]])])


def shifted(g: FrontGraph, x: str, step: Step, _rate_hz: float) -> str:
    """Plus a number."""
    return g.op("Add", [x, g.const([step["add"]])])


def standardised(g: FrontGraph, x: str, step: Step, _rate_hz: float) -> str:
    """Less a fixed mean, over a fixed deviation."""
    return g.op("Div", [g.op("Sub", [x, g.const([step["mean"]])]), g.const([step["std"]])])


def running(g: FrontGraph, x: str, step: Step, rate_hz: float) -> str:
    """(x - mean) / (std + floor) over all samples so far, each older one weighted less by the same factor.

    The weights themselves are summed beside x and its square, so that the first samples are not drawn towards 0.
    """
    one = g.op("Add", [g.op("Mul", [x, g.const([0.0])]), g.const([1.0])])
    moments = g.op("Concat", [one, x, g.op("Mul", [x, x])], axis=2)
    fade = np.exp(-1 / (step["tau_s"] * rate_hz))
    sums = _recurrence(g, moments, np.eye(3 * g.channels) * fade, "running")
    weight, first, second = g.ops("Split", [sums, g.ints(*[g.channels] * 3)], 3, axis=2)
    mean = g.op("Div", [first, weight])
    variance = g.op("Sub", [g.op("Div", [second, weight]), g.op("Mul", [mean, mean])])
    std = g.op("Sqrt", [g.op("Max", [variance, g.const([0.0])])])
    return g.op("Div", [g.op("Sub", [x, mean]), g.op("Add", [std, g.const([step["floor"]])])])


def gather(g: FrontGraph, y: str, layout: Layout) -> str:
    """From how the model gives an output to (time, batch, channels)."""
    dims = layout.dims
    if "batch" not in dims:
        y, dims = g.op("Unsqueeze", [y, g.ints(0)]), ("batch", *dims)
    first = [dims.index("time"), dims.index("batch")]
    perm = [*first, *(i for i in range(len(dims)) if i not in first)]
    y = g.op("Transpose", [y], perm=perm) if perm != sorted(perm) else y
    return y if len(dims) == 3 else g.op("Reshape", [y, g.ints(0, 0, layout.channels)])


def lay(g: FrontGraph, y: str, layout: Layout) -> None:
    """From (time, batch, channels) to how the model takes an input, or gives an output."""
    sizes = [n for n in layout.dims if isinstance(n, int)]
    if sizes != [layout.channels]:
        y = g.op("Reshape", [y, g.ints(0, 0, *sizes)])
    number = iter(range(2, 2 + len(sizes)))
    axes = [next(number) if isinstance(n, int) else {"time": 0, "batch": 1}[n] for n in layout.dims]
    if "batch" not in layout.dims:
        y, axes = g.op("Squeeze", [y, g.ints(1)]), [max(axis - 1, 0) for axis in axes]
    if axes != sorted(axes):
        y = g.op("Transpose", [y], perm=axes)
    g.nodes.append(helper.make_node("Identity", [y], [layout.name], name=f"{g.name}.processed"))
