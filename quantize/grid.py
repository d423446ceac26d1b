"""Weights on a grid of 8-bit integers, and weights that are stored so; both ways without changing a bit.

A scale has 16 significant bits, so that scale times integer is a float32 without rounding: what lies on a grid can be
found again after a graph was transposed or cut, and what was packed is unpacked as it was.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]

LARGEST = 127
SCALE_BITS = 16
NODE_BYTES = 200
"""What the two nodes that unpack a tensor take in a file, about."""
CHANNEL = {"Conv": {1: 0}, "ConvTranspose": {1: 1}, "MatMul": {1: -1}, "Gemm": {1: -1}, "Gather": {0: 0},
           "LSTM": {1: 1, 2: 1}, "GRU": {1: 1, 2: 1}, "RNN": {1: 1, 2: 1}}  # fmt: skip
"""By operator: which input is a weight, and the axis along which each place has a scale of its own."""


def rounded(weight: Array, axis: int) -> Array:
    """The nearest weight on a symmetric grid with a scale for each place along an axis.

    Examples
    --------
    >>> float(rounded(np.array([[1.0, 0.3]], np.float32), 0)[0, 1])  # 38 of 127 parts of 1
    0.2992...
    """
    scale = scales(weight, axis)
    nearest: Array = (np.rint(weight / scale) * scale).astype(np.float32)
    return nearest


def scales(weight: Array, axis: int) -> Array:
    """Scales with `SCALE_BITS` significant bits, shaped to broadcast; 1 where all is zero."""
    rest = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    largest = np.abs(weight).max(axis=rest, keepdims=True)
    mantissa, exponent = np.frexp(largest.astype(np.float64) / LARGEST)
    short = np.ldexp(np.ceil(mantissa * 2**SCALE_BITS) / 2**SCALE_BITS, exponent)
    found: Array = np.where(largest > 0, short, 1).astype(np.float32)
    return found


def is_worth_it(weight: Array) -> bool:
    """Whether 8 bits save more than the nodes cost that unpack them."""
    channels = max(weight.shape, default=0)
    return weight.dtype == np.float32 and weight.ndim > 1 and 3 * weight.size > 4 * channels + NODE_BYTES


def round_weights(model: onnx.ModelProto) -> int:
    """Put every large weight of a graph on a grid, in place; how many."""
    axes = dict(_weights(model.graph))
    count = 0
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if tensor.name in axes and is_worth_it(weight) and np.isfinite(weight).all():
            tensor.CopyFrom(numpy_helper.from_array(rounded(weight, axes[tensor.name]), tensor.name))
            count += 1
    return count


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Names of weights and their channel axes."""
    for node in graph.node:
        for index, axis in CHANNEL.get(node.op_type, {}).items():
            if index < len(node.input):
                rows = any(a.name == "transB" and a.i for a in node.attribute)
                yield node.input[index], 0 if rows else axis


def pack(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, weights that lie on a grid stored as integers and scales.

    They are unpacked by Cast and Mul, which onnxruntime folds when it loads a model: a step then costs what it did.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    found = [(t, split) for t in graph.initializer if (split := _split(numpy_helper.to_array(t))) is not None]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    unpacking: list[onnx.NodeProto] = []
    for tensor, (integers, scale) in found:
        name = tensor.name
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(integers, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
        unpacking.append(helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT))
        unpacking.append(helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]))
    del graph.node[:]
    graph.node.extend([*unpacking, *nodes])
    return small


def _split(weight: Array) -> tuple[NDArray[np.int8], Array] | None:
    """Integers and scales whose product is the weight, bit for bit, if it lies on a grid; and is worth it."""
    if not is_worth_it(weight) or not np.isfinite(weight).all():
        return None
    for axis in range(weight.ndim):
        for scale in (scales(weight, axis), _peaks(weight, axis)):
            integers = np.rint(weight / scale)
            if np.array_equal((integers * scale).astype(np.float32), weight):
                return integers.astype(np.int8), scale
    return None


def _peaks(weight: Array, axis: int) -> Array:
    """Scales of matrices that only pick: each value is 0, or as large as the largest; 1 where all is zero."""
    rest = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    largest = np.abs(weight).max(axis=rest, keepdims=True)
    found: Array = np.where(largest > 0, largest, 1).astype(np.float32)
    return found
