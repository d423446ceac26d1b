"""The net in torch: from the normalised lead to beat, offset and class, the memory passed in and out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch import Tensor, nn

from holdover.export.cnn_lstm import CnnLstm, FrontEnd

SHAPE = CnnLstm()
WIDTHS = (1, 24, 40, 48)
HIDDEN = 64
BEAT_DELAY = 30
CLASS_DELAY = 72
LAST = SHAPE.front_end.hop - 1
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
    """

    histories: tuple[Tensor, ...]
    h: Tensor
    c: Tensor

    @classmethod
    def zeros(cls, batch: int) -> "Memory":
        """The memory at the start of `batch` streams."""
        shapes = zip(SHAPE.convolutions, WIDTHS[:-1], strict=True)
        histories = tuple(torch.zeros(batch, c.groups - 1, c.stride * width) for c, width in shapes)
        lstm = torch.zeros(SHAPE.lstm_layers, batch, HIDDEN)
        return cls(histories, lstm, lstm.clone())

    def keep(self, alive: Tensor) -> "Memory":
        """The memory cut from its gradients, and zero where `alive` (batch,) is false."""
        a = alive.float()
        histories = tuple(x.detach() * a[:, None, None] for x in self.histories)
        return Memory(histories, self.h.detach() * a[None, :, None], self.c.detach() * a[None, :, None])


class Net(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Three causal convolutions, two LSTM layers and one linear head of five columns: beat, offset, N, S, V."""

    def __init__(self, dropout: float = 0.3, between: float = 0.3) -> None:
        """Drop a part of the features before the head, and between the two LSTM layers."""
        super().__init__()
        pairs = zip(SHAPE.convolutions, WIDTHS[:-1], WIDTHS[1:], strict=True)
        self.convolutions = nn.ModuleList(nn.Linear(c.kernel * before, after) for c, before, after in pairs)
        self.lstm = nn.LSTM(WIDTHS[-1], HIDDEN, SHAPE.lstm_layers, dropout=between, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(HIDDEN, sum(width for _, width in SHAPE.heads))
        self._start()

    def _start(self) -> None:
        with torch.no_grad():
            for layer in range(SHAPE.lstm_layers):
                getattr(self.lstm, f"bias_ih_l{layer}")[HIDDEN : 2 * HIDDEN] += 1.0
            self.head.bias[0] = -3.0

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
            (batch, frames, 5).
        Memory
            For the next call.
        """
        y, memory = self.features(z, memory)
        return self.head(self.dropout(y)), memory

    def features(self, z: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """What the head reads, (batch, frames, hidden), and the memory for the next call."""
        batch, y, history = z.shape[0], z, []
        for shape, layer, before in zip(SHAPE.convolutions, self.convolutions, memory.histories, strict=True):
            groups = torch.cat([before, y.reshape(batch, -1, before.shape[2])], 1)
            count = groups.shape[1] - shape.groups + 1
            history.append(groups[:, count:])
            y = torch.relu(layer(torch.cat([groups[:, i : i + count] for i in range(shape.groups)], 2)))
        y, (h, c) = self.lstm(y, (memory.h, memory.c))
        return y, Memory(tuple(history), h, c)


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
    for i, shape in enumerate(SHAPE.convolutions):
        matrix = found[f"convolutions.{i}.weight"]
        named[f"conv{i}.weight"] = matrix.T.reshape(shape.kernel, -1, matrix.shape[0])
        named[f"conv{i}.bias"] = found[f"convolutions.{i}.bias"]
    for i in range(SHAPE.lstm_layers):
        named[f"lstm{i}.input"] = found[f"lstm.weight_ih_l{i}"]
        named[f"lstm{i}.recurrent"] = found[f"lstm.weight_hh_l{i}"]
        named[f"lstm{i}.bias"] = found[f"lstm.bias_ih_l{i}"] + found[f"lstm.bias_hh_l{i}"]
    return named
