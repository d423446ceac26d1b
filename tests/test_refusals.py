"""What can never be streamed is refused by name, with the reason; what cannot be read is said to be so."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from holdover.export.describe import Statement
from holdover.export.exporting import Exported, Options, export
from holdover.export.original import Original
from holdover.export.refusal import RefusedError
from holdover.runtime.errors import ModelError, UsageError
from tests.zoo_onnx import CHANNELS, Entry, Net, Shape, attend, channels, entry, recurrent


def exported(model: onnx.ModelProto, width: int, **options: Any) -> Exported:
    leads = tuple(f"lead{i}" for i in range(width))
    return export(Original(model, "onnx", "0" * 64), Options(Statement("zoo", 100.0, leads, "mV"), **options))


# What needs the whole sequence: graphs


def bidirectional(net: Net, x: str, kind: str = "LSTM") -> str:
    rows = {"LSTM": 16, "GRU": 12}[kind]
    y = net.ops(
        kind, net.op("Transpose", x, perm=[1, 0, 2]), net.weight(2, rows, 3), net.weight(2, rows, 4), count=1,
        hidden_size=4, direction="bidirectional",
    )[0]  # fmt: skip
    by_time = net.op("Transpose", y, perm=[2, 0, 1, 3])
    return net.dense(net.op("Reshape", by_time, net.const([0, 0, 8])), 8, 2)


def flipped(net: Net, x: str) -> str:
    return net.sequence("LSTM", net.cut(x, -1, np.iinfo(np.int64).min, 1, -1), 3)


def over_time(net: Net, x: str, kind: str, **attributes: Any) -> str:
    """One operator over all of time, after a recurrence."""
    return net.op(kind, net.sequence("RNN", x, 3), **attributes)


def swapped(net: Net, x: str, kind: str, **attributes: Any) -> str:
    """The same with time last."""
    return net.swap(net.op(kind, net.swap(net.sequence("RNN", x, 3)), **attributes))


def layer_norm_over_time(net: Net, x: str) -> str:
    """Scale and shift for one step, over two axes of which one is time."""
    y = net.swap(net.sequence("RNN", x, 3))
    mean = net.op("ReduceMean", y, axes=[1, 2])
    return net.op("Sub", y, mean)


def scaled_norm(net: Net, x: str, kind: str) -> str:
    """Instance and group norm of channels."""
    scales, options = {"Instance": (4, {}), "Group": (2, {"num_groups": 2})}[kind]
    given = [net.const(np.ones(scales)), net.const(np.zeros(scales))]
    return net.op(f"{kind}Normalization", net.causal(x, 2, 4), *given, **options)


def instance_as_group(net: Net, x: str) -> str:
    """A group norm as torch writes it: to (batch, groups, -1), an instance norm, back."""
    y = net.causal(x, 2, 4)
    folded = net.op("Reshape", y, net.const([0, 2, -1]))
    z = net.op("InstanceNormalization", folded, net.const(np.ones(2)), net.const(np.zeros(2)))
    return net.op("Reshape", z, net.op("Shape", y))


def apart_from(net: Net, x: str, head: str, op: str) -> str:
    """Each frame and a value over all of them."""
    return net.op(op, x, net.op(head, net.op("Abs", x), axes=[1], keepdims=1))


def attention(net: Net, x: str, mask: str) -> str:
    q, k, v = (net.dense(x, 3, 3) for _ in range(3))
    scores = net.op("MatMul", q, net.swap(k))
    if mask == "causal":
        scores = net.op("Where", net.allowed(x, None), scores, net.const(np.float32(-1e30)))
    if mask == "ahead":
        d = net.distance(x)
        near = net.op("Less", net.op("Abs", d), net.const(np.int64(3)))
        scores = net.op("Where", near, scores, net.const(np.float32(-1e30)))
    if mask == "blocks":
        block = net.op("Div", net.range(x), net.const(np.int64(4)))
        rows, columns = (net.op("Unsqueeze", block, net.const([k])) for k in (1, 0))
        inside = net.op("And", net.op("Equal", rows, columns), net.allowed(x, None))
        scores = net.op("Where", inside, scores, net.const(np.float32(-1e30)))
    return net.op("MatMul", net.op("Softmax", scores, axis=-1), v)


def weights_shown(net: Net, x: str) -> tuple[str, ...]:
    """The attention weights as an output."""
    scores = net.op("Where", net.allowed(x, 3), net.op("MatMul", x, net.swap(x)), net.const(np.float32(-1e30)))
    weights = net.op("Softmax", scores, axis=-1)
    return net.op("MatMul", weights, x), weights


def by_distance(net: Net, x: str) -> str:
    """A mixture of frames by a softmax over their distances alone."""
    far = net.op("Cast", net.op("Neg", net.distance(x)), to=TensorProto.FLOAT)
    near = net.op("Where", net.allowed(x, 4), far, net.const(np.float32(-1e30)))
    return net.op("MatMul", net.op("Softmax", near, axis=-1), x)


def positions(net: Net, x: str, by: str) -> str:
    """A learnt vector for each place in the recording."""
    table = net.weight(4096, 3)
    if by == "range":
        return net.op("Add", x, net.op("Gather", table, net.range(x), axis=0))
    length = net.size(x, 1)
    return net.op("Add", x, net.op("Slice", table, net.const([0]), length, net.const([0])))


def clock(net: Net, x: str) -> str:
    """Sine and cosine of the index added."""
    t = net.op("Unsqueeze", net.op("Cast", net.range(x), to=TensorProto.FLOAT), net.const([1]))
    t = net.op("Mul", t, net.const(np.float32([[0.1, 0.01, 0.5]])))
    return net.op("Add", x, net.op("Add", net.op("Sin", t), net.op("Cos", t)))


# What is another graph only beyond the lengths that are watched


def scaled(net: Net, x: str, by: str) -> str:
    """The sum over time, or each frame, divided by a number that follows the length from some length on."""
    length = net.size(x, 1)
    number = {
        "floor": lambda: net.op("Max", length, net.const([200])),
        "thousands": lambda: net.op("Max", net.op("Div", length, net.const([1000])), net.const([1])),
        "half": lambda: net.op("Max", net.op("Mul", net.op("Cast", length, to=TensorProto.FLOAT), net.const(0.001)),
                               net.const(np.float32([1]))),
        "cropped": lambda: net.op("Add", net.size(net.op("Tanh", net.cut(x, 0, 5000, 1)), 1),
                                  net.op("Sub", net.const([9]), length)),
    }[by]()  # fmt: skip
    return net.op("Div", x, net.op("Cast", number, to=TensorProto.FLOAT))


def sum_scaled(net: Net, x: str) -> str:
    number = net.op("Cast", net.op("Max", net.size(x, 1), net.const([200])), to=TensorProto.FLOAT)
    return net.op("Div", net.op("ReduceSum", x, net.const([1]), keepdims=0), number)


def cropped(net: Net, x: str, head: str) -> str:
    """Ten seconds at 360 Hz, as people write it."""
    y = net.cut(net.sequence("RNN", x, 3), 0, 3600, axis=1)
    return net.cut(y, -1, axis=1) if head == "last" else net.op("ReduceMean", y, axes=[1]) if head == "mean" else y


def warming(net: Net, x: str) -> str:
    """Half as much in the first thousand frames."""
    early = net.op("Less", net.range(x), net.const(np.int64(1000)))
    gain = net.op("Where", early, net.const(np.float32(0.5)), net.const(np.float32(1)))
    return net.op("Mul", x, net.op("Unsqueeze", gain, net.const([0, 2])))


def table_of(net: Net, x: str) -> str:
    """The same from a table, whose first 1000 rows are alike."""
    rows = net.const(np.float32([[0.5]] * 1000 + [[1.0]] * 9000))
    return net.op("Mul", x, net.op("Slice", rows, net.const([0]), net.size(x, 1), net.const([0])))


def chosen_by_length(net: Net, x: str) -> str:
    longer = net.op("Greater", net.scalar(net.size(x, 1)), net.const(np.int64(1000)))
    branches = {
        f"{name}_branch": graph(name, [helper.make_node(kind, [x], [f"{name}.y"])], [], [f"{name}.y"])
        for name, kind in (("then", "Neg"), ("else", "Identity"))
    }
    return net.op("If", longer, **branches)


def padded_to(net: Net, x: str) -> str:
    """To a multiple of 16, which the watched lengths are."""
    missing = net.op("Mod", net.op("Neg", net.size(x, 2)), net.const([16]))
    return net.op("Pad", x, net.op("Concat", net.const([0] * 5), missing, axis=0))


def faded(net: Net, x: str, slope: float = 3.0, far: float = -np.inf, window: int | None = None) -> str:
    """Scores that fall with the distance, whose weights vanish to 0 on a quiet signal (Press et al. 2022)."""
    quiet = net.op("Mul", x, net.const(np.float32(0.05)))
    q, k, v = (net.dense(quiet, 3, 3) for _ in range(3))
    fall = net.op("Mul", net.op("Cast", net.distance(x), to=TensorProto.FLOAT), net.const(np.float32(slope)))
    scores = net.op("Sub", net.op("MatMul", q, net.swap(k)), fall)
    scores = net.op("Where", net.allowed(x, window), scores, net.const(np.float32(far)))
    return net.op("MatMul", net.op("Softmax", scores, axis=-1), v)


def late_mask(net: Net, x: str, kind: str) -> str:
    """A window that is another one from the frame 5000 on, or for distances beyond 5000."""
    place = net.op("Unsqueeze", net.range(x), net.const([1])) if kind == "place" else net.distance(x)
    late = net.op("Greater", place, net.const(np.int64(5000)))
    past = net.op("GreaterOrEqual", net.distance(x), net.const(np.int64(0)))
    may = net.op("Or", net.allowed(x, 5), net.op("And", past, late))
    scores = net.op("Where", may, net.op("MatMul", x, net.swap(x)), net.const(np.float32(-np.inf)))
    return net.op("MatMul", net.op("Softmax", scores, axis=-1), x)


def clipped_mask(net: Net, x: str) -> str:
    """What was hidden is lifted to -30."""
    scores = net.op("Where", net.allowed(x, 5), net.op("MatMul", x, net.swap(x)), net.const(np.float32(-np.inf)))
    return net.op("MatMul", net.op("Softmax", net.op("Clip", scores, net.const(np.float32(-30))), axis=-1), x)


def started_by_stream(net: Net, x: str) -> str:
    """The fifth stream of a call, and those after it, begin otherwise."""
    streams = net.op("Range", net.const(np.int64(0)), net.scalar(net.size(x, 0)), net.const(np.int64(1)))
    later = net.op("Greater", streams, net.const(np.int64(3)))
    number = net.op("Unsqueeze", net.op("Cast", later, to=TensorProto.FLOAT), net.const([0, 2]))
    shape = net.op("Concat", net.const([1]), net.size(x, 0), net.const([4]), axis=0)
    inputs = [net.op("Transpose", x, perm=[1, 0, 2]), net.weight(1, 4, 3), net.weight(1, 4, 4), "", "",
              net.op("Expand", number, shape)]  # fmt: skip
    y = net.ops("RNN", *inputs, count=1, hidden_size=4)[0]
    return net.op("Transpose", net.op("Squeeze", y, net.const([1])), perm=[1, 0, 2])


def lengths_to(net: Net, x: str) -> str:
    """sequence_lens that are those of the whole sequence up to 3000 frames."""
    most = net.op("Min", net.size(x, 1), net.const([3000]))
    lens = net.op("Expand", net.op("Cast", most, to=TensorProto.INT32), net.size(x, 0))
    by_time = net.op("Transpose", x, perm=[1, 0, 2])
    y = net.ops("LSTM", by_time, net.weight(1, 16, 3), net.weight(1, 16, 4), "", lens, count=1, hidden_size=4)[0]
    return net.op("Transpose", net.op("Squeeze", y, net.const([1])), perm=[1, 0, 2])


def length_in_scores(net: Net, x: str) -> str:
    """Scores scaled by the length of the sequence."""
    scale = net.op("Sqrt", net.op("Cast", net.size(x, 1), to=TensorProto.FLOAT))
    scores = net.op("Div", net.op("MatMul", x, net.swap(x)), scale)
    scores = net.op("Where", net.allowed(x, 4), scores, net.const(np.float32(-np.inf)))
    return net.op("MatMul", net.op("Softmax", scores, axis=-1), x)


BEYOND: dict[str, tuple[Entry, str, str]] = {
    "floor": (entry(scaled, by="floor"), "Div", "absolute position in the sequence"),
    "thousands": (entry(scaled, by="thousands"), "Div", "absolute position in the sequence"),
    "half": (entry(scaled, by="half"), "Div", "absolute position in the sequence"),
    "by_a_crop": (entry(scaled, by="cropped"), "Div", "absolute position in the sequence"),
    "sum_scaled": (entry(sum_scaled), "Div", "absolute position in the sequence or its length"),
    "cropped": (entry(cropped, head=""), "Slice", "takes the first 3600 frames"),
    "cropped_last": (entry(cropped, head="last"), "Slice", "takes the first 3600 frames"),
    "cropped_mean": (entry(cropped, head="mean"), "Slice", "takes the first 3600 frames"),
    "warming": (entry(warming), "Mul", "absolute position in the sequence"),
    "table": (entry(table_of), "Mul", "absolute position in the sequence"),
    "if_on_length": (entry(chosen_by_length), "If", "which branch it takes"),
    "padded_to_16": (channels(padded_to), "Pad", "padding follows the length"),
    "faded": (entry(faded), "MatMul", "--window N"),
    "faded_mask_of_10000": (entry(faded, slope=1.0, far=-1e4), "MatMul", "subtracts 10000"),
    "mask_of_200": (entry(faded, slope=0.0, far=-200.0, window=20), "MatMul", "subtracts 200"),
    "mask_from_frame_5000": (entry(late_mask, kind="place"), "MatMul", "follows the place in the sequence"),
    "mask_from_distance_5000": (entry(late_mask, kind="distance"), "MatMul", "more than can be told"),
    "mask_lifted": (entry(clipped_mask), "MatMul", "attends to later ones"),
    "lengths_to_3000": (entry(lengths_to), "LSTM", "sequence_lens"),
    "length_in_scores": (entry(length_in_scores), "MatMul", "the absolute position in the sequence or its length"),
    "state_by_stream": (entry(started_by_stream), "RNN", "differs between the streams"),
}
"""Graph, operator and words: what noise over a few hundred samples does not show."""


def first_frame(net: Net, x: str) -> str:
    return net.op("Gather", net.sequence("RNN", x, 3), net.const(np.int64(0)), axis=1)


def middle(net: Net, x: str) -> str:
    """From a quarter on."""
    quarter = net.op("Div", net.size(x, 1), net.const([4]))
    return net.op("Slice", net.sequence("RNN", x, 3), quarter, net.const([1 << 40]), net.const([1]))


def topk(net: Net, x: str) -> str:
    return net.ops("TopK", net.sequence("RNN", x, 3), net.const([3]), count=2, axis=1)[0]


def reversed_sum(net: Net, x: str) -> str:
    return net.op("CumSum", x, net.const(np.int64(1)), reverse=1)


def resized(net: Net, x: str) -> str:
    return net.op("Resize", x, "", net.const(np.float32([1, 1, 2])), mode="nearest")


def transposed(net: Net, x: str) -> str:
    return net.op("ConvTranspose", x, net.weight(2, 3, 4), strides=[2])


def fourier(net: Net, x: str) -> str:
    y = net.op("DFT", net.op("Unsqueeze", x, net.const([-1])), axis=1)
    return net.op("ReduceSum", net.op("Mul", y, y), net.const([-1]), keepdims=0)


def noisy(net: Net, x: str) -> str:
    return net.op("Add", x, net.op("RandomNormalLike", x))


def training_norm(net: Net, x: str) -> str:
    given = [net.const(np.ones(2)) for _ in range(4)]
    return net.ops("BatchNormalization", x, *given, count=3, training_mode=1)[0]


def training_dropout(net: Net, x: str) -> str:
    return net.op("Dropout", x, net.const(np.float32(0.5)), net.const(np.array(True)))


def graph(name: str, nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[str]) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, inputs, [onnx.ValueInfoProto(name=n) for n in outputs])


def looped(net: Net, x: str) -> str:
    """A Loop that adds the mean of the signal up, as often as there are samples."""
    mean = net.op("ReduceMean", x, axes=[1])
    body = graph(
        "body",
        [
            helper.make_node("Identity", ["go"], ["going"]),
            helper.make_node("Add", ["sum", mean], ["more"]),
        ],
        [
            helper.make_tensor_value_info("k", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        ["going", "more"],
    )
    start = net.op("Mul", mean, net.const(np.float32(0)))
    return net.op("Loop", net.scalar(net.size(x, 1)), "", start, body=body)


def chosen(net: Net, x: str) -> str:
    """One of two branches, by the data."""
    positive = net.op("Greater", net.op("ReduceSum", x, keepdims=0), net.const(np.float32(0)))
    branches = {
        f"{name}_branch": graph(name, [helper.make_node(kind, [x], [f"{name}.y"])], [], [f"{name}.y"])
        for name, kind in (("then", "Tanh"), ("else", "Neg"))
    }
    return net.op("If", positive, **branches)


def flattened(net: Net, x: str) -> str:
    """Time into features, for a dense layer over both."""
    return net.op("Flatten", net.swap(net.sequence("RNN", x, 3)))


def mistaken(net: Net, x: str) -> str:
    """Time where the layer has its channels."""
    y = net.op("Unsqueeze", x, net.const([-1]))
    return net.op("AveragePool", y, kernel_shape=[3, 1])


def matmul_over_time(net: Net, x: str) -> str:
    """A matrix between frames."""
    y = net.swap(x)
    gram = net.op("MatMul", y, x)
    return net.op("MatMul", x, gram)


def decoder(net: Net, x: str) -> str:
    """An LSTM that starts from the last state of another."""
    by_time = net.op("Transpose", x, perm=[1, 0, 2])
    _, h, c = net.recurrent("LSTM", by_time, 3)
    inputs = [by_time, net.weight(1, 16, 3), net.weight(1, 16, 4), "", "", h, c]
    y = net.ops("LSTM", *inputs, count=1, hidden_size=4)[0]
    return net.op("Transpose", net.op("Squeeze", y, net.const([1])), perm=[1, 0, 2])


def repeated(net: Net, x: str) -> str:
    """The last state at every step, as RepeatVector does."""
    _, h = net.recurrent("GRU", net.op("Transpose", x, perm=[1, 0, 2]), 3)
    shape = net.op("Concat", net.size(x, 1), net.size(x, 0), net.const([4]), axis=0)
    y = net.op("Expand", h, shape)
    return net.op("Transpose", net.recurrent("GRU", y, 4)[0], perm=[1, 0, 2])


def short_lengths(net: Net, x: str) -> str:
    lens = net.op("Expand", net.op("Cast", net.op("Sub", net.size(x, 1), net.const([2])), to=TensorProto.INT32),
                  net.size(x, 0))  # fmt: skip
    by_time = net.op("Transpose", x, perm=[1, 0, 2])
    y = net.ops("LSTM", by_time, net.weight(1, 16, 3), net.weight(1, 16, 4), "", lens, count=1, hidden_size=4)[0]
    return net.op("Transpose", net.op("Squeeze", y, net.const([1])), perm=[1, 0, 2])


def end_to_end(net: Net, x: str) -> str:
    return net.op("Concat", x, x, axis=2)


def reflected(net: Net, x: str) -> str:
    return net.conv(net.op("Pad", x, net.const([0, 0, 2, 0, 0, 2]), mode="reflect"), 2, 3, 5)


def product_over_time(net: Net, x: str) -> str:
    return net.op("ReduceProd", net.op("Tanh", x), axes=[1])


def two_paces(net: Net, x: str) -> str:
    """A stream of half the pace beside itself: only its first half of the frames meet."""
    half = net.pool("MaxPool", x, 2, 2)
    length = net.op("Div", net.size(x, 2), net.const([2]))
    start = net.op("Slice", x, net.const([0]), length, net.const([2]))
    return net.op("Add", half, start)


def two_refusals(net: Net, x: str) -> str:
    """A softmax over time in one branch, a bidirectional layer in the other."""
    a = net.op("Softmax", net.dense(x, 3, 2), axis=1)
    return net.op("Add", a, bidirectional(net, x))


REFUSED: dict[str, tuple[Entry, str, str]] = {
    "bidirectional": (entry(bidirectional), "LSTM", "it runs bidirectional: the output at the first step needs the"),
    "bidirectional_gru": (entry(bidirectional, kind="GRU"), "GRU", "--lookahead S"),
    "reverse": (entry(recurrent, direction="reverse"), "LSTM", "it runs reverse: the output at the first step needs"),
    "flip": (entry(flipped), "Slice", "it reverses time"),
    "softmax": (entry(over_time, kind="Softmax", axis=1), "Softmax", "it is Softmax over the whole sequence"),
    "log_softmax": (entry(over_time, kind="LogSoftmax", axis=1), "LogSoftmax", "needs the last sample"),
    "lp_norm": (entry(over_time, kind="LpNormalization", axis=1), "LpNormalization", "normalises over the whole"),
    "arg_max": (entry(over_time, kind="ArgMax", axis=1), "ArgMax", "ArgMax over the whole sequence"),
    "layer_norm": (entry(layer_norm_over_time), "Sub", "value over the whole sequence"),
    "instance_norm": (channels(scaled_norm, kind="Instance"), "InstanceNormalization", "normalises over the whole"),
    "group_norm": (channels(scaled_norm, kind="Group", opset=18), "GroupNormalization", "normalises over the whole"),
    "group_norm_of_torch": (channels(instance_as_group), "Reshape", "lays time and features into one axis"),
    "mean_subtracted": (entry(apart_from, head="ReduceMean", op="Sub"), "Sub", "known only at the end"),
    "maximum_divided": (entry(apart_from, head="ReduceMax", op="Div"), "Div", "known only at the end"),
    "attention_unmasked": (entry(attention, mask="none"), "MatMul", "attends to later ones"),
    "attention_ahead": (entry(attention, mask="ahead"), "MatMul", "attends to later ones"),
    "attention_unbounded": (entry(attention, mask="causal"), "MatMul", "--window N"),
    "attention_blocks": (entry(attention, mask="blocks"), "MatMul", "follows the place in the sequence"),
    "attention_shown": (entry(weights_shown), "MatMul", "weights are an output of the model"),
    "mixed_by_distance": (entry(by_distance), "MatMul", "multiplies over the time axis"),
    "positions_gathered": (entry(positions, by="range"), "Add", "absolute position"),
    "positions_sliced": (entry(positions, by="length"), "Add", "absolute position"),
    "clock": (entry(clock), "Add", "absolute position"),
    "first_frame": (entry(first_frame), "Gather", "fixed places of the whole sequence"),
    "middle": (entry(middle), "Slice", "follows the length of the sequence"),
    "stretch": (channels(lambda net, x: net.cut(x, 3, 9)), "Slice", "fixed place of the whole sequence"),
    "top_k": (entry(topk), "TopK", "TopK over the whole sequence"),
    "reversed_sum": (entry(reversed_sum), "CumSum", "sums from the end"),
    "resize": (channels(resized), "Resize", "no rule knows what Resize does over time"),
    "transposed_conv": (channels(transposed), "ConvTranspose", "no rule knows what ConvTranspose does over time"),
    "fourier": (entry(fourier), "DFT", "no rule knows what DFT does over time"),
    "random": (entry(noisy), "RandomNormalLike", "draws random numbers"),
    "training_norm": (channels(training_norm), "BatchNormalization", "training mode"),
    "training_dropout": (entry(training_dropout), "Dropout", "training mode"),
    "loop": (entry(looped), "Loop", ""),
    "if_on_data": (entry(chosen), "If", "which branch it takes"),
    "flattened": (entry(flattened), "Flatten", "flatten only after the last step"),
    "time_as_channels": (entry(mistaken), "AveragePool", "time is its channel axis"),
    "auto_pad_strided": (channels(lambda net, x: net.conv(x, 2, 3, 4, stride=2, auto_pad="SAME_UPPER")), "Conv",
                         "auto_pad SAME with a stride"),
    "ceil_mode": (channels(lambda net, x: net.pool("MaxPool", x, 3, 2, ceil_mode=1)), "MaxPool", "ceil_mode"),
    "matmul_over_time": (entry(matmul_over_time), "MatMul", "over the time axis"),
    "decoder": (entry(decoder), "LSTM", "starts from the last state of its encoder"),
    "repeated": (entry(repeated), "Expand", "repeats a value over the whole sequence at every step"),
    "short_lengths": (entry(short_lengths), "LSTM", "sequence_lens"),
    "end_to_end": (channels(end_to_end), "Concat", "joins sequences end to end"),
    "reflected": (channels(reflected), "Pad", "pads time by reflect"),
    "product": (entry(product_over_time), "ReduceProd", "no running form"),
    **BEYOND,
    "first_half": (channels(two_paces), "Slice", "follows the length of the sequence"),
}  # fmt: skip
"""Graph, operator and words of the refusal."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_the_whole_sequence_is_refused_by_name(name: str) -> None:
    graph, op, phrase = REFUSED[name]
    with pytest.raises(RefusedError) as refused:
        exported(graph.model(), graph.width)
    found = refused.value.refusals
    assert [r.op for r in found] == [op]
    assert phrase in found[0].reason
    assert found[0].node in {o for n in graph.model().graph.node for o in n.output} | {"?"}


