"""Causal attention over a window: the keys and values of the last frames are carried.

A position i may look at j when 0 <= i - j < window. Which positions look where is read off the attention weights of the
watched runs; a mask that follows the distance i - j alone becomes a table (Vaswani et al. 2017; windows: Beltagy et al.
2020).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from holdover.export.fact import Length, Stream
from holdover.export.loom import Loom, attribute, stream_of
from holdover.export.refusal import NotStreamable
from holdover.export.rules.elementwise import RULES as ELEMENTWISE
from holdover.export.rules.elementwise import one_frame

Array = NDArray[Any]
LONG = 1920


@dataclass(frozen=True)
class _Region:
    """From the product of queries and keys to the product with the values."""

    scores: ir.Value
    inner: tuple[ir.Node, ...]
    softmax: ir.Node
    last: ir.Node


def attention(loom: Loom, node: ir.Node) -> None:
    """Weave the whole of an attention, from MatMul(q, k) to MatMul(weights, v)."""
    q, k = (v for v in node.inputs[:2] if v is not None)
    region = _region(loom, node)
    v = region.last.inputs[1]
    query, key, value = (stream_of(loom, x) for x in (q, k, v))
    assert v is not None
    if value.axis != loom.whole.rank(v) - 2 or len({(f.ahead, f.pace) for f in (query, key, value)}) > 1:
        raise NotStreamable("its queries, keys and values run along different axes, delays or paces")
    window, cut = _window(loom, region)
    name = region.last.outputs[0].name or "attention"
    keys = loom.history(k, loom.need(k), key.axis, 0, window - 1, f"{name}.keys")
    values = loom.history(v, loom.need(v), value.axis, 0, window - 1, f"{name}.values")
    index = _index(loom, loom.need(q), query, keys, key, window, name)
    new: dict[ir.Value, ir.Value] = {region.scores: loom.copy(node, [loom.new(q), keys])[0]}
    for inner in region.inner:
        inputs = [_operand(loom, x, new, window, index, name) for x in inner.inputs]
        if inner is region.softmax and cut:
            table = np.full(window + 2, 0, np.float32)
            table[[0, -1]] = -np.inf
            mask = loom.op("Gather", [loom.const(table), index], f"{name}.cut", axis=0)
            inputs[0] = loom.op("Add", [inputs[0], mask], f"{name}.windowed")
        for old, copy in zip(inner.outputs, loom.copy(inner, inputs), strict=True):
            new[old] = copy
            loom.set_fact(old, Length())
        loom.done.add(inner)
    loom.set_fact(region.scores, Length())
    weights = region.last.inputs[0]
    assert weights is not None
    loom.bind(region.last.outputs[0], loom.copy(region.last, [new[weights], values])[0], query)
    loom.done.add(region.last)


def _region(loom: Loom, node: ir.Node) -> _Region:
    """Follow the scores to the product with the values."""
    scores = node.outputs[0]
    inside, order, last = {scores}, [], None
    softmax = None
    for later in loom.order[loom.order.index(node) + 1 :]:
        if not any(v in inside for v in later.inputs):
            continue
        if later.op_type == "MatMul" and later.inputs[0] in inside and later.inputs[1] not in inside:
            if last is not None:
                raise NotStreamable("its weights are used twice")
            last = later
            continue
        over = attribute(later, "axis", -1)
        if later.op_type == "Softmax" and over in (-1, loom.whole.rank(later.outputs[0]) - 1):
            softmax = later
        elif later.op_type not in ELEMENTWISE:
            raise NotStreamable(
                f"it multiplies two sequences over time, and {later.op_type} '{later.outputs[0].name}' makes of it "
                "something other than attention: the output at the first step needs the last sample"
            )
        order.append(later)
        inside |= set(later.outputs)
    if last is None or softmax is None:
        raise NotStreamable("it multiplies two sequences over time: the output at the first step needs the last sample")
    if any(v.is_graph_output() for v in inside):
        raise NotStreamable("its attention weights are an output of the model: they cover the whole sequence")
    return _Region(scores, tuple(order), softmax, last)


def _window(loom: Loom, region: _Region) -> tuple[int, bool]:
    """Frames that a position sees, itself counted, and whether they were cut to the user's window."""
    weights = region.softmax.outputs[0]
    assert weights.name is not None
    longest = loom.whole.at(LONG, [weights.name])[0]
    spans = [_span(w) for w in (*loom.whole.values(weights)[:2], longest)]
    if any(future > 0 for _, future in spans):
        raise NotStreamable(
            "every position attends to later ones, to the end of the sequence: the output at the first step needs the "
            "last sample; train it with a causal mask"
        )
    past = spans[-1][0]
    if past < longest.shape[-1] - 1:
        return past + 1, False
    if loom.weave.window is None:
        raise NotStreamable(
            "every position attends to all before it, which grows without bound; train it with a window, or give "
            "--window N to cut attention to the last N frames (an approximation, whose error is measured)"
        )
    loom.approximations.append(f"attention '{weights.name}' is cut to the last {loom.weave.window} frames")
    return loom.weave.window, True


