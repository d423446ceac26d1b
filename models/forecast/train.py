"""Train the forecaster on generated series, export it, prove it, judge it; writes model.onnx and results.json.

Judged on the Numenta Anomaly Benchmark too where HOLDOVER_DATA names a folder with `nab/` in it.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdover.models.forecast.net import HIDDEN, Net
from holdover.models.forecast.streams import CHUNK, LENGTH, Streams
from holdover.runtime.errors import HoldoverError, UsageError

HERE = Path(__file__).parent
SLOTS = 96
RATE = 5e-3
WARM_UP = 100
AVERAGE = 0.99
EVERY_PRINT, EVERY_CHECK = 50, 200
OUTLIER = 20.0
"""Beyond so many typical moves, or times the expected miss, a miss counts little more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; 0 if it went well."""
    options = _options().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        _check(options)
        training = Training.start(options)
        training.run(options.checkpoint)
        _publish(training, options)
    except HoldoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


@dataclass
class Training:
    """A net in training, its moving average, and where its streams and steps are."""

    net: Net
    average: Net
    optimizer: torch.optim.Optimizer
    streams: Streams
    steps: int
    step: int = 0
    seconds: float = 0.0
    memory: Tensor = field(default_factory=lambda: torch.zeros(1, SLOTS, HIDDEN))

    @classmethod
    def start(cls, options: argparse.Namespace) -> "Training":
        """Begin, or go on from the checkpoint with series drawn anew."""
        torch.manual_seed(options.seed)
        net, average = Net(), Net()
        average.load_state_dict(net.state_dict())
        saved = _saved(options.checkpoint) if options.resume else {"step": 0}
        streams = Streams(SLOTS, np.random.default_rng([options.seed, saved["step"]]))
        training = cls(
            net,
            average,
            torch.optim.Adam(net.parameters(), lr=RATE),
            streams,
            options.steps,
        )
        if options.resume:
            training._restore(saved)
        return training

    def run(self, checkpoint: Path) -> None:
        """Take the remaining steps, with a line and a checkpoint every so often."""
        begun, losses = time.monotonic() - self.seconds, []
        while self.step < self.steps:
            losses.append(self._one())
            self.seconds = time.monotonic() - begun
            if self.step % EVERY_PRINT == 0 or self.step == self.steps:
                self._tell(np.mean(losses, 0))
                losses = []
            if self.step % EVERY_CHECK == 0 or self.step == self.steps:
                self._save(checkpoint)

    def _one(self) -> list[float]:
        parts, begins = self.streams.step()
        features, below, skill, size, step = (torch.from_numpy(part) for part in parts)
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * _schedule(self.step, self.steps)
        memory = self.memory.detach() * torch.from_numpy(~begins).float()[None, :, None]
        up, spread, self.memory = self.net(features, below, skill, size, memory)
        losses = losses_of(up - step, spread, size)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return [float(x.detach()) for x in losses]

    def _follow(self) -> None:
        keep = min(AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)

    def _tell(self, losses: Any) -> None:
        pace = self.seconds / self.step
        print(
            f"step {self.step}/{self.steps}  miss {losses[0]:.4f}  spread {losses[1]:.4f}  {1 / pace:.1f} steps/s  "
            f"{pace * (self.steps - self.step):.0f} s left",
            flush=True,
        )

    def _save(self, path: Path) -> None:
        state = {"step": self.step, "seconds": self.seconds}
        parts = {"net": self.net, "average": self.average, "optimizer": self.optimizer}
        beside = path.with_suffix(".part")
        torch.save({**state, **{k: v.state_dict() for k, v in parts.items()}}, beside)
        beside.replace(path)

    def _restore(self, saved: dict[str, Any]) -> None:
        for name in ("net", "average", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])
        self.step, self.seconds = saved["step"], saved["seconds"]


def losses_of(miss: Tensor, spread: Tensor, size: Tensor) -> list[Tensor]:
    """What the forecast and the spread are to make small; each (series, time) to one number, lower is better.

    Of the forecast the logarithms of each series' mean absolute and root mean square error, in units of its typical
    move: to halve the error of an easy series counts as much as to halve that of a hard one, and a jump that comes
    every day is worth learning. Of the spread the likelihood of the error under a Laplace distribution. Neither
    the square nor the likelihood counts far outliers more than near ones.
    """
    absolute, square = miss.abs().mean(1), (miss.abs().clamp(max=OUTLIER) ** 2).mean(1)
    forecast = (torch.log(absolute + 0.01) + 0.5 * torch.log(square + 1e-4)).mean() / 2
    ratio = miss.detach().abs() / (size * torch.exp(spread))
    beyond = OUTLIER * (1 + torch.log(ratio.clamp(min=OUTLIER) / OUTLIER))
    return [forecast, (spread + torch.where(ratio < OUTLIER, ratio, beyond)).mean()]


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * (0.01 + 0.99 * 0.5 * (1 + cos(pi * step / steps)))


def _check(options: argparse.Namespace) -> None:
    """What can be said before minutes of work."""
    if options.steps < 1 or options.judged < 1:
        raise UsageError(f"--steps {options.steps} --judged {options.judged}: expected both at least 1")
    for option, folder in (
        ("--out", options.out),
        ("--checkpoint", options.checkpoint.parent),
    ):
        if not folder.is_dir():
            raise UsageError(f"{option}: there is no folder {folder}; make it first")


def _publish(training: Training, options: argparse.Namespace) -> None:
    from holdover.models.forecast.publish import publish

    facts = {"steps": options.steps, "seed": options.seed, "train_seconds": round(training.seconds),
             "train_samples": options.steps * SLOTS * CHUNK, "series_length": LENGTH}  # fmt: skip
    publish(training.average, facts, options.out, options.judged)


def _saved(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path} to go on from; leave --resume away to start anew")
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=700, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint, with series drawn anew",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=HERE / "train.ckpt",
        help="where to keep what is reached",
    )
    parser.add_argument(
        "--judged",
        type=int,
        default=200,
        help="generated series to judge on (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=HERE, help="folder for model.onnx and results.json")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="of torch; results are repeatable for one number",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
