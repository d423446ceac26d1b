"""A causal CNN and LSTM over one lead as a streaming ONNX graph, its front end and its memory inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, pi
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from holdover.runtime.errors import UsageError

OPSET = 17
IR_VERSION = 8

Weights = Mapping[str, NDArray[Any]]

_AFFINE = {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0], "hidden_size": 1}


@dataclass(frozen=True)
class FrontEnd:
    """High-pass and gain control: from millivolts to what the first convolution sees.

    The baseline is a first-order low-pass, h = a h + (1 - a) x, and y = x - h, held within `limit_mv`. Once a frame
    of `hop` samples, the divisor g follows `scale` * mean |y| + `floor_mv` with time constant `tau_s`; the frame is
    divided by its own g and held within `limit`.

    Attributes
    ----------
    rate_hz : float
        Samples a second.
    hop : int
        Samples a frame.
    highpass_hz : float
        Corner of the high-pass.
    limit_mv : float
        Bound of the high-passed signal, so that an electrode's offset cannot blind the gain for long.
    tau_s : float
        Time constant of the gain.
    start_mv : float
        Mean |y| assumed at the start.
    scale, floor_mv : float
        Divisor is `scale` * mean |y| + `floor_mv`; the floor keeps an open input from being amplified.
    limit : float
        Bound of the normalised signal.
    """

    rate_hz: float = 120.0
    hop: int = 6
    highpass_hz: float = 0.5
    limit_mv: float = 5.0
    tau_s: float = 8.0
    start_mv: float = 0.12
    scale: float = 4.0
    floor_mv: float = 0.1
    limit: float = 12.0

    @property
    def highpass_pole(self) -> float:
        """The pole a of the baseline's recurrence."""
        return exp(-2 * pi * self.highpass_hz / self.rate_hz)

    @property
    def gain_pole(self) -> float:
        """The pole of the divisor's recurrence, a frame."""
        return exp(-self.hop / (self.rate_hz * self.tau_s))

    @property
    def gain_start(self) -> float:
        """The divisor before the first frame, mV."""
        return self.scale * self.start_mv + self.floor_mv


@dataclass(frozen=True)
class Convolution:
    """One causal convolution: its kernel is a whole number of strides.

    Attributes
    ----------
    kernel, stride : int
        In samples of the layer's own input.
    """

    kernel: int
    stride: int

    @property
    def groups(self) -> int:
        """Strides in a kernel; one less is carried from call to call."""
        return self.kernel // self.stride


@dataclass(frozen=True)
class CnnLstm:
    """The shape of the net: a front end, convolutions, LSTM layers, and heads side by side on the last layer.

    Attributes
    ----------
    heads : tuple of (str, int)
        Name and width of each output, in the order of the columns of `head.weight`.
    side_heads : tuple of (str, int)
        The same of a further LSTM that reads the last layer, of `side.head.weight`; none: there is no such LSTM.
    """

    front_end: FrontEnd = field(default_factory=FrontEnd)
    convolutions: tuple[Convolution, ...] = (Convolution(9, 3), Convolution(8, 2), Convolution(3, 1))
    lstm_layers: int = 2
    heads: tuple[tuple[str, int], ...] = (("beat", 1), ("offset", 1), ("class", 3))
    side_heads: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse shapes that would not stream in whole frames."""
        stride = int(np.prod([c.stride for c in self.convolutions]))
        if stride != self.front_end.hop:
            raise UsageError(f"the strides multiply to {stride}, the hop is {self.front_end.hop}; make them equal")
        for c in self.convolutions:
            if c.kernel % c.stride or c.groups < 2:
                raise UsageError(f"kernel {c.kernel} is not two or more whole strides of {c.stride}")


@dataclass
class _Graph:
    """Nodes, constants, inputs and outputs as they are added."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def floats(self, name: str, values: Any) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
        return name

    def ints(self, *values: int) -> str:
        name = "ints." + ".".join(str(v) for v in values)
        self.constants[name] = numpy_helper.from_array(np.asarray(values, np.int64), name)
        return name

    def state(self, name: str, shape: Sequence[int | str], init: str | float = "zeros") -> tuple[str, str]:
        before, after = f"{name}.in", f"{name}.out"
        self.inputs.append(helper.make_tensor_value_info(before, TensorProto.FLOAT, shape))
        self.outputs.append(helper.make_tensor_value_info(after, TensorProto.FLOAT, shape))
        shapes = {"init_shape": list(shape), "steady_shape": list(shape), "steady_after": 0}
        self.states.append({"name": name, "input": before, "output": after, "dtype": "float32", "init": init, **shapes})
        return before, after

    def rnn(self, name: str, x: str, state: tuple[str, str], pole: float, weight: Any, bias: float) -> str:
        """h = pole h + weight . x + bias, as an RNN node; x (time, batch, inputs) to (time, 1, batch, 1)."""
        before, after = state
        inputs = [
            x,
            self.floats(f"{name}.weight", np.reshape(weight, (1, 1, -1))),
            self.floats(f"{name}.pole", [[[pole]]]),
            self.floats(f"{name}.bias", [[bias, 0.0]]),
            "",
            before,
        ]
        self.nodes.append(helper.make_node("RNN", inputs, [name, after], name=name, **_AFFINE))
        return name


