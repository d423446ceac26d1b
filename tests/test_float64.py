"""The float64 reference: as ONNX Runtime to float32's rounding, as plain NumPy to float64's."""

import time
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from holdover.export.float64 import run_float64, widened
from holdover.runtime.engines.oracle import gru_step, lstm_step, rnn_step
from holdover.runtime.errors import ModelError

Array = NDArray[Any]
Case = tuple[Any, Array]
"""A model and its input."""
RNG = np.random.default_rng(7)


def noise(*shape: int) -> Array:
    """Of the size of an activation, float32."""
    return RNG.normal(0, 0.6, shape).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto], x: Array, constants: dict[str, Any], outputs: tuple[str, ...] = ("y",), opset: int = 17
) -> onnx.ModelProto:
    """Nodes from `x` to `y`."""
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * x.ndim)]
    out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", info, out, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def single(op: str, x: Array, *constants: Any, outputs: int = 1, opset: int = 17, **attributes: Any) -> Case:
    """One node over x and constants; None leaves an input out."""
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(constants)]
    results = tuple(["y", "y1", "y2"][:outputs])
    node = helper.make_node(op, ["x", *names], list(results), **attributes)
    present = {name: value for name, value in zip(names, constants, strict=True) if value is not None}
    return model([node], x, present, results, opset), x


def recurrent(op: str, **attributes: Any) -> Case:
    """All outputs of a recurrent node of 4 units over 3 inputs, batch 2, 9 steps."""
    gates, hidden, inputs = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 4, 3
    batch_first = bool(attributes.get("layout"))
    x, h = noise(9, 2, inputs), noise(1, 2, hidden)
    extra = [noise(1, 2, hidden), noise(1, 3 * hidden)] if op == "LSTM" else []
    if batch_first:
        x, h = x.swapaxes(0, 1), h.swapaxes(0, 1)
        extra = [e.swapaxes(0, 1) if e.ndim == 3 else e for e in extra]
    weights = noise(1, gates * hidden, inputs), noise(1, gates * hidden, hidden), noise(1, 2 * gates * hidden)
    outputs = 3 if op == "LSTM" else 2
    return single(op, np.ascontiguousarray(x), *weights, None, h, *extra, outputs=outputs, hidden_size=4, **attributes)


def scan() -> Case:
    """A running sum with a decay, as a body that reads a constant from outside of it."""
    f = TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("Constant", [], ["half"], value_float=0.3),
            helper.make_node("Mul", ["s", "half"], ["d"]),
            helper.make_node("Add", ["d", "xt"], ["e"]),
            helper.make_node("Mul", ["e", "outer"], ["s1"]),
            helper.make_node("Cast", ["s1"], ["o"], to=f),
        ],
        "body",
        [helper.make_tensor_value_info(n, f, [2]) for n in ("s", "xt")],
        [helper.make_tensor_value_info(n, f, [2]) for n in ("s1", "o")],
    )
    node = helper.make_node("Scan", ["zero", "x"], ["last", "y"], body=body, num_scan_inputs=1)
    x = noise(11, 2)
    return model([node], x, {"zero": np.zeros(2, np.float32), "outer": np.float32(0.7)}, ("y", "last")), x


def branch() -> Case:
    """An If whose branches hold their own constants."""
    arms = [
        helper.make_graph(
            [helper.make_node("Constant", [], [f"k{i}"], value=numpy_helper.from_array(np.float32(0.1 + i))),
             helper.make_node("Add", ["x", f"k{i}"], [f"o{i}"])],
            f"arm{i}", [], [helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, None)])
        for i in range(2)
    ]  # fmt: skip
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=arms[0], else_branch=arms[1]),
    ]
    x = noise(2, 5)
    return model(nodes, x, {"zero": np.float32(0)}), x


