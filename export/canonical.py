"""A graph with explicit states in the form that the runtime takes: `x`, `<state>.in`, `<state>.out`, frames."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    CheckerPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    TopologicalSortPass,
)

from holdover.export.fact import Stream
from holdover.export.loom import END, State
from holdover.export.signature import Carried, Signature
from holdover.export.streaming import SIGNAL, Port, Woven
from holdover.export.whole import Layout, session

Array = NDArray[Any]
CONTEXT = "context"


def canonical(
    model: onnx.ModelProto,
    form: Signature,
    ports: Sequence[Port],
    hop: int,
    batch_free: bool,
    window: int | None = None,
) -> Woven:
    """Rename, lay out and wrap; what the author's nodes compute stays as it is.

    Parameters
    ----------
    model : onnx.ModelProto
        Cleaned, inputs as `signature` set them.
    form : Signature
    ports : sequence of Port
        The outputs to keep.
    hop : int
        Samples of which a call takes a multiple; exactly so many where `form` has a hop.
    batch_free : bool
        Whether a call takes several streams.
    window : int, optional
        Frames that states which grow without bound are cut to, that of the call included.
    """
    frame = _Frame(ir.from_proto(_branches_taken(model, form, batch_free)), form, batch_free)
    frame.constants()
    frame.signal(hop)
    states = [frame.state(s, window) for s in form.states]
    if form.context:
        states.insert(0, frame.context)
    named = [frame.port(p) for p in ports]
    done = frame.finished(states)
    cut = [f"the state {s.name} keeps the last {window - 1} frames of {s.input}" for s in form.unbounded if window]
    return Woven(done, tuple(states), tuple(named), hop, hop, None, tuple(cut))


class _Frame:
    """What is put around the author's graph, in it: its old inputs and outputs are replaced one by one."""

    def __init__(self, model: ir.Model, form: Signature, batch_free: bool) -> None:
        self.model, self.graph, self.form = model, model.graph, form
        self._batch: int | str = "batch" if batch_free else 1
        self._old_in = {v.name: v for v in self.graph.inputs}
        self._old_out = {v.name: v for v in self.graph.outputs}
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._taken: set[str] = set()
        self._states: set[str] = set()
        self._make_room()
        self.graph.inputs.clear()
        self.graph.outputs.clear()
        self.context: State

    def constants(self) -> None:
        """Inputs that never change become initializers."""
        for name, value in self.form.constants.items():
            self._old_in[name].replace_all_uses_with(self._const(value, f"{name}.value"))

    def signal(self, hop: int) -> None:
        """From x, (batch, samples, channels), to the inputs of the author."""
        form = self.form
        x = self._value(SIGNAL, ir.DataType.FLOAT, [self._batch, hop if form.hop else "samples", form.channels])
        self._inputs.append(x)
        if form.context:
            x = self._with_context(x)
        start = 0
        for layout in form.layouts:
            part = x
            if layout.channels != form.channels:
                part = self._cut(x, 2, start, start + layout.channels, f"{layout.name}.channels")
            start += layout.channels
            self._old_in[layout.name].replace_all_uses_with(self._laid(part, layout))

    def state(self, carried: Carried, window: int | None) -> State:
        """One pair, under the names of the contract."""
        name = _free(plain(carried.name), self._states)
        kind = ir.DataType.from_numpy(carried.dtype)
        shape = [self._batch if n == "batch" else n for n in carried.shape]
        open_shape = [f"{name}.frames" if axis == carried.grows else n for axis, n in enumerate(shape)]
        before = self._value(f"{name}.in", kind, open_shape)
        self._inputs.append(before)
        old = self._old_in[carried.input]
        after = self._old_out[carried.output]
        after = before if after is old else after
        old.replace_all_uses_with(before)
        if window and not carried.bounded and carried.grows is not None:
            after = self._cut(after, carried.grows, -(window - 1), END, f"{name}.kept")
        return State(name, before, tuple(shape), carried.dtype, carried.fill, carried.grows, after)

    def port(self, port: Port) -> Port:
        """An output as (batch, frames, width), float32."""
        value = self._old_out[port.name]
        name = self._name(plain(port.name))
        value = self._op("Cast", [value], f"{name}.float", to=ir.DataType.FLOAT.value)
        time = port.fact.axis if isinstance(port.fact, Stream) and self.form.hop is None else None
        lead = [axis for axis in (port.batch, time) if axis is not None]
        perm = lead + [axis for axis in range(port.rank) if axis not in lead]
        if perm != sorted(perm):
            value = self._op("Transpose", [value], f"{name}.laid", perm=perm)
        batch = 0 if port.batch is not None and time is not None else -1 if time is None else 1
        value = self._op("Reshape", [value, self._ints(batch, 1 if time is None else -1, port.width)], f"{name}.frames")
        out = self._value(name, ir.DataType.FLOAT, [self._batch, f"{name}.number", port.width])
        self._give(value, out)
        return Port(name, port.fact, port.width, port.rank, port.batch)

    def finished(self, states: Sequence[State]) -> onnx.ModelProto:
        """The model, checked, without what nobody uses."""
        for s in states:
            shape = [f"{s.name}.frames" if axis == s.grows else n for axis, n in enumerate(s.shape)]
            self._give(s.after, self._value(f"{s.name}.out", ir.DataType.from_numpy(s.dtype), shape))
        self.graph.inputs.extend(self._inputs)
        self.graph.outputs.extend(self._outputs)
        self.graph.name = "streaming"
        for clean in (TopologicalSortPass(), IdentityEliminationPass(), CommonSubexpressionEliminationPass(),
                      RemoveUnusedNodesPass(), DeduplicateInitializersPass(), CheckerPass()):  # fmt: skip
            clean(self.model)
        return ir.to_proto(self.model)

    def _with_context(self, x: ir.Value) -> ir.Value:
        """The last samples before the block go with it."""
        n, channels = self.form.context, self.form.channels
        name = _free(CONTEXT, self._states)
        before = self._value(f"{name}.in", ir.DataType.FLOAT, [self._batch, n, channels])
        self._inputs.append(before)
        joined = self._op("Concat", [before, x], f"{name}.and.{SIGNAL}", axis=1)
        after = self._cut(joined, 1, -n, END, f"{name}.kept")
        self.context = State(name, before, (self._batch, n, channels), np.dtype(np.float32), 0.0, None, after)
        return joined

    def _laid(self, x: ir.Value, layout: Layout) -> ir.Value:
        """As `signature.laid`, in the graph."""
        sizes = [n for n in layout.dims if isinstance(n, int)]
        x = self._op("Reshape", [x, self._ints(0, -1, *sizes)], f"{layout.name}.split")
        place = {"batch": 0, "time": 1}
        number = iter(range(2, 2 + len(sizes)))
        axes = [next(number) if isinstance(n, int) else place[n] for n in layout.dims]
        gone = [axis for axis in (0, 1) if axis not in axes]
        if gone:
            x = self._op("Squeeze", [x, self._ints(*gone)], f"{layout.name}.alone")
            axes = [axis - sum(g < axis for g in gone) for axis in axes]
        if axes != sorted(axes):
            x = self._op("Transpose", [x], f"{layout.name}.laid", perm=axes)
        return x

    def _give(self, value: ir.Value, out: ir.Value) -> None:
        self.graph.append(ir.node("Identity", [value], outputs=[out], name=out.name))
        self._outputs.append(out)

    def _op(self, op: str, inputs: Sequence[ir.Value], name: str, **attributes: Any) -> ir.Value:
        out = ir.Value(name=self._name(name))
        self.graph.append(ir.node(op, inputs, attributes, outputs=[out], name=out.name))
        return out

    def _cut(self, x: ir.Value, axis: int, start: int, end: int, name: str) -> ir.Value:
        return self._op("Slice", [x, self._ints(start), self._ints(end), self._ints(axis)], name)

    def _ints(self, *values: int) -> ir.Value:
        return self._const(np.asarray(values, np.int64), "ints")

    def _const(self, value: Array, name: str) -> ir.Value:
        name = self._name(name)
        const = ir.Value(name=name, const_value=ir.tensor(value, name=name))
        self.graph.register_initializer(const)
        return const

    def _value(self, name: str, kind: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))

    def _name(self, wish: str) -> str:
        return _free(wish, self._taken)

    def _make_room(self) -> None:
        """The author's values keep clear of the names that the contract will use."""
        states = [f"{name}.{part}" for name in (CONTEXT, *(plain(s.name) for s in self.form.states))
                  for part in ("in", "out")]  # fmt: skip
        mine = {SIGNAL, *states, *map(plain, self.form.outputs)}
        values = list(_values(self.graph))
        self._taken = {v.name for v in values if v.name} | mine
        for value in values:
            if value.name in mine:
                value.name = self._name(f"{value.name}.own")
        self._taken -= mine - {SIGNAL}