def test_every_reason_is_told_at_once() -> None:
    with pytest.raises(RefusedError) as refused:
        exported(entry(two_refusals).model(), 3)
    assert [r.op for r in refused.value.refusals] == ["Softmax", "LSTM"]
    lines = str(refused.value).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == ["Softmax", "LSTM"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", REFUSED)
def test_a_reason_reads_well_on_a_narrow_terminal(name: str) -> None:
    """Lines of 80 columns; no reason is longer than four, breaks off or holds a name of ours."""
    graph, *_ = REFUSED[name]
    with pytest.raises(RefusedError) as refused:
        exported(graph.model(), graph.width)
    assert max(map(len, str(refused.value).splitlines())) <= 80
    for r in refused.value.refusals:
        assert len(r.reason) < 4 * 80
        assert r.reason[0].islower()
        assert r.reason[-1] not in ".:;, "
        assert "None" not in r.reason


# What cannot be read


def simple(opset: int = 17, shape: Shape = CHANNELS) -> onnx.ModelProto:
    """A convolution."""
    net = Net()
    return net.model({"x": shape}, [net.causal("x", 2, 3)], opset)


def with_node(op: str, opset: int, domain: str = "", **attributes: Any) -> onnx.ModelProto:
    net = Net()
    return net.model({"x": CHANNELS}, [net.op(op, "x", domain=domain, **attributes)], opset)


def external() -> onnx.ModelProto:
    model = simple()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return model


def without_rank() -> onnx.ModelProto:
    model = simple()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def not_a_number(where: str) -> onnx.ModelProto:
    """A weight that is NaN, as an initializer or in a Constant node."""
    model = simple()
    tensor = model.graph.initializer[0]
    value = numpy_helper.to_array(tensor).copy()
    value.flat[1] = np.nan
    bad = numpy_helper.from_array(value, tensor.name)
    if where == "constant":
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=bad))
        model.graph.initializer.remove(tensor)
    else:
        tensor.CopyFrom(bad)
    return model


