"""Train the model, export it, prove it, and write model.onnx and results.json."""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from holdover.export.contract_io import write_whole
from holdover.models.ecg_rhythm.data import Record, load, noises, require
from holdover.models.ecg_rhythm.net import COLUMNS, DELAYS, HOP, Memory, Net
from holdover.models.ecg_rhythm.publish import publish
from holdover.models.ecg_rhythm.score import summary, validate
from holdover.models.ecg_rhythm.streams import Streams, Targets
from holdover.runtime.errors import HoldoverError, UsageError

HERE = Path(__file__).parent
SLOTS = 48
RATE = 3e-3
WARM_UP = 150
AVERAGE = 0.998
LEAST = 0.02
"""The rate at the end, of that at the start."""
DECAY = 0.15
SHARES = {"beat": 1.0, "offset": 0.3, "class": 1.0, "tame": 0.5, "rhythm": 0.6, "quality": 0.3}
"""Of the losses."""
FRAMES_A_BEAT = 16
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
    except OSError as error:
        print(f"error: {error}; make room or name other places, and go on with --resume", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; --resume goes on from the last checkpoint (one each {EVERY_CHECK:,} steps)", file=sys.stderr)
        return 130
    return 0


def run(options: argparse.Namespace) -> None:
    """Train as asked, then publish.

    Raises
    ------
    HoldoverError
        No data, a record or checkpoint that is missing or damaged, or no steps.
    """
    check(options.steps, options.seed)
    folder = data_folder(options.data)
    require(folder)
    options.out.mkdir(parents=True, exist_ok=True)
    options.checkpoint = options.checkpoint or options.out / "train.ckpt"
    validation, records, noise = load(folder, "validation"), load(folder, "train"), noises(folder / "nstdb")
    training = Training.start(records, noise, options)
    seconds = training.run(validation, noise, options.checkpoint)
    found = validate(training.average, validation, noise)
    facts = {"steps": options.steps, "seed": options.seed, "train_seconds": round(seconds), "validation": found}
    publish(training.average, [r for r in (*records, *validation) if r.source == "mitdb"], facts, options.out)


def check(steps: int, seed: int) -> None:
    """Raise `UsageError` where there are no steps to take, or the seed is none."""
    if steps < 1:
        raise UsageError(f"--steps {steps} teaches nothing; give 1 or more")
    if seed < 0:
        raise UsageError(f"--seed {seed}: expected 0 or more")


def data_folder(given: str | None) -> Path:
    """The folder with the databases in it, from the option or from HOLDOVER_DATA.

    Raises
    ------
    UsageError
        Neither names a folder.
    """
    name = given or os.environ.get("HOLDOVER_DATA")
    if not name or not Path(name).is_dir():
        raise UsageError(
            f"no data folder ({name or 'neither --data nor HOLDOVER_DATA is set'}); give --data DIR, a folder with "
            "PhysioNet's mitdb/, svdb/, vfdb/, nstdb/ (wfdb.dl_database fetches them) and cinc2017/ in it"
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
    half: bool
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def start(cls, records: Sequence[Record], noise: Sequence[Any], options: argparse.Namespace) -> "Training":
        """Begin, or go on from the checkpoint with streams drawn anew."""
        torch.manual_seed(options.seed)
        net, average = Net(), Net().eval()
        average.load_state_dict(net.state_dict())
        kept = saved(options.checkpoint) if options.resume else None
        rng = np.random.default_rng([options.seed, kept["step"] if kept else 0])
        streams = Streams(records, noise, SLOTS, rng)
        training = cls(net, average, optimizer_of(net), streams, options.steps, options.half)
        if kept:
            training._restore(kept)
        return training

    def run(self, validation: Sequence[Record], noise: Sequence[Any], checkpoint: Path) -> float:
        """Take the remaining steps, with a line and a checkpoint every so often; seconds spent in all."""

        def check() -> None:
            print(f"  validation {summary(validate(self.average, validation, noise))}", flush=True)
            self._save(checkpoint)

        self.through(Memory.zeros(SLOTS), check)
        self._save(checkpoint)
        return self.seconds

    def through(self, memory: Memory, check: Callable[[], None] = lambda: None) -> None:
        """Take the remaining steps from a memory, with a line every so often, and a check more rarely."""
        begun, losses = time.monotonic() - self.seconds, list[list[float]]()
        while self.step < self.steps:
            memory, loss = self._one(memory)
            losses.append(loss)
            self.seconds = time.monotonic() - begun
            if self.step % EVERY_PRINT == 0 or self.step == self.steps:
                self._tell(np.mean(losses, 0))
                losses = []
            if self.step % EVERY_CHECK == 0 and self.step < self.steps:
                check()

    def _one(self, memory: Memory) -> tuple[Memory, list[float]]:
        z, targets, alive = self.streams.step()
        wanted = {f.name: torch.from_numpy(np.ascontiguousarray(getattr(targets, f.name))) for f in fields(Targets)}
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * _schedule(self.step / self.steps, self.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            y, memory = self.net(torch.from_numpy(z), memory.keep(torch.from_numpy(alive)))
        losses = losses_of(y.float(), wanted)
        self._descend(shared(losses))
        return memory, [float(x.detach()) for x in losses.values()]

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._follow()

    def _follow(self) -> None:
        keep = min(AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)

    def _tell(self, losses: Any) -> None:
        pace = self.seconds / max(self.step, 1)
        said = "  ".join(f"{name} {loss:.3f}" for name, loss in zip(SHARES, losses, strict=True))
        left = pace * (self.steps - self.step)
        print(f"step {self.step}/{self.steps}  {said}  {1 / pace:.1f} steps/s  {left:.0f} s left", flush=True)

    def _save(self, path: Path) -> None:
        state = {"step": self.step, "steps": self.steps, "seconds": self.seconds}
        parts = {"net": self.net, "average": self.average, "optimizer": self.optimizer}
        data = io.BytesIO()
        torch.save({**state, **{k: v.state_dict() for k, v in parts.items()}}, data)
        write_whole(path, data.getvalue())

    def _restore(self, saved: dict[str, Any]) -> None:
        self.net.load_state_dict(saved["net"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds = saved["step"], saved["seconds"]


def optimizer_of(net: Net) -> torch.optim.Optimizer:
    """AdamW; matrices decay, biases do not."""
    decay, rest = ([p for p in net.parameters() if (p.ndim > 1) == big] for big in (True, False))
    groups = [{"params": decay, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))


def losses_of(y: Tensor, t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss of each output, by the names of `SHARES`, for targets by the names of `Targets`; lower is better."""
    beats, near, judged = t["beat_weight"].sum() / FRAMES_A_BEAT + 1, t["offset_weight"], t["quality"] >= 0
    found = functional.binary_cross_entropy_with_logits(y[..., 0], t["beat"], t["beat_weight"], reduction="sum")
    apart = functional.smooth_l1_loss(y[..., 1] / HOP, t["offset"], reduction="none")
    bad = functional.binary_cross_entropy_with_logits(
        y[..., COLUMNS["quality"]][..., 0], t["quality"].clamp(min=0).float(), judged.float(), reduction="sum"
    )
    return {
        "beat": found / beats,
        "offset": (apart * near).sum() / near.sum().clamp(min=1),
        "class": _classes(y, "class", t["kind"]),
        "tame": _tame(y, t["tame"]),
        "rhythm": _classes(y, "rhythm", t["rhythm"]),
        "quality": bad / judged.sum().clamp(min=1),
    }


def shared(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of losses, each by its share."""
    return torch.stack([SHARES[name] * loss for name, loss in losses.items()]).sum()


def _classes(y: Tensor, output: str, kind: Tensor) -> Tensor:
    loss = functional.cross_entropy(y[..., COLUMNS[output]].transpose(1, 2), kind, ignore_index=-1, reduction="sum")
    return loss / (kind >= 0).sum().clamp(min=1)


def _tame(y: Tensor, tame: Tensor) -> Tensor:
    """Where the net finds a beat: not S in fibrillation, N in a recording called normal, V in a ventricular rhythm."""
    later = (DELAYS["class"] - DELAYS["beat"]) // HOP
    here = torch.sigmoid(y[:, :-later, 0].detach()) * (tame[:, later:] > 0)
    share = torch.softmax(y[:, later:, COLUMNS["class"]], -1)
    right = torch.stack([1 - share[..., 1], share[..., 0], share[..., 2]])
    right = right.gather(0, (tame[None, :, later:] - 1).clamp(min=0))[0]
    return -(here * torch.log(right.clamp(min=1e-4))).sum() / here.sum().clamp(min=1)


def _schedule(progress: float, step: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * (LEAST + (1 - LEAST) * 0.5 * (1 + cos(pi * progress)))


def saved(path: Path) -> dict[str, Any]:
    """Read a checkpoint; raises `UsageError` where there is none, or something else."""
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path} to go on from; leave --resume away to start anew")
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:  # whatever pickle and zip files can go wrong with
        kind = type(error).__name__
        raise UsageError(f"{path} is no checkpoint of this recipe ({kind}); leave --resume away") from error
    if missing := {"net", "average", "optimizer", "step", "seconds"} - state.keys():
        raise UsageError(f"{path} is no checkpoint of this recipe (no {', '.join(sorted(missing))})")
    return state


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with mitdb/, svdb/, vfdb/, nstdb/, cinc2017/ (default: HOLDOVER_DATA)")
    parser.add_argument("--steps", type=int, default=7000, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, with streams drawn anew")
    parser.add_argument("--checkpoint", type=Path, help="where to keep what is reached (default: OUT/train.ckpt)")
    parser.add_argument("--out", type=Path, default=HERE / "run", help="folder for model.onnx and results.json")
    parser.add_argument("--half", action="store_true", help="multiply in bfloat16: faster on processors that have it")
    parser.add_argument("--threads", type=int, default=1, help="of torch; results are repeatable for one number")
    return parser


if __name__ == "__main__":
    sys.exit(main())
