"""A zoo of whole-sequence ONNX graphs drawn by hand: every operator that streams, every kind of memory, and mixtures.

`ZOO` maps names to entries; `entry.model()` builds the graph, always with the same weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Shape = tuple[int | str, ...]
Draw = Callable[..., Any]

FEATURES: Shape = ("batch", "time", 3)
CHANNELS: Shape = ("batch", 2, "time")
END = np.iinfo(np.int64).max
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STATES = {"RNN": "h", "GRU": "h", "LSTM": "hc"}
TYPES = {"int8": np.int8, "uint8": np.uint8}


class Net:
    """A graph as it is drawn: each method adds nodes and gives the name of what comes out.

    Parameters
    ----------
    seed : int
        Of the weights.
    """

    def __init__(self, seed: int = 7) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names = 0

    def name(self, what: str) -> str:
        self._names += 1
        return f"{what.lower()}{self._names}"

    def const(self, value: Any, dtype: Any = None) -> str:
        """An initializer; floats are float32, integers int64."""
        array = np.asarray(value)
        kind = dtype or {"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype)
        self.constants.append(numpy_helper.from_array(array.astype(kind), self.name("const")))
        return self.constants[-1].name

    def weight(self, *shape: int) -> str:
        """Random numbers whose sums over the inputs have a variance below 1."""
        return self.const(self.rng.normal(size=shape) * 0.7 / np.sqrt(max(np.prod(shape[1:]), 1)))

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        return self.ops(kind, *inputs, count=1, domain=domain, **attributes)[0]

    def ops(self, kind: str, *inputs: str, count: int, domain: str = "", **attributes: Any) -> list[str]:
        outputs = [self.name(kind) for _ in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs

    # Layers: over (batch, time, features) where they say features, else over (batch, channels, time)

    def swap(self, x: str) -> str:
        return self.op("Transpose", x, perm=[0, 2, 1])

    def dense(self, x: str, width: int, out: int) -> str:
        """Features to features."""
        w = self.const(self.rng.normal(size=(width, out)) * 0.7 / np.sqrt(width))
        return self.op("Add", self.op("MatMul", x, w), self.const(self.rng.normal(size=out) * 0.1))

    def conv(
        self, x: str, width: int, out: int, kernel: int = 3, pads: Sequence[int] = (0, 0), stride: int = 1,
        dilation: int = 1, group: int = 1, bias: bool = True, **attributes: Any,
    ) -> str:  # fmt: skip
        """A convolution over time, pads (left, right)."""
        inputs = [x, self.weight(out, width // group, kernel)]
        inputs += [self.const(self.rng.normal(size=out) * 0.1)] if bias else []
        given = {} if "auto_pad" in attributes else {"pads": list(pads)}
        return self.op(
            "Conv", *inputs, strides=[stride], dilations=[dilation], group=group, kernel_shape=[kernel],
            **given, **attributes,
        )  # fmt: skip

    def causal(self, x: str, width: int, out: int, kernel: int = 3, dilation: int = 1, **options: Any) -> str:
        return self.conv(x, width, out, kernel, ((kernel - 1) * dilation, 0), dilation=dilation, **options)

    def pool(self, kind: str, x: str, kernel: int, stride: int, pads: Sequence[int] = (0, 0), **attributes: Any) -> str:
        return self.op(kind, x, kernel_shape=[kernel], strides=[stride], pads=list(pads), **attributes)

    def pad(self, x: str, before: int, after: int, fill: float = 0.0, axis: int = 2, rank: int = 3) -> str:
        amounts = [0] * 2 * rank
        amounts[axis], amounts[rank + axis] = before, after
        return self.op("Pad", x, self.const(amounts), self.const(float(fill)))

    def cut(self, x: str, start: int = 0, end: int = END, axis: int = 2, step: int = 1) -> str:
        return self.op("Slice", x, *(self.const([n]) for n in (start, end, axis, step)))

    def recurrent(
        self, kind: str, x: str, width: int, hidden: int = 4, initial: bool = False, **attributes: Any
    ) -> tuple[str, ...]:
        """y over (time, batch, features) and the last states, (1, batch, hidden), of x likewise."""
        rows = GATES[kind] * hidden
        inputs = [x, self.weight(1, rows, width), self.weight(1, rows, hidden)]
        inputs += [self.const(self.rng.normal(size=(1, 2 * rows)) * 0.2), ""]
        peepholes = attributes.pop("peepholes", False)
        if initial:
            inputs += [self.const(self.rng.normal(size=(1, 1, hidden))) for _ in STATES[kind]]
        if peepholes:
            inputs += [""] * (7 - len(inputs)) + [self.weight(1, 3 * hidden)]
        y, *last = self.ops(kind, *inputs, count=1 + len(STATES[kind]), hidden_size=hidden, **attributes)
        return self.op("Squeeze", y, self.const([1])), *last

    def sequence(self, kind: str, x: str, width: int, hidden: int = 4, **attributes: Any) -> str:
        """A recurrent layer over features."""
        y = self.recurrent(kind, self.op("Transpose", x, perm=[1, 0, 2]), width, hidden, **attributes)[0]
        return self.op("Transpose", y, perm=[1, 0, 2])

    # Shapes and masks as exporters write them

    def size(self, x: str, axis: int) -> str:
        """One int64, the size of an axis."""
        return self.op("Gather", self.op("Shape", x), self.const([axis]), axis=0)

    def scalar(self, x: str) -> str:
        return self.op("Squeeze", x, self.const([0]))

    def range(self, x: str, axis: int = 1) -> str:
        """0, 1, ... as many as there are frames."""
        length = self.scalar(self.size(x, axis))
        return self.op("Range", self.const(np.int64(0)), length, self.const(np.int64(1)))

    def distance(self, x: str) -> str:
        """i - j, (time, time), of x over features."""
        place = self.range(x)
        rows = self.op("Unsqueeze", place, self.const([1]))
        return self.op("Sub", rows, self.op("Unsqueeze", place, self.const([0])))

    def allowed(self, x: str, window: int | None) -> str:
        """Whether row i may see column j: itself and the window - 1 before it."""
        d = self.distance(x)
        past = self.op("GreaterOrEqual", d, self.const(np.int64(0)))
        return past if window is None else self.op("And", past, self.op("Less", d, self.const(np.int64(window))))

    def quantized(self, x: str, scale: float = 0.05, zero: int = 3, kind: str = "int8") -> str:
        """To integers and back."""
        given = (self.const(np.float32(scale)), self.const(zero, TYPES[kind]))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *given), *given)

    def integer_weight(self, value: Array, axis: int) -> str:
        """A weight in int8 with a scale for each output channel."""
        rest = tuple(i for i in range(value.ndim) if i != axis)
        scale = np.abs(value).max(axis=rest) / 127
        whole = np.round(value / np.expand_dims(scale, rest)).astype(np.int8)
        zeros = self.const(np.zeros(len(scale)), np.int8)
        return self.op("DequantizeLinear", self.const(whole, np.int8), self.const(scale), zeros, axis=axis)

    def integer_conv(self, x: str, width: int, out: int, kernel: int, **options: Any) -> str:
        w = self.integer_weight(self.rng.normal(size=(out, width, kernel)) * 0.4, 0)
        return self.op("Conv", x, w, kernel_shape=[kernel], **options)

    def model(self, inputs: dict[str, Shape], outputs: Sequence[str], opset: int = 17) -> onnx.ModelProto:
        """The graph; its outputs are named y, or y0, y1, ..."""
        names = ["y"] if len(outputs) == 1 else [f"y{k}" for k in range(len(outputs))]
        ends = [helper.make_node("Identity", [a], [b]) for a, b in zip(outputs, names, strict=True)]
        graph = helper.make_graph(
            [*self.nodes, *ends],
            "zoo",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [onnx.ValueInfoProto(name=n) for n in names],
            self.constants,
        )
        domains = {n.domain for n in self.nodes} - {""}
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@dataclass(frozen=True)
class Entry:
    """A graph of the zoo.

    Attributes
    ----------
    draw : callable
        From a `Net` and the names of the inputs to that of the output, or those of the outputs.
    shapes : tuple of Shape
        Of the inputs.
    opset : int
    """

    draw: Draw
    shapes: tuple[Shape, ...]
    opset: int = 17

    @property
    def width(self) -> int:
        """Numbers a sample."""
        return sum(int(np.prod([n for n in s if isinstance(n, int)], dtype=int)) for s in self.shapes)

    def model(self) -> onnx.ModelProto:
        """The graph, time free; the batch too where its shape says so."""
        net = Net()
        names = ["x"] if len(self.shapes) == 1 else [f"x{k}" for k in range(len(self.shapes))]
        out = self.draw(net, *names)
        outputs = [out] if isinstance(out, str) else list(out)
        return net.model(dict(zip(names, self.shapes, strict=True)), outputs, self.opset)


def entry(draw: Draw, *shapes: Shape, opset: int = 17, **options: Any) -> Entry:
    return Entry(partial(draw, **options), shapes or (FEATURES,), opset)


def channels(draw: Draw, opset: int = 17, **options: Any) -> Entry:
    return entry(draw, CHANNELS, opset=opset, **options)


# Recurrences


def recurrent(net: Net, x: str, kind: str = "LSTM", **options: Any) -> str:
    return net.dense(net.sequence(kind, x, 3, **options), 4, 2)


def started(net: Net, x: str, kind: str) -> str:
    """The first state is learnt, and repeated for each stream."""
    by_time = net.op("Transpose", x, perm=[1, 0, 2])
    many = net.op("Concat", net.const([1]), net.size(x, 0), net.const([4]), axis=0)
    inputs = [by_time, net.weight(1, 4 * GATES[kind], 3), net.weight(1, 4 * GATES[kind], 4), "", ""]
    inputs += [net.op("Expand", net.const(net.rng.normal(size=(1, 1, 4))), many) for _ in STATES[kind]]
    y = net.ops(kind, *inputs, count=1, hidden_size=4)[0]
    return net.op("Transpose", net.op("Squeeze", y, net.const([1])), perm=[1, 0, 2])


def last_states(net: Net, x: str, kind: str) -> str:
    """A head on the last states, every one of them."""
    _, *last = net.recurrent(kind, net.op("Transpose", x, perm=[1, 0, 2]), 3)
    joined = net.op("Concat", *last, axis=2) if len(last) > 1 else last[0]
    return net.dense(net.op("Squeeze", joined, net.const([0])), 4 * len(last), 2)


def full_lengths(net: Net, x: str) -> str:
    """sequence_lens that say that every sequence is whole."""
    by_time = net.op("Transpose", x, perm=[1, 0, 2])
    lens = net.op("Expand", net.op("Cast", net.size(x, 1), to=TensorProto.INT32), net.size(x, 0))
    y = net.ops("LSTM", by_time, net.weight(1, 16, 3), net.weight(1, 16, 4), "", lens, count=1, hidden_size=4)[0]
    return net.op("Transpose", net.op("Squeeze", y, net.const([1])), perm=[1, 0, 2])


def stacked(net: Net, x: str, kinds: Sequence[str]) -> str:
    """Layers on each other, skip connections around all but the first."""
    x = net.sequence(kinds[0], x, 3)
    for kind in kinds[1:]:
        x = net.op("Add", x, net.sequence(kind, x, 4))
    return net.dense(x, 4, 2)


def alone(net: Net, x: str) -> str:
    """(time, features): no batch at all."""
    y, *_ = net.recurrent("LSTM", net.op("Unsqueeze", x, net.const([1])), 3)
    return net.dense(net.op("Squeeze", y, net.const([1])), 4, 2)


def time_first(net: Net, x: str) -> str:
    return net.dense(net.recurrent("GRU", x, 3, linear_before_reset=1)[0], 4, 2)


# Convolutions and pools


def conv(net: Net, x: str, **options: Any) -> str:
    return net.conv(x, 2, 3, **options)


def convs(net: Net, x: str, layers: Sequence[dict[str, Any]]) -> str:
    """One on another."""
    width = 2
    for layer in layers:
        x, width = net.op("Tanh", net.conv(x, width, 3, **layer)), 3
    return x


def pools(net: Net, x: str, kind: str, kernel: int, stride: int, **options: Any) -> str:
    return net.pool(kind, net.causal(x, 2, 3), kernel, stride, **options)


def over_image(net: Net, x: str, kernel: Sequence[int], pads: Sequence[int], strides: Sequence[int] = (1, 1)) -> str:
    """A convolution over (time, features), and a dense layer over what is left of the features."""
    image = net.op("Unsqueeze", x, net.const([1]))
    y = net.op("Conv", image, net.weight(2, 1, *kernel), pads=list(pads), strides=list(strides))
    by_time = net.op("Transpose", y, perm=[0, 2, 1, 3])
    left = (3 + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
    return net.dense(net.op("Reshape", by_time, net.const([0, 0, 2 * left])), 2 * left, 2)


def pool_image(net: Net, x: str) -> str:
    """A maximum over 3 frames and 2 features."""
    image = net.op("Unsqueeze", x, net.const([1]))
    y = net.op("MaxPool", image, kernel_shape=[3, 2], pads=[2, 0, 0, 0])
    return net.op("Squeeze", y, net.const([1]))


def residual(net: Net, x: str, layers: Sequence[dict[str, Any]], merge: str = "Add") -> str:
    """Branches of their own delay, and the input itself, meet."""
    widened = net.conv(x, 2, 3, 1)
    branches = [net.conv(widened, 3, 3, **layer) for layer in layers]
    y = widened
    for b in branches:
        y = net.op(merge, y, b)
    return y if merge == "Add" else net.op("Tanh", y)


def paces(net: Net, x: str) -> str:
    """Two ways to a stride of 6."""
    a = net.conv(net.conv(x, 2, 3, 3, (1, 1), 2), 3, 3, 4, (2, 1), 3)
    b = net.conv(net.conv(x, 2, 3, 3, (0, 2), 3), 3, 3, 2, (1, 0), 2)
    return net.op("Add", a, b)


def twice(net: Net, x: str) -> tuple[str, str]:
    """The same tensor as two outputs."""
    y = net.causal(x, 2, 3)
    return y, y


def joined(net: Net, x: str) -> str:
    """Three branches of different delay side by side, and a constant."""
    a, b, c = (net.conv(x, 2, 2, k, p) for k, p in ((3, (2, 0)), (5, (2, 2)), (7, (4, 2))))
    shape = net.op("Concat", net.size(x, 0), net.const([1]), net.size(x, 2), axis=0)
    constant = net.op("Expand", net.const(np.float32([[[0.5]]])), shape)
    return net.conv(net.op("Concat", a, b, c, constant, axis=1), 7, 2, 1)


def joined_after_strides(net: Net, x: str) -> str:
    a = net.conv(net.conv(x, 2, 2, 4, (2, 0), 2), 2, 2, 3, (2, 0))
    b = net.conv(x, 2, 2, 6, (4, 0), 2)
    c = net.pool("MaxPool", x, 2, 2)
    return net.conv(net.op("Concat", a, b, c, axis=1), 6, 2, 1)


def chomp(net: Net, x: str, kernel: int = 3, dilation: int = 2, middle: bool = False) -> str:
    """Padded on both sides, the end cut off; with something in the middle the two cannot be made one."""
    extra = (kernel - 1) * dilation
    y = net.conv(x, 2, 3, kernel, (extra, extra), dilation=dilation)
    return net.cut(net.op("Tanh", y) if middle else y, 0, -extra)


def chomp_beside(net: Net, x: str) -> tuple[str, str]:
    """What is chomped is an output itself."""
    y = net.conv(x, 2, 3, 3, (2, 2))
    return y, net.cut(y, 0, -2)


def chomp_by_length(net: Net, x: str) -> str:
    """The end cut off twice: by a number, and to the length of the input."""
    y = net.cut(net.conv(x, 2, 3, 3, (2, 2)), 0, -2)
    return net.op("Slice", y, net.const([0]), net.size(x, 2), net.const([2]))


def shifted(net: Net, x: str) -> str:
    """Each frame less the one before, as `x - cat([zeros_like(x[:, :1]), x[:, :-1]])`."""
    one = net.cut(x, 0, 1, axis=1)
    zeros = net.op("ConstantOfShape", net.op("Shape", one))
    joined = net.op("Concat", zeros, net.cut(x, 0, -1, axis=1), axis=1)
    return net.sequence("RNN", net.op("Sub", x, joined), 3)


def ended(net: Net, x: str) -> str:
    """Frames of one number before and after, as Concat."""
    before, after = (net.const(np.full((1, 2, n), 0.5, np.float32)) for n in (2, 3))
    return net.conv(net.op("Concat", before, x, after, axis=2), 2, 3, 4)


def padded(net: Net, x: str, before: int, after: int, fill: float = 0.0, kernel: int = 0, tap: bool = False) -> Any:
    """Padding; before a convolution of its own; used a second time."""
    y = net.pad(x, before, after, fill)
    out = net.conv(y, 2, 3, kernel) if kernel else y
    return (out, y) if tap else out


def cuts(net: Net, x: str, *, before: int = 0, start: int = 0, end: int = END, step: int = 1) -> str:
    """A slice over time, of a valid convolution where `before` is its kernel."""
    return net.cut(net.conv(x, 2, 3, before) if before else x, start, end, step=step)


def norms(net: Net, x: str) -> str:
    """Of each channel, by numbers from training."""
    y = net.conv(x, 2, 3, 3, (2, 0), bias=False)
    given = [net.const(net.rng.uniform(0.5, 1.5, 3)) for _ in range(2)]
    return net.op("Relu", net.op("BatchNormalization", y, *given, net.weight(3), given[0]))


def layer_norm(net: Net, x: str) -> str:
    y = net.op("LayerNormalization", net.dense(x, 3, 4), net.weight(4), net.weight(4), axis=-1)
    return net.sequence("GRU", y, 4)


def written_norm(net: Net, x: str) -> str:
    """A layer norm in pieces, as exporters write it."""
    mean = net.op("ReduceMean", x, axes=[-1])
    apart = net.op("Sub", x, mean)
    var = net.op("ReduceMean", net.op("Mul", apart, apart), axes=[-1])
    return net.op("Div", apart, net.op("Sqrt", net.op("Add", var, net.const(np.float32(1e-3)))))


def written_norm_18(net: Net, x: str) -> str:
    """The same with the axes as an input."""
    last = net.const([-1])
    apart = net.op("Sub", x, net.op("ReduceMean", x, last))
    var = net.op("ReduceMean", net.op("Mul", apart, apart), last)
    return net.op("Div", apart, net.op("Sqrt", net.op("Add", var, net.const(np.float32(1e-3)))))


def softmax(net: Net, x: str) -> str:
    return net.op("Softmax", net.sequence("RNN", x, 3), axis=-1)


def best(net: Net, x: str) -> Any:
    """The class as a number, and the largest two."""
    y = net.dense(x, 3, 5)
    values, _ = net.ops("TopK", y, net.const([2]), count=2, axis=-1)
    return net.op("ArgMax", y, axis=-1, keepdims=1), values


# Axes


def axes(net: Net, x: str) -> str:
    """Squeezed, split, picked from and put together again."""
    first, rest = net.ops("Split", x, net.const([1, 2]), count=2, axis=2)
    second = net.op("Gather", rest, net.const(np.int64(0)), axis=2)
    third = net.op("Squeeze", net.cut(rest, 1, 2), net.const([2]))
    pair = net.op("Concat", *(net.op("Unsqueeze", v, net.const([-1])) for v in (third, second)), axis=-1)
    return net.sequence("RNN", net.op("Concat", pair, first, axis=2), 3)


def folded(net: Net, x: str) -> str:
    """Features to (2, 3) and back, over time in the middle."""
    y = net.op("Reshape", net.dense(x, 3, 6), net.const([0, 0, 2, 3]))
    y = net.op("Transpose", y, perm=[0, 2, 1, 3])
    y = net.op("ReduceSum", net.op("Tile", y, net.const([1, 1, 1, 2])), net.const([1]), keepdims=0)
    return net.sequence("GRU", y, 6)


def merged(net: Net, x: str) -> str:
    """A dense layer as Keras writes it: batch and time in one axis, and apart again by -1."""
    rows = net.op("Reshape", x, net.const([-1, 3]))
    y = net.op("Tanh", net.op("Gemm", rows, net.weight(3, 4), net.weight(4)))
    shape = net.op("Concat", net.size(x, 0), net.size(x, 1), net.const([4]), axis=0)
    return net.sequence("LSTM", net.op("Reshape", y, shape), 4)


def tensordot(net: Net, x: str) -> str:
    """The same with every shape computed."""
    free = net.op("Gather", net.op("Shape", x), net.const([0, 1]))
    rows = net.op("Concat", net.op("ReduceProd", free, keepdims=1), net.const([3]), axis=0)
    y = net.op("MatMul", net.op("Reshape", net.op("Transpose", x, perm=[0, 1, 2]), rows), net.weight(3, 4))
    return net.op("Reshape", y, net.op("Concat", free, net.const([4]), axis=0))


def flat_end(net: Net, x: str) -> str:
    """The last three channels' step, flattened."""
    y = net.op("Gather", net.causal(x, 2, 3), net.const([-1]), axis=2)
    return net.op("Gemm", net.op("Flatten", y), net.weight(3, 2), net.weight(2))