def _span(weights: Array) -> tuple[int, int]:
    """How many frames back and ahead any position gives weight to."""
    used = np.argwhere((weights > 0).reshape(-1, *weights.shape[-2:]).any(axis=0))
    back = used[:, 0] - used[:, 1]
    return int(back.max()), int(-back.min())


def _index(loom: Loom, q: ir.Value, query: Stream, keys: ir.Value, key: Stream, window: int, name: str) -> ir.Value:
    """Where each pair of query and key stands in a table by distance: 0 is the future, window + 1 too long ago."""
    n = loom.length(q, query.axis, f"{name}.queries")
    m = loom.length(keys, key.axis, f"{name}.keys")
    zero, one = loom.const(np.asarray(0, np.int64)), loom.const(np.asarray(1, np.int64))
    flat = loom.const(np.empty(0, np.int64))
    rows, columns = (loom.op("Range", [zero, loom.op("Reshape", [x, flat], f"{name}.scalar"), one], f"{name}.range")
                     for x in (n, m))  # fmt: skip
    rows = loom.op("Add", [rows, loom.op("Sub", [m, n], f"{name}.before")], f"{name}.rows")
    rows = loom.op("Unsqueeze", [rows, loom.ints(1)], f"{name}.column")
    distance = loom.op("Sub", [rows, columns], f"{name}.distance")
    low, high = loom.const(np.asarray(-1, np.int64)), loom.const(np.asarray(window, np.int64))
    return loom.op("Add", [loom.op("Clip", [distance, low, high], f"{name}.near"), one], f"{name}.index")


def _operand(
    loom: Loom, old: ir.Value | None, new: dict[ir.Value, ir.Value], window: int, index: ir.Value, name: str
) -> ir.Value | None:
    if old is None or old in new:
        return None if old is None else new[old]
    fact = loom.fact(old)
    if isinstance(fact, Stream):
        raise NotStreamable("its mask follows the signal")
    if not isinstance(fact, Length):
        return loom.new(old)
    short, long, _ = loom.whole.values(old)
    rank = short.ndim
    if rank < 2 or short.shape[-1] == 1 or short.shape[-2] == 1:
        frame = old
        for axis in (rank - 1, rank - 2):
            if axis >= 0 and short.shape[axis] > 1:
                return loom.const(one_frame(loom, frame, axis))
    table = _table(long, window)
    return loom.op("Gather", [loom.const(table), index], f"{name}.mask", axis=table.ndim - 1)


def _table(mask: Array, window: int) -> Array:
    """A mask (..., time, time) as a table (..., window + 2) by distance: the future, 0 to window - 1, too long ago."""
    time = mask.shape[-1]
    row = time // 2
    window = min(window, row)
    at = [row + 1, *(row - d for d in range(window)), row - window]
    table = mask[..., row, at]
    rows, columns = np.indices(mask.shape[-2:])
    index = np.clip(rows - columns, -1, window) + 1
    matter = (index > 0) & (index <= window)
    if not np.array_equal(table[..., index][..., matter], mask[..., matter]):
        raise NotStreamable("its mask follows the place in the sequence, not only the distance between two frames")
    return table


RULES: dict[str, Any] = {}
