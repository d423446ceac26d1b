"""A model in float64, by ONNX's reference evaluator: what rounding alone can explain, and what it cannot.

Slow, and independent of ONNX Runtime; for proofs, never on the device.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from holdover.export.float64_ops import OVERRIDES
from holdover.runtime.errors import ModelError

Array = NDArray[Any]

INTEGER = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv",
     "QLinearMatMul")
)  # fmt: skip
"""Operators whose results are those of a rounding: in float64 they would round elsewhere, which is no reference."""


def run_float64(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Evaluate a model with every float32 tensor as float64.

    Parameters
    ----------
    model : onnx.ModelProto
        Left as it is.
    inputs : mapping of str to array
        By name; float32 is widened.

    Returns
    -------
    dict of str to array
        Outputs by name, float64 where the model says float32. A model with quantized operators is run as it is
        written, in float32, since its rounding is part of what it says.

    Raises
    ------
    ModelError
        An input is missing, or the model has what the reference cannot evaluate.
    """
    missing = sorted({i.name for i in model.graph.input} - {t.name for t in model.graph.initializer} - set(inputs))
    if missing:
        raise ModelError(f"the model needs the inputs {', '.join(missing)}; found {', '.join(inputs) or 'none'}")
    exact = model if _quantized(model) else widened(model)
    feeds = inputs if exact is model else {name: _double(value) for name, value in inputs.items()}
    try:
        found = ReferenceEvaluator(exact, new_ops=list(OVERRIDES)).run(None, dict(feeds))
    except ModelError:
        raise
    except Exception as error:  # the evaluator raises whatever numpy does
        raise ModelError(f"the reference cannot evaluate the model ({type(error).__name__}: {error})") from error
    return dict(zip([o.name for o in model.graph.output], found, strict=True))


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every float32 constant, cast and declared type as float64, in bodies and functions too."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for graph in _graphs(wide.graph):
        for tensor in graph.initializer:
            _widen(tensor)
        for info in (*graph.input, *graph.output, *graph.value_info):
            _widen_type(info.type)
    for node in _nodes(wide):
        _widen_node(node)
    return wide


def _quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type in INTEGER for node in _nodes(model))


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, its functions and their bodies."""
    for graph in _graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        for node in function.node:
            yield node
            for graph in _bodies(node):
                yield from graph.node


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every body within."""
    yield graph
    for node in graph.node:
        yield from _bodies(node)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _graphs(body)


def _widen_node(node: onnx.NodeProto) -> None:
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _widen(attribute.t)
        elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            values = np.array(attribute.f if attribute.name == "value_float" else attribute.floats, np.float64)
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        value = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _widen_type(kind: onnx.TypeProto) -> None:
    if kind.HasField("sequence_type"):
        _widen_type(kind.sequence_type.elem_type)
    elif kind.HasField("optional_type"):
        _widen_type(kind.optional_type.elem_type)
    elif kind.tensor_type.elem_type == TensorProto.FLOAT:
        kind.tensor_type.elem_type = TensorProto.DOUBLE


def _double(value: Array) -> Array:
    value = np.asarray(value)
    return value.astype(np.float64) if value.dtype == np.float32 else value