def chosen(net: Net, x: str) -> str:
    """An If on the rank, as torch's first exporter writes Squeeze."""
    rank = net.op("Size", net.op("Shape", x))
    outer = net.dense(x, 3, 3)

    def branch(kind: str) -> onnx.GraphProto:
        node = helper.make_node(kind, [outer], [f"{kind}.out"])
        return helper.make_graph([node], kind, [], [onnx.ValueInfoProto(name=f"{kind}.out")])

    condition = net.op("Equal", rank, net.const(np.int64(3)))
    y = net.op("If", condition, then_branch=branch("Tanh"), else_branch=branch("Sigmoid"))
    return net.sequence("RNN", y, 3)


# Heads


def last_by_gather(net: Net, x: str) -> str:
    return net.dense(net.op("Gather", net.sequence("LSTM", x, 3), net.const(np.int64(-1)), axis=1), 4, 2)


def last_by_slice(net: Net, x: str) -> str:
    y = net.cut(net.sequence("GRU", x, 3), -1, END, 1)
    return net.dense(net.op("Squeeze", y, net.const([1])), 4, 2)


def last_by_shape(net: Net, x: str) -> str:
    """At T - 1, computed."""
    y = net.sequence("RNN", x, 3)
    place = net.op("Sub", net.scalar(net.size(x, 1)), net.const(np.int64(1)))
    return net.dense(net.op("Gather", y, place, axis=1), 4, 2)