def plain(name: str) -> str:
    """A name without odd characters, such as those of file paths and tensor numbers."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.") or "v"


def _free(wish: str, taken: set[str]) -> str:
    name, k = wish, 1
    while name in taken:
        name, k = f"{wish}_{k}", k + 1
    taken.add(name)
    return name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of a graph and of the bodies in it."""
    yield from graph.inputs
    yield from list(graph.initializers.values())
    for node in graph:
        yield from node.outputs
        for a in node.attributes.values():
            for body in _bodies(a):
                yield from _values(body)


def _bodies(a: ir.Attr) -> Sequence[ir.Graph]:
    if a.type == ir.AttributeType.GRAPH:
        return [a.as_graph()]
    return a.as_graphs() if a.type == ir.AttributeType.GRAPHS else []


def _branches_taken(model: onnx.ModelProto, form: Signature, batch_free: bool) -> onnx.ModelProto:
    """The model with the branch of each If whose condition never changes in its place."""
    while True:
        chosen = _constant_choices(model, form, batch_free)
        if not chosen:
            return model
        graph = ir.from_proto(model)
        for node in [n for n in graph.graph if n.op_type == "If" and n.outputs[0].name in chosen]:
            _inline(node, chosen[node.outputs[0].name])
        model = ir.to_proto(graph)


