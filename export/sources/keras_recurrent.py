"""Keras recurrent layers as ONNX nodes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from holdover.export.gates import ORDERS, Gate, split
from holdover.export.sources.keras_layer import Layer, sequence
from holdover.export.sources.keras_weights import Weights
from holdover.export.sources.layer_graph import Array, Graph, Value, recurrent

OPS = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}
CELLS = {"LSTMCell": "LSTM", "GRUCell": "GRU", "SimpleRNNCell": "SimpleRNN"}

FUNCTIONS: dict[str, tuple[str, float | None, float | None]] = {
    "tanh": ("Tanh", None, None),
    "sigmoid": ("Sigmoid", None, None),
    "relu": ("Relu", None, None),
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    "linear": ("Affine", 1.0, 0.0),
    "elu": ("Elu", 1.0, None),
    "leaky_relu": ("LeakyRelu", 0.2, None),
    "softsign": ("Softsign", None, None),
    "softplus": ("Softplus", None, None),
}
"""Activations that ONNX's recurrent operators have, with Keras's alpha and beta where they take one."""


def layer_nodes(graph: Graph, layer: Layer, x: Value) -> list[Value]:
    """LSTM, GRU, SimpleRNN: the sequence or the last step, then the states if the layer returns them."""
    if layer.config.get("go_backwards"):
        y, last = _nodes(graph, layer, x, [layer], "reverse")
        y = Value(_backwards(graph, y.name), y.dims)  # Keras gives the last sample's result first
    else:
        y, last = _nodes(graph, layer, x, [layer], "forward")
    first = y if layer.config["return_sequences"] else last[0]
    return [first, *last] if layer.config.get("return_state") else [first]


def cell_nodes(graph: Graph, layer: Layer, x: Value) -> list[Value]:
    """RNN around one cell, which is what the layers above are."""
    cell = layer.config["cell"]
    if cell.get("class_name") not in CELLS:
        raise layer.refuse(f"runs the cell {cell.get('class_name')!r}; known are {', '.join(CELLS)}")
    inner = {**cell["config"], **layer.config}
    return layer_nodes(graph, Layer(CELLS[cell["class_name"]], layer.name, inner, layer.weights), x)


def both_ways(graph: Graph, layer: Layer, x: Value) -> list[Value]:
    """Bidirectional: one node of two directions; it cannot be streamed, and is refused by name where that is tried."""
    ahead = layer.inner(layer.config["layer"], "forward_layer")
    back = layer.inner(layer.config.get("backward_layer") or layer.config["layer"], "backward_layer")
    if ahead.kind not in OPS or _differ(ahead.config, back.config) or ahead.kind != back.kind:
        raise layer.refuse(f"wraps {ahead.kind!r} and {back.kind!r} of unlike settings; known are two of one kind")
    if layer.config.get("merge_mode") != "concat" or ahead.config.get("return_state"):
        raise layer.refuse("merges its directions in another way than 'concat', or returns its states")
    y, last = _nodes(graph, ahead, x, [ahead, back], "bidirectional")
    return [y if ahead.config["return_sequences"] else last[0]]


def _differ(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    keys = ("units", "use_bias", "reset_after", "activation", "recurrent_activation", "return_sequences")
    return any(a.get(key) != b.get(key) for key in keys)


RECURRENT: dict[str, Callable[[Graph, Layer, Value], list[Value]]] = {
    **dict.fromkeys(OPS, layer_nodes),
    "RNN": cell_nodes,
    "Bidirectional": both_ways,
}
"""By class."""


def _nodes(graph: Graph, layer: Layer, x: Value, layers: list[Layer], direction: str) -> tuple[Value, list[Value]]:
    """The node for the layers, one a direction, that differ in their weights alone."""
    op, inputs = OPS[layer.kind], sequence(layer, x)
    gates = [_gates(each, op, each.weights.child("cell"), inputs) for each in layers]
    more = {"linear_before_reset": 1} if op == "GRU" and layer.config["reset_after"] else {}
    return recurrent(graph, op, x, gates, direction, **_functions(layer, op, len(layers)), **more)


def _gates(layer: Layer, op: str, weights: Weights, inputs: int) -> dict[str, Gate]:
    order, units = ORDERS[op]["keras"], layer.config["units"]
    rows = len(order) * units
    layer.take()  # it has none of its own, but its name stands there
    two = op == "GRU" and layer.config["reset_after"]  # a bias of the input and one of the recurrence
    shapes = [(inputs, rows), (units, rows)] + ([(2, rows) if two else (rows,)] if layer.config["use_bias"] else [])
    kernel, recurrence, *bias = weights.take(*shapes)
    bw, br = _biases(bias, rows, two)
    return split(order, kernel.T, recurrence.T, bw, br)


def _biases(bias: list[Array], rows: int, two: bool) -> tuple[Array, Array]:
    zero = np.zeros(rows, np.float32)
    if not bias:
        return zero, zero
    return (bias[0][0], bias[0][1]) if two else (bias[0], zero)


def _functions(layer: Layer, op: str, directions: int) -> dict[str, Any]:
    """ONNX's activations where they are not its default."""
    names = [layer.config["activation"]]
    if op != "RNN":
        names = [layer.config["recurrent_activation"], *names, *(names if op == "LSTM" else [])]
    for name in names:
        if not isinstance(name, str) or name not in FUNCTIONS:
            raise layer.refuse(f"has the activation {name!r}; a recurrent layer may have {', '.join(FUNCTIONS)}")
    if names in (["tanh"], ["sigmoid", "tanh"], ["sigmoid", "tanh", "tanh"]):
        return {}
    found = [FUNCTIONS[name] for name in names * directions]
    alphas, betas = ([f[i] for f in found if f[i] is not None] for i in (1, 2))
    more = {k: v for k, v in (("activation_alpha", alphas), ("activation_beta", betas)) if v}
    return {"activations": [f[0] for f in found], **more}


def _backwards(graph: Graph, y: str) -> str:
    ends = (-1, np.iinfo(np.int64).min, 1, -1)
    return graph.apply("Slice", y, *(graph.constant([e], np.int64) for e in ends))