def head(net: Net, x: str, kind: str, keepdims: int = 0) -> str:
    y = net.causal(x, 2, 3)
    reduced = net.op(kind, y, net.const([2]), keepdims=keepdims) if kind == "ReduceSum" else net.op(
        kind, y, axes=[2], keepdims=keepdims)  # fmt: skip
    return reduced if keepdims else net.dense(reduced, 3, 2)


def head_18(net: Net, x: str) -> str:
    return net.dense(net.op("ReduceMean", net.causal(x, 2, 3), net.const([2]), keepdims=0), 3, 2)


def global_head(net: Net, x: str, kind: str) -> str:
    y = net.op(kind, net.conv(x, 2, 3, 5, (2, 2), 2))
    return net.op("Gemm", net.op("Flatten", y), net.weight(3, 2), net.weight(2))


def two_means(net: Net, x: str) -> str:
    """Means over time after a stride, over time and features."""
    y = net.conv(net.conv(x, 2, 3, 4, (1, 1), 2), 3, 4, 3, (0, 0), 3)
    return net.op("ReduceMean", y, axes=[1, 2], keepdims=1)


def moments(net: Net, x: str) -> str:
    """Mean and extremes of the whole, joined in one head."""
    y = net.sequence("LSTM", x, 3)
    parts = [net.op(kind, y, axes=[1], keepdims=0) for kind in ("ReduceMean", "ReduceMax", "ReduceMin")]
    return net.dense(net.op("Concat", *parts, axis=1), 12, 3)


