"""Shapes, and numbers made of them, at lengths and batches far beyond those at which a graph was watched.

What follows the length often does so only beyond some length: a crop to ten seconds, `max(T, 200)`, `T // 1000`. A
tensor that was the same at two lengths is not constant for that. So shape arithmetic is computed by itself, which needs
no signal and no memory, up to 2 ** 30 samples and around every number that it is compared with.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.export.session import session

Array = NDArray[Any]
Point = tuple[int, int]
"""Streams, samples."""

SIZED = {"Range": (0, 1, 2), "ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Pad": (1,), "OneHot": (1,)}
"""Operators whose result is as large as inputs say: evaluated only where these do not follow the length."""
OPEN = frozenset(
    ("BlackmanWindow", "CenterCropPad", "Col2Im", "Compress", "HammingWindow", "HannWindow", "MelWeightMatrix",
     "NonZero", "Resize", "Unique", "Upsample")
)  # fmt: skip
"""Others whose result may be of any size: never evaluated."""
CROPS = frozenset((*OPEN, *SIZED, "If", "Loop", "Slice", "Split"))
"""Operators whose result may be as long as something else than what they take."""
FEW = 64
"""Numbers of a constant that are looked at for lengths to try."""
FARTHEST = 1 << 30
BATCHES = (2, 5, 64)


class Far:
    """Shape arithmetic of a graph at many lengths.

    Parameters
    ----------
    model : onnx.ModelProto
    seen : mapping of str to (array, array, array)
        Every tensor at the first length, at the second, and with several streams at the first.
    lengths : (int, int)
        At which it was watched.
    """

    def __init__(
        self, model: onnx.ModelProto, seen: Mapping[str, tuple[Array, Array, Array]], lengths: tuple[int, int]
    ) -> None:
        graph = model.graph
        self._seen, self._lengths, self._opsets = seen, lengths, model.opset_import
        self._makers = {o: n for n in graph.node for o in n.output if o}
        self._follows = following(graph)
        self._woven = _woven(graph, self._makers, self._follows)
        self._known: dict[str, list[Array] | None] = {}
        self._certain = {t.name for t in graph.initializer}
        own = [n for n in graph.node if not self._follows.intersection(n.output)]
        self.points = self._points(own)
        self._evaluate(own)

    @property
    def samples(self) -> list[int]:
        """The lengths of the points with one stream."""
        return [n for batch, n in self.points if batch == 1]

    def values(self, name: str) -> list[Array] | None:
        """What a tensor is for one stream at each of `samples`; None: it cannot be told without a signal or memory."""
        if name in self._certain:
            return [self._seen[name][0]] * len(self.samples)
        found = self._known.get(name)
        return None if found is None else [v for v, (batch, _) in zip(found, self.points, strict=True) if batch == 1]

    def all_values(self, name: str) -> list[Array]:
        """What a tensor is at every point, several streams among them; empty where it cannot be told."""
        return self._known.get(name) or []

    def follows_batch(self, name: str) -> bool:
        """Whether a tensor that follows no signal may differ between numbers of streams, at the same length."""
        found = None if name in self._certain else self._known.get(name)
        return found is not None and any(not same(found[0], v) for v in found)

    def follows_length(self, name: str) -> bool:
        """Whether a tensor that follows no signal may differ between lengths."""
        found = self.values(name)
        return found is None or any(not same(found[0], v) for v in found[1:])

    def sizes(self, name: str, axis: int) -> list[int] | None:
        """Of an axis of a tensor for one stream, at each of `samples`."""
        found = self._shapes(name)
        ones = [] if found is None else [s for s, (batch, _) in zip(found, self.points, strict=True) if batch == 1]
        return [int(s[axis]) for s in ones] if found is not None else None

    def _points(self, nodes: Iterable[onnx.NodeProto]) -> list[Point]:
        first, second = self._lengths
        step = second - first
        tries = {2, 3, 5, *(int(1.7**k) for k in range(4, 60))}
        for number in self._numbers(nodes):
            near = (number - first) // step
            tries |= {near, near + 1, 2 * near + 3}
        lengths = [first + step * k for k in sorted(tries) if k > 1 and first + step * k < FARTHEST]
        if self._sample_by_sample(nodes):
            lengths += [n + 1 + k % (step - 1) for k, n in enumerate(lengths)]
        batches = [(b, n) for b in BATCHES for n in (first, second, lengths[len(lengths) // 2])]
        return [(1, n) for n in (first, second, *lengths)] + batches

    def _numbers(self, nodes: Iterable[onnx.NodeProto]) -> set[int]:
        """Numbers beyond the shortest length that shape arithmetic is done with."""
        found: set[int] = set()
        for name in {v for n in nodes for v in n.input if v in self._certain}:
            value = self._seen[name][0]
            found.update(value.shape)
            if value.dtype.kind in "if" and value.size <= FEW:
                sizes = np.abs(value.astype(np.float64).reshape(-1))
                found.update(sizes[sizes < FARTHEST].astype(int).tolist())
        return {n for n in found if n > self._lengths[0]}

    def _sample_by_sample(self, nodes: Iterable[onnx.NodeProto]) -> bool:
        """Whether every shape that is asked for has a frame a sample, so that it is known at any length."""
        step = self._lengths[1] - self._lengths[0]
        asked = {n.input[0] for n in nodes if n.op_type in ("Shape", "Size")}
        grown = {b - a for v in asked for a, b in zip(*(s.shape for s in self._seen[v][:2]), strict=False)}
        return grown <= {0, step}

    def _evaluate(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """In rounds: what has a size of its own waits until that is known."""
        left = list(nodes)
        while left:
            chosen: list[onnx.NodeProto] = []
            made: set[str] = set()
            later = [n for n in left if not self._settled(n, chosen, made)]
            self._compute(chosen)
            if len(later) == len(left):  # they use what was never watched
                self._known.update({o: None for n in later for o in n.output})
                return
            left = later

    def _settled(self, node: onnx.NodeProto, chosen: list[onnx.NodeProto], made: set[str]) -> bool:
        """Whether a node is done with in this round; `made` are the results of those chosen for evaluation."""
        waits = [node.input[i] for i in SIZED.get(node.op_type, ()) if i < len(node.input)]
        shape = node.op_type in ("Shape", "Size")
        if self._plain(node):
            self._certain.update(node.output)
        elif shape and (node.input[0] in self._follows or not self._unknown(node)):
            self._known[node.output[0]] = self._shape_of(node)
        elif shape or made.intersection(waits) or not all(map(made.__contains__, self._unknown(node))):
            return False
        elif self._untold(node):
            self._known.update(dict.fromkeys(node.output))
        else:
            chosen.append(node)
            made.update(node.output)
        return True

    def _unknown(self, node: onnx.NodeProto) -> list[str]:
        """What a node takes of which nothing was said yet."""
        return [v for v in uses(node) if v not in self._certain and v not in self._known]

    def _plain(self, node: onnx.NodeProto) -> bool:
        """Whether a node follows nothing at all."""
        bodies = any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
        return not bodies and node.op_type not in ("Shape", "Size") and all(v in self._certain for v in node.input if v)

    def _untold(self, node: onnx.NodeProto) -> bool:
        """Whether a node cannot be evaluated: a body, an input that is not known, or a result that grows."""
        if node.op_type in OPEN or any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            return True
        if any(v in self._known and self._known[v] is None for v in node.input):
            return True
        return any(self.follows_length(node.input[i]) for i in SIZED.get(node.op_type, ())
                   if i < len(node.input) and node.input[i])  # fmt: skip

    def _shape_of(self, node: onnx.NodeProto) -> list[Array] | None:
        """What Shape or Size gives at each point."""
        shapes = self._shapes(node.input[0])
        if shapes is None or node.op_type == "Size":
            return None if shapes is None else [np.asarray(np.prod(s, dtype=np.int64)) for s in shapes]
        ends = {a.name: a.i for a in node.attribute}
        cut = slice(ends.get("start", 0), ends.get("end"))
        return [np.asarray(s[cut], np.int64) for s in shapes]

    def _shapes(self, name: str) -> list[tuple[int, ...]] | None:
        """Of a tensor at each point, None where a limit may lie between what was watched and what was not."""
        if name in self._certain:
            return [self._seen[name][0].shape] * len(self.points)
        if self._known.get(name) is not None:
            return [v.shape for v in self._known[name] or ()]
        node = self._makers.get(name)
        if node is None or name in self._woven:
            return [self._grown(name, p) for p in self.points]
        if node.op_type == "ConstantOfShape":
            sizes = self._known.get(node.input[0])
            return None if sizes is None else [tuple(int(n) for n in s) for s in sizes]
        if node.op_type == "Slice":
            return self._sliced(node)
        return [self._grown(name, p) for p in self.points] if self._grows_plainly(name) else None

    def _grows_plainly(self, name: str) -> bool:
        """Whether nothing between what rules answer for and a tensor may be cut, padded or filled up."""
        node = self._makers.get(name)
        if node is None or name in self._woven:
            return True
        told = all(v in self._certain for v in node.input[1:2]) or node.op_type not in ("Gather", "Reshape")
        moving = [v for v in uses(node) if v in self._follows]
        return bool(moving) and told and node.op_type not in CROPS and all(map(self._grows_plainly, moving))

    def _grown(self, name: str, point: Point) -> tuple[int, ...]:
        """The shape of a tensor that a rule of its own will answer for: each axis as it was seen to grow."""
        (first, second), (batch, length) = self._lengths, point
        one, long, many = (v.shape for v in self._seen[name])
        return tuple(
            (a + (b - a) * (length - first) // (second - first)) * (batch if c != a else 1)
            for a, b, c in zip(one, long, many, strict=True)
        )

    def _sliced(self, node: onnx.NodeProto) -> list[tuple[int, ...]] | None:
        shapes = self._shapes(node.input[0])
        given = [self._at(v) for v in node.input[1:] if v]
        if shapes is None or any(g is None for g in given) or len(given) != len(node.input) - 1:
            return None
        made = []
        for k, shape in enumerate(shapes):
            starts, ends, *rest = ([int(n) for n in g[k].reshape(-1)] for g in given if g is not None)
            axes = rest[0] if rest else range(len(starts))
            steps = rest[1] if len(rest) > 1 else [1] * len(starts)
            sizes = list(shape)
            for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
                lowest = end < -sizes[axis] and step < 0
                sizes[axis] = len(range(sizes[axis])[start : None if lowest else end : step])
            made.append(tuple(sizes))
        return made

    def _at(self, name: str) -> list[Array] | None:
        """A tensor at every point."""
        return [self._seen[name][0]] * len(self.points) if name in self._certain else self._known.get(name)

    def _compute(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Run shape arithmetic at every point; a length at which it fails is one that the model does not take."""
        if not nodes:
            return
        outputs = [o for n in nodes for o in n.output if o]
        inputs = sorted({v for n in nodes for v in n.input if v} - set(outputs))
        infos = [onnx.helper.make_tensor_value_info(v, onnx.helper.np_dtype_to_tensor_dtype(self._first(v).dtype), None)
                 for v in inputs]  # fmt: skip
        graph = onnx.helper.make_graph(nodes, "far", infos, [onnx.ValueInfoProto(name=o) for o in outputs])
        run = session(onnx.helper.make_model(graph, opset_imports=self._opsets, ir_version=8), optimize=False)
        columns: dict[str, list[Array]] = {o: [] for o in outputs}
        for k in range(len(self.points)):
            feeds = {v: self._seen[v][0] if v in self._certain else (self._known[v] or [])[k] for v in inputs}
            try:
                found = run.run(outputs, feeds)
            except Exception:  # onnxruntime's own types
                found = [columns[o][0] for o in outputs] if k else []
            for o, value in zip(outputs, found, strict=False):
                columns[o].append(value)
        self._known.update({o: column or None for o, column in columns.items()})

    def _first(self, name: str) -> Array:
        return self._seen[name][0]


def same(a: Array, b: Array) -> bool:
    """Whether two tensors are equal, NaN and all."""
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def following(graph: onnx.GraphProto) -> set[str]:
    """Tensors that follow what the inputs hold, not only their shapes."""
    found = {i.name for i in graph.input}
    for node in graph.node:
        if node.op_type in ("Shape", "Size"):
            continue
        if node.op_type in RANDOM or found.intersection(uses(node)):
            found.update(node.output)
    return found - {""}


def uses(node: onnx.NodeProto) -> set[str]:
    """Tensors that a node takes, bodies included."""
    bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return {v for v in node.input if v} | {v for g in bodies for n in g.node for v in uses(n)} | {
        o.name for g in bodies for o in g.output}  # fmt: skip


RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")


def _woven(graph: onnx.GraphProto, makers: Mapping[str, onnx.NodeProto], follows: set[str]) -> set[str]:
    """Tensors that follow the signal and that an output is made of: those whose shape only is used are left out."""
    found: set[str] = set()
    left = [o.name for o in graph.output]
    while left:
        name = left.pop()
        if name in found or name not in follows:
            continue
        found.add(name)
        if name in makers:
            left += uses(makers[name])
    return found
