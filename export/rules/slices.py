"""Slice and Gather: from the start, off the end, every n-th frame, or along other axes."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from holdover.export.fact import Length, Running, Stream
from holdover.export.loom import END, Loom, attribute, stream_of
from holdover.export.refusal import NotStreamable
from holdover.export.rules.axes import over_running, same_node


@dataclass(frozen=True)
class _Cut:
    """start and end: from the first frame where not negative, else from the end; end None: to the end."""

    axis: int
    start: int
    end: int | None
    step: int


def cut(loom: Loom, node: ir.Node) -> None:
    """Slices along time: what is skipped at the start, held back or cut at the end, the last frame, every n-th."""
    if not isinstance(loom.fact(node.inputs[0]), Stream):
        over_running(loom, node)
        return
    x = node.inputs[0]
    assert x is not None
    fact = stream_of(loom, x)
    cuts = _cuts(loom, node, x, fact.axis)
    new, name = loom.need(x), node.outputs[0].name or "slice"
    for c in (c for c in cuts if c.axis != fact.axis):
        new = loom.cut(new, c.axis, c.start, END if c.end is None else c.end, c.step, name)
    over_time = next((c for c in cuts if c.axis == fact.axis), None)
    if over_time is None or (over_time.start == 0 and over_time.end is None and over_time.step == 1):
        loom.bind(node.outputs[0], new, fact)
        return
    _over_time(loom, node, new, fact, over_time)


def _over_time(loom: Loom, node: ir.Node, new: ir.Value, fact: Stream, c: _Cut) -> None:
    name, out = node.outputs[0].name or "slice", node.outputs[0]
    if fact.merged is not None:
        raise NotStreamable("it cuts where time and batch are one axis")
    if c.step < 0:
        raise NotStreamable("it reverses time: the output at the first step needs the last sample")
    if c.start == -1 and c.end is None:
        loom.bind(out, loom.cut(new, fact.axis, -1, name=name), Running(fact.ahead))
        return
    if c.start < 0 or (c.end is not None and c.end >= 0):
        raise NotStreamable("it takes a stretch at a fixed place of the whole sequence; a stream has no such place")
    if c.start:
        new, fact = _skip(loom, new, fact, c.start, name)
    if c.end is not None:
        new, fact = _hold_back(loom, node.inputs[0], new, fact, -c.end, name)  # type: ignore[arg-type]
    if c.step > 1:
        new = _every_nth(loom, new, fact, c, name)
        fact = replace(fact, pace=fact.pace * c.step, ragged=fact.ragged or fact.tail > 0, tail=-(-fact.tail // c.step))
    loom.bind(out, new, fact)


def _skip(loom: Loom, new: ir.Value, fact: Stream, frames: int, name: str) -> tuple[ir.Value, Stream]:
    """Leave the first frames out: how many are left to skip is carried."""
    left = loom.state(f"{name}.skip", [1], np.int64, frames)
    left.after = loom.ints(0)  # the first call has more frames than are skipped
    new = loom.op("Slice", [new, left.before, loom.ints(END), loom.ints(fact.axis)], f"{name}.skipped")
    return new, replace(fact, ahead=fact.ahead + frames * fact.pace)


def _hold_back(
    loom: Loom, old: ir.Value, new: ir.Value, fact: Stream, frames: int, name: str
) -> tuple[ir.Value, Stream]:
    """Leave the last frames out: those of padding never come, others wait until they are not the last."""
    if fact.ragged:
        raise NotStreamable("it cuts the end off a sequence whose length is rounded by a stride; cut before the stride")
    free = min(frames, fact.tail)
    if free:
        # Frames that only padding makes are in the last call alone.
        stop = loom.op("Mul", [loom.end(), loom.ints(-free)], f"{name}.chomp")
        length = loom.length(new, fact.axis, name)
        stop = loom.op("Add", [length, stop], f"{name}.stop")
        new = loom.op("Slice", [new, loom.ints(0), stop, loom.ints(fact.axis)], f"{name}.chomped")
        fact = replace(fact, tail=fact.tail - free)
    if held := frames - free:
        every = loom.history(old, new, fact.axis, 0, held, f"{name}.held")
        new = loom.cut(every, fact.axis, 0, -held, name=f"{name}.free")
        fact = replace(fact, ahead=fact.ahead + held * fact.pace)
    return new, fact


def _every_nth(loom: Loom, new: ir.Value, fact: Stream, c: _Cut, name: str) -> ir.Value:
    """Later calls hold whole groups of frames; the first may have had a part of one."""
    had = (-1 - fact.ahead) // fact.pace + 1
    if had % c.step == 0:
        return loom.cut(new, fact.axis, 0, END, c.step, name)
    phase = loom.state(f"{name}.phase", [1], np.int64)
    phase.after = loom.ints(-had % c.step)
    return loom.op("Slice", [new, phase.before, loom.ints(END), loom.ints(fact.axis), loom.ints(c.step)], name)


def _cuts(loom: Loom, node: ir.Node, x: ir.Value, time: int) -> list[_Cut]:
    rank = loom.whole.rank(x)
    starts, ends = (_places(loom, node.inputs[i]) for i in (1, 2))
    axes_value = loom.constant_of(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    axes = list(range(len(starts))) if axes_value is None else [int(a) % rank for a in axes_value]
    steps_value = loom.constant_of(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else None
    steps = [1] * len(starts) if steps_value is None else [int(s) for s in steps_value]
    lengths = _lengths(loom, x, time)
    cuts = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if axis != time:
            cuts.append(_Cut(axis, _fixed(start), _fixed(end), step))
        elif step < 0:
            cuts.append(_Cut(axis, 0, None, step))
        else:
            cuts.append(_Cut(axis, _start(start, lengths), _end(end, lengths), step))
    return cuts


Places = list[int]
"""A position, or a number of frames, at every length that was looked at."""


def _places(loom: Loom, value: ir.Value | None) -> list[Places]:
    """Where to cut at every length, for each axis."""
    if value is None or isinstance(loom.fact(value), Stream | Running):
        raise NotStreamable("where it cuts follows the signal itself")
    found = None if value.name is None else loom.whole.far.values(value.name)
    if found is None:
        raise NotStreamable("where it cuts follows the length of the sequence in a way that cannot be told")
    return list(map(list, zip(*(v.reshape(-1).tolist() for v in found), strict=True)))


def _lengths(loom: Loom, x: ir.Value, axis: int) -> Places:
    """Frames of a sequence at every length."""
    assert x.name is not None
    found = loom.whole.far.sizes(x.name, axis)
    if found is None:
        raise NotStreamable("how long it is follows the length of the sequence in a way that cannot be told")
    return found


def _fixed(at: Places) -> int:
    """A position along another axis."""
    if len(set(at)) > 1:
        raise NotStreamable("where it cuts along another axis than time follows the length of the sequence")
    return int(at[0])


def _start(at: Places, lengths: Places) -> int:
    """From the start (not negative) or from the end (negative)."""
    place = _place(at, lengths)
    if place is None:
        raise NotStreamable("it leaves the whole sequence out")
    return place


def _end(at: Places, lengths: Places) -> int | None:
    """As `_start`; None: the end."""
    place = _place(at, lengths)
    if place is not None and place >= lengths[0] and place >= lengths[1]:
        raise NotStreamable(f"it takes the first {place} frames of the whole sequence; a stream has no such end: leave "
                            "the crop to whoever reads the recording")  # fmt: skip
    return place


def _place(at: Places, lengths: Places) -> int | None:
    """From the start (not negative), from the end (negative), None: the end, however long the sequence."""
    if all(a >= n for a, n in zip(at, lengths, strict=True)):
        return None
    if len(set(at)) == 1:
        return int(at[0])
    if len(back := {a - n for a, n in zip(at, lengths, strict=True)}) == 1:
        return int(back.pop())
    raise NotStreamable("it cuts at a place that follows the length of the sequence, such as its middle")


def gather(loom: Loom, node: ir.Node) -> None:
    """One entry along another axis, or the last frame."""
    x, where = node.inputs[:2]
    assert x is not None
    assert where is not None
    if not isinstance(loom.fact(x), Stream):
        if isinstance(loom.fact(where), Length):
            raise NotStreamable("it looks up a table by the position in the sequence (absolute learnt positions), "
                                "which a stream does not have; use relative positions, or none")  # fmt: skip
        _running_or_lookup(loom, node)
        return
    fact = stream_of(loom, x)
    rank = loom.whole.rank(x)
    axis = attribute(node, "axis", 0) % rank
    index_rank = loom.whole.rank(where)
    if axis != fact.axis:
        if loom.constant_of(where) is None:
            raise NotStreamable("what it picks is not constant")
        same_node(loom, node, replace(fact, axis=fact.axis + (index_rank - 1 if axis < fact.axis else 0)))
        return
    (at,) = _places(loom, where) if index_rank == 0 or loom.whole.values(where)[0].size == 1 else (None,)
    place = None if at is None else _place(at, _lengths(loom, x, axis))
    if place != -1:
        raise NotStreamable("it picks frames at fixed places of the whole sequence; only the last one can be streamed")
    last = loom.const(np.asarray(-1, np.int64) if index_rank == 0 else np.full((1,) * index_rank, -1))
    new = loom.op("Gather", [loom.need(x), last], node.outputs[0].name or "last", axis=axis)
    loom.bind(node.outputs[0], new, Running(fact.ahead))


def _running_or_lookup(loom: Loom, node: ir.Node) -> None:
    """A table looked up by values of the signal, or a pick from a value over the whole sequence."""
    where = node.inputs[1]
    fact = loom.fact(where)
    if not isinstance(fact, Stream):
        over_running(loom, node)
        return
    axis = attribute(node, "axis", 0) % loom.whole.rank(node.inputs[0])  # type: ignore[arg-type]
    same_node(loom, node, replace(fact, axis=fact.axis + axis))


def fuse(model: ir.Model) -> None:
    """A convolution padded on both sides whose end is cut off by as much (Chomp) is one padded before only."""
    for node in list(model.graph):
        before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if node.op_type != "Slice" or before is None or before.op_type != "Conv" or len(node.inputs) < 4:
            continue
        values = [None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs[1:]]
        pads = attribute(before, "pads")
        if pads is None or any(v is None or v.size != 1 for v in values) or _used_elsewhere(before.outputs[0]):
            continue
        start, end, axis, *step = (int(v.reshape(-1)[0]) for v in values if v is not None)
        place = len(pads) // 2 + axis - 2
        plain = set(attribute(before, "strides", [1])) == {1} and attribute(before, "auto_pad", "NOTSET") == "NOTSET"
        if plain and start == 0 and axis >= 2 and step in ([], [1]) and 0 > end >= -pads[place]:
            pads[place] += end
            before.attributes["pads"] = ir.AttrInt64s("pads", pads)
            out = node.outputs[0]
            name = out.name
            ir.convenience.replace_all_uses_with(out, before.outputs[0], replace_graph_outputs=True)
            model.graph.remove(node, safe=True)
            before.outputs[0].name = name  # what was watched under this name is as long


def _used_elsewhere(value: ir.Value) -> bool:
    return len(value.uses()) > 1 or value.is_graph_output()


RULES = {"Slice": cut, "Gather": gather}