def everything(net: Net, x: str) -> str:
    """One number of the whole recording."""
    return net.op("ReduceMean", net.dense(x, 3, 2), keepdims=0)


def cumulative(net: Net, x: str, **options: Any) -> str:
    return net.op("Tanh", net.op("CumSum", net.dense(x, 3, 2), net.const(np.int64(1)), **options))


# Attention


def attend(net: Net, x: str, window: int = 4, mask: str = "where") -> str:
    """One head; what may be seen by Where, or by a mask that is added."""
    q, k, v = (net.dense(x, 3, 3) for _ in range(3))
    scores = net.op("Mul", net.op("MatMul", q, net.swap(k)), net.const(np.float32(0.6)))
    may = net.allowed(x, window)
    minus, zero = net.const(np.float32(-np.inf)), net.const(np.float32(0))
    if mask == "where":
        scores = net.op("Where", may, scores, minus)
    else:
        scores = net.op("Add", scores, net.op("Where", may, zero, minus))
    return net.op("Add", x, net.op("MatMul", net.op("Softmax", scores, axis=-1), v))


def heads(net: Net, x: str, width: int, count: int, merge: bool) -> str:
    """(batch, time, width) to (batch, heads, time, part); merged to (batch * heads, time, part)."""
    part = width // count
    y = net.op("Transpose", net.op("Reshape", x, net.const([0, 0, count, part])), perm=[0, 2, 1, 3])
    if not merge:
        return y
    shape = net.op("Concat", net.const([-1]), net.size(x, 1), net.const([part]), axis=0)
    return net.op("Reshape", y, shape)


