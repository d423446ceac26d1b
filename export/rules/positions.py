"""What follows the length alone, by how it was made: the same in every frame, an index, or the distance of two frames.

Numbers at a few lengths do not tell: `arange(T) < 1000` is true all along in a watch of 144 samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from holdover.export.fact import Length, Static
from holdover.export.loom import Array, Loom, attribute
from holdover.export.rules.elementwise_names import OPS as ELEMENTWISE

MOVES = frozenset(("Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"))
"""Operators that lay numbers out anew."""
PICKS = frozenset(("Gather", "Slice", "Split"))
COMPARES = frozenset(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Sub"))
"""Of two indices these follow their distance alone."""
BOUNDS = frozenset((*COMPARES, "Add", "Clip", "Div", "Max", "Min", "Mod", "Trilu"))
"""Operators whose constants may be distances from which on a result is another."""
ENDLESS = 1 << 30


def is_even(loom: Loom, value: ir.Value | None) -> bool:
    """Whether a tensor that follows no signal holds, by how it was made, the same for every frame and length."""
    if value is None or isinstance(loom.fact(value), Static):
        return True
    node = value.producer()
    if node is None or not isinstance(loom.fact(value), Length):
        return False
    if node.op_type == "ConstantOfShape":
        return True
    if node.op_type in PICKS:
        return _picks_even(loom, node)
    if node.op_type == "Concat":
        axis = attribute(node, "axis")
        return not loom.dims(value)[axis].time and all(is_even(loom, v) for v in node.inputs)
    if node.op_type in MOVES:
        return is_even(loom, node.inputs[0])
    return node.op_type in ELEMENTWISE and all(is_even(loom, v) for v in node.inputs)


def _picks_even(loom: Loom, node: ir.Node) -> bool:
    """A part of what is even; of a table, one whose numbers are all the same."""
    data = node.inputs[0]
    table = loom.constant_of(data)
    return is_even(loom, data) if table is None else bool(table.size and (table == table.flat[0]).all())


@dataclass(frozen=True)
class _Index:
    """0, 1, 2, ... and a constant, along the time axis that is so many from the end."""

    from_end: int


EVEN, BAND = "even", "band"
Kind = _Index | str | None


def is_band(loom: Loom, value: ir.Value) -> bool:
    """Whether each number of (..., time, time) follows, by how it was made, the distance of its two frames alone."""
    return _kind(loom, value) in (EVEN, BAND)


def farthest(loom: Loom, value: ir.Value) -> float:
    """The largest finite number that distances are compared or counted with in the making of a tensor."""
    found, seen, left = 0.0, set(), [value]
    while left:
        node = left.pop().producer()
        if node is None or node in seen or node.op_type in ("Shape", "Size"):
            continue
        seen.add(node)
        left += [v for v in node.inputs if v is not None]
        consts = [loom.constant_of(v) for v in node.inputs] if node.op_type in BOUNDS else []
        found = max([found, *(_largest(c) for c in consts if c is not None)])
    return found


def _largest(value: Array) -> float:
    if value.dtype.kind not in "iuf":
        return 0.0
    size = np.abs(value.astype(np.float64).reshape(-1))
    return float(size[size < ENDLESS].max(initial=0.0))


def _kind(loom: Loom, value: ir.Value | None) -> Kind:
    if is_even(loom, value):
        return EVEN
    node = None if value is None else value.producer()
    if value is None or node is None or not isinstance(loom.fact(value), Length):
        return None
    if node.op_type in MOVES:
        return _moved(loom, node, _kind(loom, node.inputs[0]))
    if node.op_type in ELEMENTWISE:
        return _combined(node, [_kind(loom, v) for v in node.inputs if v is not None])
    make = _MADE.get(node.op_type)
    return None if make is None else make(loom, node)


def _moved(loom: Loom, node: ir.Node, kind: Kind) -> Kind:
    """What lays time along another axis makes of an index one of that axis; a band keeps its two axes last."""
    assert node.inputs[0] is not None
    before, after = (_time_axes(loom, v) for v in (node.inputs[0], node.outputs[0]))
    if isinstance(kind, _Index):
        if len(before) == 1 == len(after):
            return _Index(after[0])
        return kind if node.op_type == "Expand" and kind.from_end in before else None
    turned = node.op_type == "Transpose" and len(before) != 2
    return BAND if kind == BAND and after == [2, 1] == before and not turned and node.op_type != "Tile" else None


def _time_axes(loom: Loom, value: ir.Value) -> list[int]:
    dims = loom.dims(value)
    return [len(dims) - i for i, d in enumerate(dims) if d.time]


def _combined(node: ir.Node, kinds: list[Kind]) -> Kind:
    """A number of an index and an index; the comparison of two along both axes is a band; and what is made of bands."""
    indices = [k for k in kinds if isinstance(k, _Index)]
    if not indices:
        return BAND if all(k in (EVEN, BAND) for k in kinds) else None
    if len(indices) == 2 == len(kinds):
        return BAND if node.op_type in COMPARES and {k.from_end for k in indices} == {1, 2} else None
    shifted = node.op_type == "Add" or (node.op_type == "Sub" and isinstance(kinds[0], _Index))
    return indices[0] if len(indices) == 1 and shifted and kinds.count(EVEN) == len(kinds) - 1 else None


def _range(loom: Loom, node: ir.Node) -> Kind:
    start, step = (loom.constant_of(node.inputs[i]) for i in (0, 2))
    return _Index(1) if start is not None and step is not None and step == 1 else None


def _counted(loom: Loom, node: ir.Node) -> Kind:
    """A cumulative sum of ones."""
    axis, x = loom.constant_of(node.inputs[1]), node.inputs[0]
    if axis is None or x is None or not is_even(loom, x) or attribute(node, "reverse", 0):
        return None
    times, rank = _time_axes(loom, x), len(loom.dims(x))
    ones = bool((loom.whole.values(x)[0] == 1).all())
    return _Index(times[0]) if ones and times == [rank - int(axis.reshape(-1)[0]) % rank] else None


def _triangle(loom: Loom, node: ir.Node) -> Kind:
    cut = len(node.inputs) < 2 or node.inputs[1] is None or loom.constant_of(node.inputs[1]) is not None
    kind = _kind(loom, node.inputs[0])
    return BAND if cut and kind in (EVEN, BAND) and _time_axes(loom, node.outputs[0])[-2:] == [2, 1] else None


def _from_table(loom: Loom, node: ir.Node) -> Kind:
    """The first rows and columns of a constant mask, which is a band in all of its size."""
    table = loom.constant_of(node.inputs[0])
    if table is None:
        kind = _kind(loom, node.inputs[0])
        starts = loom.constant_of(node.inputs[1])
        untouched = kind == BAND and starts is not None and not starts.any()
        return BAND if untouched and _time_axes(loom, node.outputs[0]) == [2, 1] else None
    starts = loom.constant_of(node.inputs[1])
    if starts is None or starts.any() or table.ndim < 2 or table.shape[-1] != table.shape[-2]:
        return None
    return BAND if np.array_equal(table[..., 1:, 1:], table[..., :-1, :-1]) else None


def _side_by_side(loom: Loom, node: ir.Node) -> Kind:
    """Bands of several heads."""
    axis, rank = attribute(node, "axis"), len(loom.dims(node.outputs[0]))
    return BAND if axis % rank < rank - 2 and all(_kind(loom, v) in (EVEN, BAND) for v in node.inputs) else None


_MADE: dict[str, Callable[[Loom, ir.Node], Kind]] = {
    "Concat": _side_by_side,
    "CumSum": _counted,
    "EyeLike": lambda *_: BAND,
    "Range": _range,
    "Slice": _from_table,
    "Trilu": _triangle,
}