def without_inputs() -> onnx.ModelProto:
    net = Net()
    return net.model({}, [net.op("Tanh", net.weight(3))])


def whole_numbers() -> onnx.ModelProto:
    model = simple()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


def frozen() -> onnx.ModelProto:
    """An exporter has written the length into a Reshape."""
    net = Net()
    y = net.op("Reshape", "x", net.const([-1, 100]))
    y = net.op("Reshape", y, net.const([-1, 2, 100]))
    return net.model({"x": CHANNELS}, [net.conv(y, 2, 2, 1)])


def layout_1() -> onnx.ModelProto:
    net = Net()
    y = net.ops("LSTM", "x", net.weight(1, 16, 3), net.weight(1, 16, 4), count=1, hidden_size=4, layout=1)[0]
    return net.model({"x": ("batch", "time", 3)}, [y])


def without_opset() -> onnx.ModelProto:
    model = simple()
    del model.opset_import[:]
    return model


UNREADABLE: dict[str, tuple[Callable[[], onnx.ModelProto], type[ModelError] | type[UsageError], str]] = {
    "opset_8": (partial(simple, 8), ModelError, "opset 8, from before 9; export it with opset 17"),
    "opset_24_new_operator": (partial(with_node, "Swish", 24), ModelError, "opset 24 and uses its form of Swish"),
    "operator_that_never_was": (partial(with_node, "Frobnicate", 17), ModelError, "Frobnicate"),
    "custom_domain": (partial(with_node, "Beat", 17, domain="com.example"), ModelError, "'com.example'"),
    "external_data": (external, ModelError, "lies in another file; save the model as one file"),
    "no_rank": (without_rank, ModelError, "has no rank; export the model with input shapes"),
    "nan_weights": (partial(not_a_number, "initializer"), ModelError, "holds NaN, 1 of 18; train again"),
    "nan_constant": (partial(not_a_number, "constant"), ModelError, "holds NaN, 1 of 18; train again"),
    "no_inputs": (without_inputs, ModelError, "no inputs: nothing to stream"),
    "integer_input": (whole_numbers, ModelError, "is int64; a signal is float32"),
    "frozen_time": (frozen, ModelError, "frozen its time axis"),
    "layout_1": (layout_1, ModelError, "layout"),
    "no_opset": (without_opset, ModelError, "names no ONNX opset"),
    "two_free_axes": (
        partial(simple, shape=("batch", "width", "time")),
        UsageError,
        "free axes besides time and batch",
    ),
    "time_untold": (partial(simple, shape=("a", "b", "c")), UsageError, "Give --time-axis N"),
    "nothing_free": (partial(simple, shape=(1, 2, 500)), UsageError, "Give --time-axis N"),
}
"""File, error and words."""


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_said_to_be_so(name: str) -> None:
    make, kind, phrase = UNREADABLE[name]
    with pytest.raises(kind) as said:
        exported(make(), 2)
    assert phrase in str(said.value)
    assert not isinstance(said.value, RefusedError) or name == "layout_1"
    assert len(str(said.value)) < 800


