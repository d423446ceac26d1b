"""Keras layers as ONNX nodes, one table entry each; recurrent layers have a file of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from holdover.export.sources.keras_activations import ACTIVATION_LAYERS, activate, scaled
from holdover.export.sources.keras_layer import Layer, broadcast, features, last_axis, sequence
from holdover.export.sources.layer_graph import Array, Graph, Value

# layers that take each sample for itself


def _dense(graph: Graph, layer: Layer, x: Value) -> Value:
    inputs, units = features(layer, x), layer.config["units"]
    kernel, *bias = layer.take((inputs, units), (units,) if layer.config["use_bias"] else None)
    y = graph.apply("MatMul", x.name, graph.constant(kernel))
    if bias:
        y = graph.apply("Add", y, graph.constant(bias[0]))
    return activate(graph, layer, Value(y, (*x.dims[:-1], units)))


def _batch_normalization(graph: Graph, layer: Layer, x: Value) -> Value:
    width, config = last_axis(layer, x), layer.config
    scale, center = config["scale"], config["center"]
    found = layer.take((width,) if scale else None, (width,) if center else None, (width,), (width,))
    mean, variance = found[-2:]
    gamma = found[0] if scale else np.ones(width)
    y = _affine(graph, x.name, -mean, gamma / _root(layer, variance.astype(float) + config["epsilon"]))
    return Value(graph.apply("Add", y, graph.constant(found[int(scale)])) if center else y, x.dims)


def _root(layer: Layer, variance: Array) -> Array:
    """Standard deviation, at least Keras's epsilon."""
    if (variance < 0).any():
        raise layer.refuse("has a variance below zero; train or save it again")
    return np.maximum(np.sqrt(variance), 1e-7)


def _affine(graph: Graph, x: str, shift: Array, factor: Array) -> str:
    """(x + shift) * factor."""
    return graph.apply("Mul", graph.apply("Add", x, graph.constant(shift)), graph.constant(factor))


def _layer_normalization(graph: Graph, layer: Layer, x: Value) -> Value:
    width, config = last_axis(layer, x), layer.config
    if config.get("rms_scaling"):
        raise layer.refuse("has rms_scaling, which is not read; use the plain form")
    shapes = ((width,) if config["scale"] else None, (width,) if config["center"] else None)
    found = layer.take(*shapes)
    gamma = found[0] if config["scale"] else np.ones(width)
    inputs = [graph.constant(gamma), *([graph.constant(found[-1])] if config["center"] else [])]
    return Value(graph.apply("LayerNormalization", x.name, *inputs, axis=-1, epsilon=config["epsilon"]), x.dims)


def _normalization(graph: Graph, layer: Layer, x: Value) -> Value:
    width, config = last_axis(layer, x), layer.config
    if config.get("invert") or config.get("mean") is not None:
        raise layer.refuse("is inverted or has its mean in its arguments; only an adapted one is read")
    found = layer.weights.take((width,), (width,), (), owner=layer.name)
    return Value(_affine(graph, x.name, -found[0], 1 / _root(layer, found[1].astype(float))), x.dims)


def _rescaling(graph: Graph, layer: Layer, x: Value) -> Value:
    y = graph.apply("Mul", x.name, graph.constant(layer.config["scale"]))
    return Value(graph.apply("Add", y, graph.constant(layer.config["offset"])), x.dims)


def _same(_graph: Graph, _layer: Layer, x: Value) -> Value:
    """What works in training only."""
    return x


TRAINING_ONLY = ("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity")
POINTWISE: dict[str, Callable[[Graph, Layer, Value], Value]] = {
    **ACTIVATION_LAYERS,
    "Dense": _dense,
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "Normalization": _normalization,
    "Rescaling": _rescaling,
    **dict.fromkeys((*TRAINING_ONLY, "ActivityRegularization"), _same),
}


def _time_distributed(graph: Graph, layer: Layer, x: Value) -> Value:
    inner = layer.inner(layer.config["layer"], "layer")
    sequence(layer, x)
    if inner.kind not in POINTWISE:
        raise layer.refuse(f"wraps {inner.kind!r}; it may wrap {', '.join(POINTWISE)}")
    return POINTWISE[inner.kind](graph, inner, x)


# convolution and pooling over time


def _by_channel(graph: Graph, x: str) -> str:
    """(batch, time, channels) to (batch, channels, time) and back."""
    return graph.apply("Transpose", x, perm=[0, 2, 1])


