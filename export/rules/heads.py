"""Sums, means and extremes: over features frame by frame, over time as the value so far."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from holdover.export.dim import Dim
from holdover.export.fact import Running, Stream
from holdover.export.loom import Loom, attribute, stream_of
from holdover.export.refusal import NotStreamable
from holdover.export.rules.axes import over_running, same_node
from holdover.export.rules.pad import LOWEST


def reduce(loom: Loom, node: ir.Node) -> None:
    """Over axes without time a frame stays a frame; with time the value so far is carried."""
    x = node.inputs[0]
    assert x is not None
    if not isinstance(loom.fact(x), Stream):
        over_running(loom, node)
        return
    fact = stream_of(loom, x)
    rank = loom.whole.rank(x)
    axes = _axes(loom, node, rank)
    keep = bool(attribute(node, "keepdims", 1))
    if fact.axis not in axes:
        gone = 0 if keep else sum(a < fact.axis for a in axes)
        same_node(loom, node, replace(fact, axis=fact.axis - gone))
        return
    _over_time(loom, node, fact, axes, keep, node.op_type.removeprefix("Reduce"))


def global_pool(loom: Loom, node: ir.Node) -> None:
    """Over all axes after the channels, which hold time."""
    x = node.inputs[0]
    assert x is not None
    if not isinstance(loom.fact(x), Stream):
        over_running(loom, node)
        return
    kind = "Mean" if node.op_type == "GlobalAveragePool" else "Max"
    _over_time(loom, node, stream_of(loom, x), list(range(2, loom.whole.rank(x))), True, kind)


def _axes(loom: Loom, node: ir.Node, rank: int) -> list[int]:
    given = attribute(node, "axes")
    if given is None and len(node.inputs) > 1:
        value = loom.constant_of(node.inputs[1])
        if value is None and node.inputs[1] is not None:
            raise NotStreamable("its axes are not constant")
        given = None if value is None else value.tolist()
    if not given:
        return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return [int(a) % rank for a in given]


def _over_time(loom: Loom, node: ir.Node, fact: Stream, axes: list[int], keep: bool, kind: str) -> None:
    if fact.merged is not None:
        raise NotStreamable("it takes batch and time together")
    if kind not in _COMBINE:
        raise NotStreamable(f"it is {node.op_type} over the whole sequence, which has no running form here; use the "
                            "last step, mean, sum, max or min")  # fmt: skip
    x, out = loom.need(node.inputs[0]), node.outputs[0]
    dims, name = loom.dims(node.inputs[0]), out.name or kind  # type: ignore[arg-type]
    shape = [batch_size(d.size, d.batch) for d in loom.dims(out)]
    if shape:
        new = _COMBINE[kind](_Head(loom, x, axes, keep, shape, name, dims))
    else:  # a state has at least one axis
        new = _COMBINE[kind](_Head(loom, x, axes, True, [1] * len(dims), name, dims))
        new = loom.op("Reshape", [new, loom.const(np.empty(0, np.int64))], f"{name}.scalar")
    loom.bind(out, new, Running(fact.ahead))


def batch_size(size: int, batch: bool) -> int | str:
    if batch and size != 1:
        raise NotStreamable("the batch is laid into one axis with features")
    return "batch" if batch else size


@dataclass(frozen=True)
class _Head:
    """A reduction over time: x over axes, to a result of a shape."""

    loom: Loom
    x: ir.Value
    axes: list[int]
    keep: bool
    shape: list[int | str]
    name: str
    dims: tuple[Dim, ...]

    def now(self, op: str) -> ir.Value:
        """Over this call's frames."""
        if op == "ReduceSum" or self.loom.opset >= 18:
            inputs = [self.x, self.loom.ints(*self.axes)]
            return self.loom.op(op, inputs, f"{self.name}.now", keepdims=int(self.keep))
        return self.loom.op(op, [self.x], f"{self.name}.now", axes=self.axes, keepdims=int(self.keep))


def _extreme(head: _Head, op: str, fill: float) -> ir.Value:
    state = head.loom.state(f"{head.name}.so_far", head.shape, np.float32, fill)
    state.after = head.loom.op(op, [state.before, head.now(f"Reduce{op}")], head.name)
    return state.after


def _total(head: _Head) -> ir.Value:
    """The sum so far, in double precision, since a stream is long."""
    loom = head.loom
    state = loom.state(f"{head.name}.so_far", head.shape, np.float64)
    now = loom.op("Cast", [head.now("ReduceSum")], f"{head.name}.double", to=ir.DataType.DOUBLE.value)
    state.after = loom.op("Add", [state.before, now], f"{head.name}.total")
    return state.after


def _sum(head: _Head) -> ir.Value:
    return head.loom.op("Cast", [_total(head)], head.name, to=ir.DataType.FLOAT.value)


def _mean(head: _Head) -> ir.Value:
    loom, name = head.loom, head.name
    count = loom.state(f"{name}.count", [1], np.int64)
    time = next(a for a in head.axes if head.dims[a].time)
    count.after = loom.op("Add", [count.before, loom.length(head.x, time, name)], f"{name}.frames")
    others = np.prod([head.dims[a].size for a in head.axes if a != time])
    number = loom.op("Cast", [count.after], f"{name}.number", to=ir.DataType.DOUBLE.value)
    number = loom.op("Mul", [number, loom.const(np.asarray([float(others)]))], f"{name}.terms")
    mean = loom.op("Div", [_total(head), number], f"{name}.mean")
    return loom.op("Cast", [mean], name, to=ir.DataType.FLOAT.value)


_COMBINE: dict[str, Callable[[_Head], ir.Value]] = {
    "Mean": _mean,
    "Sum": _sum,
    "Max": partial(_extreme, op="Max", fill=LOWEST),
    "Min": partial(_extreme, op="Min", fill=-LOWEST),
}

RULES = {
    **dict.fromkeys(
        (
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceProd",
            "ReduceSumSquare",
            "ReduceLogSum",
            "ReduceLogSumExp",
        ),
        reduce,
    ),
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
}
