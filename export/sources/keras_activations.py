"""Keras activations as ONNX nodes: by name, and as layers of their own."""

from collections.abc import Callable

from holdover.export.sources.keras_layer import Layer, features, last_axis
from holdover.export.sources.layer_graph import Graph, Value


def scaled(graph: Graph, x: str, factor: float) -> str:
    return graph.apply("Mul", x, graph.constant(factor))


def _gelu(graph: Graph, x: str) -> str:
    """0.5 x (1 + erf(x / sqrt 2)) (Hendrycks & Gimpel 2016)."""
    bell = graph.apply("Erf", scaled(graph, x, 0.5**0.5))
    return graph.apply("Mul", scaled(graph, x, 0.5), graph.apply("Add", bell, graph.constant(1)))


def _mish(graph: Graph, x: str) -> str:
    return graph.apply("Mul", x, graph.apply("Tanh", graph.apply("Softplus", x)))


def _clip(low: float, high: float) -> Callable[[Graph, str], str]:
    return lambda graph, x: graph.apply("Clip", x, graph.constant(low), graph.constant(high))


def _op(op: str, **attributes: float) -> Callable[[Graph, str], str]:
    return lambda graph, x: graph.apply(op, x, **attributes)


ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "linear": lambda _graph, x: x,
    "relu": _op("Relu"),
    "relu6": _clip(0, 6),
    "leaky_relu": _op("LeakyRelu", alpha=0.2),
    "tanh": _op("Tanh"),
    "sigmoid": _op("Sigmoid"),
    "hard_sigmoid": _op("HardSigmoid", alpha=1 / 6, beta=0.5),
    "softmax": _op("Softmax", axis=-1),
    "elu": _op("Elu", alpha=1.0),
    "selu": _op("Selu"),
    "gelu": _gelu,
    "silu": lambda graph, x: graph.apply("Mul", x, graph.apply("Sigmoid", x)),
    "hard_silu": _op("HardSwish"),
    "softplus": _op("Softplus"),
    "softsign": _op("Softsign"),
    "exponential": _op("Exp"),
    "mish": _mish,
}
"""By the name that Keras 3 writes, with its defaults."""
ACTIVATIONS |= {"swish": ACTIVATIONS["silu"], "hard_swish": ACTIVATIONS["hard_silu"]}


def activate(graph: Graph, layer: Layer, x: Value) -> Value:
    """Apply the layer's activation: a name, or another layer."""
    spec = layer.config.get("activation") or "linear"
    if isinstance(spec, dict) and spec.get("class_name") in ACTIVATION_LAYERS:
        return ACTIVATION_LAYERS[spec["class_name"]](graph, layer.inner(spec, "activation"), x)
    if not isinstance(spec, str) or spec not in ACTIVATIONS:
        name = spec.get("config") if isinstance(spec, dict) else spec
        raise layer.refuse(f"has the activation {name!r}; known are {', '.join(ACTIVATIONS)}")
    if spec == "softmax":
        features(layer, x)
    return Value(ACTIVATIONS[spec](graph, x.name), x.dims)


def _relu(graph: Graph, layer: Layer, x: Value) -> Value:
    slope, threshold, most = (layer.config.get(k) or 0.0 for k in ("negative_slope", "threshold", "max_value"))
    if slope and threshold:
        raise layer.refuse("has a slope and a threshold; one of them must be 0")
    op = {"alpha": threshold} if threshold else {"alpha": slope} if slope else {}
    y = graph.apply("ThresholdedRelu" if threshold else "LeakyRelu" if slope else "Relu", x.name, **op)
    if layer.config.get("max_value") is not None:
        y = graph.apply("Min", y, graph.constant(most))
    return Value(y, x.dims)


def _leaky_relu(graph: Graph, layer: Layer, x: Value) -> Value:
    return Value(graph.apply("LeakyRelu", x.name, alpha=float(layer.config["negative_slope"])), x.dims)


def _elu(graph: Graph, layer: Layer, x: Value) -> Value:
    return Value(graph.apply("Elu", x.name, alpha=float(layer.config["alpha"])), x.dims)


def _prelu(graph: Graph, layer: Layer, x: Value) -> Value:
    width = features(layer, x)
    if len(x.dims) == 3 and layer.config.get("shared_axes") != [1]:
        raise layer.refuse("has a slope of its own for every sample; give it shared_axes=[1]")
    (alpha,) = layer.take((1,) * (len(x.dims) - 2) + (width,))
    return Value(graph.apply("PRelu", x.name, graph.constant(alpha)), x.dims)


def _softmax(graph: Graph, layer: Layer, x: Value) -> Value:
    last_axis(layer, x)
    return Value(graph.apply("Softmax", x.name, axis=-1), x.dims)


ACTIVATION_LAYERS: dict[str, Callable[[Graph, Layer, Value], Value]] = {
    "Activation": activate,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
    "PReLU": _prelu,
    "Softmax": _softmax,
}
