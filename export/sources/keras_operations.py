"""Keras operations between layers, `x + y` or `keras.ops.relu(x)`, as ONNX nodes."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from holdover.export.sources.keras_activations import ACTIVATIONS
from holdover.export.sources.keras_layer import Layer, broadcast, features, sequence
from holdover.export.sources.layer_graph import Graph, Value

BINARY = {"Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "TrueDivide": "Div", "Divide": "Div"}
REDUCE = {"Mean": "ReduceMean", "Max": "ReduceMax"}
DEFAULTS = {"axis": -1, "negative_slope": 0.2, "alpha": 1.0, "approximate": False}
"""The settings for which an operation is the activation of its name."""

WHOLE = {"class_name": "__slice__", "config": {"start": None, "stop": None, "step": None}}
LAST_STEP = ([WHOLE, -1], [WHOLE, -1, WHOLE])


def operation(graph: Graph, layer: Layer, args: Sequence[Any]) -> Value:
    """The nodes of an operation.

    Parameters
    ----------
    args : sequence
        Values of the graph, numbers, and what else the call was given.
    """
    activation = re.sub(r"(?<!^)([A-Z])", r"_\1", layer.kind).lower()
    if layer.kind in BINARY:
        return _binary(graph, layer, args)
    if layer.kind in REDUCE:
        return _reduce(graph, layer, args[0])
    if layer.kind == "GetItem":
        return _last_step(graph, layer, args)
    if activation in ACTIVATIONS:
        return _activation(graph, layer, args[0], activation)
    known = (*BINARY, *REDUCE, "GetItem", *ACTIVATIONS)
    raise layer.refuse(f"is an operation that is not known; known are {', '.join(known)}")


def _binary(graph: Graph, layer: Layer, args: Sequence[Any]) -> Value:
    operands = [_operand(graph, layer, arg) for arg in args]
    a, b = (x.dims or y.dims for x, y in (operands, operands[::-1]))
    if len(a) != len(b):
        raise layer.refuse(f"needs inputs of one rank, found {a} and {b}")
    dims = tuple(broadcast(layer, sizes) for sizes in zip(a, b, strict=True))
    return Value(graph.apply(BINARY[layer.kind], *(x.name for x in operands)), dims)


def _operand(graph: Graph, layer: Layer, arg: Any) -> Value:
    if isinstance(arg, Value):
        return arg
    if isinstance(arg, int | float):
        return Value(graph.constant(arg), ())
    raise layer.refuse(f"has an operand that is neither a tensor nor a number: {arg!r:.60}")


def _reduce(graph: Graph, layer: Layer, x: Value) -> Value:
    width, keep = sequence(layer, x), bool(layer.config.get("keepdims"))
    if layer.config.get("axis") not in (1, [1], -2):
        raise layer.refuse(f"works along axis {layer.config.get('axis')}, expected 1, the time")
    y = graph.apply(REDUCE[layer.kind], x.name, axes=[1], keepdims=int(keep))
    return Value(y, ("batch", 1, width) if keep else ("batch", width))


def _last_step(graph: Graph, layer: Layer, args: Sequence[Any]) -> Value:
    x, index = args
    width = sequence(layer, x)
    if index not in LAST_STEP:
        raise layer.refuse("takes another part than the last step, [:, -1], which is the only one that is known")
    return Value(graph.apply("Gather", x.name, graph.constant(-1, np.int64), axis=1), ("batch", width))


def _activation(graph: Graph, layer: Layer, x: Value, name: str) -> Value:
    unlike = {k: v for k, v in layer.config.items() if k in DEFAULTS and v != DEFAULTS[k]}
    if unlike:
        raise layer.refuse(f"has the settings {unlike}; known are {DEFAULTS}")
    if name == "softmax":
        features(layer, x)
    return Value(ACTIVATIONS[name](graph, x.name), x.dims)