def values_last(net: Net, x: str) -> str:
    """The plainest attention, whose values are computed behind its weights."""
    scores = net.op("MatMul", net.dense(x, 3, 3), net.swap(net.dense(x, 3, 3)))
    weights = net.op("Softmax", net.op("Where", net.allowed(x, 4), scores, net.const(np.float32(-np.inf))), axis=-1)
    return net.op("MatMul", weights, net.dense(x, 3, 3))


def triangular(net: Net, x: str, how: str) -> str:
    """Masks as Trilu, as a table, and as an index counted up."""
    length = net.size(x, 1)
    if how == "trilu":
        ones = net.op("ConstantOfShape", net.op("Concat", length, length, axis=0),
                      value=numpy_helper.from_array(np.ones(1, np.float32)))  # fmt: skip
        lower = net.op("Trilu", ones, upper=0)
        seen = net.op("Trilu", lower, net.const(np.int64(-3)), upper=1)
    elif how == "table":
        band = np.tril(np.triu(np.ones((3000, 3000), np.float32), -3))
        ends = net.op("Concat", length, length, axis=0)
        seen = net.op("Slice", net.const(band), net.const([0, 0]), ends, net.const([0, 1]))
    else:
        ones = net.op("Expand", net.const(np.float32(1)), length)
        place = net.op("CumSum", ones, net.const(np.int64(0)))
        d = net.op("Sub", net.op("Unsqueeze", place, net.const([1])), net.op("Unsqueeze", place, net.const([0])))
        near = net.op("And", net.op("Less", d, net.const(np.float32(4))), net.op("Not", net.op(
            "Less", d, net.const(np.float32(0)))))  # fmt: skip
        seen = net.op("Cast", near, to=TensorProto.FLOAT)
    hidden = net.op("Mul", net.op("Sub", net.const(np.float32(1)), seen), net.const(np.float32(-1e30)))
    scores = net.op("Add", net.op("MatMul", net.dense(x, 3, 3), net.swap(net.dense(x, 3, 3))), hidden)
    return net.op("MatMul", net.op("Softmax", scores, axis=-1), x)