def where() -> Case:
    """ConstantOfShape, Shape, Cast, Where and Range."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["full"], value=helper.make_tensor("v", 1, [1], [0.1])),
        helper.make_node("Greater", ["x", "full"], ["more"]),
        helper.make_node("Cast", ["more"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Where", ["more", "x", "full"], ["kept"]),
        helper.make_node("Range", ["zero", "six", "step"], ["ramp"]),
        helper.make_node("Add", ["kept", "number"], ["sum"]),
        helper.make_node("Add", ["sum", "ramp"], ["y"]),
    ]
    x = noise(2, 5)
    return model(nodes, x, {"zero": np.float32(0), "six": np.float32(1.4), "step": np.float32(0.3)}), x


LINE, WIDE = noise(2, 4, 23), noise(2, 6, 4)
CASES: dict[str, Case] = {
    "lstm": recurrent("LSTM"),
    "lstm-clip": recurrent("LSTM", clip=0.4),
    "lstm-hard": recurrent(
        "LSTM", activations=["HardSigmoid", "Tanh", "Elu"], activation_alpha=[1 / 6, 0.7], activation_beta=[0.5]
    ),
    "gru": recurrent("GRU"),
    "gru-reset-after": recurrent("GRU", linear_before_reset=1, activations=["Sigmoid", "Softsign"]),
    "gru-clip": recurrent("GRU", clip=0.3),
    "rnn": recurrent("RNN"),
    "rnn-clip": recurrent("RNN", clip=0.3),
    "rnn-leaky": recurrent("RNN", activations=["LeakyRelu"], activation_alpha=[0.2]),
    "rnn-affine": recurrent("RNN", activations=["Affine"], activation_alpha=[0.5], activation_beta=[0.1]),
    "conv": single("Conv", LINE, noise(6, 4, 3), noise(6), kernel_shape=[3], pads=[2, 0]),
    "conv-dilated": single("Conv", LINE, noise(6, 4, 3), kernel_shape=[3], dilations=[3], strides=[2]),
    "conv-groups": single("Conv", LINE, noise(8, 2, 5), noise(8), kernel_shape=[5], group=2, auto_pad="SAME_UPPER"),
    "conv-depthwise-same-strided": single("Conv", LINE, noise(8, 1, 4), group=4, strides=[3], auto_pad="SAME_LOWER"),
    "conv-2d": single("Conv", noise(1, 3, 7, 9), noise(4, 3, 2, 3), noise(4), pads=[1, 0, 0, 2], strides=[1, 2]),
    "max-pool": single("MaxPool", LINE, kernel_shape=[3], strides=[2], pads=[1, 1]),
    "max-pool-ceil": single("MaxPool", LINE, kernel_shape=[3], strides=[4], ceil_mode=1, dilations=[2]),
    "max-pool-same": single("MaxPool", LINE, kernel_shape=[3], strides=[2], auto_pad="SAME_UPPER"),
    "average-pool": single("AveragePool", LINE, kernel_shape=[4], strides=[2], pads=[1, 2]),
    "average-pool-with-pad": single("AveragePool", LINE, kernel_shape=[3], pads=[1, 1], count_include_pad=1),
    "average-pool-ceil": single("AveragePool", LINE, kernel_shape=[3], strides=[3], ceil_mode=1),
    "average-pool-same": single("AveragePool", LINE, kernel_shape=[4], auto_pad="SAME_UPPER"),
    "layer-normalization": single("LayerNormalization", WIDE, noise(4), noise(4), axis=-1, epsilon=1e-3),
    "batch-normalization": single("BatchNormalization", LINE, noise(4), noise(4), noise(4), abs(noise(4)) + 1),
    "gemm": single("Gemm", noise(3, 5), noise(4, 5), noise(4), transB=1, alpha=0.7, beta=0.3),
    "matmul": single("MatMul", WIDE, noise(4, 5)),
    "softmax": single("Softmax", WIDE, axis=-1),
    "log-softmax": single("LogSoftmax", WIDE, axis=1),
    "cumsum": single("CumSum", WIDE, np.int64(1), exclusive=1),
    "gather-nd": single("GatherND", WIDE, np.array([[0, 1], [1, 5]])),
    "erf": single("Erf", WIDE),
    "gelu": single("Gelu", WIDE, opset=20),
    "gelu-tanh": single("Gelu", WIDE, opset=20, approximate="tanh"),
    "hard-swish": single("HardSwish", WIDE),
    "hard-sigmoid": single("HardSigmoid", WIDE, alpha=1 / 6, beta=0.5),
    "sigmoid": single("Sigmoid", WIDE),
    "tanh": single("Tanh", WIDE),
    "elu": single("Elu", WIDE, alpha=0.3),
    "selu": single("Selu", WIDE),
    "softplus": single("Softplus", WIDE),
    "softsign": single("Softsign", WIDE),
    "mish": single("Mish", WIDE, opset=18),
    "leaky-relu": single("LeakyRelu", WIDE, alpha=0.2),
    "thresholded-relu": single("ThresholdedRelu", WIDE, alpha=0.3),
    "prelu": single("PRelu", WIDE, noise(1, 4)),
    "clip": single("Clip", WIDE, np.float32(-0.3), np.float32(0.4)),
    "reduce-mean": single("ReduceMean", WIDE, axes=[1]),
    "reduce-max": single("ReduceMax", WIDE, axes=[1], keepdims=0),
    "reduce-l2": single("ReduceL2", WIDE, axes=[1]),
    "pad": single("Pad", WIDE, np.array([0, 2, 0, 0, 1, 0])),
    "slice": single("Slice", WIDE, np.array([-1]), np.array([-9]), np.array([1]), np.array([-1])),
    "einsum": single("Einsum", WIDE, noise(4, 4), equation="btc,cd->btd"),
    "scan": scan(),
    "if": branch(),
    "where": where(),
}


def runtime(original: onnx.ModelProto, x: Array) -> list[Array]:
    """ONNX Runtime's answer, node by node as the model is written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(original.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