def test_a_time_axis_that_is_told_is_taken() -> None:
    done = exported(simple(shape=("a", 2, "c")), 2, time_axis=2)
    assert done.proof.max_error < 1e-5


def test_a_fixed_length_is_made_free_where_the_graph_allows() -> None:
    done = exported(simple(shape=(1, 2, 500)), 2, time_axis=2)
    assert done.contract.hop == 1


@pytest.mark.parametrize("axis", [3, -4, 99])
def test_a_time_axis_that_is_not_there_is_refused(axis: int) -> None:
    with pytest.raises(UsageError, match="has 3 axes, there is no axis"):
        exported(simple(), 2, time_axis=axis)


def test_channels_mistaken_for_time_are_refused() -> None:
    with pytest.raises(ModelError, match="frozen its time axis, or another axis is time"):
        exported(simple(shape=("batch", 2, 50)), 50, time_axis=1)


def test_an_opset_that_is_newer_in_name_only_is_taken() -> None:
    assert exported(simple(24), 2).model.opset_import[0].version == 20


def test_a_number_of_leads_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="takes 2 numbers a sample, --leads names 3"):
        exported(simple(), 3)


def test_a_window_leaves_bounded_attention_alone() -> None:
    done = exported(entry(attend, window=4).model(), 3, window=2)
    assert "approximations" not in done.contract.document
