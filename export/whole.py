"""The whole-sequence original, cleaned and watched: what shapes and values its tensors take at several lengths."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from holdover.export.clean import clean
from holdover.export.coupling import couples
from holdover.export.dim import Dim
from holdover.export.far import Far, following
from holdover.export.layouts import Layout, layouts
from holdover.export.session import session
from holdover.runtime.errors import ModelError

__all__ = ["Dim", "Layout", "Whole", "clean", "layouts", "session"]

Array = NDArray[Any]

BATCH = 3
LENGTHS = ((96, 144), (480, 720), (1920, 2880))
"""Pairs of lengths to watch the graph at: divisible by the usual strides, longer and longer for wide kernels."""


class Whole:
    """A whole-sequence graph that was run at two lengths and two batch sizes.

    Attributes
    ----------
    proto : onnx.ModelProto
        Cleaned: one opset, functions inlined, stale shapes gone.
    layouts : tuple of Layout
        The signal inputs.
    lengths : (int, int)
        At which it was watched.
    batch_free : bool
        Whether it takes several streams in a call.
    """

    def __init__(self, proto: onnx.ModelProto, layouts: Sequence[Layout]) -> None:
        self.proto = proto
        self.layouts = tuple(layouts)
        self.batch_free = all("batch" in y.dims for y in layouts)
        self._session = session(proto)
        self.lengths = self._lengths()
        self._watch()
        self._take_branches()

    @property
    def channels(self) -> int:
        """Numbers a sample, over all inputs."""
        return sum(y.channels for y in self.layouts)

    def feeds(self, x: Array) -> dict[str, Array]:
        """Graph inputs from x, (batch, samples, channels): the inputs take their channels in order."""
        starts = np.cumsum([0, *(y.channels for y in self.layouts)])
        return {y.name: y.of(x[..., a : a + y.channels]) for y, a in zip(self.layouts, starts, strict=False)}

    def run(self, x: Array) -> dict[str, Array]:
        """Graph outputs by name, in onnxruntime."""
        names = [o.name for o in self.proto.graph.output]
        return dict(zip(names, self._session.run(names, self.feeds(x)), strict=True))

    def rank(self, value: ir.Value) -> int:
        """Number of axes."""
        return self.values(value)[0].ndim

    def values(self, value: ir.Value) -> tuple[Array, Array, Array]:
        """What it was at the first length, at the second, and with several streams at the first."""
        assert value.name is not None
        return self._seen[value.name]

    def dims(self, value: ir.Value) -> tuple[Dim, ...]:
        """Its axes."""
        one, long, many = (v.shape for v in self.values(value))
        return tuple(Dim(a, batch=c != a, time=b != a) for a, b, c in zip(one, long, many, strict=True))

    def at(self, length: int, names: Sequence[str]) -> list[Array]:
        """Tensors by name at another length, one stream."""
        return self._all(names).run(names, self.feeds(_noise(1, length, self.channels)))  # type: ignore[no-any-return]

    def with_shapes(self) -> onnx.ModelProto:
        """The graph with the shapes of its outputs as they were seen."""
        model = onnx.ModelProto()
        model.CopyFrom(self.proto)
        for out in model.graph.output:
            one, long, many = (v.shape for v in self._seen[out.name])
            for axis, sizes in enumerate(zip(one, long, many, strict=True)):
                dim = out.type.tensor_type.shape.dim.add()
                if len(set(sizes)) == 1:
                    dim.dim_value = sizes[0]
                else:
                    dim.dim_param = f"{out.name}.{axis}"
        return model

    @cached_property
    def far(self) -> Far:
        """Its shape arithmetic at lengths far beyond those watched."""
        return Far(self.proto, self._seen, self.lengths)

    def _take_branches(self) -> None:
        """Put the branch of each If whose condition is the same for every signal and length in its place."""
        graph = self.proto.graph
        while taken := [(n, t) for n in graph.node if n.op_type == "If" and (t := self._always(n)) is not None]:
            for node, condition in taken:
                name = "then_branch" if condition else "else_branch"
                _inline(graph, node, next(a.g for a in node.attribute if a.name == name))
            self._session = session(self.proto)
            self._watch()

    def _always(self, node: onnx.NodeProto) -> bool | None:
        """The condition of an If, None where it may change."""
        name = node.input[0]
        if name in self._following or self.far.follows_length(name) or self.far.follows_batch(name):
            return None
        return bool(self._seen[name][0].all())

    def _watch(self) -> None:
        """Run it; several streams in a call are given up where they cannot be, or can move one another."""
        self.__dict__.pop("far", None)
        names = [o for n in self.proto.graph.node for o in n.output if o]
        everything = self._all(names)

        def seen(batch: int, length: int) -> dict[str, Array]:
            feeds = self.feeds(_noise(batch, length, self.channels))
            return feeds | dict(zip(names, everything.run(names, feeds), strict=True))

        one, later = seen(1, self.lengths[0]), seen(1, self.lengths[1])
        self._following = following(self.proto.graph)
        if self.batch_free:
            try:
                self._keep(one, later, seen(BATCH, self.lengths[0]))
                self.batch_free = self._separate() and not self._couples()
            except Exception:  # onnxruntime's own types: the graph holds a batch of one in its shapes
                self.batch_free = False
        if not self.batch_free:
            self._keep(one, later, one)

    def _keep(self, one: Mapping[str, Array], later: Mapping[str, Array], many: Mapping[str, Array]) -> None:
        self._seen = {n: (one[n], later[n], many[n]) for n in one}
        for t in self.proto.graph.initializer:
            value = onnx.numpy_helper.to_array(t)
            self._seen[t.name] = (value, value, value)

    def _couples(self) -> bool:
        return couples(self.proto.graph, self._following, lambda name: self.dims(ir.Value(name=name)),
                       lambda name: self._seen[name][0].reshape(-1).tolist())  # fmt: skip

    def _separate(self) -> bool:
        """Whether each of several streams gives what it gives alone."""
        x = _noise(BATCH, self.lengths[0], self.channels)
        together = self.run(x)
        return all(_part_of(together[n], k, a) for k in range(BATCH) for n, a in self.run(x[k : k + 1]).items())

    def _lengths(self) -> tuple[int, int]:
        why = ""
        for short, long in LENGTHS:
            try:
                runs = [self.run(_noise(1, n, self.channels)) for n in (short, long)]
                if all(v.size for found in runs for v in found.values()):
                    return short, long
                why = f"it gives nothing for {short} samples"
            except Exception as error:  # onnxruntime's own types
                why = " ".join(str(error).split())
        raise ModelError(
            f"the model does not run on sequences of {LENGTHS[0][0]} to {LENGTHS[-1][1]} samples, shape "
            f"{self.layouts[0].dims}: an exporter has frozen its time axis, or another axis is time (--time-axis). "
            f"onnxruntime says: {why[:300]}"
        )

    def _all(self, names: Sequence[str]) -> Any:
        open_ended = onnx.ModelProto()
        open_ended.CopyFrom(self.proto)
        del open_ended.graph.output[:]
        open_ended.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
        return session(open_ended, optimize=False)


def _part_of(together: Array, stream: int, alone: Array) -> bool:
    """Whether one of several streams is, along some axis, what it is alone."""
    return together.ndim == alone.ndim and any(
        k == BATCH * m and np.allclose(together.take(range(stream * m, (stream + 1) * m), axis), alone, atol=1e-4)
        for axis, (m, k) in enumerate(zip(alone.shape, together.shape, strict=True))
    )


def _inline(graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto) -> None:
    """Nodes of a branch in place of the node that chose it."""
    place = list(graph.node).index(node)
    renamed = [
        onnx.helper.make_node("Identity", [inner.name], [outer])
        for inner, outer in zip(branch.output, node.output, strict=True)
    ]
    rest = [*list(graph.node)[:place], *branch.node, *renamed, *list(graph.node)[place + 1 :]]
    graph.initializer.extend(branch.initializer)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in rest]
    del graph.node[:]
    graph.node.extend(copies)


def _noise(batch: int, length: int, channels: int) -> Array:
    return np.random.default_rng(7).normal(size=(batch, length, channels)).astype(np.float32)