@pytest.mark.parametrize("name", CASES)
def test_float64_agrees_with_onnx_runtime_to_float32_rounding(name: str) -> None:
    original, x = CASES[name]
    wanted, found = runtime(original, x), run_float64(original, {"x": x})
    for value, exact in zip(wanted, found.values(), strict=True):
        assert exact.dtype == np.float64
        assert exact.shape == value.shape
        np.testing.assert_allclose(exact, value, rtol=2e-6, atol=2e-6)


IN_DOUBLE = (
    "max-pool", "max-pool-ceil", "layer-normalization", "batch-normalization", "gemm", "matmul", "softmax",
    "log-softmax", "cumsum", "gather-nd", "gelu-tanh", "sigmoid", "tanh", "mish", "leaky-relu", "prelu",
    "clip", "reduce-mean", "reduce-max", "reduce-l2", "pad", "slice", "einsum", "scan", "if", "where",
)  # fmt: skip
"""Operators that ONNX Runtime also has in float64."""


@pytest.mark.parametrize("name", IN_DOUBLE)
def test_no_float32_is_left_on_the_way(name: str) -> None:
    original, x = CASES[name]
    wanted = runtime(widened(original), x.astype(np.float64))
    for value, exact in zip(wanted, run_float64(original, {"x": x}).values(), strict=True):
        np.testing.assert_allclose(exact, value, rtol=0, atol=1e-14)


def parts(original: onnx.ModelProto) -> dict[str, Array]:
    """Constants by name, float64."""
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in original.graph.initializer}


def test_an_lstm_is_the_textbook_in_float64() -> None:
    x, (w, r, b) = noise(40, 2, 3), (noise(1, 20, 3), noise(1, 20, 5), noise(1, 40))
    found = run_float64(single("LSTM", x, w, r, b, outputs=3, hidden_size=5)[0], {"x": x})
    bias = (b[0, :20].astype(float) + b[0, 20:]).reshape(4, 5)
    by_gate = [dict(zip("iofc", a.astype(float).reshape(4, 5, -1), strict=True)) for a in (w[0], r[0])]
    h = c = np.zeros((2, 5))
    for t, xt in enumerate(x.astype(float)):
        h, c, _ = lstm_step(xt, h, c, by_gate[0], by_gate[1], dict(zip("iofc", bias, strict=True)))
        np.testing.assert_allclose(found["y"][t, 0], h, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["y2"][0], c, rtol=0, atol=1e-12)


