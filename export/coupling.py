"""Whether streams that share a call can move one another: an operator that takes in or picks along their axis.

Noise does not tell: `relu(x - 60).max(axis=0)` is still until one stream is loud.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

from holdover.export.dim import Dim

Dims = Callable[[str], tuple[Dim, ...]]
Numbers = Callable[[str], Sequence[int]]


def couples(graph: onnx.GraphProto, follows: set[str], dims: Dims, numbers: Numbers) -> bool:
    """Whether any node that follows the signal takes in an axis that holds the batch.

    Parameters
    ----------
    graph : onnx.GraphProto
    follows : set of str
        Tensors that follow the signal.
    dims : callable
        The axes of a tensor.
    numbers : callable
        The value of a tensor of whole numbers, such as axes.
    """
    return any(_couples(_Use(n, dims, numbers)) for n in graph.node if follows.intersection(n.input))


class _Use:
    """A node with the axes of what it takes."""

    def __init__(self, node: onnx.NodeProto, dims: Dims, numbers: Numbers) -> None:
        self.node, self.dims, self._numbers = node, dims, numbers
        self.attributes: Mapping[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.x = dims(node.input[0])
        self.rank = len(self.x)

    def numbers(self, place: int) -> Sequence[int] | None:
        """An input of whole numbers, None where it is missing."""
        given = self.node.input[place : place + 1]
        return self._numbers(given[0]) if given and given[0] else None

    def axis(self, default: int) -> list[int]:
        """The attribute `axis`."""
        return [self.attributes.get("axis", default)]


def _couples(use: _Use) -> bool:
    if any(sum(d.batch for d in use.dims(o)) > 1 for o in use.node.output if o):
        return True
    if use.node.op_type == "Scan":
        return _scan(use)
    if use.node.op_type in ("MatMul", "FusedMatMul", "Gemm"):
        return _product(use)
    taken = _TAKES.get(use.node.op_type)
    return taken is not None and any(use.x[a % use.rank].batch for a in taken(use) if use.rank)


def _reduced(use: _Use) -> Sequence[int]:
    axes = use.attributes.get("axes", use.numbers(1))
    if axes is None or not len(axes):
        return [] if use.attributes.get("noop_with_empty_axes") else range(use.rank)
    return axes  # type: ignore[no-any-return]


def _cut(use: _Use) -> Sequence[int]:
    """Axes of which a Slice leaves something out, or that it turns round."""
    starts, axes, steps = (use.numbers(k) for k in (1, 3, 4))
    made = use.dims(use.node.output[0])
    if starts is None:
        return []
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    rows = zip(axes, starts, steps, strict=True)
    return [a for a, start, step in rows if start or step != 1 or not made[a].batch]


def _padded(use: _Use) -> Sequence[int]:
    amounts, axes = use.numbers(1) or [], use.numbers(3)
    axes = range(use.rank) if axes is None else axes
    return [a for k, a in enumerate(axes) if amounts and (amounts[k] or amounts[len(amounts) // 2 + k])]


def _tiled(use: _Use) -> Sequence[int]:
    return [a for a, times in enumerate(use.numbers(1) or []) if times != 1]


def _joined(use: _Use) -> Sequence[int]:
    """Of a Concat: the axis, whichever of the inputs has streams along it."""
    (axis,) = use.axis(0)
    alike = [use.dims(v) for v in use.node.input]
    return [axis] if any(d[axis].batch for d in alike) else []


def _product(use: _Use) -> bool:
    """Whether the axis that is summed over holds streams, on either side."""
    a, b = use.x, use.dims(use.node.input[1])
    left = 0 if use.attributes.get("transA") else -1
    right = -1 if use.attributes.get("transB") or len(b) == 1 else -2
    return a[left].batch or b[right].batch


def _scan(use: _Use) -> bool:
    count = use.attributes["num_scan_inputs"]
    axes = use.attributes.get("scan_input_axes", [0] * count)
    scanned = [use.dims(v) for v in use.node.input[-count:]]
    return any(d[a].batch for d, a in zip(scanned, axes, strict=True)) or any(map(_first_axis, _inner(use.attributes)))


def _inner(attributes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    bodies = [g for g in attributes.values() if isinstance(g, onnx.GraphProto)]
    found = [n for g in bodies for n in g.node]
    return found + [m for n in found for m in _inner({a.name: helper.get_attribute_value(a) for a in n.attribute})]


def _first_axis(node: onnx.NodeProto) -> bool:
    """Whether a node of a body may take in its first axis, where the streams of a frame are."""
    if node.op_type not in TAKES_IN:
        return False
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axes = given.get("axes", [given["axis"]] if "axis" in given else None)
    last = node.op_type in ("Softmax", "LogSoftmax", "Hardmax", "TopK", "LpNormalization", "LayerNormalization")
    return not last if axes is None else any(a == 0 or a < -1 for a in axes)


REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
WINDOWED = ("Conv", "MaxPool", "AveragePool", "BatchNormalization", "InstanceNormalization", "GroupNormalization")
_TAKES: Mapping[str, Callable[[_Use], Sequence[int]]] = {
    **dict.fromkeys(REDUCTIONS, _reduced),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "TopK", "LpNormalization"), lambda use: use.axis(-1)),
    **dict.fromkeys(("ArgMax", "ArgMin", "Gather", "Split"), lambda use: use.axis(0)),
    **dict.fromkeys(WINDOWED, lambda use: range(1, use.rank)),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), lambda use: range(2, use.rank)),
    **dict.fromkeys(("RNN", "LSTM", "GRU"), lambda _: (0, 2)),
    **dict.fromkeys(
        ("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"),
        lambda use: range(use.attributes.get("axis", -1) % use.rank, use.rank),
    ),
    "MeanVarianceNormalization": lambda use: use.attributes.get("axes", [0, 2, 3]),
    "CumSum": lambda use: use.numbers(1) or [],
    "Concat": _joined,
    "Pad": _padded,
    "Slice": _cut,
    "Tile": _tiled,
}
"""Axes that an operator sums, sorts, slides or picks along."""
TAKES_IN = frozenset((*REDUCTIONS, "Softmax", "LogSoftmax", "Hardmax", "TopK", "LpNormalization", "ArgMax", "ArgMin",
                      "CumSum", "LayerNormalization", "MeanVarianceNormalization"))  # fmt: skip
