"""The net in torch: from the normalised lead to beats, classes, rhythm and quality, the memory passed in and out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.signal import lfilter
from torch import Tensor, nn

from holdover.export import contract_io
from holdover.export.cnn_lstm import CnnLstm, FrontEnd
from holdover.runtime.errors import ModelError

Weights = Mapping[str, NDArray[Any]]

HEADS = (("beat", 1), ("offset", 1), ("class", 3))
SIDE_HEADS = (("rhythm", 3), ("quality", 1))
ALL = (*HEADS, *SIDE_HEADS)
DELAYS = {"beat": 30, "offset": 30, "class": 72, "rhythm": 144, "quality": 72}
"""Model samples from the place that a frame speaks of to its newest sample."""
COLUMNS = {n: slice(sum(w for _, w in ALL[:i]), sum(w for _, w in ALL[: i + 1])) for i, (n, _) in enumerate(ALL)}
SHAPE = CnnLstm(heads=HEADS, side_heads=SIDE_HEADS)
WIDTHS = (1, 24, 40, 48)
HIDDEN, SIDE = 64, 32
HOP = SHAPE.front_end.hop
LAST = HOP - 1
"""Place of a frame's newest sample in its hop."""


@dataclass(frozen=True)
class Memory:
    """What the net carries: the convolutions' history and the LSTM's hidden and cell state.

    Attributes
    ----------
    histories : tuple of Tensor
        For each convolution (batch, carried groups, width).
    h, c : Tensor
        (layers, batch, hidden).
    side_h, side_c : Tensor
        (1, batch, side hidden), of the LSTM beside.
    """

    histories: tuple[Tensor, ...]
    h: Tensor
    c: Tensor
    side_h: Tensor
    side_c: Tensor

    @classmethod
    def zeros(cls, batch: int) -> "Memory":
        """The memory at the start of `batch` streams."""
        shapes = zip(SHAPE.convolutions, WIDTHS[:-1], strict=True)
        histories = tuple(torch.zeros(batch, c.groups - 1, c.stride * width) for c, width in shapes)
        lstm = torch.zeros(SHAPE.lstm_layers, batch, HIDDEN)
        side = torch.zeros(1, batch, SIDE)
        return cls(histories, lstm, lstm.clone(), side, side.clone())

    def keep(self, alive: Tensor) -> "Memory":
        """The memory cut from its gradients, and zero where `alive` (batch,) is false."""
        a = alive.float()
        histories = tuple(x.detach() * a[:, None, None] for x in self.histories)
        return Memory(histories, *(x.detach() * a[None, :, None] for x in (self.h, self.c, self.side_h, self.side_c)))


