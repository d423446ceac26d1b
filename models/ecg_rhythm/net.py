"""The net in torch: from the normalised lead to beats, classes, rhythm and quality, the memory passed in and out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from holdover.export import contract_io
from holdover.export.cnn_lstm import CnnLstm
from holdover.models.ecg_beats import net as beats
from holdover.runtime.contract import Contract
from holdover.runtime.errors import ModelError

Weights = Mapping[str, NDArray[Any]]

HEADS = beats.SHAPE.heads
SIDE_HEADS = (("rhythm", 3), ("quality", 1))
ALL = (*HEADS, *SIDE_HEADS)
DELAYS = {
    "beat": beats.BEAT_DELAY, "offset": beats.BEAT_DELAY, "class": beats.CLASS_DELAY, "rhythm": 144, "quality": 72,
}  # fmt: skip
"""Model samples from the place that a frame speaks of to its newest sample."""
COLUMNS = {n: slice(sum(w for _, w in ALL[:i]), sum(w for _, w in ALL[: i + 1])) for i, (n, _) in enumerate(ALL)}
SHAPE = CnnLstm(side_heads=SIDE_HEADS)
SIDE = 32
HOP = SHAPE.front_end.hop


@dataclass(frozen=True)
class Memory:
    """What the net carries.

    Attributes
    ----------
    trunk : holdover.models.ecg_beats.net.Memory
        Of the trunk.
    h, c : Tensor
        (1, batch, side hidden), of the LSTM beside.
    """

    trunk: beats.Memory
    h: Tensor
    c: Tensor

    @classmethod
    def zeros(cls, batch: int) -> "Memory":
        """The memory at the start of `batch` streams."""
        side = torch.zeros(1, batch, SIDE)
        return cls(beats.Memory.zeros(batch), side, side.clone())

    def keep(self, alive: Tensor) -> "Memory":
        """The memory cut from its gradients, and zero where `alive` (batch,) is false."""
        a = alive.float()[None, :, None]
        return Memory(self.trunk.keep(alive), self.h.detach() * a, self.c.detach() * a)


class Net(beats.Net):
    """The net of ecg-beats as the trunk; an LSTM that reads its last layer beside, and `SIDE_HEADS`."""

    def __init__(self, dropout: float = 0.35) -> None:
        super().__init__(dropout, between=dropout)
        self.side = nn.LSTM(beats.HIDDEN, SIDE, batch_first=True)
        self.side_head = nn.Linear(SIDE, sum(width for _, width in SIDE_HEADS))
        with torch.no_grad():
            self.side.bias_ih_l0[SIDE : 2 * SIDE] += 1.0

    def forward(self, z: Tensor, memory: Memory) -> tuple[Tensor, Memory]:  # type: ignore[override]  # carries more
        """Run whole frames, as that of ecg-beats; (batch, frames, columns) and the memory for the next call."""
        y, trunk = self.features(z, memory.trunk)
        y = self.dropout(y)
        z, (h, c) = self.side(y, (memory.h, memory.c))
        said = torch.cat([self.head(y), self.side_head(self.dropout(z))], 2)
        return said, Memory(trunk, h, c)


def weights(net: Net) -> dict[str, NDArray[np.float32]]:
    """The net's weights by the names and in the shapes that `holdover.export.cnn_lstm.build` takes."""
    found = {k: v.detach().numpy().astype(np.float32) for k, v in net.state_dict().items()}
    return beats.weights(net) | {
        "side.input": found["side.weight_ih_l0"],
        "side.recurrent": found["side.weight_hh_l0"],
        "side.bias": found["side.bias_ih_l0"] + found["side.bias_hh_l0"],
        "side.head.weight": found["side_head.weight"].T.copy(),
        "side.head.bias": found["side_head.bias"],
    }


def trained(path: Path) -> tuple[Net, Contract]:
    """The net of a model file that `holdover.export.cnn_lstm.build` made from one, and the file's contract.

    Raises
    ------
    ModelError
        The file cannot be read, or its net is of another shape.
    """
    model, contract = contract_io.load(path)
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    net = Net().eval()
    try:
        if {o.name: o.delay for o in contract.outputs} != DELAYS:
            raise ValueError(f"its outputs are {', '.join(o.name for o in contract.outputs)}")
        net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in _state(found).items()})
    except KeyError as error:
        raise ModelError(f"{path} is no ecg-rhythm in float32 (it has no {error}); give the model's file") from error
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is no ecg-rhythm in float32 ({error}); give the model's file") from error
    return net, contract


def _state(found: Weights) -> dict[str, NDArray[Any]]:
    """A graph's weights by the net's names."""
    named = {f"{mine}.weight": found[f"{theirs}.weight"].T for mine, theirs in _HEADS.items()}
    named |= {f"{mine}.bias": found[f"{theirs}.bias"] for mine, theirs in _HEADS.items()}
    for i in range(len(SHAPE.convolutions)):
        named[f"convolutions.{i}.weight"] = found[f"conv{i}.weight"].T
        named[f"convolutions.{i}.bias"] = found[f"conv{i}.bias"]
    for i in range(SHAPE.lstm_layers):
        named |= _lstm(found, f"lstm{i}", "lstm", i)
    return named | _lstm(found, "side", "side", 0)


_HEADS = {"head": "head", "side_head": "side.head"}


def _lstm(found: Weights, theirs: str, mine: str, layer: int) -> dict[str, NDArray[Any]]:
    """One LSTM's; a graph has the sum of torch's two biases, and zeros."""
    bias, zeros = np.split(found[f"{theirs}.bias"][0], 2)
    parts = {"weight_ih": found[f"{theirs}.input"][0], "weight_hh": found[f"{theirs}.recurrent"][0]}
    parts |= {"bias_ih": bias, "bias_hh": zeros}
    return {f"{mine}.{part}_l{layer}": _torch_gates(value) for part, value in parts.items()}


def _torch_gates(weight: NDArray[Any]) -> NDArray[Any]:
    """Input, output, forget, cell, as ONNX has them, to input, forget, cell, output."""
    i, o, f, c = np.split(weight, 4)
    return np.concatenate([i, f, c, o])
