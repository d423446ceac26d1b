"""Train the model, export it, prove it, and write model.onnx and results.json."""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from holdover.models.ecg_beats.data import MODEL_HZ, RATE_HZ, TRAIN, VALIDATION, Record, artefacts, load, noises, view
from holdover.models.ecg_beats.net import Memory, Net, normalise
from holdover.models.ecg_beats.publish import publish
from holdover.models.ecg_beats.score import count, decode, rates
from holdover.models.ecg_beats.streams import Streams
from holdover.runtime.errors import HoldoverError, UsageError

HERE = Path(__file__).parent
SLOTS = 48
RATE = 3e-3
WARM_UP = 150
AVERAGE = 0.998
EVERY_PRINT, EVERY_CHECK = 50, 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; 0 if it went well."""
    options = _options().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        run(options)
    except HoldoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(options: argparse.Namespace) -> None:
    """Train as asked, then publish.

    Raises
    ------
    HoldoverError
        No data, or a record or checkpoint that is missing.
    """

    folder = data_folder(options.data)
    validation = load(folder / "mitdb", VALIDATION)
    records = load(folder / "mitdb", TRAIN)
    training = Training.start(records, noises(folder / "nstdb"), options)
    seconds = training.run(validation, options.checkpoint)
    table = validate(training.average, validation)
    facts = {"steps": options.steps, "seed": options.seed, "train_seconds": round(seconds), "validation": table}
    facts["beats_per_minute_in_artefacts"] = hallucinate(training.average, artefacts(folder / "nstdb"))
    publish(training.average, records + validation, facts, options.out)


def data_folder(given: str | None) -> Path:
    """The folder with mitdb/ and nstdb/ in it, from the option or from HOLDOVER_DATA.

    Raises
    ------
    UsageError
        Neither names a folder.
    """
    name = given or os.environ.get("HOLDOVER_DATA")
    if not name or not Path(name).is_dir():
        raise UsageError(
            f"no data folder ({name or 'neither --data nor HOLDOVER_DATA is set'}); give --data DIR, a folder with "
            "PhysioNet's mitdb/ and nstdb/ in it (wfdb.dl_database fetches them)"
        )
    return Path(name)


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

    @classmethod
    def start(cls, records: Sequence[Record], noise: Sequence[Any], options: argparse.Namespace) -> "Training":
        """Begin, or go on from the checkpoint with streams drawn anew."""
        torch.manual_seed(options.seed)
        net, average = Net(), Net().eval()
        average.load_state_dict(net.state_dict())
        decay = [p for p in net.parameters() if p.ndim > 1]
        rest = [p for p in net.parameters() if p.ndim == 1]
        groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
        saved = _saved(options.checkpoint) if options.resume else None
        rng = np.random.default_rng([options.seed, saved["step"] if saved else 0])
        training = cls(net, average, optimizer, Streams(records, noise, SLOTS, rng), options.steps)
        if saved:
            training._restore(saved)
        return training

    def run(self, validation: Sequence[Record], checkpoint: Path) -> float:
        """Take the remaining steps, with a line and a checkpoint every so often; seconds spent in all."""
        memory, begun = Memory.zeros(SLOTS), time.monotonic() - self.seconds
        losses: list[list[float]] = []
        while self.step < self.steps:
            memory, loss = self._one(memory)
            losses.append(loss)
            self.seconds = time.monotonic() - begun
            if self.step % EVERY_PRINT == 0 or self.step == self.steps:
                self._tell(np.mean(losses, 0))
                losses = []
            if self.step % EVERY_CHECK == 0 and self.step < self.steps:
                print(f"  validation {rates(list(validate(self.average, validation)['counts'].values()))}", flush=True)
                self._save(checkpoint)
        self._save(checkpoint)
        return self.seconds

    def _one(self, memory: Memory) -> tuple[Memory, list[float]]:
        parts, alive = self.streams.step()
        z, *wanted = (torch.from_numpy(np.ascontiguousarray(p)) for p in parts)
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * _schedule(self.step / self.steps, self.step)
        y, memory = self.net(z, memory.keep(torch.from_numpy(alive)))
        losses = _losses(y, *wanted)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return memory, [float(x.detach()) for x in losses]

    def _follow(self) -> None:
        keep = min(AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)

    def _tell(self, losses: Any) -> None:
        pace = self.seconds / max(self.step, 1)
        beat, offset, kind = losses
        print(
            f"step {self.step}/{self.steps}  beat {beat:.3f}  offset {offset:.4f}  class {kind:.3f}  "
            f"{1 / pace:.1f} steps/s  {pace * (self.steps - self.step):.0f} s left",
            flush=True,
        )

    def _save(self, path: Path) -> None:
        state = {"step": self.step, "steps": self.steps, "seconds": self.seconds}
        parts = {"net": self.net, "average": self.average, "optimizer": self.optimizer}
        beside = path.with_suffix(".part")
        torch.save({**state, **{k: v.state_dict() for k, v in parts.items()}}, beside)
        beside.replace(path)

    def _restore(self, saved: dict[str, Any]) -> None:
        self.net.load_state_dict(saved["net"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds = saved["step"], saved["seconds"]


def validate(net: Net, records: Sequence[Record]) -> dict[str, Any]:
    """Score whole records, state carried from end to end: gross rates, and counts a record."""
    length = min(len(view(r)) for r in records)
    z = np.stack([normalise(view(r)[:length]) for r in records])
    with torch.no_grad():
        y = net(torch.from_numpy(z), Memory.zeros(len(records)))[0].numpy()
    counts = {r.name: count(r.at / RATE_HZ, r.kind, *decode(out)) for r, out in zip(records, y, strict=True)}
    return {"gross": rates(list(counts.values())), "counts": counts}


def hallucinate(net: Net, signals: Mapping[str, Any]) -> dict[str, float]:
    """Beats a minute that the net finds where there is no heart; lower is better."""
    found = {}
    for name, x in signals.items():
        with torch.no_grad():
            y = net(torch.from_numpy(normalise(x[None])), Memory.zeros(1))[0].numpy()[0]
        found[name] = round(len(decode(y)[0]) / (len(x) / MODEL_HZ / 60), 1)
    return found


def _losses(y: Tensor, beat: Tensor, weight: Tensor, offset: Tensor, near: Tensor, kind: Tensor) -> list[Tensor]:
    """Beat, offset and class loss; lower is better."""
    beats = near.sum() / 3 + 1
    found = functional.binary_cross_entropy_with_logits(y[..., 0], beat, weight, reduction="sum") / beats
    apart = functional.smooth_l1_loss(y[..., 1] / 6, offset, reduction="none")
    classes = functional.cross_entropy(y[..., 2:].transpose(1, 2), kind, ignore_index=-1)
    return [found, 0.3 * (apart * near).sum() / near.sum().clamp(min=1), classes]


def _schedule(progress: float, step: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * (0.01 + 0.99 * 0.5 * (1 + cos(pi * progress)))


def _saved(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path} to go on from; leave --resume away to start anew")
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with PhysioNet's mitdb/ and nstdb/ (default: HOLDOVER_DATA)")
    parser.add_argument("--steps", type=int, default=5000, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, with streams drawn anew")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "train.ckpt", help="where to keep what is reached")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for model.onnx and results.json")
    parser.add_argument("--threads", type=int, default=1, help="of torch; results are repeatable for one number")
    return parser


if __name__ == "__main__":
    sys.exit(main())
