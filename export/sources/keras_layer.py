"""One layer of a Keras configuration, and what it may ask of its input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdover.export.sources.keras_weights import Weights
from holdover.export.sources.layer_graph import Array, Value
from holdover.runtime.errors import ModelError


@dataclass(frozen=True)
class Layer:
    """One entry of a Keras configuration, and where its weights lie.

    Attributes
    ----------
    kind, name : str
        Its class and its name.
    config : mapping
        What its `get_config` wrote.
    weights : Weights
        Its group.
    """

    kind: str
    name: str
    config: Mapping[str, Any]
    weights: Weights

    def refuse(self, reason: str) -> ModelError:
        """An error that names the layer."""
        return ModelError(f"{self.weights.where}: layer {self.name!r} ({self.kind}) {reason}")

    def take(self, *shapes: tuple[int, ...] | None) -> list[Array]:
        """Its weights; a shape of None is one that it does without."""
        return self.weights.take(*(s for s in shapes if s is not None), owner=self.name)

    def inner(self, spec: Mapping[str, Any], child: str) -> "Layer":
        """A layer within this one."""
        return Layer(spec["class_name"], spec["config"]["name"], spec["config"], self.weights.child(child))


def features(layer: Layer, x: Value) -> int:
    """The size of the last axis, which must not be time."""
    if not isinstance(x.dims[-1], int):
        raise layer.refuse("works along the last axis, which is time here; put channels last (Reshape or Permute)")
    return x.dims[-1]


def sequence(layer: Layer, x: Value) -> int:
    """Channels of a value that must be (batch, time, channels)."""
    if x.dims[:2] != ("batch", "time") or len(x.dims) != 3:
        raise layer.refuse(f"needs (batch, time, channels), found {x.dims}")
    if layer.config.get("data_format", "channels_last") != "channels_last":
        raise layer.refuse("has channels first; only channels last are read")
    return features(layer, x)


def last_axis(layer: Layer, x: Value) -> int:
    """Features, where the layer's `axis` is the last one alone."""
    axis = layer.config.get("axis", -1)
    axes = axis if isinstance(axis, list) else [axis]
    if len(axes) != 1 or axes[0] not in (-1, len(x.dims) - 1):
        raise layer.refuse(f"works along axis {axis}; only the last axis, the features, can be streamed")
    return features(layer, x)


def broadcast(layer: Layer, sizes: Sequence[int | str]) -> int | str:
    wide = {s for s in sizes if s != 1}
    if len(wide) > 1:
        raise layer.refuse(f"joins axes of sizes {', '.join(map(str, sizes))}")
    return wide.pop() if wide else 1