def build(shape: CnnLstm, weights: Weights) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """Build the streaming graph.

    The graph takes `x` (batch, samples, 1) in mV, samples a multiple of the hop, and each state `<name>.in`; it gives
    each head (batch, frames, width) and each state `<name>.out`. Convolutions are written as shifted groups and MatMul:
    onnxruntime's Conv gives other bits for other block lengths, MatMul does not.

    Parameters
    ----------
    shape : CnnLstm
        The net.
    weights : mapping of str to array
        `conv<i>.weight` (kernel, in, out) and `.bias`; `lstm<i>.input` (4 hidden, in), `.recurrent` (4 hidden, hidden)
        and `.bias` (4 hidden), gates in the order input, forget, cell, output; `head.weight` (hidden, columns) and
        `.bias`; with side heads `side.input`, `side.recurrent`, `side.bias`, `side.head.weight` and `.bias` likewise.

    Returns
    -------
    onnx.ModelProto
        Opset 17, IR 8, without a contract.
    list of dict
        The states, as the contract wants them.
    """
    g = _Graph()
    g.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "samples", 1]))
    y = _front_end(g, shape.front_end)
    for index, convolution in enumerate(shape.convolutions):
        y = _convolution(g, f"conv{index}", y, convolution, weights)
    y = g.node("Transpose", [y], "features.by_time", perm=[1, 0, 2])
    for index in range(shape.lstm_layers):
        y = _lstm(g, f"lstm{index}", y, weights)
    if shape.side_heads:
        _heads(g, _lstm(g, "side", y, weights), shape.side_heads, weights, "side.")
    _heads(g, y, shape.heads, weights)
    return _model(g), g.states


def _front_end(g: _Graph, front: FrontEnd) -> str:
    y = _highpass(g, front)
    gain = _gain(g, front, y)
    y = g.node("Div", [y, gain], "normal.open")
    limit = [g.floats("normal.low", -front.limit), g.floats("normal.high", front.limit)]
    return g.node("Clip", [y, *limit], "normal")


def _highpass(g: _Graph, front: FrontEnd) -> str:
    state = g.state("highpass", [1, "batch", 1])
    by_time = g.node("Transpose", ["x"], "x.by_time", perm=[1, 0, 2])
    pole = front.highpass_pole
    baseline = g.rnn("baseline", by_time, state, pole, 1 - pole, 0.0)
    baseline = g.node("Transpose", [baseline], "baseline.by_batch", perm=[2, 0, 1, 3])
    frames = g.ints(0, -1, front.hop)
    baseline = g.node("Reshape", [baseline, frames], "baseline.frames")
    x = g.node("Reshape", ["x", frames], "x.frames")
    y = g.node("Sub", [x, baseline], "highpass.open")
    limit = [g.floats("highpass.low", -front.limit_mv), g.floats("highpass.high", front.limit_mv)]
    return g.node("Clip", [y, *limit], "highpass")


