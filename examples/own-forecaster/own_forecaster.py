"""A forecaster for your own sensors: learnt from a CSV in minutes, exported, proven, ready for `holdover run`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from holdover.devices.sources import open_file
from holdover.export.contract_io import save
from holdover.export.describe import Statement
from holdover.export.exporting import Options, export
from holdover.export.original import SourceOptions
from holdover.export.report import lines
from holdover.export.sources.torch_export import export as original_of
from holdover.runtime.errors import HoldoverError, SourceError, UsageError

Array = NDArray[Any]

WINDOW, BATCH = 192, 24
"""Samples of a training window, and windows in a step."""
RATE = 5e-3
DAY_S, STEP_S = 86400, 60
OUTLIER = 10.0
"""A miss beyond so many times the expected one teaches no more: the training part may hold a fault."""


class Forecaster(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Every channel one sample ahead, and how far that may miss; takes the raw values, (batch, time, channels)."""

    def __init__(self, mean: Tensor, deviation: Tensor, move: Tensor, hidden: int) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("deviation", deviation), ("move", move)):
            self.register_buffer(name, value)
        self.lstm = nn.LSTM(len(mean), hidden, batch_first=True)
        self.step = nn.Linear(hidden, len(mean))
        self.miss = nn.Linear(hidden, len(mean))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The last value and a step from it; both results are in the units of the channels."""
        y, _ = self.lstm(torch.clamp((x - self.mean) / self.deviation, -8.0, 8.0))
        return {
            "forecast": x + self.move * self.step(y),
            "spread": self.move * torch.exp(torch.clamp(self.miss(y), -5.0, 5.0)),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a CSV to try it on, or train on one; 0 if it went well."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except HoldoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def train(options: argparse.Namespace) -> None:
    """Train on the first part of a CSV, judge on the rest, export."""
    _check(options)
    names, rate_hz, x = read(options.csv, options.columns)
    cut = int(len(x) * options.part)
    print(f"{len(x):,} samples of {', '.join(names)} at {rate_hz:g} Hz; learning from the first {cut:,}", flush=True)
    net = fitted(x[:cut], options)
    print(f"error over that of the last value, on the rest: {_compared(net, x[cut:], names)}", flush=True)
    said = Statement(options.output.stem, rate_hz, names, "any", meanings={n: n for n in ("forecast", "spread")},
                     detectors=({"kind": "anomaly"},))  # fmt: skip
    done = export(original_of(net, SourceOptions(len(names))), Options(said, signal=_whole(x), described="this CSV"))
    print("\n".join(lines(done)))
    print(f"wrote {options.output} ({save(done.model, options.output) / 1024:.0f} kB)")


def _check(options: argparse.Namespace) -> None:
    """What can be said before minutes of work."""
    if not 0 < options.part < 1:
        raise UsageError(f"--part {options.part:g}: expected a share of the file to learn from, above 0 and below 1")
    if min(options.steps, options.hidden, options.threads) < 1:
        raise UsageError("--steps, --hidden and --threads are at least 1")
    if not options.output.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {options.output.parent} to write {options.output.name} into")


def read(path: Path, columns: str | None) -> tuple[tuple[str, ...], float, Array]:
    """Names of the channels, samples a second, and (samples, channels) with NaN where something is missing.

    Raises
    ------
    SourceError
        The file cannot be read, has no such column, or is too short.
    """
    source = open_file(path)
    wanted = tuple(name.strip() for name in columns.split(",")) if columns else source.channels
    if unknown := [name for name in wanted if name not in source.channels]:
        raise SourceError(f"{path} has no column {unknown[0]!r}; it has {', '.join(source.channels)}")
    which = [source.channels.index(name) for name in wanted]
    chunks = list(source.chunks())
    x = np.full((max((c.end for c in chunks), default=0), len(wanted)), np.nan, np.float32)
    for chunk in chunks:
        x[chunk.at : chunk.end] = chunk.x[:, which]
    if len(x) < 10 * WINDOW:
        raise SourceError(f"{path} holds {len(x)} samples; expected at least {10 * WINDOW} to learn from")
    return wanted, source.rate_hz, x


def fitted(x: Array, options: argparse.Namespace) -> Forecaster:
    """A net trained on (samples, channels), from windows without a missing sample."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    whole = np.flatnonzero(_runs(np.asarray(np.isfinite(x).all(1))) > WINDOW) - WINDOW
    if not len(whole):
        raise UsageError(f"no {WINDOW + 1} samples in a row are all there; give a CSV with fewer holes, or --columns")
    net = Forecaster(*_scales(x), options.hidden)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2 * RATE, total_steps=options.steps + 1)
    began = time.monotonic()
    for step in range(1, options.steps + 1):
        starts = rng.choice(whole, BATCH)
        loss = loss_of(net, torch.from_numpy(np.stack([x[s : s + WINDOW + 1] for s in starts])))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == options.steps:
            left = (time.monotonic() - began) / step * (options.steps - step)
            print(f"step {step}/{options.steps}  loss {loss.item():.3f}  {left:.0f} s left", flush=True)
    net.eval()
    return net