@pytest.mark.parametrize("after", [False, True])
def test_a_gru_is_the_textbook_in_float64(after: bool) -> None:
    x, (w, r, b) = noise(40, 2, 3), (noise(1, 15, 3), noise(1, 15, 5), noise(1, 30))
    original, _ = single("GRU", x, w, r, b, hidden_size=5, linear_before_reset=int(after))
    found = run_float64(original, {"x": x})["y"]
    by_gate = [dict(zip("zrh", a.astype(float).reshape(3, 5, -1), strict=True)) for a in (w[0], r[0])]
    bw, br = b[0].astype(float).reshape(2, 3, 5)
    h = np.zeros((2, 5))
    for t, xt in enumerate(x.astype(float)):
        h, _ = gru_step(xt, h, by_gate[0], by_gate[1], {g: (bw[i], br[i]) for i, g in enumerate("zrh")}, after)
        np.testing.assert_allclose(found[t, 0], h, rtol=0, atol=1e-12)


def test_a_plain_layer_is_the_textbook_in_float64() -> None:
    x, (w, r) = noise(40, 2, 3), (noise(1, 5, 3), noise(1, 5, 5))
    found = run_float64(single("RNN", x, w, r, hidden_size=5)[0], {"x": x})["y"]
    h = np.zeros((2, 5))
    for t, xt in enumerate(x.astype(float)):
        h = rnn_step(xt, h, w[0].astype(float), r[0].astype(float), np.zeros(5))
        np.testing.assert_allclose(found[t, 0], h, rtol=0, atol=1e-12)


def test_a_convolution_is_its_sum_in_float64() -> None:
    x, w = noise(2, 4, 30), noise(6, 2, 3)
    original, _ = single("Conv", x, w, group=2, dilations=[2], strides=[3], pads=[4, 1])
    found = run_float64(original, {"x": x})["y"]
    padded = np.pad(x.astype(float), [(0, 0), (0, 0), (4, 1)])
    for batch, filt, place in np.ndindex(*found.shape):
        group = filt // 3
        taps = [
            padded[batch, 2 * group + c, 3 * place + 2 * k] * float(w[filt, c, k]) for c in (0, 1) for k in range(3)
        ]
        assert abs(found[batch, filt, place] - sum(taps)) < 1e-12


def test_five_hundred_samples_of_convolution_take_less_than_half_a_second() -> None:
    x = noise(1, 32, 500)
    original, _ = single("Conv", x, noise(64, 32, 15), noise(64), pads=[14, 0])
    start = time.perf_counter()
    run_float64(original, {"x": x})
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_batch_first_is_the_same_layer_with_axes_exchanged(op: str) -> None:
    original, x = recurrent(op)
    plain = list(run_float64(original, {"x": x}).values())
    turned = onnx.ModelProto()
    turned.CopyFrom(original)
    turned.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
    for tensor in turned.graph.initializer:
        if tensor.name in turned.graph.node[0].input[5:7]:
            value = numpy_helper.to_array(tensor).swapaxes(0, 1)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    y, *states = run_float64(turned, {"x": x.swapaxes(0, 1)}).values()
    np.testing.assert_array_equal(y, plain[0].transpose(2, 0, 1, 3))
    for found, wanted in zip(states, plain[1:], strict=True):
        np.testing.assert_array_equal(found, wanted.swapaxes(0, 1))


def test_the_model_that_is_given_stays_as_it_is() -> None:
    original, x = CASES["scan"]
    before = original.SerializeToString(deterministic=True)
    run_float64(original, {"x": x})
    assert original.SerializeToString(deterministic=True) == before


