"""The nets that `quantize.py` measures: the shipped one, and ten with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from holdover.export.describe import Statement
from holdover.export.exporting import Options, export
from holdover.export.original import Original
from holdover.export.proof import engine_of
from holdover.quantize.method import Parent
from holdover.quantize.streamed import parent_words

Array = NDArray[np.float32]

MODEL = Path(__file__).parent.parent / "models" / "ecg_beats" / "model.onnx"
RATE_HZ, STRIDE = 120.0, 6


def recurrent(kind: str, hidden: int, layers: int = 1) -> Any:
    """A strided convolution, recurrent layers, a head."""
    from torch import nn

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 48, STRIDE, stride=STRIDE)
            self.rnn = getattr(nn, kind)(48, hidden, layers, batch_first=True)
            self.head = nn.Linear(hidden, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(self.conv(x).relu().transpose(1, 2))[0])

    return Net()


def dilated(reach: int, ahead: bool) -> Any:
    """Residual convolutions, causal and dilated, or looking ahead as far as back."""
    import torch
    from torch import nn

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 48, STRIDE, stride=STRIDE)
            gaps = [1] * reach if ahead else [2**k for k in range(reach)]
            self.blocks = nn.ModuleList(nn.Conv1d(48, 48, 3, dilation=d, padding=d if ahead else 0) for d in gaps)
            self.head = nn.Conv1d(48, 3, 1)

        def forward(self, x: Any) -> Any:
            y = self.conv(x).relu()
            for block in self.blocks:
                d = block.dilation[0]
                y = y + block(y if ahead else torch.nn.functional.pad(y, (2 * d, 0))).relu()
            return self.head(y).transpose(1, 2)

    return Net()


def attentive(window: int) -> Any:
    """A strided convolution, attention over the last frames, a layer, a head."""
    import torch
    from torch import nn

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 48, STRIDE, stride=STRIDE)
            self.three = nn.Linear(48, 3 * 48)
            self.layer, self.head = nn.Linear(48, 96), nn.Linear(96, 3)

        def forward(self, x: Any) -> Any:
            y = self.conv(x).relu().transpose(1, 2)
            q, k, v = self.three(y).chunk(3, -1)
            place = torch.arange(y.shape[1])
            back = place[:, None] - place
            scores = (q @ k.transpose(1, 2) / 48**0.5).masked_fill((back < 0) | (back >= window), float("-inf"))
            return self.head(self.layer(y + scores.softmax(-1) @ v).relu())

    return Net()


NETS: dict[str, Callable[[], Any]] = {
    "LSTM 64": lambda: recurrent("LSTM", 64),
    "LSTM 2 x 64": lambda: recurrent("LSTM", 64, 2),
    "GRU 64": lambda: recurrent("GRU", 64),
    "RNN 64": lambda: recurrent("RNN", 64),
    "TCN": lambda: dilated(4, ahead=False),
    "symmetric convolutions": lambda: dilated(3, ahead=True),
    "attention": lambda: attentive(20),
    "LSTM 256": lambda: recurrent("LSTM", 256),
    "LSTM 512": lambda: recurrent("LSTM", 512),
    "GRU 512": lambda: recurrent("GRU", 512),
}
"""With random weights, (batch, 1, time) to (batch, frames, 3)."""


def net(make: Callable[[], Any], signal: Array) -> Parent:
    """A torch module as a float parent, its whole-sequence graph kept."""
    import torch

    from holdover.export.original import SourceOptions
    from holdover.export.sources.torch_export import export as read_module

    torch.manual_seed(0)
    original = read_module(make(), SourceOptions(input_shape=("batch", 1, "time")))
    said = Statement("net", RATE_HZ, ("MLII",), "mV", labels=("N", "S", "V"))
    done = export(original, Options(said, signal=signal[: 60 * 120], described="a recording"))
    return Parent(done.model.SerializeToString(), original.sha256, done.contract, done.whole)


def shipped(signal: Array) -> Parent:
    """The shipped weights as a whole-sequence graph, and the streaming graph that is made of it."""
    from holdover.models.ecg_beats.whole import build

    model = onnx.load(MODEL)
    contract = engine_of(MODEL.read_bytes()).contract
    whole = build({t.name: numpy_helper.to_array(t) for t in model.graph.initializer})
    leads = tuple(c.name for c in contract.signal.channels)
    said = Statement(contract.name, contract.signal.rate_hz, leads, "mV")
    done = export(Original(whole, "onnx", "0" * 64), Options(said, signal=signal[: 60 * 120], described="a recording"))
    streaming = parent_words(done.model, contract, done.contract)
    data = streaming.SerializeToString(deterministic=True)
    return Parent(data, "0" * 64, engine_of(data).contract, whole)


def as_shipped() -> Parent:
    """The file that is shipped, which streams already."""
    data = MODEL.read_bytes()
    return Parent(data, "0" * 64, engine_of(data).contract)
