"""Padding over time: frames before the first sample are kept ready, frames after the last come with the end."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from holdover.export.fact import PerBatch, Static, Stream
from holdover.export.loom import Loom, attribute, stream_of
from holdover.export.refusal import NotStreamable
from holdover.export.rules.axes import over_running

_END_TO_END = "it joins sequences end to end: pad with Pad, or join features"
LOWEST = float(np.finfo(np.float32).min)
"""Stands for minus infinity, which JSON cannot write."""


def pad(loom: Loom, node: ir.Node) -> None:
    """Constant padding; any mode on other axes."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    if not isinstance(loom.fact(x), Stream):
        over_running(loom, node)
        return
    fact = stream_of(loom, x)
    rank = loom.whole.rank(x)
    amounts = _amounts(loom, node, rank)
    before, after = amounts[fact.axis], amounts[rank + fact.axis]
    fill = _fill(loom, node)
    mode = attribute(node, "mode", "constant")
    if (before or after) and mode != "constant":
        raise NotStreamable(f"it pads time by {mode}: pad with a constant")
    if before < 0 or after < 0:
        raise NotStreamable("it cuts frames off by negative padding; cut with Slice")
    new, name = loom.need(x), out.name or "pad"
    elsewhere = [0 if i % rank == fact.axis else n for i, n in enumerate(amounts)]
    new = _around(loom, x, new, before, after, fill, name)
    if any(elsewhere):
        inputs = [new, loom.ints(*elsewhere), *(loom.new(v) for v in node.inputs[2:3])]
        new = loom.op("Pad", inputs, name, mode=mode)
    loom.bind(out, new, replace(fact, ahead=fact.ahead - before * fact.pace, tail=fact.tail + after))


def _around(loom: Loom, x: ir.Value, new: ir.Value, before: int, after: int, fill: float, name: str) -> ir.Value:
    """A sequence between frames that all hold one number: kept ready before the first sample, added at the end."""
    from holdover.export.rules.convolution import _padding

    fact = stream_of(loom, x)
    if after:
        end = _padding(loom, x, fact, after, fill, name)
        new = loom.op("Concat", [new, end], f"{name}.ended", axis=fact.axis)
    if before:
        new = loom.history(x, new, fact.axis, before, 0, f"{name}.before", fill)
    return new


def joined(loom: Loom, node: ir.Node, x: ir.Value) -> None:
    """Padding written as Concat: constants of one number before a sequence, and after it.

    Raises
    ------
    NotStreamable
        What is joined follows the length, holds different numbers, or is another sequence.
    """
    fact, out = stream_of(loom, x), node.outputs[0]
    if list(node.inputs).count(x) > 1:
        raise NotStreamable(_END_TO_END)
    fills: set[float] = set()
    amounts, place = [0, 0], 0
    for v in node.inputs:
        if v is x:
            place = 1
            continue
        if v is None or fact.merged is not None or not isinstance(loom.fact(v), Static | PerBatch):
            raise NotStreamable(_END_TO_END)
        amounts[place] += loom.dims(v)[fact.axis].size
        fills.update(np.unique(np.concatenate([w.reshape(-1) for w in loom.whole.values(v)])).tolist())
    if len(fills) > 1:
        raise NotStreamable("it joins a sequence with frames of different numbers; pad with one number")
    name = out.name or "joined"
    before, after = amounts
    fill = max(float(fills.pop()) if fills else 0.0, LOWEST)
    new = _around(loom, x, loom.need(x), before, after, fill, name)
    loom.bind(out, new, replace(fact, ahead=fact.ahead - before * fact.pace, tail=fact.tail + after))


def _amounts(loom: Loom, node: ir.Node, rank: int) -> list[int]:
    given = loom.constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None:
        raise NotStreamable("its padding follows the length of the sequence")
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = loom.constant_of(node.inputs[3])
        if axes is None:
            raise NotStreamable("its axes are not constant")
        full, k = [0] * 2 * rank, len(axes)
        for i, axis in enumerate(axes):
            full[int(axis) % rank], full[rank + int(axis) % rank] = int(given[i]), int(given[k + i])
        return full
    return [int(n) for n in given]


def _fill(loom: Loom, node: ir.Node) -> float:
    value = loom.constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    number = 0.0 if value is None else float(value.reshape(-1)[0])
    return max(number, LOWEST)


def fuse(model: ir.Model) -> None:
    """Zero padding before a convolution that alone uses it becomes the convolution's own: one memory for two."""
    for node in list(model.graph):
        if node.op_type != "Conv" or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
            continue
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if before is None or before.op_type != "Pad" or len(before.outputs[0].uses()) > 1:
            continue
        if before.outputs[0].is_graph_output() or len(before.inputs) > 3 or not _zero_constant(before):
            continue
        amounts = _const(before.inputs[1])
        if amounts is None or (amounts < 0).any():
            continue
        n = len(amounts) // 2
        if amounts[0] or amounts[1] or amounts[n] or amounts[n + 1]:
            continue
        pads = attribute(node, "pads", [0] * 2 * (n - 2))
        both = [p + int(a) for p, a in zip(pads, [*amounts[2:n], *amounts[n + 2 :]], strict=True)]
        node.attributes["pads"] = ir.AttrInt64s("pads", both)
        node.replace_input_with(0, before.inputs[0])
        model.graph.remove(before, safe=True)


def _zero_constant(node: ir.Node) -> bool:
    value = _const(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    return attribute(node, "mode", "constant") == "constant" and value is not None and not value.any()


def _const(value: ir.Value | None) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None":
    return None if value is None or value.const_value is None else value.const_value.numpy()


RULES = {"Pad": pad}