def _padding(layer: Layer, reach: int, stride: int) -> dict[str, Any]:
    """ONNX attributes for the layer's padding; `reach` samples lie between the first and the last tap.

    Padding "same" with a stride depends on the length of the sequence: that is left to the operator.
    """
    kind = layer.config["padding"] if reach else "valid"
    table: dict[str, dict[str, Any]] = {
        "valid": {},
        "causal": {"pads": [reach, 0]},
        "same": {"pads": [reach // 2, reach - reach // 2]} if stride == 1 else {"auto_pad": "SAME_UPPER"},
    }
    if kind not in table:
        raise layer.refuse(f"has the padding {kind!r}; known are {', '.join(table)}")
    return table[kind]


def _convolve(graph: Graph, layer: Layer, x: str, kernel: Array, groups: int, bias: Sequence[Array]) -> str:
    """Kernel as ONNX has it: (filters, channels of a group, taps)."""
    (stride,), (dilation,) = layer.config["strides"], layer.config["dilation_rate"]
    pads = _padding(layer, (kernel.shape[2] - 1) * dilation, stride)
    weights = [graph.constant(a) for a in (kernel, *bias)]
    more = {"kernel_shape": [kernel.shape[2]], "strides": [stride], "dilations": [dilation], "group": groups}
    return graph.apply("Conv", x, *weights, **more, **pads)


def _conv(graph: Graph, layer: Layer, x: Value) -> Value:
    channels, config = sequence(layer, x), layer.config
    filters, groups, (taps,) = config["filters"], config["groups"], config["kernel_size"]
    shapes = ((taps, channels // groups, filters), (filters,) if config["use_bias"] else None)
    kernel, *bias = layer.take(*shapes)
    y = _convolve(graph, layer, _by_channel(graph, x.name), kernel.transpose(2, 1, 0), groups, bias)
    return activate(graph, layer, Value(_by_channel(graph, y), ("batch", "time", filters)))


def _depthwise(kernel: Array) -> Array:
    """Keras's (taps, channels, multiplier) as (channels * multiplier, 1, taps)."""
    return kernel.transpose(1, 2, 0).reshape(-1, 1, kernel.shape[0])


def _depthwise_conv(graph: Graph, layer: Layer, x: Value) -> Value:
    channels, config = sequence(layer, x), layer.config
    (taps,), many = config["kernel_size"], config["depth_multiplier"]
    width = channels * many
    kernel, *bias = layer.take((taps, channels, many), (width,) if config["use_bias"] else None)
    y = _convolve(graph, layer, _by_channel(graph, x.name), _depthwise(kernel), channels, bias)
    return activate(graph, layer, Value(_by_channel(graph, y), ("batch", "time", width)))


def _separable_conv(graph: Graph, layer: Layer, x: Value) -> Value:
    channels, config = sequence(layer, x), layer.config
    (taps,), many, filters = config["kernel_size"], config["depth_multiplier"], config["filters"]
    bias_shape = (filters,) if config["use_bias"] else None
    kernel, point, *bias = layer.take((taps, channels, many), (1, channels * many, filters), bias_shape)
    y = _convolve(graph, layer, _by_channel(graph, x.name), _depthwise(kernel), channels, ())
    mixed = graph.apply("Conv", y, *(graph.constant(a) for a in (point.transpose(2, 1, 0), *bias)), kernel_shape=[1])
    return activate(graph, layer, Value(_by_channel(graph, mixed), ("batch", "time", filters)))


def _pool(op: str) -> Callable[[Graph, Layer, Value], Value]:
    def emit(graph: Graph, layer: Layer, x: Value) -> Value:
        sequence(layer, x)
        (size,), (stride,) = layer.config["pool_size"], layer.config["strides"] or layer.config["pool_size"]
        more = {"kernel_shape": [size], "strides": [stride], **_padding(layer, size - 1, stride)}
        if layer.config["padding"] == "same" and 1 < size < stride:
            raise layer.refuse("skips samples between its windows and pads them too; ONNX Runtime does not run that")
        if op == "AveragePool" and layer.config["padding"] == "same" and (stride > 1 or size % 2 == 0):
            graph.notes.append(f"layer {layer.name}: {UNEVEN}")
        return Value(_by_channel(graph, graph.apply(op, _by_channel(graph, x.name), **more)), x.dims)

    return emit


UNEVEN = (
    "at the ends the mean is that of the samples that are there, as on Keras's TensorFlow and JAX backends; its torch"
    " backend repeats the sample at the edge"
)


def _global(op: str) -> Callable[[Graph, Layer, Value], Value]:
    def emit(graph: Graph, layer: Layer, x: Value) -> Value:
        width, keep = sequence(layer, x), bool(layer.config.get("keepdims"))
        y = graph.apply(op, x.name, axes=[1], keepdims=int(keep))
        return Value(y, ("batch", 1, width) if keep else ("batch", width))

    return emit


# shape


def _pair(layer: Layer, key: str) -> tuple[int, int]:
    before, after = layer.config[key]
    return before, after


def _zero_padding(graph: Graph, layer: Layer, x: Value) -> Value:
    sequence(layer, x)
    before, after = _pair(layer, "padding")
    return Value(graph.apply("Pad", x.name, graph.constant([0, before, 0, 0, after, 0], np.int64)), x.dims)


def _cropping(graph: Graph, layer: Layer, x: Value) -> Value:
    sequence(layer, x)
    before, after = _pair(layer, "cropping")
    ends = (before, -after if after else np.iinfo(np.int64).max, 1)
    return Value(graph.apply("Slice", x.name, *(graph.constant([e], np.int64) for e in ends)), x.dims)


def _flatten(graph: Graph, layer: Layer, x: Value) -> Value:
    if "time" in x.dims:
        raise layer.refuse("makes features of time, so that every result needs the whole sequence; take the last step")
    width = int(np.prod([int(d) for d in x.dims[1:]]))
    return x if len(x.dims) == 2 else Value(graph.apply("Flatten", x.name, axis=1), ("batch", width))


def _permute(graph: Graph, layer: Layer, x: Value) -> Value:
    perm = [0, *layer.config["dims"]]
    return Value(graph.apply("Transpose", x.name, perm=perm), tuple(x.dims[axis] for axis in perm))


def _reshape(graph: Graph, layer: Layer, x: Value) -> Value:
    """Time stays an axis of its own where what lies before it and after it keeps its size."""
    target: list[int] = list(layer.config["target_shape"])
    if "time" not in x.dims:
        raise layer.refuse("comes after the time axis is gone; only a sequence can be reshaped")
    at = x.dims.index("time")
    sizes = [int(np.prod([int(d) for d in part])) for part in (x.dims[1:at], x.dims[at + 1 :])]
    places = [k for k in range(len(target)) if [int(np.prod(t)) for t in (target[:k], target[k + 1 :])] == sizes]
    if not places:
        raise layer.refuse(f"folds time into another axis ({x.dims} to {tuple(target)}); keep time an axis of its own")
    shape = [0, *target]
    shape[1 + places[0]] = -1
    dims = tuple("time" if size == -1 else size for size in shape[1:])
    return Value(graph.apply("Reshape", x.name, graph.constant(shape, np.int64)), ("batch", *dims))


LAYERS: dict[str, Callable[[Graph, Layer, Value], Value]] = {
    **POINTWISE,
    "TimeDistributed": _time_distributed,
    "Conv1D": _conv,
    "DepthwiseConv1D": _depthwise_conv,
    "SeparableConv1D": _separable_conv,
    "MaxPooling1D": _pool("MaxPool"),
    "AveragePooling1D": _pool("AveragePool"),
    "GlobalAveragePooling1D": _global("ReduceMean"),
    "GlobalMaxPooling1D": _global("ReduceMax"),
    "ZeroPadding1D": _zero_padding,
    "Cropping1D": _cropping,
    "Flatten": _flatten,
    "Permute": _permute,
    "Reshape": _reshape,
}
"""Layers of one input and one output, by class."""


# layers of several inputs


def _fold(op: str) -> Callable[[Graph, Layer, Sequence[Value]], Value]:
    def emit(graph: Graph, layer: Layer, xs: Sequence[Value]) -> Value:
        if len(xs) < 2 or len({len(x.dims) for x in xs}) != 1:
            raise layer.refuse(f"needs inputs of one rank, found {[x.dims for x in xs]}")
        y = xs[0].name
        for x in xs[1:]:
            y = graph.apply(op, y, x.name)
        return Value(y, tuple(broadcast(layer, sizes) for sizes in zip(*(x.dims for x in xs), strict=True)))

    return emit


def _average(graph: Graph, layer: Layer, xs: Sequence[Value]) -> Value:
    total = _fold("Add")(graph, layer, xs)
    return Value(scaled(graph, total.name, 1 / len(xs)), total.dims)


def _concatenate(graph: Graph, layer: Layer, xs: Sequence[Value]) -> Value:
    rank = len(xs[0].dims)
    if layer.config["axis"] not in (-1, rank - 1) or len({x.dims[:-1] for x in xs}) != 1:
        raise layer.refuse(f"joins {[x.dims for x in xs]} along axis {layer.config['axis']}; only features can be")
    width = sum(features(layer, x) for x in xs)
    return Value(graph.apply("Concat", *(x.name for x in xs), axis=-1), (*xs[0].dims[:-1], width))


MERGES: dict[str, Callable[[Graph, Layer, Sequence[Value]], Value]] = {
    "Add": _fold("Add"),
    "Subtract": _fold("Sub"),
    "Multiply": _fold("Mul"),
    "Maximum": _fold("Max"),
    "Minimum": _fold("Min"),
    "Average": _average,
    "Concatenate": _concatenate,
}
"""Layers of several inputs, by class."""

REFUSED = {
    "Lambda": "is code, which is not run from a file; write it with layers",
    "Masking": "skips samples by their value; leave it out, a stream has no padding",
    "Embedding": "takes symbols, not samples",
    "RepeatVector": "invents a time axis from one result; only what follows the input sample by sample can be streamed",
}
"""Layers that are known and cannot be, with the reason."""
