"""The shipped model as a whole-sequence graph, its weights read back from model.onnx: where quantization starts.

Everything after the high-pass runs once a frame, so the first convolution gives both of its steps in a frame at once,
its kernel padded with zeros.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from holdover.export import contract_io
from holdover.export.cnn_lstm import IR_VERSION, OPSET, CnnLstm, Convolution
from holdover.runtime.contract import KEY
from holdover.runtime.errors import HoldoverError

HERE = Path(__file__).parent
SHAPE = CnnLstm()
AFFINE: dict[str, Any] = {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]}

Array = NDArray[Any]
Weights = Mapping[str, Array]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the graph, the shipped contract as its draft; 0 if it went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=HERE / "model.onnx", help="the shipped model")
    parser.add_argument("-o", "--output", type=Path, default=Path("whole.onnx"), help="where to write it")
    options = parser.parse_args(arguments)
    try:
        contract_io.write_whole(options.output, of(options.model).SerializeToString(deterministic=True))
    except HoldoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def of(path: Path) -> onnx.ModelProto:
    """The whole-sequence graph of a model file that `holdover.export.cnn_lstm.build` made; raises as `load` does."""
    model, contract = contract_io.load(path)
    whole = build({t.name: numpy_helper.to_array(t) for t in model.graph.initializer})
    onnx.helper.set_model_props(whole, {f"{KEY}.draft": contract.text()})
    return whole


def build(weights: Weights) -> onnx.ModelProto:
    """The graph from x (batch, samples, 1), mV, to each head (batch, frames, width).

    Parameters
    ----------
    weights : mapping of str to array
        The initializers of the streaming graph, by their names.
    """
    g = _Graph(weights)
    y = _front_end(g)
    for index, convolution in enumerate(SHAPE.convolutions):
        kernel = _framed(weights, convolution) if index == 0 else _plain(weights, index)
        y = _convolution(g, f"conv{index}", y, *kernel)
    y = g.node("Transpose", [y], "features.by_time", perm=[2, 0, 1])
    for index in range(SHAPE.lstm_layers):
        names = [f"lstm{index}.{part}" for part in ("input", "recurrent", "bias")]
        hidden = weights[names[1]].shape[2]
        y = g.node("LSTM", [y, *map(g.weight, names)], f"lstm{index}.directions", hidden_size=hidden)
        y = g.node("Squeeze", [y, g.const("axis1", np.array([1]))], f"lstm{index}")
    y = g.node("MatMul", [y, g.weight("head.weight")], "heads.product")
    y = g.node("Add", [y, g.weight("head.bias")], "heads.by_time")
    y = g.node("Transpose", [y], "heads", perm=[1, 0, 2])
    widths = g.const("widths", np.array([width for _, width in SHAPE.heads]))
    g.nodes.append(helper.make_node("Split", [y, widths], [name for name, _ in SHAPE.heads], name="split", axis=2))
    return g.model()


class _Graph:
    """Nodes and constants as they are added; weights by the names they have in the file."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._constants: dict[str, onnx.TensorProto] = {}
        self.nodes: list[onnx.NodeProto] = []

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def const(self, name: str, value: Array) -> str:
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def weight(self, name: str) -> str:
        return self.const(name, self._weights[name])

    def model(self) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "samples", 1])
        heads = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "frames", w]) for n, w in SHAPE.heads]
        graph = helper.make_graph(self.nodes, "cnn-lstm", [x], heads, list(self._constants.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="holdover")
        onnx.checker.check_model(model, full_check=True)
        return model


def _front_end(g: _Graph) -> str:
    """High-pass and gain control; (batch, hop, frames)."""
    hop = SHAPE.front_end.hop
    by_time = g.node("Transpose", ["x"], "x.by_time", perm=[1, 0, 2])
    baseline = _filter(g, "baseline", by_time)
    y = g.node("Sub", [by_time, baseline], "highpass.open")
    y = g.node("Clip", [y, *map(g.weight, ("highpass.low", "highpass.high"))], "highpass.by_time")
    y = g.node("Transpose", [y], "highpass.channels", perm=[1, 2, 0])
    # Samples of a frame side by side, as the channels of a convolution that only picks.
    picks = g.const("frames.pick", np.eye(hop, dtype=np.float32)[:, None])
    y = g.node("Conv", [y, picks], "highpass", strides=[hop], kernel_shape=[hop])
    y = g.node("Transpose", [y], "highpass.frames", perm=[0, 2, 1])
    size = g.node("Abs", [y], "size")
    size = g.node("MatMul", [size, g.weight("size.mean")], "size.frames")
    gain = _filter(g, "divisor", g.node("Transpose", [size], "size.by_time", perm=[1, 0, 2]), _gain(g))
    gain = g.node("Transpose", [gain], "divisor.frames", perm=[1, 0, 2])
    y = g.node("Div", [y, gain], "normal.open")
    y = g.node("Clip", [y, *map(g.weight, ("normal.low", "normal.high"))], "normal.frames")
    return g.node("Transpose", [y], "normal", perm=[0, 2, 1])


def _gain(g: _Graph) -> str:
    """The divisor before the first frame, for each stream."""
    start = g.const("gain.start", np.full((1, 1, 1), SHAPE.front_end.gain_start, np.float32))
    shape = g.node("Shape", ["x"], "x.shape")
    batch = g.node("Slice", [shape, g.const("zero", np.array([0])), g.const("one", np.array([1]))], "x.streams")
    one = g.const("ones", np.array([1]))
    return g.node("Expand", [start, g.node("Concat", [one, batch, one], "gain.shape", axis=0)], "gain")


def _filter(g: _Graph, name: str, x: str, start: str | None = None) -> str:
    """A recurrence of one pole, (time, batch, 1) to the same."""
    inputs = [x, *(g.weight(f"{name}.{part}") for part in ("weight", "pole", "bias")), *(["", start] if start else [])]
    y = g.node("RNN", inputs, f"{name}.directions", hidden_size=1, **AFFINE)
    return g.node("Squeeze", [y, g.const("axis1", np.array([1]))], name)


def _framed(weights: Weights, shape: Convolution) -> tuple[Array, Array]:
    """The first convolution once a frame: a step's channels beside those of the next, over this frame and the last."""
    hop, matrix = SHAPE.front_end.hop, weights["conv0.weight"]
    steps, out = hop // shape.stride, matrix.shape[1]
    reach = (shape.kernel + hop - shape.stride + hop - 1) // hop
    kernel = np.zeros((reach * hop, steps, out), np.float32)
    for step in range(steps):
        last = (reach - 1) * hop + (step + 1) * shape.stride
        kernel[last - shape.kernel : last, step] = matrix
    framed = kernel.reshape(reach, hop, steps * out).transpose(2, 1, 0)
    return framed, np.tile(weights["conv0.bias"], steps)


def _plain(weights: Weights, index: int) -> tuple[Array, Array]:
    matrix, width = weights[f"conv{index}.weight"], _widths(weights)[index]
    return matrix.reshape(-1, width, matrix.shape[1]).transpose(2, 1, 0), weights[f"conv{index}.bias"]


def _widths(weights: Weights) -> list[int]:
    """Channels that each convolution takes once a frame."""
    pace = SHAPE.front_end.hop
    found = [pace]
    for index, shape in enumerate(SHAPE.convolutions):
        pace //= shape.stride
        found.append(weights[f"conv{index}.bias"].size * pace)
    return found


def _convolution(g: _Graph, name: str, x: str, kernel: Array, bias: Array) -> str:
    inputs = [x, g.const(f"{name}.kernel", kernel.astype(np.float32)), g.const(f"{name}.shift", bias)]
    size = kernel.shape[2]
    y = g.node("Conv", inputs, f"{name}.sum", pads=[size - 1, 0], kernel_shape=[size])
    return g.node("Relu", [y], name)


if __name__ == "__main__":
    sys.exit(main())
