"""A Keras configuration as a graph: layer after layer, in whatever order their inputs come to be."""

import re
from collections.abc import Sequence
from typing import Any

from holdover.export.original import SourceOptions
from holdover.export.sources.keras_config import (
    Config,
    Key,
    filled,
    is_keras,
    is_operation,
    keys,
    model_inputs,
    output_names,
    places,
    policy,
    tensors_in,
    title,
    values_in,
)
from holdover.export.sources.keras_layer import Layer
from holdover.export.sources.keras_layers import LAYERS, MERGES, REFUSED
from holdover.export.sources.keras_operations import operation
from holdover.export.sources.keras_recurrent import RECURRENT
from holdover.export.sources.keras_weights import Weights
from holdover.export.sources.layer_graph import Dims, Graph, Value
from holdover.runtime.errors import ModelError, UsageError

KNOWN = sorted({*LAYERS, *MERGES, *RECURRENT})


class Reading:
    """One pass over a configuration, and the graph that comes of it."""

    def __init__(self, options: SourceOptions) -> None:
        self.graph = Graph()
        self.time_axes: dict[str, int] = {}
        self._options = options

    def whole(self, config: Config, weights: Weights) -> None:
        """The outermost model: its inputs and outputs are those of the graph."""
        inputs = [self._input(name, shape) for name, shape in model_inputs(config, weights.where)]
        outputs = self._model(config, weights, inputs)
        self.graph.scope = ""
        for value, name in zip(outputs, output_names(config), strict=True):
            self.graph.output(value, name)

    def _input(self, name: str, shape: Sequence[int | None]) -> Value:
        dims = _input_dims(name, tuple(shape), self._options)
        axis = dims.index("time")
        if shape[axis] is not None:
            self.graph.notes.append(f"input {name}: the file fixes {shape[axis]} samples; the graph takes any number")
        self.time_axes[name] = axis
        return self.graph.input(name, dims)

    def _model(self, config: Config, weights: Weights, inputs: list[Value]) -> list[Value]:
        kinds = {"Sequential": self._sequential, "Functional": self._functional, "Model": self._functional}
        if config["class_name"] not in kinds or not is_keras(config):
            raise ModelError(
                f"{weights.where}: the model is of class {config['class_name']!r}, which is code and not in the file;"
                " build it as a Sequential or functional model"
            )
        return kinds[config["class_name"]](config["config"], weights, inputs)

    def _sequential(self, spec: Config, weights: Weights, values: list[Value]) -> list[Value]:
        for entry, place in places(spec, weights):
            if entry["class_name"] != "InputLayer":
                values = self._layer(entry, place, list(values), {})
        return values

    def _functional(self, spec: Config, weights: Weights, inputs: list[Value]) -> list[Value]:
        values: dict[Key, Value] = dict(zip(keys(spec["input_layers"]), inputs, strict=True))
        waiting = [
            (entry, place, index, call)
            for entry, place in places(spec, weights)
            for index, call in enumerate(entry["inbound_nodes"])
        ]
        while waiting:
            later = []
            for entry, place, index, call in waiting:
                if all(key in values for key in tensors_in(call)):
                    args, more = filled(call["args"], values), filled(call["kwargs"], values)
                    for i, value in enumerate(self._layer(entry, place, args, more)):
                        values[(title(entry), index, i)] = value
                else:
                    later.append((entry, place, index, call))
            if len(later) == len(waiting):
                raise ModelError(f"{weights.where}: layer {title(later[0][0])!r} waits for an input that nothing makes")
            waiting = later
        return [values[key] for key in keys(spec["output_layers"])]

    def _layer(self, entry: Config, weights: Weights, args: Sequence[Any], more: Config) -> list[Value]:
        """The nodes of one call of a layer; a model within the model is one too."""
        layer = Layer(entry["class_name"], title(entry), entry["config"], weights)
        outer, inputs = self.graph.scope, list(values_in(args))
        self.graph.scope = f"{outer}/{layer.name}".lstrip("/")
        if list(values_in(more)):
            raise layer.refuse("is given states or a mask by another layer; only its input can be given")
        self._check(entry, layer)
        if layer.kind in ("Sequential", "Functional"):
            found = self._model(entry, weights, inputs)
        elif is_operation(entry):
            found = [operation(self.graph, layer, args)]
        elif layer.kind in MERGES:
            found = [MERGES[layer.kind](self.graph, layer, inputs)]
        elif len(inputs) != 1:
            raise layer.refuse(f"takes {len(inputs)} inputs here, expected one")
        elif layer.kind in RECURRENT:
            found = RECURRENT[layer.kind](self.graph, layer, inputs[0])
        else:
            found = [LAYERS[layer.kind](self.graph, layer, inputs[0])]
        self.graph.scope = outer
        return found

    def _check(self, entry: Config, layer: Layer) -> None:
        """Refuse what is no known layer of Keras, and note where numbers are not those of the file."""
        if layer.kind in REFUSED:
            raise layer.refuse(REFUSED[layer.kind])
        own = not is_keras(entry)
        if own or (layer.kind not in (*KNOWN, "Sequential", "Functional") and not is_operation(entry)):
            reason = "is a class of your own" if own else "is not known"
            raise layer.refuse(f"{reason}; known are {', '.join(KNOWN)}")
        dtype = policy(entry["config"])
        if re.search("int|float8", dtype):
            raise layer.refuse(f"is quantized ({dtype}); save the model before it is quantized")
        if dtype != "float32":
            self.graph.notes.append(f"layer {layer.name}: {dtype} in the file, float32 in the graph")


def _input_dims(name: str, shape: tuple[int | None, ...], options: SourceOptions) -> Dims:
    """The input's axes by name; the time axis is the one that is free, else the one that is not the channels'."""
    if options.input_shape is not None:
        return _given(name, shape, options.input_shape)
    if len(shape) < 2:
        raise ModelError(f"input {name!r} has the shape {shape}; expected (batch, time, channels)")
    free = [axis for axis in range(1, len(shape)) if shape[axis] is None]
    leads_first = len(shape) == 3 and shape[1] == options.width != shape[2]
    axis = free[0] if free else 2 if leads_first else 1
    return _named(name, shape, axis)


def _given(name: str, shape: tuple[int | None, ...], given: Dims) -> Dims:
    unlike = len(given) != len(shape) or given.count("time") != 1
    unlike = unlike or any(isinstance(g, int) and g != s for g, s in zip(given, shape, strict=True))
    if unlike or given[0] != "batch":
        raise UsageError(
            f"the input shape {given} is not that of input {name!r}, {shape}; give one with batch and time"
        )
    return _named(name, shape, given.index("time"))


def _named(name: str, shape: tuple[int | None, ...], time: int) -> Dims:
    rest = [size for axis, size in enumerate(shape) if axis not in (0, time)]
    if not all(isinstance(size, int) for size in rest):
        raise ModelError(f"input {name!r} has the shape {shape}; only batch and time may be free")
    return ("batch", *("time" if axis == time else size or 0 for axis, size in enumerate(shape[1:], 1)))