def multi_head(net: Net, x: str, window: int = 4, merge: bool = False, alibi: bool = False) -> str:
    """Two heads; with a bias by distance of each head's own slope (Press et al. 2022)."""
    z = net.dense(x, 3, 4)
    q, k, v = (heads(net, net.dense(z, 4, 4), 4, 2, merge) for _ in range(3))
    perm = [0, 2, 1] if merge else [0, 1, 3, 2]
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=perm))
    if alibi:
        far = net.op("Cast", net.op("Neg", net.distance(x)), to=TensorProto.FLOAT)
        scores = net.op("Add", scores, net.op("Mul", net.const(np.float32([[[0.5]], [[0.125]]])), far))
    scores = net.op("Where", net.allowed(x, window), scores, net.const(np.float32(-1e30)))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    if merge:
        shape = net.op("Concat", net.const([-1, 2]), net.size(x, 1), net.const([2]), axis=0)
        y = net.op("Reshape", y, shape)
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.const([0, 0, 4]))
    return net.dense(net.op("Add", z, y), 4, 2)


def convolved_attention(net: Net, x: str) -> str:
    """Behind a strided convolution that looks ahead."""
    y = net.conv(x, 2, 3, 5, (2, 2), 2)
    return attend(net, net.swap(y))


# Quantized


def integer_residual(net: Net, x: str, kind: str = "int8") -> str:
    """Convolution, a sum of different delays, a maximum, a product: all between integers."""
    a = net.quantized(x, kind=kind, zero=3)
    b = net.quantized(net.integer_conv(a, 2, 3, 3, pads=[2, 0]), kind=kind, zero=5)
    c = net.quantized(net.integer_conv(b, 3, 3, 5, pads=[2, 2]), kind=kind, zero=7)
    y = net.quantized(net.op("Add", b, c), 0.08, kind=kind)
    y = net.quantized(net.pool("MaxPool", y, 3, 2, (1, 0)), 0.08, kind=kind)
    w = net.integer_weight(net.rng.normal(size=(3, 2)), 1)
    return net.quantized(net.op("MatMul", net.quantized(net.swap(y), 0.08, kind=kind), w), 0.1, kind=kind)


def integer_tcn(net: Net, x: str, kind: str = "uint8") -> str:
    y = net.quantized(x, 0.04, 128, kind)
    y = net.quantized(net.integer_conv(y, 2, 3, 3, pads=[4, 0], dilations=[2]), 0.03, 120, kind)
    y = net.quantized(net.integer_conv(y, 3, 3, 4, pads=[3, 0], strides=[2]), 0.03, 120, kind)
    return net.quantized(net.integer_conv(y, 3, 2, 3, pads=[2, 0]), 0.02, 100, kind)


def integer_chomp(net: Net, x: str) -> str:
    """Padded both sides in integers, the end cut off behind."""
    y = net.quantized(net.integer_conv(net.quantized(x), 2, 3, 3, pads=[2, 2]))
    return net.quantized(net.integer_conv(net.cut(y, 0, -2), 3, 2, 1), 0.03)


# Several


def two_inputs(net: Net, a: str, b: str) -> str:
    return net.dense(net.sequence("LSTM", net.op("Concat", a, b, axis=2), 3), 4, 2)


def two_layouts(net: Net, a: str, b: str) -> str:
    """Features of one, channels of the other, each with a convolution of its own."""
    left = net.swap(net.conv(b, 2, 2, 5, (2, 2)))
    return net.op("Concat", left, net.sequence("GRU", a, 1), axis=2)


def several_paces(net: Net, x: str) -> tuple[str, ...]:
    """An output at each stage, and one over all time."""
    a = net.causal(x, 2, 3)
    b = net.conv(a, 3, 3, 4, (2, 1), 2)
    c = net.conv(b, 3, 2, 3, (0, 0), 3)
    return a, b, c, net.op("GlobalMaxPool", b)


def cnn_lstm(net: Net, x: str) -> str:
    y = net.op("Relu", net.conv(x, 2, 4, 5, (3, 1), 2))
    y = net.swap(net.pool("MaxPool", y, 2, 2))
    return net.op("Softmax", net.dense(net.sequence("LSTM", y, 4), 4, 3), axis=-1)


def tcn(net: Net, x: str) -> str:
    y = net.conv(x, 2, 3, 1)
    for d in (1, 2, 4):
        inner = net.op("Relu", net.causal(y, 3, 3, 3, d))
        y = net.op("Add", y, net.causal(inner, 3, 3, 3, d))
    return net.conv(y, 3, 2, 1)


def unet(net: Net, x: str) -> str:
    """Same convolutions, skips around each, everything late."""
    a = net.op("Relu", net.conv(x, 2, 3, 3, (1, 1)))
    b = net.op("Relu", net.conv(a, 3, 3, 5, (2, 2)))
    c = net.op("Relu", net.conv(b, 3, 3, 7, (3, 3)))
    return net.conv(net.op("Concat", net.op("Add", c, b), net.op("Mul", a, a), x, axis=1), 8, 2, 1)


