"""A streaming graph as it is woven: nodes, constants, states, and what is known of each tensor of the original."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from holdover.export.fact import Fact, Length, PerBatch, Refused, Running, Static, Stream
from holdover.export.refusal import NotStreamable, Refusal
from holdover.export.whole import Dim, Whole

Array = NDArray[Any]
END = np.iinfo(np.int64).max


@dataclass
class State:
    """A carried tensor of the graph being woven.

    Attributes
    ----------
    name : str
    before : ir.Value
        The graph's input.
    shape : tuple of int or "batch"
        Before the first sample.
    dtype : np.dtype
    fill : float
        What fills it before the first sample.
    grows : int or None
        The axis whose length may change.
    after : ir.Value
        What it becomes; the input itself until a rule says so.
    """

    name: str
    before: ir.Value
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]
    fill: float
    grows: int | None
    after: ir.Value


@dataclass(frozen=True)
class Weave:
    """How to weave.

    Attributes
    ----------
    hop : int
        Samples of which every call but the last takes a multiple.
    exact_end : bool
        Whether the last call may end anywhere: the graph takes an `eos` input.
    as_matmul : bool
        Whether convolutions are written as shifts and a product, whose bits do not depend on the block's size.
    window : int or None
        Frames that unbounded attention is cut to.
    lookahead : int
        Samples that the backward half of a bidirectional layer sees ahead, rounded down to its frames, at least one;
        0 refuses it.
    """

    hop: int = 1
    exact_end: bool = False
    as_matmul: bool = False
    window: int | None = None
    lookahead: int = 0


class NotYet(Exception):
    """A rule needs a tensor that is woven later; the walk comes back to its node."""


class Loom:
    """Takes the original's tensors one by one and keeps what was woven for each.

    Parameters
    ----------
    whole : Whole
        The original.
    model : ir.Model
        The same for reading, made simpler where that changes nothing.
    weave : Weave
        How to weave.
    """

    def __init__(self, whole: Whole, model: ir.Model, weave: Weave) -> None:
        self.whole, self.model, self.weave = whole, model, weave
        self.order = list(model.graph)
        self.done: set[ir.Node] = set()
        self.nodes: list[ir.Node] = []
        self.states: list[State] = []
        self.signal: ir.Value
        self.eos: ir.Value | None = None
        self.approximations: list[str] = []
        self.paces: set[int] = {1}
        self.ahead = 0
        self.refusals: list[Refusal] = []
        self.initializers: dict[tuple[Any, ...], ir.Value] = {}
        self._facts: dict[ir.Value, Fact] = {}
        self._new: dict[ir.Value, ir.Value] = {}
        self._taken: set[str] = set()
        self.port_names = {v: self.name(v.name) for v in self.model.graph.outputs}

    @property
    def opset(self) -> int:
        """Of the standard operators."""
        return int(self.model.graph.opset_imports[""])

    # What is known of the original's tensors

    def fact(self, old: ir.Value | None) -> Fact:
        """What is known of a tensor of the original; a missing input is static."""
        if old is None or old.is_initializer():
            return Static()
        return self._facts[old]

    def known(self, old: ir.Value) -> bool:
        """Whether a tensor is already known."""
        return old.is_initializer() or old in self._facts

    def set_fact(self, old: ir.Value, fact: Fact) -> None:
        """Say what is known of a tensor for which nothing need be woven."""
        self._facts[old] = fact

    def bind(self, old: ir.Value, new: ir.Value, fact: Fact) -> None:
        """Say what stands for a tensor of the original."""
        self._facts[old], self._new[old] = fact, new
        if isinstance(fact, Stream):
            self.paces.add(fact.pace)
            self.ahead = max(self.ahead, fact.ahead)

    def constant_of(self, old: ir.Value | None) -> Array | None:
        """The value of a static tensor, None if it is missing or not static."""
        if old is None or not isinstance(self.fact(old), Static):
            return None
        return self.whole.values(old)[0]

    def beginning(self, old: ir.Value) -> Array:
        """What a state begins with, for one stream.

        Raises
        ------
        NotStreamable
            Streams that share a call begin with different numbers.
        """
        one, _, many = self.whole.values(old)
        axis = next((i for i, d in enumerate(self.dims(old)) if d.batch), None)
        if axis is not None:
            every = [many, *self.whole.far.all_values(old.name or "")]
            if any(not np.array_equal(v, np.repeat(one, v.shape[axis] // one.shape[axis], axis)) for v in every):
                raise NotStreamable("its initial state differs between the streams of a call")
        return one

    def dims(self, old: ir.Value) -> tuple[Dim, ...]:
        """The axes of a tensor of the original."""
        return self.whole.dims(old)

    def new(self, old: ir.Value | None) -> ir.Value | None:
        """What stands for a tensor of the original, weaving constants and shapes when first asked for."""
        if old is None:
            return None
        if old in self._new:
            return self._new[old]
        fact = self.fact(old)
        producer = old.producer()
        if isinstance(fact, Static) and producer is not None and producer.op_type == "DequantizeLinear":
            # Quantized weights stay so: onnxruntime computes with the integers.
            self._new[old] = self.copy(producer, [self.new(v) for v in producer.inputs])[0]
        elif isinstance(fact, Static):
            self._new[old] = self.const(self.whole.values(old)[0])
        elif isinstance(fact, PerBatch):
            node = old.producer()
            assert node is not None
            copies = self.copy(node, [self.new(v) for v in node.inputs])
            for output, copy in zip(node.outputs, copies, strict=True):
                self._new[output] = copy
        elif isinstance(fact, Length):
            raise NotStreamable("it uses the absolute position in the sequence or its length, which a stream does not "
                                "have")  # fmt: skip
        elif isinstance(fact, Refused):
            raise NotStreamable("it depends on a node that was refused")
        return self._new[old]

    def need(self, old: ir.Value | None) -> ir.Value:
        """`new` of an input that is there."""
        value = self.new(old)
        assert value is not None
        return value

    # Weaving

    def op(
        self, op: str, inputs: Sequence[ir.Value | None], name: str, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """Weave a node with one output."""
        return self.ops(op, inputs, [name], domain, **attributes)[0]

    def ops(
        self, op: str, inputs: Sequence[ir.Value | None], names: Sequence[str], domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """Weave a node with several outputs."""
        outputs = [ir.Value(name=self.name(n)) for n in names]
        self.nodes.append(ir.node(op, inputs, attributes, domain=domain, outputs=outputs, name=outputs[0].name))
        return outputs

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
        """Weave a node as it is over other inputs."""
        outputs = [ir.Value(name=self.name(o.name)) for o in node.outputs]
        new = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=outputs)
        new.name = outputs[0].name
        self.nodes.append(new)
        return outputs

    def const(self, value: Any, dtype: Any = None) -> ir.Value:
        """An initializer; equal ones are one."""
        value = np.ascontiguousarray(value, dtype) if np.ndim(value) else np.asarray(value, dtype)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.initializers:
            name = self.name(f"const.{len(self.initializers)}")
            self.initializers[key] = ir.Value(name=name, const_value=ir.tensor(value, name=name))
        return self.initializers[key]

    def ints(self, *values: int) -> ir.Value:
        """A one-dimensional int64 initializer."""
        return self.const(np.asarray(values, np.int64))

    def cut(self, x: ir.Value, axis: int, start: int = 0, end: int = END, step: int = 1, name: str = "cut") -> ir.Value:
        """x[start:end:step] along an axis."""
        inputs = [x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step)]
        return self.op("Slice", inputs[: 5 if step != 1 else 4], name)

    def length(self, x: ir.Value, axis: int, name: str) -> ir.Value:
        """Frames of x, as one int64."""
        shape = self.op("Shape", [x], f"{name}.shape")
        return self.op("Gather", [shape, self.ints(axis)], f"{name}.length", axis=0)

    def name(self, wish: str | None) -> str:
        """A name not taken, without odd characters."""
        base = re.sub(r"[^A-Za-z0-9_.]+", "_", wish or "v").strip("_.") or "v"
        name, k = base, 1
        while name in self._taken:
            name, k = f"{base}_{k}", k + 1
        self._taken.add(name)
        return name

    def end(self) -> ir.Value:
        """One int64: 1 in the call that ends the signal, 0 before."""
        if self.eos is None:
            self.eos = ir.Value(name=self.name("eos"), type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1]))
        return self.eos

    def padding_at_end(self, frames: ir.Value, axis: int, name: str) -> ir.Value:
        """A constant's frames in the call that ends the signal, none before."""
        shape = self.op("Shape", [frames], f"{name}.shape")
        many = self.op("Gather", [shape, self.ints(axis)], f"{name}.many", axis=0)
        many = self.op("Mul", [many, self.end()], f"{name}.now")
        return self.op("Slice", [frames, self.ints(0), many, self.ints(axis)], name)

    def integers(self, old: ir.Value) -> tuple[ir.Value, Callable[[ir.Value], ir.Value]]:
        """The quantized tensor behind a dequantized one, and what dequantizes it again; else itself.

        Memory on the integer side keeps onnxruntime's integer kernels, and with them their bits.
        """
        node = old.producer()
        if node is None or node.op_type != "DequantizeLinear" or not isinstance(self.fact(node.inputs[0]), Stream):
            return old, lambda new: new
        scale, source = self.constant_of(node.inputs[1]), node.inputs[0]
        if scale is None or scale.size != 1 or source is None:
            return old, lambda new: new
        return source, lambda new: self.copy(node, [new, *(self.new(v) for v in node.inputs[1:])])[0]

    # Memory

    def state(
        self,
        name: str,
        shape: Sequence[int | str],
        dtype: Any = np.float32,
        fill: float = 0.0,
        grows: int | None = None,
    ) -> State:
        """A new state; the caller sets what it becomes."""
        own = self.name(name)
        before = ir.Value(name=self.name(f"{own}.in"), type=ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype))))
        self.states.append(State(own, before, tuple(shape), np.dtype(dtype), fill, grows, before))
        return self.states[-1]

    def history(
        self, old: ir.Value, new: ir.Value, axis: int, frames: int, keep: "int | Keep", name: str, fill: float = 0.0,
        dims: tuple[Dim, ...] | None = None,
    ) -> ir.Value:  # fmt: skip
        """The frames kept from earlier calls, then those of this one.

        Parameters
        ----------
        old, new : ir.Value
            The tensor of the original, and what stands for it.
        axis : int
            Time.
        frames : int
            Kept before the first sample, filled with `fill`.
        keep : int or callable
            How many of the last are kept for the next call; or weaves what is kept, from all.
        fill : float
            What the frames before the first sample hold.
        dims : tuple of Dim, optional
            Of `new`, where its axes are not those of `old`.
        """
        if frames == keep == 0:
            return new
        form = _Form.of(self, dims or self.dims(old), axis, frames, name)
        state = self.state(name, form.shape, self.whole.values(old)[0].dtype, fill, form.time)
        every = self.op("Concat", [form.apply(state.before), new], f"{name}.all", axis=axis)
        if not isinstance(keep, int):
            after = keep(every)
        elif keep:
            after = self.cut(every, axis, -keep, name=f"{name}.kept")
        else:
            after = self.cut(every, axis, 0, 0, name=f"{name}.kept")
        state.after = form.undo(after)
        return every


