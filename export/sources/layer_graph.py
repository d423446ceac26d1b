"""A whole-sequence ONNX graph, built layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from holdover.export.gates import Gate, stack

Array = NDArray[Any]
Dims = tuple[int | str, ...]

OPSET, IR = 17, 8
"""What onnxruntime 1.19, the oldest that boards still run, can read."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes
    ----------
    name : str
        In the graph.
    dims : tuple of int or str
        "batch" and "time" are free, all else is a number.
    """

    name: str
    dims: Dims


class Graph:
    """Nodes, constants, inputs and outputs of a model in the making.

    Attributes
    ----------
    scope : str
        The layer being written; its name leads the names of its nodes, so that a refusal can name it.
    notes : list of str
        What the reader should know of the layers.
    """

    def __init__(self) -> None:
        self.scope = ""
        self.notes: list[str] = []
        self._count = 0
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dims: Dims) -> Value:
        """A float32 input of the model."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
        return Value(name, dims)

    def output(self, value: Value, name: str) -> None:
        """Declare a value an output of the model.

        The time axis gets a name of its own, since strides and windows make its length differ from the input's.
        """
        self._nodes.append(helper.make_node("Identity", [value.name], [name], name=f"{name}/output"))
        dims = [f"{name}.time" if d == "time" else d for d in value.dims]
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a new constant."""
        name = self._name("constant")
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> tuple[str, ...]:
        """Add a node; the names of its outputs."""
        name = self._name(op)
        names = (name, *(f"{name}:{i}" for i in range(1, outputs)))
        self._nodes.append(helper.make_node(op, list(inputs), list(names), name=name, **attributes))
        return names

    def apply(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output; the name of that."""
        return self.node(op, *inputs, **attributes)[0]

    def model(self, name: str) -> onnx.ModelProto:
        """The model."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{self.scope}/{what}_{self._count}"


def recurrent(
    graph: Graph, op: str, x: Value, directions: Sequence[Mapping[str, Gate]], direction: str, **attributes: Any
) -> tuple[Value, list[Value]]:
    """One recurrent node over x.

    Parameters
    ----------
    op : str
        "LSTM", "GRU" or "RNN".
    x : Value
        (batch, time, inputs).
    directions : sequence of mapping of str to Gate
        The gates by letter; two for a bidirectional node.
    direction : str
        "forward", "reverse" or "bidirectional".

    Returns
    -------
    y : Value
        (batch, time, directions * hidden), a direction after the other.
    last : list of Value
        The last h, and of an LSTM the last c, (batch, directions * hidden).
    """
    hidden = next(iter(directions[0].values())).r.shape[1]
    parts = zip(*(stack(op, gates) for gates in directions), strict=True)
    weights = [graph.constant(np.concatenate(part)) for part in parts]
    by_time = graph.apply("Transpose", x.name, perm=[1, 0, 2])
    states = 2 if op == "LSTM" else 1
    extra = attributes if direction == "forward" else {"direction": direction, **attributes}
    y, *last = graph.node(op, by_time, *weights, outputs=1 + states, hidden_size=hidden, **extra)
    width = len(directions) * hidden
    return (
        Value(_by_batch(graph, y, len(directions), width), ("batch", "time", width)),
        [Value(_state(graph, s, len(directions), width), ("batch", width)) for s in last],
    )


def _by_batch(graph: Graph, y: str, directions: int, width: int) -> str:
    """(time, directions, batch, hidden) to (batch, time, directions * hidden)."""
    if directions == 1:
        squeezed = graph.apply("Squeeze", y, graph.constant([1], np.int64))
        return graph.apply("Transpose", squeezed, perm=[1, 0, 2])
    turned = graph.apply("Transpose", y, perm=[2, 0, 1, 3])
    return graph.apply("Reshape", turned, graph.constant([0, 0, width], np.int64))


def _state(graph: Graph, state: str, directions: int, width: int) -> str:
    """(directions, batch, hidden) to (batch, directions * hidden)."""
    if directions == 1:
        return graph.apply("Squeeze", state, graph.constant([0], np.int64))
    turned = graph.apply("Transpose", state, perm=[1, 0, 2])
    return graph.apply("Reshape", turned, graph.constant([0, width], np.int64))