class Net(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Three causal convolutions, two LSTM layers and a linear head of `HEADS`; an LSTM beside, and `SIDE_HEADS`.

    All but what is beside is the trunk; that of ecg-beats may be taken and kept (`take_trunk`).
    """

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        pairs = zip(SHAPE.convolutions, WIDTHS[:-1], WIDTHS[1:], strict=True)
        self.convolutions = nn.ModuleList(nn.Linear(c.kernel * before, after) for c, before, after in pairs)
        self.lstm = nn.LSTM(WIDTHS[-1], HIDDEN, SHAPE.lstm_layers, batch_first=True)
        self.head = nn.Linear(HIDDEN, sum(width for _, width in HEADS))
        self.side = nn.LSTM(HIDDEN, SIDE, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.side_head = nn.Linear(SIDE, sum(width for _, width in SIDE_HEADS))
        with torch.no_grad():
            self.head.bias[COLUMNS["beat"]] = -3.0
            self.side.bias_ih_l0[SIDE : 2 * SIDE] += 1.0
            for layer in range(SHAPE.lstm_layers):
                getattr(self.lstm, f"bias_ih_l{layer}")[HIDDEN : 2 * HIDDEN] += 1.0

    def forward(self, z: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Run whole frames.

        Parameters
        ----------
        z : Tensor
            (batch, samples), normalised; samples a multiple of the hop.
        memory : Memory
            From `Memory.zeros` or the call before.

        Returns
        -------
        Tensor
            (batch, frames, columns).
        Memory
            For the next call.
        """
        batch, y, history = z.shape[0], z, []
        for shape, layer, before in zip(SHAPE.convolutions, self.convolutions, memory.histories, strict=True):
            groups = torch.cat([before, y.reshape(batch, -1, before.shape[2])], 1)
            count = groups.shape[1] - shape.groups + 1
            history.append(groups[:, count:])
            y = torch.relu(layer(torch.cat([groups[:, i : i + count] for i in range(shape.groups)], 2)))
        y, (h, c) = self.lstm(y, (memory.h, memory.c))
        z, (side_h, side_c) = self.side(self.dropout(y), (memory.side_h, memory.side_c))
        said = torch.cat([self.head(y), self.side_head(self.dropout(z))], 2)
        return said, Memory(tuple(history), h, c, side_h, side_c)


def normalise(x: NDArray[Any], front: FrontEnd = SHAPE.front_end) -> NDArray[np.float32]:
    """High-pass and gain control over whole recordings, with the recurrences of the exported graph.

    Parameters
    ----------
    x : array
        (samples,) or (batch, samples), mV, samples a multiple of the hop.

    Returns
    -------
    array
        The same shape, normalised.
    """
    a, b = front.highpass_pole, front.gain_pole
    y = np.clip(x - lfilter([1 - a], [1, -a], x), -front.limit_mv, front.limit_mv)
    frames = y.reshape(*x.shape[:-1], -1, front.hop)
    target = front.scale * np.abs(frames).mean(-1) + front.floor_mv
    start = np.full((*x.shape[:-1], 1), b * front.gain_start)
    gain, _ = lfilter([1 - b], [1, -b], target, zi=start)
    z = np.clip(frames / gain[..., None], -front.limit, front.limit)
    return np.asarray(z.reshape(x.shape), np.float32)


def weights(net: Net) -> dict[str, NDArray[np.float32]]:
    """The net's weights by the names and in the shapes that `holdover.export.cnn_lstm.build` takes."""
    found = {k: v.detach().numpy().astype(np.float32) for k, v in net.state_dict().items()}
    named = {"head.weight": found["head.weight"].T.copy(), "head.bias": found["head.bias"]}
    named |= {"side.head.weight": found["side_head.weight"].T.copy(), "side.head.bias": found["side_head.bias"]}
    named |= _lstm(found, "side", "side", 0)
    for i, shape in enumerate(SHAPE.convolutions):
        matrix = found[f"convolutions.{i}.weight"]
        named[f"conv{i}.weight"] = matrix.T.reshape(shape.kernel, -1, matrix.shape[0])
        named[f"conv{i}.bias"] = found[f"convolutions.{i}.bias"]
    for i in range(SHAPE.lstm_layers):
        named |= _lstm(found, f"lstm{i}", "lstm", i)
    return named


def _lstm(found: Weights, name: str, module: str, layer: int) -> dict[str, NDArray[np.float32]]:
    parts = {part: found[f"{module}.{part}_l{layer}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    bias = parts["bias_ih"] + parts["bias_hh"]
    return {f"{name}.input": parts["weight_ih"], f"{name}.recurrent": parts["weight_hh"], f"{name}.bias": bias}


def take_trunk(net: Net, path: Path) -> None:
    """Give the net the trunk of a model that `holdover.export.cnn_lstm.build` made, to be kept as it is.

    Raises
    ------
    ModelError
        The file cannot be read, or is of another shape.
    """
    model, _ = contract_io.load(path)
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    try:
        trunk = _trunk(found)
        with torch.no_grad():
            for name, value in trunk.items():
                net.get_parameter(name).copy_(torch.from_numpy(np.array(value)))
                net.get_parameter(name).requires_grad = False
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path} has not the trunk of ecg-beats ({error}); give that model's file") from error


def _trunk(found: Weights) -> dict[str, NDArray[Any]]:
    """The trunk by the net's names; a graph has one bias for an LSTM's two."""
    named = {"head.weight": found["head.weight"].T, "head.bias": found["head.bias"]}
    for i in range(len(SHAPE.convolutions)):
        named[f"convolutions.{i}.weight"] = found[f"conv{i}.weight"].T
        named[f"convolutions.{i}.bias"] = found[f"conv{i}.bias"]
    for i in range(SHAPE.lstm_layers):
        named[f"lstm.weight_ih_l{i}"] = _torch_gates(found[f"lstm{i}.input"][0])
        named[f"lstm.weight_hh_l{i}"] = _torch_gates(found[f"lstm{i}.recurrent"][0])
        named[f"lstm.bias_ih_l{i}"] = _torch_gates(np.split(found[f"lstm{i}.bias"][0], 2)[0])
        named[f"lstm.bias_hh_l{i}"] = np.zeros_like(named[f"lstm.bias_ih_l{i}"])
    return named


def _torch_gates(weight: NDArray[Any]) -> NDArray[Any]:
    """Input, output, forget, cell, as ONNX has them, to input, forget, cell, output."""
    i, o, f, c = np.split(weight, 4)
    return np.concatenate([i, f, c, o])