def _constant_choices(model: onnx.ModelProto, form: Signature, batch_free: bool) -> dict[str | None, bool]:
    """First output of each If of the main graph to its condition, where that was the same in every trial."""
    choices = [n for n in model.graph.node if n.op_type == "If"]
    if not choices:
        return {}
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    names = sorted({n.input[0] for n in choices})
    del asked.graph.output[:]
    asked.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    run = session(asked, optimize=False)
    seen = [dict(zip(names, run.run(names, feeds), strict=True)) for feeds in _trials(form, batch_free)]
    values = {n: {bool(np.all(s[n])) for s in seen} for n in names}
    return {n.output[0]: values[n.input[0]].pop() for n in choices if len(values[n.input[0]]) == 1}


def _trials(form: Signature, batch_free: bool) -> Iterator[Mapping[str, Array]]:
    rng = np.random.default_rng(3)
    for batch in (1, 3) if batch_free else (1,):
        for samples in (form.hop,) if form.hop else (96, 144):
            block = rng.normal(size=(batch, samples + form.context, form.channels)).astype(np.float32)
            states = {s.input: s.initial(batch) for s in form.states}
            yield form.feeds(block, states)
            yield form.feeds(block, {n: v + rng.normal(size=v.shape).astype(v.dtype) for n, v in states.items()})


def _inline(node: ir.Node, taken: bool) -> None:
    body = node.attributes["then_branch" if taken else "else_branch"].as_graph()
    graph = node.graph
    assert graph is not None
    results = list(body.outputs)
    for name, value in list(body.initializers.items()):
        del body.initializers[name]
        graph.initializers.add(value)
    inner = list(body)
    body.remove(inner)
    graph.insert_before(node, inner)
    for outer, value in zip(node.outputs, results, strict=True):
        wanted, outer.name = outer.name, None
        copy = ir.Value(name=wanted)
        graph.insert_before(node, ir.node("Identity", [value], outputs=[copy], name=wanted))
        outer.replace_all_uses_with(copy, replace_graph_outputs=True)
    graph.remove(node, safe=True)
