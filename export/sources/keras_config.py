"""How a Keras configuration names layers, tensors and the groups of weights."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from holdover.export.sources.keras_weights import Weights
from holdover.export.sources.layer_graph import Value
from holdover.runtime.errors import ModelError

Config = Mapping[str, Any]
Key = tuple[str, int, int]
"""A tensor as Keras names it: layer, call of the layer, output of the call."""


def is_keras(entry: Config) -> bool:
    """Whether a layer is Keras's, not a class of the same name."""
    return str(entry.get("module")).split(".")[0] == "keras"


def is_operation(entry: Config) -> bool:
    """`x + y` or `keras.ops.relu(x)` in a functional model."""
    return str(entry.get("module")).startswith("keras.src.ops")


def policy(config: Config) -> str:
    """The layer's numbers: "float32", "mixed_float16", "int8_from_float32"."""
    dtype = config.get("dtype") or "float32"
    return str(dtype["config"].get("name") if isinstance(dtype, dict) else dtype)


def title(entry: Config) -> str:
    """The layer's name; of an operation, Keras 3.3 writes it outside of the configuration alone."""
    return str(entry.get("name") or entry["config"]["name"])


def model_inputs(config: Config, where: str) -> list[tuple[str, Sequence[int | None]]]:
    """Name and shape of each input of the outermost model."""
    spec = config["config"]
    entries = {title(e): e["config"]["batch_shape"] for e in spec["layers"] if e["class_name"] == "InputLayer"}
    if "input_layers" in spec:
        return [(name, entries[name]) for name, _, _ in keys(spec["input_layers"])]
    shape = spec.get("build_input_shape")
    if not entries and not shape:
        raise ModelError(f"{where}: the model was never built, and has no input; call it once and save it again")
    return list(entries.items())[:1] or [("input", shape)]


def output_names(config: Config) -> list[str]:
    """Of the layers that give the results; a layer that gives several gets numbers."""
    spec = config["config"]
    if "output_layers" in spec:
        names = [name for name, _, _ in keys(spec["output_layers"])]
    else:
        names = [title(spec["layers"][-1])]
    inputs = {title(entry) for entry in spec["layers"] if entry["class_name"] == "InputLayer"}
    unique = len(set(names)) == len(names) and not inputs.intersection(names)
    return names if unique else [f"{name}_{i}" for i, name in enumerate(names)]


def places(spec: Config, weights: Weights) -> Iterator[tuple[Config, Weights]]:
    """Each layer with the group of its weights, which Keras names by class and numbers in order."""
    seen: Counter[str] = Counter()
    for entry in spec["layers"]:
        if is_operation(entry) or (entry["class_name"] == "InputLayer" and "input_layers" not in spec):
            yield entry, weights
            continue
        name = _snake(entry["class_name"])
        number = f"_{seen[name]}" if seen[name] else ""
        seen[name] += 1
        yield entry, weights.child(f"layers/{name}{number}")


def _snake(name: str) -> str:
    """As `keras.src.utils.naming.to_snake_case`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def keys(spec: Any) -> list[Key]:
    """The tensors in a list, a mapping or a single one: ["lstm", 0, 0]."""
    if isinstance(spec, dict):
        return [key for part in spec.values() for key in keys(part)]
    if len(spec) == 3 and isinstance(spec[0], str):
        return [(spec[0], int(spec[1]), int(spec[2]))]
    return [key for part in spec for key in keys(part)]


def _key(spec: Any) -> Key | None:
    """The tensor that an argument stands for, if it does."""
    if isinstance(spec, dict) and spec.get("class_name") == "__keras_tensor__":
        (key,) = keys(spec["config"]["keras_history"])
        return key
    return None


def tensors_in(spec: Any) -> Iterator[Key]:
    """Every tensor within the arguments of a call."""
    key = _key(spec)
    if key:
        yield key
    elif isinstance(spec, dict | list):
        for part in spec.values() if isinstance(spec, dict) else spec:
            yield from tensors_in(part)


def filled(spec: Any, values: Mapping[Key, Value]) -> Any:
    """The arguments with the graph's values for tensors."""
    key = _key(spec)
    if key:
        return values[key]
    if isinstance(spec, dict):
        return {k: filled(v, values) for k, v in spec.items()}
    return [filled(v, values) for v in spec] if isinstance(spec, list) else spec


def values_in(args: Any) -> Iterator[Value]:
    """Every value within filled arguments."""
    if isinstance(args, Value):
        yield args
    elif isinstance(args, dict | list):
        for part in args.values() if isinstance(args, dict) else args:
            yield from values_in(part)