Keep = Callable[[ir.Value], ir.Value]


@dataclass(frozen=True)
class _Form:
    """How a state with a batch axis stands for a tensor whose batch may be merged with heads.

    Where an axis is the batch times k, the state holds time first and (batch, k) apart.
    """

    loom: Loom
    shape: tuple[int | str, ...]
    name: str
    axis: int
    merged: int | None = None
    rest: tuple[int, ...] = ()

    @staticmethod
    def of(loom: Loom, dims: Sequence[Dim], axis: int, frames: int, name: str) -> "_Form":
        shape: list[int | str] = []
        merged = None
        for i, d in enumerate(dims):
            if i == axis:
                shape.append(frames)
            elif d.time:
                raise NotStreamable("it has two time axes")
            elif d.batch and d.size == 1:
                shape.append("batch")
            elif d.batch:
                merged = i
                shape.append(d.size)
            else:
                shape.append(d.size)
        if merged is None:
            return _Form(loom, tuple(shape), name, axis)
        order = [axis] + [i for i in range(len(dims)) if i != axis]
        first = [shape[i] for i in order]
        place = order.index(merged)
        rest = tuple(int(n) if isinstance(n, int) else -1 for n in first)
        state = (*first[:place], "batch", first[place], *first[place + 1 :])
        return _Form(loom, state, name, axis, place, rest)

    @property
    def time(self) -> int:
        """The time axis of the state."""
        return self.axis if self.merged is None else 0

    def apply(self, state: ir.Value) -> ir.Value:
        """From the state to the tensor's form."""
        if self.merged is None:
            return state
        n = self.rest[self.merged]
        many = self.loom.op("Mul", [self._streams(), self.loom.ints(n)], f"{self.name}.rows")
        target = self._target(self.rest[1 : self.merged], [many], self.rest[self.merged + 1 :])
        x = self.loom.op("Reshape", [state, target], f"{self.name}.merged")
        perm = [i + 1 for i in range(len(self.rest) - 1)]
        perm.insert(self.axis, 0)
        return self.loom.op("Transpose", [x], f"{self.name}.placed", perm=perm)

    def undo(self, value: ir.Value) -> ir.Value:
        """From the tensor's form to the state's."""
        if self.merged is None:
            return value
        perm = [self.axis] + [i for i in range(len(self.rest)) if i != self.axis]
        x = self.loom.op("Transpose", [value], f"{self.name}.timed", perm=perm)
        apart = [self._streams(), self.loom.ints(self.rest[self.merged])]
        target = self._target(self.rest[1 : self.merged], apart, self.rest[self.merged + 1 :])
        return self.loom.op("Reshape", [x, target], f"{self.name}.split")

    def _streams(self) -> ir.Value:
        """How many, as one int64; Reshape cannot find it out where there are no frames."""
        return self.loom.length(self.loom.signal, 0, f"{self.name}.streams")

    def _target(self, before: Sequence[int], rows: Sequence[ir.Value], after: Sequence[int]) -> ir.Value:
        """A shape for Reshape: the frames there are, then the rest."""
        sizes = [self.loom.ints(0, *before), *rows, *([self.loom.ints(*after)] if after else [])]
        return self.loom.op("Concat", sizes, f"{self.name}.target", axis=0)


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute's value, or the default."""
    a = node.attributes.get(name)
    if a is None:
        return default
    value = a.value
    return (
        list(value) if a.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS) else value
    )


def streams(loom: Loom, values: Iterable[ir.Value | None]) -> list[ir.Value]:
    """Those of the values that carry time."""
    return [v for v in values if v is not None and isinstance(loom.fact(v), Stream)]


def stream_of(loom: Loom, value: ir.Value | None) -> Stream:
    """The fact of a value that must carry time."""
    fact = loom.fact(value)
    if isinstance(fact, Running):
        raise NotStreamable("it takes a value over the whole sequence as if it were a sequence")
    if not isinstance(fact, Stream):
        raise NotStreamable("its signal input does not carry time")
    return fact
