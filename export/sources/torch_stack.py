"""Layers by torch's names, put into the one order that their widths allow."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from holdover.export.original import SourceOptions
from holdover.export.sources.torch_layers import PARTS, arrays, attributes
from holdover.runtime.errors import ModelError, UsageError

Array = NDArray[Any]
Weights = Mapping[str, Array]

OPSET = 17
IR_VERSION = 8
EPSILON = 1e-5
"""torch's default of LayerNorm and BatchNorm1d; it is not among the weights."""

RECURRENT = re.compile(r"(?P<part>(?:weight|bias)_(?:ih|hh)|weight_hr)_l(?P<layer>\d+)(?P<end>_reverse)?")
"""The last part of the name of a recurrent layer's weight."""

OPERATORS = {4: "LSTM", 3: "GRU", 1: "RNN"}
"""By the number of gates: rows of weight_hh over its columns."""

ADVICE = "give the module itself (package.module:name), which says how its layers are joined"


def listed(names: Iterable[Any], limit: int = 8) -> str:
    """Names in a row, the last ones counted.

    Examples
    --------
    >>> listed("abcd", 2)
    'a, b and 2 more'
    """
    names = [str(n) for n in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


@dataclass
class _Graph:
    """Nodes and constants as they are added; values are (time, batch, width)."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


@dataclass(frozen=True)
class Layer:
    """One link of the chain.

    Attributes
    ----------
    name, text : str
        Where its weights are, and what it is.
    inputs, outputs : int
        Width of its values.
    add : callable
        Puts its nodes behind a value, and gives the name of its own value.
    """

    name: str
    text: str
    inputs: int
    outputs: int
    add: Callable[[_Graph, str], str]


Leaves = Mapping[str, Array]
"""What a module keeps, by the last part of the name."""


def chain(weights: Weights, options: SourceOptions) -> tuple[list[Layer], list[str]]:
    """The layers in the order of the data, and what was assumed of them.

    Parameters
    ----------
    weights : mapping of str to array
        By torch's names, float32; recurrent layers, and Linear layers, follow one another in this order.
    options : SourceOptions
        `activation` of a plain recurrent layer.

    Raises
    ------
    UsageError
        Keys are missing or not understood, or shapes do not fit.
    ModelError
        A layer that has no ONNX node.
    """
    stacks, modules = _grouped(weights)
    kinds = {name: _kind(leaves) for name, leaves in modules.items()}
    unknown = [k for name, leaves in modules.items() if not kinds[name] for k in _keys(name, leaves)]
    if unknown:
        raise UsageError(f"not understood: {listed(unknown)}; {ADVICE}")
    if not stacks:
        raise UsageError(f"no recurrent layer (weight_ih_l0, weight_hh_l0) among {listed(weights)}; {ADVICE}")
    made = [(kind, KINDS[kind](name, modules[name])) for name, kind in kinds.items() if kind]
    layers = [_recurrent(name, leaves, options) for name, leaves in stacks.items()]
    layers += [layer for kind, layer in made if kind == "Linear"]
    _fits(layers)
    norms = [layer for kind, layer in made if kind != "Linear"]
    notes = [f"epsilon of {listed(n.name for n in norms)} is not among the weights: {EPSILON:g}"] if norms else []
    if options.activation is None and any("(RNN" in layer.text for layer in layers):
        notes.append("the activation of a plain recurrent layer is not among its weights: tanh")
    return _placed(layers, norms), notes


def _grouped(weights: Weights) -> tuple[dict[str, dict[str, Array]], dict[str, dict[str, Array]]]:
    """Leaves of the recurrent layers by module, and of all others."""
    stacks: dict[str, dict[str, Array]] = {}
    modules: dict[str, dict[str, Array]] = {}
    for key, value in weights.items():
        name, _, leaf = key.rpartition(".")
        (stacks if RECURRENT.fullmatch(leaf) else modules).setdefault(name, {})[leaf] = value
    return stacks, modules


def _keys(name: str, leaves: Iterable[str]) -> list[str]:
    return [f"{name}.{leaf}" if name else leaf for leaf in leaves]


def _fits(layers: Sequence[Layer]) -> None:
    for a, b in pairwise(layers):
        if a.outputs != b.inputs:
            raise UsageError(f"{b.name} takes {b.inputs} values, but {a.name} before it gives {a.outputs}; {ADVICE}")


def _placed(layers: Sequence[Layer], norms: Sequence[Layer]) -> list[Layer]:
    """The layers with each norm where its width fits: one place, which no other norm fits."""
    widths = [layers[0].inputs, *(layer.outputs for layer in layers)]
    behind: list[list[Layer]] = [[] for _ in widths]
    for norm in norms:
        places = [i for i, width in enumerate(widths) if width == norm.inputs]
        rivals = [n.name for n in norms if n.inputs == norm.inputs]
        if len(places) != 1 or len(rivals) > 1:
            raise UsageError(
                f"{listed(rivals)} of width {norm.inputs} fits {len(places)} places; expected one norm for one place; "
                f"{ADVICE}"
            )
        behind[places[0]].append(norm)
    return [*behind[0], *(n for layer, more in zip(layers, behind[1:], strict=True) for n in (layer, *more))]


def _recurrent(name: str, leaves: Leaves, options: SourceOptions) -> Layer:
    """The layers of one nn.LSTM, nn.GRU or nn.RNN."""
    called, ends, parts, count = _read_names(name, leaves)
    op, hidden, inputs = _sizes(name, leaves)
    rows, wide = leaves["weight_hh_l0"].shape[0], hidden * len(ends)
    for k in range(count):
        width = wide if k else inputs
        shapes = {"weight_ih": (rows, width), "weight_hh": (rows, hidden), "bias_ih": (rows,), "bias_hh": (rows,)}
        for part, end in product(parts, ends):
            leaf = f"{part}_l{k}{end}"
            _expect(_keys(name, [leaf])[0], leaves[leaf], shapes[part])
    given = attributes(f"RNN_{_activation(options)}" if op == "RNN" else op, hidden, len(ends) == 2)

    def add(g: _Graph, x: str) -> str:
        for k in range(count):
            directions = [{p: leaves[f"{p}_l{k}{end}"] for p in parts} for end in ends]
            x = _node(g, f"{called}.l{k}", x, op, arrays(op, directions), given)
        return x

    text = f"{called} ({op}, {count} layer{'s' * (count > 1)}, {'2 x ' * (len(ends) - 1)}{hidden})"
    return Layer(called, text, inputs, wide, add)


def _read_names(name: str, leaves: Leaves) -> tuple[str, tuple[str, ...], list[str], int]:
    """What to call a recurrent layer, the ends and parts of its weights' names, and how many layers it has."""
    found = [match for leaf in leaves if (match := RECURRENT.fullmatch(leaf))]
    if any(match["part"] == "weight_hr" for match in found):
        raise ModelError(
            f"{_keys(name, ['weight_hr_l0'])[0]}: an LSTM with proj_size, and the LSTM of ONNX has no projection; "
            "train it without"
        )
    ends = ("", "_reverse") if any(match["end"] for match in found) else ("",)
    parts = [p for p in PARTS.values() if p.startswith("weight") or any(match["part"] == p for match in found)]
    count = len({match["layer"] for match in found})
    missing = {f"{p}_l{k}{end}" for k, end, p in product(range(count), ends, parts)} - leaves.keys()
    if missing:
        raise UsageError(f"missing: {listed(_keys(name, sorted(missing)))}; save the whole state_dict")
    return name or "recurrent", ends, parts, count


def _activation(options: SourceOptions) -> str:
    if options.activation not in (None, "tanh", "relu"):
        raise UsageError(f"activation {options.activation!r}; torch's plain recurrent layer has tanh or relu")
    return (options.activation or "tanh").upper()


def _sizes(name: str, leaves: Leaves) -> tuple[str, int, int]:
    """Operator, hidden units and inputs, from the first layer."""
    w, r = leaves["weight_ih_l0"].shape, leaves["weight_hh_l0"].shape
    gates = r[0] / r[1] if len(r) == 2 and r[1] else 0
    if gates not in OPERATORS or len(w) != 2 or not w[1]:
        keys = _keys(name, ("weight_ih_l0", "weight_hh_l0"))
        raise UsageError(
            f"{' and '.join(keys)} have shapes {w} and {r}; expected (gates * hidden, inputs) and "
            "(gates * hidden, hidden), with 4 gates of an LSTM, 3 of a GRU or 1"
        )
    return OPERATORS[int(gates)], r[1], w[1]


def _expect(key: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.float32:
        raise UsageError(f"{key} has shape {array.shape} of {array.dtype}; expected {shape} of floats")


def _node(g: _Graph, name: str, x: str, op: str, weights: tuple[Array, Array, Array], given: Mapping[str, Any]) -> str:
    """One recurrent node, and its directions beside one another."""
    constants = [g.constant(f"{name}.{letter}", array) for letter, array in zip("WRB", weights, strict=True)]
    y = g.node(op, [x, *constants], f"{name}.directions", **given)
    if len(weights[0]) == 1:
        return g.node("Squeeze", [y, g.constant(f"{name}.axis", np.array([1]))], name)
    y = g.node("Transpose", [y], f"{name}.last", perm=[0, 2, 1, 3])
    return g.node("Reshape", [y, g.constant(f"{name}.shape", np.array([0, 0, -1]))], name)


def _linear(name: str, leaves: Leaves) -> Layer:
    weight = leaves["weight"]
    outputs, inputs = weight.shape
    _expect(f"{name}.weight", weight, (outputs, inputs))
    bias = leaves.get("bias", np.zeros(outputs, np.float32))
    _expect(f"{name}.bias", bias, (outputs,))

    def add(g: _Graph, x: str) -> str:
        y = g.node("MatMul", [x, g.constant(f"{name}.weight", weight.T)], f"{name}.product")
        return g.node("Add", [y, g.constant(f"{name}.bias", bias)], name)

    return Layer(name, f"{name} (Linear, {outputs})", inputs, outputs, add)


def _layer_norm(name: str, leaves: Leaves) -> Layer:
    width = len(leaves["weight"])
    for leaf in ("weight", "bias"):
        _expect(f"{name}.{leaf}", leaves[leaf], (width,))

    def add(g: _Graph, x: str) -> str:
        constants = [g.constant(f"{name}.{leaf}", leaves[leaf]) for leaf in ("weight", "bias")]
        return g.node("LayerNormalization", [x, *constants], name, axis=-1, epsilon=EPSILON)

    return Layer(name, f"{name} (LayerNorm)", width, width, add)


def _batch_norm(name: str, leaves: Leaves) -> Layer:
    """y = (x - mean) / sqrt(var + epsilon) * weight + bias, as one product and one sum."""
    width = len(leaves["running_mean"])
    for leaf in BATCH_NORM & leaves.keys():
        _expect(f"{name}.{leaf}", leaves[leaf], (width,))
    scale = leaves.get("weight", np.ones(width)) / np.sqrt(leaves["running_var"].astype(np.float64) + EPSILON)
    shift = leaves.get("bias", np.zeros(width)) - leaves["running_mean"] * scale

    def add(g: _Graph, x: str) -> str:
        y = g.node("Mul", [x, g.constant(f"{name}.scale", scale.astype(np.float32))], f"{name}.product")
        return g.node("Add", [y, g.constant(f"{name}.shift", shift.astype(np.float32))], name)

    return Layer(name, f"{name} (BatchNorm1d)", width, width, add)


BATCH_NORM = {"weight", "bias", "running_mean", "running_var"}
KINDS: dict[str, Callable[[str, Leaves], Layer]] = {
    "Linear": _linear,
    "LayerNorm": _layer_norm,
    "BatchNorm1d": _batch_norm,
}


def _kind(leaves: Leaves) -> str | None:
    """Which of `KINDS` keeps such leaves; None if none does."""
    names, axes = leaves.keys(), leaves["weight"].ndim if "weight" in leaves else 1
    if names >= {"running_mean", "running_var"} and names <= BATCH_NORM | {"num_batches_tracked"} and axes == 1:
        return "BatchNorm1d"
    if names == {"weight", "bias"} and axes == 1:
        return "LayerNorm"
    return "Linear" if {"weight"} <= names <= {"weight", "bias"} and axes == 2 else None


def build(layers: Sequence[Layer]) -> onnx.ModelProto:
    """The graph of a chain: x (batch, time, features) to y (batch, time, width)."""
    g = _Graph()
    y = g.node("Transpose", ["x"], "x.by_time", perm=[1, 0, 2])
    for layer in layers:
        y = layer.add(g, y)
    g.node("Transpose", [y], "y", perm=[1, 0, 2])
    ends = [("x", layers[0].inputs), ("y", layers[-1].outputs)]
    x, out = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "time", width]) for n, width in ends)
    graph = helper.make_graph(g.nodes, "weights", [x], [out], g.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="holdover")
    onnx.checker.check_model(model, full_check=True)
    return model