def test_functions_of_the_model_are_widened_too() -> None:
    f = helper.make_function(
        "own", "Shift", ["a"], ["b"],
        [helper.make_node("Constant", [], ["k"], value_floats=[0.1, 0.2]), helper.make_node("Add", ["a", "k"], ["b"])],
        [helper.make_opsetid("", 17)])  # fmt: skip
    x = noise(3, 2)
    original = model([helper.make_node("Shift", ["x"], ["y"], domain="own")], x, {})
    original.functions.append(f)
    original.opset_import.append(helper.make_opsetid("own", 1))
    found = run_float64(original, {"x": x})["y"]
    np.testing.assert_array_equal(found, x.astype(float) + np.array([0.1, 0.2], np.float32).astype(float))


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_quantized_model_keeps_its_own_rounding(axis: int | None, opset: int) -> None:
    x, w = 3 * noise(3, 50), noise(50, 4)
    width = 1 if axis is None else w.shape[axis]
    scales, zeros = (np.abs(noise(width)) / 50 + 0.001, np.zeros(width, np.int8))
    many = {} if axis is None else {"axis": axis}
    if axis is None:
        scales, zeros = scales[0], zeros[0]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("QuantizeLinear", ["w", "scales", "zeros"], ["wq"], **many),
        helper.make_node("DequantizeLinear", ["wq", "scales", "zeros"], ["wd"], **many),
        helper.make_node("MatMul", ["d", "wd"], ["y"]),
    ]
    constants = {"scale": np.float32(0.013), "zero": np.uint8(120), "w": w, "scales": scales, "zeros": zeros}
    original = model(nodes, x, constants, opset=opset)
    found = run_float64(original, {"x": x})["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, runtime(original, x)[0], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"direction": "bidirectional"}, "last sample"),
        ({"direction": "reverse"}, "last sample"),
        ({"activations": ["Sigmoid", "Sine", "Tanh"]}, "no activation Sine"),
    ],
)
def test_a_recurrent_node_beyond_the_reference_is_refused(attributes: dict[str, Any], message: str) -> None:
    original, x = recurrent("LSTM", **attributes)
    with pytest.raises(ModelError, match=message):
        run_float64(original, {"x": x})


def test_sequences_of_several_lengths_are_refused() -> None:
    x = noise(9, 2, 3)
    weights = noise(1, 12, 3), noise(1, 12, 4), noise(1, 24)
    even, _ = single("GRU", x, *weights, np.array([9, 9], np.int32), hidden_size=4)
    assert run_float64(even, {"x": x})["y"].shape == (9, 1, 2, 4)
    ragged, _ = single("GRU", x, *weights, np.array([9, 5], np.int32), hidden_size=4)
    with pytest.raises(ModelError, match="several lengths"):
        run_float64(ragged, {"x": x})


@pytest.mark.parametrize(
    ("case", "inputs", "message"),
    [
        (CASES["matmul"], {}, "needs the inputs x"),
        (CASES["matmul"], {"x": noise(2, 3)}, "cannot evaluate"),
        (CASES["conv"], {"x": noise(2, 4, 0)}, "longer than its input"),
        (single("MaxPool", LINE, kernel_shape=[2], outputs=2), {"x": LINE}, "indices"),
        (single("Unheard", LINE), {"x": LINE}, "cannot evaluate"),
    ],
)
def test_what_cannot_be_evaluated_is_said(case: Case, inputs: dict[str, Array], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run_float64(case[0], inputs)


def test_nan_and_nothing_pass_through() -> None:
    original, x = CASES["matmul"]
    bad = x.copy()
    bad[0, 0] = np.nan
    found = run_float64(original, {"x": bad})["y"]
    assert np.isnan(found[0, 0]).all()
    assert np.isfinite(found[0, 1:]).all()
    assert run_float64(original, {"x": x[:, :0]})["y"].shape == (2, 0, 5)