def loss_of(net: Forecaster, x: Tensor) -> Tensor:
    """How unlikely what came was, if misses are Laplace-distributed around the forecast; lower is better."""
    said = net(x[:, :-1])
    ratio = (x[:, 1:] - said["forecast"]).abs() / said["spread"]
    capped = torch.where(ratio < OUTLIER, ratio, OUTLIER * (1 + torch.log(ratio.clamp(min=OUTLIER) / OUTLIER)))
    return (capped + torch.log(said["spread"] / net.move))[:, WINDOW // 4 :].mean()


def _scales(x: Array) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation of each channel, and its mean move from a sample to the next; none of them 0."""
    mean, deviation = np.nanmean(x, 0), np.nanstd(x, 0)
    least = 1e-6 * np.abs(mean) + 1e-9
    move = np.maximum(np.nanmean(np.abs(np.diff(x, axis=0)), 0), 0.01 * deviation)
    found = (np.asarray(v, np.float32) for v in (mean, np.maximum(deviation, least), np.maximum(move, least)))
    a, b, c = (torch.from_numpy(v) for v in found)
    return a, b, c


def _runs(good: Array) -> Array:
    """For each place after a sample, how many good ones lie in a row before it."""
    places = np.arange(1, len(good) + 1)
    return np.asarray(places - np.maximum.accumulate(np.where(good, 0, places)))


def _whole(x: Array) -> Array:
    """Missing samples filled with the ones before, for the proof, which wants numbers."""
    last = np.maximum.accumulate(np.where(np.isfinite(x), np.arange(len(x))[:, None], 0), axis=0)
    return np.asarray(np.nan_to_num(np.take_along_axis(x, last, axis=0)))


def _compared(net: Forecaster, x: Array, names: Sequence[str]) -> str:
    x = _whole(x)
    with torch.no_grad():
        said = net(torch.from_numpy(x)[None])["forecast"][0].numpy()
    ours, last = np.abs(x[1:] - said[:-1]).mean(0), np.abs(np.diff(x, axis=0)).mean(0)
    ratios = (f"{name} {a / b:.2f}" for name, a, b in zip(names, ours, last, strict=True) if b > 0)
    return ", ".join(ratios)


def make(options: argparse.Namespace) -> None:
    """Write ten days of a pump, a sample a minute, with faults on the last day."""
    seconds = np.arange(0, 10 * DAY_S, STEP_S)
    columns, faults = pump(seconds, np.random.default_rng(options.seed))
    stamps = np.datetime64("2026-03-02T00:00:00") + seconds.astype("timedelta64[s]")
    with options.csv.open("w", encoding="utf-8") as file:
        print("time", *columns, sep=",", file=file)
        for stamp, *values in zip(stamps, *columns.values(), strict=True):
            print(stamp, *(f"{value:.3f}" for value in values), sep=",", file=file)
    print(f"wrote {options.csv}: {len(seconds):,} rows; faults, in UTC:")
    for what, (first, last) in faults.items():
        print(f"  {str(stamps[first])[11:16]} to {str(stamps[last])[11:16]} on the tenth day: {what}")


def pump(seconds: Array, rng: np.random.Generator) -> tuple[dict[str, Array], dict[str, tuple[int, int]]]:
    """Temperature (degrees Celsius), current (A) and vibration (mm/s) of a pump that follows a demand.

    Returns
    -------
    dict of str to array
        (samples,) by channel.
    dict of str to (int, int)
        First and last sample of each fault.
    """
    n, last_day = len(seconds), 9 * DAY_S // STEP_S
    faults = {
        "the bearing runs rough": (last_day + 250, last_day + 290),
        "the cooling fails": (last_day + 650, last_day + 710),
        "the inlet is blocked": (last_day + 1050, last_day + 1066),
    }
    bearing, cooling, inlet = ((np.arange(n) >= a) & (np.arange(n) <= b) for a, b in faults.values())
    day = np.sin(2 * np.pi * (seconds / DAY_S - 0.4))
    hours = 0.5 * np.sin(2 * np.pi * seconds / 7200)
    demand = 6 + 0.8 * day + hours + _slow(rng.normal(0, 2, n), 40)
    current = demand * np.where(inlet, 0.6, 1.0) + rng.normal(0, 0.06, n)
    temperature = 18 + 4 * day + _slow(5.5 * demand * np.where(cooling, 1.9, 1.0), 20) + rng.normal(0, 0.08, n)
    rough = np.where(bearing, 2.2, 1.0) * np.where(inlet, 1.8, 1.0)
    vibration = 0.35 * demand * rough * rng.lognormal(0, 0.08, n)
    return {"temperature": temperature, "current": current, "vibration": vibration}, faults


def _slow(x: Array, tau: float) -> Array:
    """A first-order lag of `tau` samples, as of a mass that warms."""
    y, level = np.empty_like(x), x[0]
    for i, value in enumerate(x):
        level += (value - level) / tau
        y[i] = level
    return y


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="make|train")
    making = commands.add_parser("make", help="write a CSV of a pump, with faults, to try it on")
    making.add_argument("csv", type=Path, help="the file to write")
    making.set_defaults(run=make)
    training = commands.add_parser("train", help="learn from a CSV, export, prove")
    training.add_argument("csv", type=Path, help="a column for each channel, and one of times")
    training.add_argument("-o", "--output", type=Path, required=True, help="the model to write")
    training.add_argument("--columns", metavar="A,B", help="of the CSV (default: all but the time)")
    training.add_argument("--part", type=float, default=0.6, help="to learn from, the first (default: %(default)s)")
    training.add_argument("--steps", type=int, default=800, help="training steps (default: %(default)s)")
    training.add_argument("--hidden", type=int, default=32, help="width of the LSTM (default: %(default)s)")
    training.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    training.set_defaults(run=train)
    for command in (making, training):
        command.add_argument("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
