"""Causal attention over a window: the keys and values of the last frames are carried.

A position i may look at j when 0 <= i - j < window. Which positions look where is read off the masks, not off the
weights: those that are small enough to vanish over one signal need not over another. A mask that follows the distance
i - j alone becomes a table (Vaswani et al. 2017; windows: Beltagy et al. 2020).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from holdover.export.fact import Length, Stream
from holdover.export.loom import Loom, NotYet, attribute, stream_of
from holdover.export.refusal import NotStreamable
from holdover.export.rules.elementwise import one_frame
from holdover.export.rules.elementwise_names import OPS as ELEMENTWISE
from holdover.export.rules.positions import farthest, is_band

Array = NDArray[Any]
LONG = 1920
"""Frames over which masks are read, so many samples a frame at most as MOST_PACE."""
MOST_PACE = 64
HIDDEN = -1e9
"""A score that is no larger is that of a position that is not seen."""
KEEPS_HIDDEN = frozenset(("Add", "Cast", "Div", "Identity", "Mul", "Softmax", "Sub", "Where"))
"""Operators after which what was hidden still is; Mul and Div by a constant above 0."""


@dataclass(frozen=True)
class _Region:
    """From the product of queries and keys to the product with the values."""

    scores: ir.Value
    inner: tuple[ir.Node, ...]
    softmax: ir.Node
    last: ir.Node

    @property
    def others(self) -> list[ir.Value]:
        """What comes to it from outside, the scores apart."""
        own = {self.scores, *(o for n in self.inner for o in n.outputs)}
        return [v for n in (*self.inner, self.last) for v in n.inputs if v is not None and v not in own]


def attention(loom: Loom, node: ir.Node) -> None:
    """Weave the whole of an attention, from MatMul(q, k) to MatMul(weights, v)."""
    q, k = (v for v in node.inputs[:2] if v is not None)
    region = _region(loom, node)
    v = region.last.inputs[1]
    if not all(map(loom.known, region.others)):
        raise NotYet
    query, key, value = (stream_of(loom, x) for x in (q, k, v))
    assert v is not None
    if value.axis != loom.whole.rank(v) - 2 or len({(f.ahead, f.pace) for f in (query, key, value)}) > 1:
        raise NotStreamable("its queries, keys and values run along different axes, delays or paces")
    long = LONG * min(query.pace, MOST_PACE)
    window, cut = _window(loom, region, long)
    name = region.last.outputs[0].name or "attention"
    keys = loom.history(k, loom.need(k), key.axis, 0, window - 1, f"{name}.keys")
    values = loom.history(v, loom.need(v), value.axis, 0, window - 1, f"{name}.values")
    index = _index(loom, loom.need(q), query, keys, key, window, name)
    new: dict[ir.Value, ir.Value] = {region.scores: loom.copy(node, [loom.new(q), keys])[0]}
    for inner in region.inner:
        inputs = [_operand(loom, x, new, window, _Where(index, long, name)) for x in inner.inputs]
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


def _window(loom: Loom, region: _Region, long: int) -> tuple[int, bool]:
    """Frames that a position sees, itself counted, and whether they were cut to the user's window."""
    frames = loom.whole.at(long, [region.scores.name or ""])[0].shape[-1]
    masks = _Masks.read(loom, region, long)
    rows, columns = np.nonzero(masks.seen(frames))
    if (columns > rows).any():
        raise NotStreamable(
            "every position attends to later ones, to the end of the sequence: the output at the first step needs the "
            "last sample; train it with a causal mask" if masks.least > -1 else
            f"its mask subtracts {-masks.least:g} from what may not be seen, which large scores overcome: the output "
            "at the first step needs the last sample; mask with -inf"
        )  # fmt: skip
    past = int((rows - columns).max())
    if past < frames - 1 and masks.farthest <= frames / 2:
        return past + 1, False
    if loom.weave.window is None:
        raise NotStreamable(
            "every position attends to all before it, which grows without bound, or to more than can be told "
            f"({frames // 2} frames); train it with a window, or give --window N to cut attention to the last N frames "
            "(an approximation, whose error is measured)"
        )
    loom.approximations.append(f"attention '{region.softmax.outputs[0].name}' is cut to the last {loom.weave.window} "
                               "frames")  # fmt: skip
    return loom.weave.window, True