def conformer(net: Net, x: str) -> str:
    """Attention over a window, a depthwise convolution, a GRU."""
    y = attend(net, x, 5)
    z = net.swap(net.causal(net.swap(y), 3, 3, 5, group=3))
    return net.dense(net.sequence("GRU", net.op("Add", y, z), 3, linear_before_reset=1), 4, 2)


def strided(net: Net, x: str, kernel: int, stride: int, left: int, right: int = 0) -> str:
    return net.conv(x, 2, 2, kernel, (left, right), stride)


STRIDED = {
    f"conv_k{k}_s{s}_p{p}{'_both' if both else ''}": channels(strided, kernel=k, stride=s, left=p, right=p * both)
    for k, s, pads in ((5, 2, range(5)), (5, 3, range(5)), (2, 3, range(2)), (1, 4, range(1)))
    for p in pads
    for both in ((False, True) if p in (1, 2) else (False,))
}
"""Every residue of padding against stride."""

ZOO: dict[str, Entry] = {
    "rnn_tanh": entry(recurrent, kind="RNN"),
    "rnn_relu": entry(recurrent, kind="RNN", activations=["Relu"]),
    "lstm": entry(recurrent),
    "lstm_clip": entry(recurrent, clip=0.4),
    "lstm_peepholes": entry(recurrent, peepholes=True),
    "lstm_peepholes_clip": entry(recurrent, peepholes=True, clip=0.5),
    "lstm_input_forget": entry(recurrent, input_forget=1),
    "lstm_hard": entry(recurrent, activations=["HardSigmoid", "Tanh", "Tanh"], activation_alpha=[0.2],
                       activation_beta=[0.5]),
    "lstm_full_lengths": entry(full_lengths),
    "lstm_opset_13": entry(recurrent, opset=13),
    "lstm_opset_20": entry(recurrent, opset=20),
    "gru": entry(recurrent, kind="GRU"),
    "gru_reset_after": entry(recurrent, kind="GRU", linear_before_reset=1),
    "rnn_started_batch_1": entry(recurrent, (1, "time", 3), kind="RNN", initial=True),
    "lstm_started_batch_1": entry(recurrent, (1, "time", 3), initial=True),
    "rnn_started": entry(started, kind="RNN"),
    "gru_started": entry(started, kind="GRU"),
    "lstm_started": entry(started, kind="LSTM"),
    "rnn_last_state": entry(last_states, kind="RNN"),
    "gru_last_state": entry(last_states, kind="GRU"),
    "lstm_last_states": entry(last_states, kind="LSTM"),
    "stack": entry(stacked, kinds=("LSTM", "GRU", "RNN")),
    "no_batch": entry(alone, ("time", 3)),
    "batch_of_one": entry(recurrent, (1, "time", 3), kind="GRU"),
    "time_first": entry(time_first, ("time", "batch", 3)),
    "conv_causal": channels(conv, kernel=4, pads=(3, 0)),
    "conv_same": channels(conv, kernel=5, pads=(2, 2)),
    "conv_valid": channels(conv, kernel=5),
    "conv_ahead": channels(conv, kernel=4, pads=(0, 3)),
    "conv_wide_pads": channels(conv, kernel=3, pads=(5, 4)),
    "conv_dilated": channels(conv, kernel=3, dilation=4, pads=(8, 0)),
    "conv_dilated_strided": channels(conv, kernel=3, dilation=2, pads=(3, 1), stride=2),
    "conv_grouped": channels(lambda net, x: net.causal(net.conv(x, 2, 4, 1), 4, 6, 3, group=2)),
    "conv_depthwise": channels(lambda net, x: net.causal(net.conv(x, 2, 3, 1), 3, 3, 5, group=3)),
    "conv_same_upper": channels(conv, kernel=4, auto_pad="SAME_UPPER"),
    "conv_same_lower": channels(conv, kernel=4, auto_pad="SAME_LOWER"),
    "conv_auto_valid": channels(conv, kernel=4, auto_pad="VALID", stride=2),
    "conv_opset_11": channels(conv, kernel=4, pads=(3, 0), opset=11),
    "conv_point": channels(conv, kernel=1),
    **STRIDED,
    "conv_strides": channels(convs, layers=({"kernel": 4}, {"kernel": 3, "stride": 2}, {"kernel": 5, "stride": 3})),
    "conv_strides_padded": channels(convs, layers=({"kernel": 4, "pads": (1, 2), "stride": 2},
                                                   {"kernel": 3, "pads": (1, 1), "stride": 2}, {"kernel": 2})),
    "conv_after_point_stride": channels(convs, layers=({"kernel": 1, "stride": 3}, {"kernel": 3, "pads": (1, 1)})),
    "conv_2d": entry(over_image, kernel=(3, 2), pads=(2, 0, 0, 0)),
    "conv_2d_same": entry(over_image, kernel=(5, 3), pads=(2, 1, 2, 1)),
    "conv_2d_strided": entry(over_image, kernel=(4, 2), pads=(1, 0, 1, 1), strides=(2, 2)),
    "pool_2d": entry(pool_image),
    "max_pool": channels(pools, kind="MaxPool", kernel=3, stride=1),
    "max_pool_padded": channels(pools, kind="MaxPool", kernel=3, stride=1, pads=(1, 1)),
    "max_pool_strided": channels(pools, kind="MaxPool", kernel=3, stride=2, pads=(1, 0)),
    "max_pool_strided_both": channels(pools, kind="MaxPool", kernel=3, stride=2, pads=(1, 1)),
    "max_pool_dilated": channels(pools, kind="MaxPool", kernel=3, stride=1, dilations=[2], pads=(2, 1)),
    "max_pool_short": channels(pools, kind="MaxPool", kernel=2, stride=3),
    "max_pool_short_padded": channels(pools, kind="MaxPool", kernel=2, stride=3, pads=(1, 0)),
    "average_pool": channels(pools, kind="AveragePool", kernel=4, stride=2),
    "average_pool_padded": channels(pools, kind="AveragePool", kernel=3, stride=1, pads=(1, 1), count_include_pad=1),
    "average_pool_short": channels(pools, kind="AveragePool", kernel=2, stride=3),
    "pad_before": channels(padded, before=3, after=0),
    "pad_after": channels(padded, before=0, after=2, fill=1.5),
    "pad_both": channels(padded, before=2, after=3, fill=-0.5),
    "pad_fused": channels(padded, before=4, after=0, kernel=5),
    "pad_fused_both": channels(padded, before=2, after=2, kernel=5),
    "pad_before_conv": channels(padded, before=2, after=1, kernel=3, fill=0.7),
    "pad_used_twice": channels(padded, before=3, after=0, kernel=4, tap=True),
    "cut_start": channels(cuts, start=3),
    "cut_end": channels(cuts, end=-4),
    "cut_both": channels(cuts, start=2, end=-3),
    "cut_every_third": channels(cuts, step=3),
    "cut_every_third_from_2": channels(cuts, start=2, step=3),
    "cut_every_second_after_valid": channels(cuts, before=4, step=2),
    "cut_every_third_after_valid": channels(cuts, before=3, start=1, step=3),
    "cut_end_after_valid": channels(cuts, before=4, end=-2),
    "cut_end_then_third": channels(cuts, before=4, end=-2, step=3),
    "chomp": channels(chomp),
    "chomp_in_two": channels(chomp, middle=True),
    "chomp_beside": channels(chomp_beside),
    "chomp_by_length": channels(chomp_by_length),
    "shifted": entry(shifted),
    "ended": channels(ended),
    "residual": channels(residual, layers=({"kernel": 5, "pads": (2, 2)},)),
    "residual_three": channels(residual, layers=({"kernel": 3, "pads": (2, 0)}, {"kernel": 7, "pads": (3, 3)},
                                                 {"kernel": 5, "pads": (0, 4)})),
    "residual_product": channels(residual, layers=({"kernel": 5, "pads": (1, 3)},), merge="Mul"),
    "paces": channels(paces),
    "twice": channels(twice),
    "joined": channels(joined),
    "joined_after_strides": channels(joined_after_strides),
    "batch_norm": channels(norms),
    "layer_norm": entry(layer_norm),
    "written_norm": entry(written_norm),
    "written_norm_18": entry(written_norm_18, opset=18),
    "softmax": entry(softmax),
    "best": entry(best),
    "axes": entry(axes),
    "folded": entry(folded),
    "merged": entry(merged),
    "tensordot": entry(tensordot),
    "flat_end": channels(flat_end),
    "if_on_rank": entry(chosen),
    "last_by_gather": entry(last_by_gather),
    "last_by_slice": entry(last_by_slice),
    "last_by_shape": entry(last_by_shape),
    "mean": channels(head, kind="ReduceMean"),
    "sum": channels(head, kind="ReduceSum"),
    "max": channels(head, kind="ReduceMax", keepdims=1),
    "min": channels(head, kind="ReduceMin"),
    "mean_opset_18": channels(head_18, opset=18),
    "mean_opset_20": channels(head_18, opset=20),
    "global_average": channels(global_head, kind="GlobalAveragePool"),
    "global_max": channels(global_head, kind="GlobalMaxPool"),
    "two_means": channels(two_means),
    "moments": entry(moments),
    "everything": entry(everything, (1, "time", 3)),
    "cumsum": entry(cumulative),
    "cumsum_exclusive": entry(cumulative, exclusive=1),
    "attention": entry(attend),
    "attention_added_mask": entry(attend, mask="add"),
    "attention_of_itself": entry(attend, window=1),
    "attention_wide": entry(attend, window=200),
    "attention_values_last": entry(values_last),
    "attention_trilu": entry(triangular, how="trilu"),
    "attention_table": entry(triangular, how="table"),
    "attention_counted": entry(triangular, how="count"),
    "attention_heads": entry(multi_head),
    "attention_heads_merged": entry(multi_head, merge=True),
    "attention_alibi": entry(multi_head, alibi=True),
    "attention_after_conv": channels(convolved_attention),
    "int8_residual": channels(integer_residual),
    "uint8_residual": channels(integer_residual, kind="uint8"),
    "uint8_tcn": channels(integer_tcn),
    "int8_chomp": channels(integer_chomp),
    "two_inputs": entry(two_inputs, ("batch", "time", 1), ("batch", "time", 2)),
    "two_layouts": entry(two_layouts, ("batch", "time", 1), ("batch", 2, "time")),
    "several_paces": channels(several_paces),
    "cnn_lstm": channels(cnn_lstm),
    "tcn": channels(tcn),
    "unet": channels(unet),
    "conformer": entry(conformer),
}  # fmt: skip
"""Graphs that can be streamed exactly."""

INTEGERS = ("int8_residual", "uint8_residual", "uint8_tcn", "int8_chomp")
"""Those that compute in integers: every bit must be the original's."""
