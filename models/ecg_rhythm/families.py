"""The recipe with another kind of memory in the trunk: RNN, GRU or dilated convolutions for its two LSTM layers."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from holdover.models.ecg_beats import net as beats
from holdover.models.ecg_rhythm.data import Record, load, noises
from holdover.models.ecg_rhythm.figures import write_figures
from holdover.models.ecg_rhythm.net import HEADS, SIDE, Memory, Net
from holdover.models.ecg_rhythm.score import judge, runner, summary
from holdover.models.ecg_rhythm.streams import Streams
from holdover.models.ecg_rhythm.train import SLOTS, Training, data_folder, optimizer_of

DILATIONS = tuple(2**i for i in range(8))
"""Of the convolutions, in frames: what they see reaches back 511 frames, 25.5 s."""
KERNEL = 3
WIDEST = 256

Carried = tuple[Tensor, Tensor]
"""What a memory carries, in the places of an LSTM's h and c: (any, batch, width) each."""


class Elman(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    """h[t] = tanh(u[t] + W h[t-1]) over time: torch's own is slow on a processor; its gradients, worked out by hand."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: FunctionCtx, u: Tensor, h: Tensor, w: Tensor) -> Tensor:
        """(time, batch, width) from u alike, h (batch, width) and w (width, width)."""
        states = torch.cat([h[None], torch.empty_like(u)])
        for given, before, after in zip(u.unbind(), states[:-1].unbind(), states[1:].unbind(), strict=True):
            torch.addmm(given, before, w.t(), out=after).tanh_()
        ctx.save_for_backward(states, w)
        return states[1:]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of u, h and w."""
        states, w = ctx.saved_tensors
        slope, d = 1 - states[1:] ** 2, torch.empty_like(grad)
        later = torch.zeros_like(grad[0])
        for given, here, steep in zip(*(reversed(v.unbind()) for v in (grad, d, slope)), strict=True):
            later = torch.addmm(given, later, w, out=here).mul_(steep)
        return d, later @ w, d.flatten(0, 1).t() @ states[:-1].flatten(0, 1)


class Gated(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    """The GRU of torch over time (Cho et al. 2014, the reset gate after the product), as `Elman` for its reasons."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: FunctionCtx, u: Tensor, h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """(time, batch, width) from u (time, batch, 3 width: r, z, n), h (batch, width), w (3 width, width), b."""
        n = h.shape[1]
        states = torch.cat([h[None], torch.empty_like(u[..., :n])])
        gates, new, inner = torch.empty_like(u[..., : 2 * n]), torch.empty_like(states[1:]), torch.empty_like(u)
        for t, (given, gate, fresh, product) in enumerate(
            zip(*(v.unbind() for v in (u, gates, new, inner)), strict=True)
        ):
            torch.mm(states[t], w.t(), out=product)
            torch.add(given[:, : 2 * n], product[:, : 2 * n], out=gate).sigmoid_()
            product[:, 2 * n :] += b
            torch.addcmul(given[:, 2 * n :], gate[:, :n], product[:, 2 * n :], out=fresh).tanh_()
            torch.lerp(fresh, states[t], gate[:, n:], out=states[t + 1])
        ctx.save_for_backward(states, gates, new, inner[..., 2 * n :], w)
        return states[1:]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of u, h, w and b."""
        states, gates, new, inner, w = ctx.saved_tensors
        (r, z), before = gates.chunk(2, 2), states[:-1]
        to_new = (1 - z) * (1 - new**2)
        slopes = torch.stack([to_new * inner * r * (1 - r), (before - new) * z * (1 - z), to_new * r], 2)
        d, inside = torch.empty_like(grad), torch.empty_like(slopes)
        later = torch.zeros_like(grad[0])
        for given, here, steep, within, kept in zip(
            *(reversed(v.unbind()) for v in (grad, d, slopes, inside, z)), strict=True
        ):
            torch.add(given, later, out=here)
            torch.mul(here[:, None], steep, out=within)
            later = torch.addmm(here * kept, within.flatten(1), w)
        products = inside.flatten(2)
        u = torch.cat([products[..., : 2 * grad.shape[2]], d * to_new], 2)
        return u, later, products.flatten(0, 1).t() @ before.flatten(0, 1), inside[:, :, 2].sum((0, 1))


class Recurrent(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Two recurrent layers of one kind, called as an `nn.LSTM` is; c stays empty."""

    def __init__(self, over: Any, gates: int, width: int, dropout: float) -> None:
        super().__init__()
        self.width, self._over, edge = width, over, width**-0.5
        self.inputs = nn.ModuleList(nn.Linear(n, gates * width) for n in (beats.WIDTHS[-1], width))
        self.recurrent = nn.ParameterList(torch.empty(gates * width, width).uniform_(-edge, edge) for _ in range(2))
        self.inner = nn.ParameterList(torch.zeros(width) for _ in range(2 if gates > 1 else 0))
        self.between = nn.Dropout(dropout)

    def zeros(self, batch: int) -> Carried:
        """What is carried at the start."""
        return torch.zeros(2, batch, self.width), torch.zeros(2, batch, 0)

    def forward(self, y: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        """(batch, frames, width) and what to carry, from (batch, frames, inputs)."""
        h, last = carried[0], []
        y = y.transpose(0, 1)
        for layer, before in enumerate(h):
            y = self.between(y) if layer else y
            more = (self.inner[layer],) if len(self.inner) else ()
            y = self._over.apply(self.inputs[layer](y), before, self.recurrent[layer], *more)
            last.append(y[-1])
        return y.transpose(0, 1), (torch.stack(last), carried[1])


class Dilated(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Causal dilated convolutions with residuals, called as `nn.LSTM` is; h is their left context, by layer."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(beats.WIDTHS[-1], width)
        self.layers = nn.ModuleList(nn.Linear(KERNEL * width, width) for _ in DILATIONS)
        self.between = nn.Dropout(dropout)

    def zeros(self, batch: int) -> Carried:
        """What is carried at the start."""
        return torch.zeros((KERNEL - 1) * sum(DILATIONS), batch, self.width), torch.zeros(1, batch, 0)

    def forward(self, y: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        """(batch, frames, width) and what to carry, from (batch, frames, inputs)."""
        frames, y, kept = y.shape[1], self.first(y), []
        contexts = carried[0].transpose(0, 1).split([(KERNEL - 1) * d for d in DILATIONS], 1)
        for dilation, layer, context in zip(DILATIONS, self.layers, contexts, strict=True):
            y = self.between(y) if dilation == DILATIONS[len(DILATIONS) // 2] else y
            seen = torch.cat([context.to(y.dtype), y], 1)
            kept.append(seen[:, frames:])
            taps = [seen[:, i * dilation : i * dilation + frames] for i in range(KERNEL)]
            y = y + torch.relu(layer(torch.cat(taps, 2)))
        return y, (torch.cat(kept, 1).transpose(0, 1).float(), carried[1])


class Long(nn.LSTM):  # type: ignore[misc]  # torch is not followed
    """The two LSTM layers of the recipe."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(beats.WIDTHS[-1], width, 2, dropout=dropout, batch_first=True)
        self.width = width
        with torch.no_grad():
            for bias in (self.bias_ih_l0, self.bias_ih_l1):
                bias[width : 2 * width] += 1.0

    def zeros(self, batch: int) -> Carried:
        """What is carried at the start."""
        h = torch.zeros(2, batch, self.width)
        return h, h.clone()


FAMILIES: Mapping[str, Callable[[int, float], Any]] = {
    "lstm": Long,
    "gru": lambda width, dropout: Recurrent(Gated, 3, width, dropout),
    "rnn": lambda width, dropout: Recurrent(Elman, 1, width, dropout),
    "conv": Dilated,
}


class FamilyNet(Net):
    """The net with a memory of another kind in its trunk."""

    def __init__(self, family: str, width: int) -> None:
        super().__init__()
        self.lstm = FAMILIES[family](width, self.dropout.p)
        self.head = nn.Linear(width, sum(n for _, n in HEADS))
        self.side = nn.LSTM(width, SIDE, batch_first=True)
        with torch.no_grad():
            self.head.bias[0] = -3.0
            self.side.bias_ih_l0[SIDE : 2 * SIDE] += 1.0

    def zeros(self, batch: int) -> Memory:
        """The memory at the start of `batch` streams."""
        start = Memory.zeros(batch)
        return Memory(beats.Memory(start.trunk.histories, *self.lstm.zeros(batch)), start.h, start.c)

    def parameters_shipped(self) -> int:
        """Weights and biases; the second bias of an LSTM of torch, which adds to the first, is not counted."""
        return sum(p.numel() for name, p in self.named_parameters() if "bias_hh" not in name)


def equal(family: str) -> int:
    """The width at which a family has most nearly as many parameters as the recipe."""
    with torch.device("meta"):
        goal = FamilyNet("lstm", beats.HIDDEN).parameters_shipped()
        return min(range(8, WIDEST), key=lambda n: abs(FamilyNet(family, n).parameters_shipped() - goal))


class Trial(Training):
    """The recipe's training, its memory that of a family."""

    net: FamilyNet
    average: FamilyNet

    @classmethod
    def of(cls, family: str, records: Sequence[Record], noise: Sequence[Any], options: argparse.Namespace) -> "Trial":
        """Begin, with the recipe's optimizer, streams and losses."""
        torch.manual_seed(options.seed)
        width = equal(family)
        net, average = FamilyNet(family, width), FamilyNet(family, width).eval()
        average.load_state_dict(net.state_dict())
        streams = Streams(records, noise, SLOTS, np.random.default_rng([options.seed, 0]))
        return cls(net, average, optimizer_of(net), streams, options.steps, options.half)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one family, validate it, and write what it reached as JSON; 0 if it went well."""
    options = _options().parse_args(arguments)
    torch.set_num_threads(options.threads)
    return write_figures(options.output, lambda: reached(options))


def reached(options: argparse.Namespace) -> dict[str, Any]:
    """What a family reaches on the validation records, and what it took.

    Raises
    ------
    HoldoverError
        No data, or a record that is missing.
    """
    folder = data_folder(options.data)
    validation, records, noise = load(folder, "validation"), load(folder, "train"), noises(folder / "nstdb")
    trial = Trial.of(options.family, records, noise, options)
    trial.through(trial.net.zeros(SLOTS))
    found = judge(runner(trial.average, trial.average.zeros), validation, noise)
    print(f"validation {summary(found)}", flush=True)
    return {
        "family": options.family,
        "width": trial.net.lstm.width,
        "parameters": trial.net.parameters_shipped(),
        "steps": options.steps,
        "seed": options.seed,
        "train_seconds": round(trial.seconds),
        "validation": {k: v for k, v in found.items() if k != "counts"},
    }


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES, help="kind of memory; lstm is the recipe's own")
    parser.add_argument("--data", help="folder with mitdb/, svdb/, vfdb/, nstdb/, cinc2017/ (default: HOLDOVER_DATA)")
    parser.add_argument("--steps", type=int, default=5000, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    parser.add_argument("--half", action="store_true", help="multiply in bfloat16: faster on processors that have it")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
