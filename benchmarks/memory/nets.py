"""The families, of equal width: (batch, time, 2) in, (batch, time, 1) out, each sample from the past alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

WIDTH = 32
WINDOW = 128
"""Frames that attention sees; the convolution's stack of kernels of 2 sees as many."""
HEADS = 4
LONGEST = 1000
"""Steps of the longest task, from which the time constants of the gates are drawn."""


class Recurrent(nn.Module):
    """A recurrent layer and a linear head."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.layer(x)[0])
        return y


class Block(nn.Module):
    """A causal dilated convolution of two frames, added to what it was given (Bai et al. 2018)."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.before, self.conv = dilation, nn.Conv1d(WIDTH, WIDTH, 2, dilation=dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(F.pad(x, (self.before, 0))))


class Convolution(nn.Module):
    """Blocks whose dilation doubles until they see the window."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Conv1d(2, WIDTH, 1)
        self.blocks = nn.Sequential(*(Block(2**k) for k in range(WINDOW.bit_length() - 1)))
        self.head = nn.Conv1d(WIDTH, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.blocks(self.inlet(x.transpose(1, 2))))
        return y.transpose(1, 2)


class Transformer(nn.Module):
    """One layer of attention over the window and a feed-forward layer, norm first; no positions: time is relative."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet, self.head = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 1)
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inlet(x)
        y = y + self.attend(self.norm_1(y))
        y = y + self.down(torch.relu(self.up(self.norm_2(y))))
        z: torch.Tensor = self.head(y)
        return z

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = (y.reshape(b, t, HEADS, d // HEADS).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        place = torch.arange(t)
        distance = place[:, None] - place[None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(distance >= 0) & (distance < WINDOW))
        z: torch.Tensor = self.out(y.transpose(1, 2).reshape(b, t, d))
        return z


def rnn() -> nn.Module:
    return Recurrent(nn.RNN(2, WIDTH, batch_first=True))


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM(2, WIDTH, batch_first=True))


def gru() -> nn.Module:
    return Recurrent(nn.GRU(2, WIDTH, batch_first=True))


def lstm_chrono() -> nn.Module:
    """Forget biases that give time constants up to the longest task (Tallec & Ollivier 2018, eq. 16)."""
    net = lstm()
    _set_bias(net, {1: _chrono(), 0: None})  # torch's order: i, f, g, o
    return net


def gru_chrono() -> nn.Module:
    """Update biases that give time constants up to the longest task."""
    net = gru()
    _set_bias(net, {1: _chrono()})  # torch's order: r, z, n
    return net


def _chrono() -> torch.Tensor:
    return torch.log(torch.empty(WIDTH).uniform_(1, LONGEST - 1))


def _set_bias(net: nn.Module, bias: dict[int, torch.Tensor | None]) -> None:
    """Biases of gates by place; None: the negative of the one before, so that little is let in where much is kept."""
    layer: Any = net.layer
    keeps = next(b for b in bias.values() if b is not None)
    with torch.no_grad():
        for place, value in bias.items():
            rows = slice(place * WIDTH, (place + 1) * WIDTH)
            layer.bias_ih_l0[rows] = -keeps if value is None else value
            layer.bias_hh_l0[rows] = 0


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "RNN tanh": rnn,
    "LSTM": lstm,
    "LSTM, chrono": lstm_chrono,
    "GRU": gru,
    "GRU, chrono": gru_chrono,
    "causal convolution": Convolution,
    "windowed Transformer": Transformer,
}