def _gain(g: _Graph, front: FrontEnd, y: str) -> str:
    state = g.state("gain", [1, "batch", 1], float(np.float32(front.gain_start)))
    size = g.node("Abs", [y], "size")
    # Not as six inputs of the RNN: onnxruntime adds those up in another order when the call has one frame.
    size = g.node("MatMul", [size, g.floats("size.mean", np.full((front.hop, 1), 1 / front.hop))], "size.frames")
    size = g.node("Transpose", [size], "size.by_time", perm=[1, 0, 2])
    pole = front.gain_pole
    gain = g.rnn("divisor", size, state, pole, (1 - pole) * front.scale, (1 - pole) * front.floor_mv)
    gain = g.node("Transpose", [gain], "divisor.by_batch", perm=[2, 0, 1, 3])
    return g.node("Squeeze", [gain, g.ints(3)], "divisor.frames")


def _convolution(g: _Graph, name: str, x: str, shape: Convolution, weights: Weights) -> str:
    """Causal convolution of x (batch, time, channels or any split of it) to (batch, time / stride, out)."""
    weight = np.asarray(weights[f"{name}.weight"])
    width = shape.stride * weight.shape[1]
    carried = shape.groups - 1
    before, after = g.state(f"{name}.history", ["batch", carried, width])
    x = g.node("Reshape", [x, g.ints(0, -1, width)], f"{name}.groups")
    x = g.node("Concat", [before, x], f"{name}.all", axis=1)
    shifted = [_shift(g, f"{name}.shift{i}", x, i, i - carried) for i in range(carried)]
    shifted.append(_shift(g, f"{name}.shift{carried}", x, carried, 0))
    _shift(g, after, x, -carried, 0)
    y = g.node("Concat", shifted, f"{name}.taps", axis=2)
    y = g.node("MatMul", [y, g.floats(f"{name}.weight", weight.reshape(-1, weight.shape[2]))], f"{name}.product")
    y = g.node("Add", [y, g.floats(f"{name}.bias", weights[f"{name}.bias"])], f"{name}.sum")
    return g.node("Relu", [y], name)


def _shift(g: _Graph, name: str, x: str, start: int, end: int) -> str:
    stop = g.ints(end if end else np.iinfo(np.int64).max)
    return g.node("Slice", [x, g.ints(start), stop, g.ints(1)], name)


def _lstm(g: _Graph, name: str, x: str, weights: Weights) -> str:
    recurrent = np.asarray(weights[f"{name}.recurrent"])
    hidden = recurrent.shape[1]
    h, h_out = g.state(f"{name}.h", [1, "batch", hidden])
    c, c_out = g.state(f"{name}.c", [1, "batch", hidden])
    bias = _onnx_gates(np.asarray(weights[f"{name}.bias"]))
    inputs = [
        x,
        g.floats(f"{name}.input", _onnx_gates(np.asarray(weights[f"{name}.input"]))[None]),
        g.floats(f"{name}.recurrent", _onnx_gates(recurrent)[None]),
        g.floats(f"{name}.bias", np.concatenate([bias, np.zeros_like(bias)])[None]),
        "",
        h,
        c,
    ]
    outputs = [f"{name}.directions", h_out, c_out]
    g.nodes.append(helper.make_node("LSTM", inputs, outputs, name=f"{name}.directions", hidden_size=hidden))
    return g.node("Squeeze", [outputs[0], g.ints(1)], name)


def _onnx_gates(weight: NDArray[Any]) -> NDArray[Any]:
    """Input, forget, cell, output to the order of the ONNX operator: input, output, forget, cell."""
    i, f, c, o = np.split(weight, 4)
    return np.concatenate([i, o, f, c])


def _heads(g: _Graph, x: str, heads: Sequence[tuple[str, int]], weights: Weights, of: str = "") -> None:
    y = g.node("MatMul", [x, g.floats(f"{of}head.weight", weights[f"{of}head.weight"])], f"{of}heads.product")
    y = g.node("Add", [y, g.floats(f"{of}head.bias", weights[f"{of}head.bias"])], f"{of}heads.by_time")
    y = g.node("Transpose", [y], f"{of}heads", perm=[1, 0, 2])
    names = [name for name, _ in heads]
    widths = g.ints(*[width for _, width in heads])
    g.nodes.append(helper.make_node("Split", [y, widths], names, name=f"{of}split", axis=2))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "frames", w]) for n, w in heads]
    g.outputs[:0] = ends


def _model(g: _Graph) -> onnx.ModelProto:
    graph = helper.make_graph(g.nodes, "cnn-lstm", g.inputs, g.outputs, list(g.constants.values()))
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="holdover")
    onnx.checker.check_model(model, full_check=True)
    return model
