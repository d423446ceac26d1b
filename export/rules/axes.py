"""Operators that move, add, remove, split or join axes other than time."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from holdover.export.dim import Dim
from holdover.export.fact import Length, Merged, Running, Stream
from holdover.export.loom import Loom, attribute, stream_of, streams
from holdover.export.refusal import NotStreamable
from holdover.export.rules.elementwise import meet, one_frame


def over_running(loom: Loom, node: ir.Node) -> bool:
    """Weave a node over values without time as it is."""
    facts = [loom.fact(v) for v in node.inputs]
    if any(isinstance(f, Stream) for f in facts):
        return False
    fact = Running(max(f.ahead for f in facts if isinstance(f, Running)))
    for output, copy in zip(node.outputs, loom.copy(node, [loom.new(v) for v in node.inputs]), strict=True):
        loom.bind(output, copy, fact)
    return True


def transpose(loom: Loom, node: ir.Node) -> None:
    """Time goes where its axis goes."""
    if over_running(loom, node):
        return
    fact = stream_of(loom, node.inputs[0])
    rank = loom.whole.rank(node.outputs[0])
    perm = attribute(node, "perm", list(range(rank))[::-1])
    same_node(loom, node, replace(fact, axis=perm.index(fact.axis)))


def squeeze(loom: Loom, node: ir.Node) -> None:
    """Axes of size 1 go."""
    if over_running(loom, node):
        return
    fact = stream_of(loom, node.inputs[0])
    gone = _axes(loom, node, loom.whole.rank(node.inputs[0]))  # type: ignore[arg-type]
    if gone is None:
        raise NotStreamable("it removes every axis of size 1, and a block may have one frame; name the axes")
    if fact.axis in gone:
        raise NotStreamable("it removes the time axis")
    inputs = [loom.need(node.inputs[0]), loom.ints(*gone)]
    axis = fact.axis - sum(a < fact.axis for a in gone)
    loom.bind(node.outputs[0], loom.op("Squeeze", inputs, node.outputs[0].name or ""), replace(fact, axis=axis))


def unsqueeze(loom: Loom, node: ir.Node) -> None:
    """Axes of size 1 come."""
    if over_running(loom, node):
        return
    fact = stream_of(loom, node.inputs[0])
    rank = loom.whole.rank(node.outputs[0])
    come = _axes(loom, node, rank) or []
    old = [i for i in range(rank) if i not in come]
    same_node(loom, node, replace(fact, axis=old[fact.axis]))


def _axes(loom: Loom, node: ir.Node, rank: int) -> list[int] | None:
    """The axes that a node names, counted from the front."""
    given = attribute(node, "axes")
    if given is None and len(node.inputs) > 1:
        value = loom.constant_of(node.inputs[1])
        given = None if value is None else value.reshape(-1).tolist()
    return None if given is None else [int(a) % rank for a in given]


def reshape(loom: Loom, node: ir.Node) -> None:
    """Time stays an axis of its own, or is laid into one with the batch until it is taken apart again."""
    if _reshaped_running(loom, node):
        return
    old, out = node.inputs[0], node.outputs[0]
    assert old is not None
    fact = stream_of(loom, old)
    if loom.whole.rank(out) == loom.whole.rank(old) and loom.dims(out) == loom.dims(old):
        loom.bind(out, loom.need(old), fact)
        return
    if fact.merged is not None:
        _apart(loom, node, fact)
        return
    before, after = loom.dims(old), loom.dims(out)
    axis = _time_axis(loom, old, out, fact.axis)
    if axis is None:
        _together(loom, node, fact)
        return
    target = reshape_target(loom, loom.need(old), before, after, fact.axis, axis, out.name or "reshape")
    loom.bind(out, loom.op("Reshape", [loom.need(old), target], out.name or ""), replace(fact, axis=axis))


def _reshaped_running(loom: Loom, node: ir.Node) -> bool:
    if isinstance(loom.fact(node.inputs[0]), Stream):
        return False
    if len(node.inputs) > 1 and isinstance(loom.fact(node.inputs[1]), Length):
        raise NotStreamable("it lays a value over the whole sequence into a shape that follows the length")
    return over_running(loom, node)


def _time_axis(loom: Loom, old: ir.Value, out: ir.Value, axis: int) -> int | None:
    """Where time is in the result: the numbers before it and after it multiply to the same."""
    pairs = list(zip(loom.whole.values(old), loom.whole.values(out), strict=True))
    for candidate in range(loom.whole.rank(out)):
        if all(
            a.shape[axis] == b.shape[candidate]
            and np.prod(a.shape[:axis], dtype=int) == np.prod(b.shape[:candidate], dtype=int)
            for a, b in pairs
        ):
            return candidate
    return None


def reshape_target(
    loom: Loom, new: ir.Value, before: Sequence[Dim], after: Sequence[Dim], axis: int, to: int, name: str
) -> ir.Value:
    """A shape for Reshape that holds for any block: numbers, 0 for an axis kept in its place, one -1, or computed.

    Parameters
    ----------
    new : ir.Value
        What is reshaped.
    before, after : sequence of Dim
        Axes of the tensor and of the result.
    axis, to : int
        Time before and after.
    """
    target: list[int | None] = []
    for i, d in enumerate(after):
        kept = i < len(before) and ((i == to and i == axis) or (d.batch and d == before[i] and i != to))
        target.append(0 if kept else None if i == to or d.batch else d.size)
    if target.count(None) <= 1:
        return loom.ints(*(-1 if n is None else n for n in target))
    pieces = []
    for i, n in enumerate(target):
        if n is not None and n > 0:
            pieces.append(loom.ints(n))
        elif i == to:
            pieces.append(loom.length(new, axis, name))
        else:
            pieces.append(loom.ints(-1))
    if sum(n is None for i, n in enumerate(target) if i != to) > 1 or 0 in target:
        raise NotStreamable("it lays batch and time out in a way that is not followed; keep time an axis of its own")
    return loom.op("Concat", pieces, f"{name}.target", axis=0)


def _together(loom: Loom, node: ir.Node, fact: Stream) -> None:
    """Batch and time become the first axis: each row is still one frame."""
    old, out = node.inputs[0], node.outputs[0]
    assert old is not None
    before, after = loom.dims(old), loom.dims(out)
    lead = next((n for n in range(2, len(before)) if _rows(loom, old, out, n)), 0)
    if fact.axis >= lead or any(d.fixed and d.size > 1 for d in before[:lead]):
        raise NotStreamable(
            "it lays time and features into one axis: frames can no longer be told apart; flatten only after the last "
            "step, or keep time an axis of its own"
        )
    target = loom.ints(-1, *(d.size for d in after[1:]))
    new = loom.op("Reshape", [loom.need(old), target], out.name or "")
    loom.bind(out, new, replace(fact, axis=0, merged=Merged(old, lead)))


def _rows(loom: Loom, old: ir.Value, out: ir.Value, lead: int) -> bool:
    """Whether the first axes of a tensor are the rows of the result."""
    pairs = zip(loom.whole.values(old), loom.whole.values(out), strict=True)
    return all(np.prod(a.shape[:lead], dtype=int) == b.shape[0] for a, b in pairs)


def _apart(loom: Loom, node: ir.Node, fact: Stream) -> None:
    """The first axis becomes batch and time again."""
    assert fact.merged is not None
    origin, lead, out = fact.merged.origin, fact.merged.axes, node.outputs[0]
    after, before = loom.dims(out), loom.dims(origin)
    if after[:lead] != before[:lead]:
        raise NotStreamable("it takes batch and time apart in another way than they were laid together")
    shape = loom.op("Shape", [loom.need(origin)], f"{out.name}.shape")
    head = loom.op("Slice", [shape, loom.ints(0), loom.ints(lead), loom.ints(0)], f"{out.name}.lead")
    target = loom.op("Concat", [head, loom.ints(*(d.size for d in after[lead:]))], f"{out.name}.target", axis=0)
    new = loom.op("Reshape", [loom.need(node.inputs[0]), target], out.name or "")
    loom.bind(out, new, replace(fact, axis=stream_of(loom, origin).axis, merged=None))


def flatten(loom: Loom, node: ir.Node) -> None:
    """Reshape to two axes."""
    reshape(loom, node)


def expand(loom: Loom, node: ir.Node) -> None:
    """Broadcast over other axes."""
    old, out = node.inputs[0], node.outputs[0]
    if not isinstance(loom.fact(old), Stream):
        if isinstance(loom.fact(node.inputs[1]), Length):
            raise NotStreamable("it repeats a value over the whole sequence at every step; a decoder that starts from "
                                "the last step of its encoder needs the whole sequence first")  # fmt: skip
        over_running(loom, node)
        return
    fact = stream_of(loom, old)
    axis = fact.axis + loom.whole.rank(out) - loom.whole.rank(old)  # type: ignore[arg-type]
    shape = [1 if i == axis or d.batch else d.size for i, d in enumerate(loom.dims(out))]
    loom.bind(out, loom.op("Expand", [loom.need(old), loom.ints(*shape)], out.name or ""), replace(fact, axis=axis))


def split(loom: Loom, node: ir.Node) -> None:
    """Parts along another axis."""
    if over_running(loom, node):
        return
    fact = stream_of(loom, node.inputs[0])
    _not_time(attribute(node, "axis", 0), fact, loom.whole.rank(node.inputs[0]), "it splits the sequence")  # type: ignore[arg-type]
    same_node(loom, node, fact)


def concat(loom: Loom, node: ir.Node) -> None:
    """Features side by side."""
    if over_running(loom, node):
        return
    timed = streams(loom, node.inputs)
    rank = loom.whole.rank(node.outputs[0])
    axis = attribute(node, "axis") % rank
    if axis == stream_of(loom, timed[0]).axis:
        from holdover.export.rules.pad import joined  # it imports this module

        joined(loom, node, timed[0])
        return
    if any(isinstance(loom.fact(v), Running) for v in node.inputs):
        raise NotStreamable("it joins each frame with a value over the whole sequence, which is known only at the end")
    fact, met = meet(loom, timed, rank, node.outputs[0].name or "concat")
    if len(timed) < len(node.inputs):
        met |= {v: _over_time(loom, v, fact, met[timed[0]]) for v in node.inputs if v not in met and v is not None}
    loom.bind(node.outputs[0], loom.copy(node, [met[v] for v in node.inputs])[0], fact)


def _over_time(loom: Loom, value: ir.Value, fact: Stream, like: ir.Value) -> ir.Value:
    """A constant repeated for each frame of a block."""
    frame = one_frame(loom, value, fact.axis)
    sizes = [
        loom.length(like, i, f"{value.name}.like") if d.batch or d.time else loom.ints(1)
        for i, d in enumerate(loom.dims(value))
    ]
    shape = loom.op("Concat", sizes, f"{value.name}.shape", axis=0)
    return loom.op("Expand", [loom.const(frame), shape], f"{value.name}.frames")


def tile(loom: Loom, node: ir.Node) -> None:
    """Repeat along other axes."""
    if over_running(loom, node):
        return
    fact = stream_of(loom, node.inputs[0])
    times = loom.constant_of(node.inputs[1])
    if times is None or times[fact.axis] != 1:
        raise NotStreamable("it repeats the sequence")
    same_node(loom, node, fact)


def per_frame(loom: Loom, node: ir.Node) -> None:
    """An operator along one axis that is not time (ArgMax, TopK, Softmax and their like)."""
    if over_running(loom, node):
        return
    fact = stream_of(loom, node.inputs[0])
    rank = loom.whole.rank(node.inputs[0])  # type: ignore[arg-type]
    axis = attribute(node, "axis", -1 if node.op_type in ("TopK", "Softmax", "LogSoftmax", "Hardmax") else 0) % rank
    _not_time(axis, fact, rank, f"it is {node.op_type} over the whole sequence: the output at the first step needs the "
              "last sample")  # fmt: skip
    gone = node.op_type.startswith("Arg") and not attribute(node, "keepdims", 1) and axis < fact.axis
    same_node(loom, node, replace(fact, axis=fact.axis - gone))


def _not_time(axis: int, fact: Stream, rank: int, reason: str) -> None:
    if axis % rank == fact.axis:
        raise NotStreamable(reason)


def same_node(loom: Loom, node: ir.Node, fact: Stream) -> None:
    for output, copy in zip(node.outputs, loom.copy(node, [loom.new(v) for v in node.inputs]), strict=True):
        loom.bind(output, copy, fact)


RULES = {
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Reshape": reshape,
    "Flatten": flatten,
    "Expand": expand,
    "Split": split,
    "Concat": concat,
    "Tile": tile,
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK", "Softmax", "LogSoftmax", "Hardmax"), per_frame),
}