@dataclass
class _Masks:
    """What hides positions from each other between the scores and their softmax.

    Attributes
    ----------
    hidden : list of array
        (..., time, time), or what broadcasts to it.
    farthest : float
        The largest number that distances are compared with.
    least : float
        The lowest number that is added without hiding.
    """

    hidden: list[Array]
    farthest: float = 0.0
    least: float = 0.0

    @staticmethod
    def read(loom: Loom, region: _Region, long: int) -> "_Masks":
        found = _Masks([])
        for node in region.inner[: region.inner.index(region.softmax)]:
            if not _keeps_hidden(loom, node, region):
                found.hidden.clear()
            elif node.op_type in ("Add", "Where"):
                found._take(loom, node, region, long)
        return found

    def _take(self, loom: Loom, node: ir.Node, region: _Region, long: int) -> None:
        """The mask that is added, or what is put where a condition says so."""
        for v in (v for v in node.inputs if v in region.others and isinstance(loom.fact(v), Length)):
            _refuse_places(loom, v)
        given = [_at(loom, v, long) if v in region.others else None for v in node.inputs]
        values = [g for g in given if g is not None and g.dtype.kind == "f"]
        self.least = min([self.least, *(float(v[v > HIDDEN].min(initial=0)) for v in values)])
        self.farthest = max([self.farthest, *(farthest(loom, v) for v in node.inputs if v in region.others)])
        if node.op_type == "Add":
            self.hidden += [v <= HIDDEN for v in values]
        elif given[0] is not None and values:
            a, b = (np.asarray(False) if g is None else g <= HIDDEN for g in given[1:])
            self.hidden.append(np.where(given[0], a, b))

    def seen(self, frames: int) -> Array:
        """(time, time): whether a row may see a column in any head."""
        seen = np.ones((1, frames, frames), bool)
        for hidden in self.hidden:
            seen = seen & ~hidden.reshape(-1, *np.atleast_2d(hidden).shape[-2:])
        some: Array = np.any(seen, axis=0)
        return some


def _keeps_hidden(loom: Loom, node: ir.Node, region: _Region) -> bool:
    """Whether what was hidden before a node still is behind it."""
    if node.op_type not in ("Mul", "Div"):
        return node.op_type in KEEPS_HIDDEN
    scales = [loom.constant_of(v) for v in node.inputs if v in region.others]
    return len(scales) == 1 and all(s is not None and (s > 0).all() for s in scales)


def _refuse_places(loom: Loom, mask: ir.Value) -> None:
    """A mask over two frames must follow their distance by how it is made."""
    dims = loom.dims(mask)
    if [i - len(dims) for i, d in enumerate(dims) if d.time] not in ([], [-1], [-2], [-2, -1]) or (
        sum(d.time for d in dims) > 1 and not is_band(loom, mask)
    ):
        raise NotStreamable("its mask follows the place in the sequence, or something that cannot be told from how it "
                            "is made; compare the distance of two frames, i - j, with constants")  # fmt: skip


def _at(loom: Loom, value: ir.Value, long: int) -> Array | None:
    """A tensor that follows no signal, over many frames; None for others."""
    if isinstance(loom.fact(value), Length):
        assert value.name is not None
        return loom.whole.at(long, [value.name])[0]
    return loom.constant_of(value)


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


@dataclass(frozen=True)
class _Where:
    """Where to read a table by distance: the index of each pair, the samples a mask is read over, and a name."""

    index: ir.Value
    long: int
    name: str


def _operand(
    loom: Loom, old: ir.Value | None, new: dict[ir.Value, ir.Value], window: int, where: _Where
) -> ir.Value | None:
    if old is None or old in new:
        return None if old is None else new[old]
    fact = loom.fact(old)
    if isinstance(fact, Stream):
        raise NotStreamable("its mask follows the signal")
    times = [i - len(loom.dims(old)) for i, d in enumerate(loom.dims(old)) if d.time]
    if not isinstance(fact, Length) or not times:
        return loom.new(old)
    if len(times) == 1:
        return loom.const(one_frame(loom, old, times[0] + len(loom.dims(old))))
    _refuse_places(loom, old)
    assert old.name is not None
    table = _table(loom.whole.at(where.long, [old.name])[0], window)
    return loom.op("Gather", [loom.const(table), where.index], f"{where.name}.mask", axis=table.ndim - 1)


def _table(mask: Array, window: int) -> Array:
    """A mask (..., time, time) as a table (..., window + 2) by distance: the future, 0 to window - 1, too long ago."""
    last = mask.shape[-1] - 1
    if window > last:
        raise NotStreamable(f"its mask was watched over {last + 1} frames, which do not tell one of {window}")
    past = mask[..., last, [last - d for d in range(window + 1)]]
    table = np.concatenate([mask[..., 0, 1:2], past], axis=-1)
    rows, columns = np.indices(mask.shape[-2:])
    index = np.clip(rows - columns, -1, window) + 1
    matter = (index > 0) & (index <= window)
    if not np.array_equal(table[..., index][..., matter], mask[..., matter]):
        raise NotStreamable("its mask follows the place in the sequence, not only the distance between two frames")
    return table


RULES: dict[str, Any] = {}
