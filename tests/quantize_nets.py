"""Whole-sequence graphs with weights worth 8 bits, as `holdover export --keep-whole` leaves them, and recordings."""

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.export.describe import Statement
from holdover.export.exporting import Options, export
from holdover.export.original import Original
from holdover.quantize.calibration import Calibration
from holdover.quantize.method import Parent
from holdover.quantize.parent import DRAFT
from tests.signals import recording
from tests.zoo_onnx import Net

RATE_HZ = 360.0
Draw = Callable[[Net, str], str]


def _conv_lstm(net: Net, x: str) -> str:
    y = net.op("Relu", net.conv(x, 1, 24, 7, (6, 0), stride=3))
    y = net.op("Relu", net.causal(y, 24, 24, 5))
    return net.dense(net.sequence("LSTM", net.swap(y), 24, 24), 24, 3)


def _gru(net: Net, x: str, **options: int) -> str:
    y = net.op("Relu", net.conv(x, 1, 24, 6, stride=6))
    return net.dense(net.sequence("GRU", net.swap(y), 24, 24, **options), 24, 2)


def _rnn(net: Net, x: str) -> str:
    y = net.op("Relu", net.conv(x, 1, 24, 6, stride=6))
    return net.dense(net.sequence("RNN", net.swap(y), 24, 24), 24, 2)


def _tcn(net: Net, x: str) -> str:
    y = net.op("Relu", net.causal(x, 1, 24, 5))
    for dilation in (1, 2, 4):
        y = net.op("Add", y, net.op("Relu", net.causal(y, 24, 24, 3, dilation)))
    return net.swap(net.conv(y, 24, 12, 1))


def _same(net: Net, x: str) -> str:
    y = net.op("Relu", net.conv(x, 1, 24, 9, (4, 4)))
    y = net.pool("MaxPool", y, 2, 2)
    return net.swap(net.conv(y, 24, 16, 5, (2, 2)))


def _lstms(net: Net, x: str) -> str:
    y = net.sequence("LSTM", net.swap(x), 1, 24)
    return net.dense(net.sequence("LSTM", y, 24, 24), 24, 3)


def _mlp(net: Net, x: str) -> str:
    y = net.op("Relu", net.conv(x, 1, 32, 12, stride=12))
    return net.dense(net.op("Relu", net.dense(net.swap(y), 32, 32)), 32, 16)


FAMILIES: dict[str, Draw] = {
    "conv-lstm": _conv_lstm,
    "gru": _gru,
    "gru-after-reset": lambda net, x: _gru(net, x, linear_before_reset=1),
    "rnn": _rnn,
    "tcn": _tcn,
    "looks-ahead": _same,
    "lstms": _lstms,
    "mlp": _mlp,
}


@cache
def whole(name: str) -> onnx.ModelProto:
    """The prepared whole-sequence graph of a family, with its draft contract."""
    net = Net(3)
    y = FAMILIES[name](net, "x")
    model = net.model({"x": ("batch", 1, "time")}, [y])
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return kept(model)


def kept(model: onnx.ModelProto) -> onnx.ModelProto:
    """What `holdover export --keep-whole` leaves of a graph over one lead."""
    done = export(Original(model, "onnx", "0" * 64), Options(Statement("net", RATE_HZ, ("MLII",), "mV")))
    graph = onnx.ModelProto()
    graph.CopyFrom(done.whole)
    onnx.helper.set_model_props(graph, {DRAFT: done.contract.text()})
    return graph


@cache
def parent(name: str) -> Parent:
    """A family as a float parent, its whole-sequence graph kept."""
    return parent_of_graph(whole(name))


def parent_of_graph(graph: onnx.ModelProto) -> Parent:
    """A kept graph as a float parent."""
    from holdover.quantize.parent import Given, parent_of
    from holdover.runtime.contract import Contract

    data = graph.SerializeToString()
    (text,) = [p.value for p in graph.metadata_props if p.key == DRAFT]
    return parent_of(Given(data, "0" * 64, graph, Contract.parse(text), True), ecg(20))


def ecg(seconds: float, start: float = 0.0) -> NDArray[np.float32]:
    """A part of the recording, (samples, 1)."""
    return recording()[round(start * RATE_HZ) : round((start + seconds) * RATE_HZ)]


def calibration() -> Calibration:
    """Two parts of the recording."""
    return Calibration({"a": ecg(20), "b": ecg(20, 40)})
