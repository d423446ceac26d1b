"""What came, against what the model said of it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.contract import Contract, Meaning, OutputSpec
from holdover.runtime.errors import ContractError
from holdover.runtime.frames import Frames
from holdover.runtime.snapshot import Memory

Array = NDArray[np.float64]

JUDGED: tuple[Meaning, ...] = ("forecast", "reconstruction", "score", "class_logits")
"""Meanings of outputs from which a residual is taken; of those that a model has, the first."""


@dataclass(frozen=True, slots=True)
class Residuals:
    """What came and was spoken of, (samples, channels) each.

    Attributes
    ----------
    at
        (samples,), places on the source's clock.
    x
        What came, in the signal's unit.
    said
        What the model said of it; NaN for models that say a score.
    error
        x less said, over what the model said that it may miss by; or the score, one channel of it, high is bad.
    size
        What `error` is multiplied by to be in the signal's unit.
    """

    at: NDArray[np.int64]
    x: Array
    said: Array
    error: Array
    size: Array

    def part(self, which: NDArray[np.bool_]) -> "Residuals":
        """Some of the samples."""
        return Residuals(self.at[which], self.x[which], self.said[which], self.error[which], self.size[which])


class Residual:
    """Pairs the samples that came with the frames that speak of them, once, for all that judge them.

    Parameters
    ----------
    contract
        Of its outputs the first is taken whose meaning is in `JUDGED`.
    normal
        Of class logits, the label that is no anomaly; the first for "".

    Raises
    ------
    ContractError
        No output has such a meaning, or not the width or pace that it needs.
    """

    def __init__(self, contract: Contract, normal: str = "") -> None:
        self.output = o = _judged(contract)
        self._predicts = o.meaning in ("forecast", "reconstruction")
        self._spread = contract.by_meaning("spread") if self._predicts else None
        self._channels = len(contract.signal.channels)
        self._normal = _place_of(normal, o)
        _check(o, self._spread, self._channels, self._predicts)
        self.reset()

    @property
    def channels(self) -> int:
        """Of the error."""
        return self._channels if self._predicts else 1

    @property
    def scored(self) -> bool:
        """Whether the error is a score, of which only high is bad."""
        return not self._predicts

    def reset(self) -> None:
        """The model's memory has ended: nothing that came is spoken of any more."""
        self._x: Array = np.empty((0, self._channels))
        self._x_at = 0
        self._said: Array | None = None
        self._frame = 0

    def push(self, frames: Frames) -> Residuals:
        """Take what came and what was said; give what both are there for, where the output can be trusted."""
        o, said = self.output, self._listen(frames)
        x = np.concatenate([self._x, frames.heard.reshape(-1, self._channels)])
        number = self._frame + np.arange(len(said) + 1)
        about = o.first_at + o.horizon + o.samples_per_frame * number
        n = int(np.searchsorted(about[:-1], self._x_at + len(x)))
        found = self._compare(frames, about[:n], x[about[:n] - self._x_at], said[:n])
        drop = min(max(int(about[n]) - self._x_at, 0), len(x))
        self._x, self._x_at = x[drop:], self._x_at + drop
        self._said, self._frame = said[n:], self._frame + n
        return found.part(number[:n] * o.samples_per_frame >= o.settle)

    def _listen(self, frames: Frames) -> Array:
        """All that was said and not used yet, (frames, width), the spread beside it where there is one."""
        outputs = [o.name for o in (self.output, self._spread) if o is not None]
        new = [np.asarray(frames.values[name], np.float64) for name in outputs]
        said = np.concatenate([part.reshape(len(part), math.prod(part.shape[1:])) for part in new], axis=1)
        return said if self._said is None else np.concatenate([self._said, said])

    def _compare(self, frames: Frames, place: NDArray[np.int64], x: Array, said: Array) -> Residuals:
        at = frames.origin - (-place * frames.ratio.numerator // frames.ratio.denominator)
        if not self._predicts:
            score = said[:, :1] if self.output.meaning == "score" else _surprise(said, self._normal)
            return Residuals(at, x, np.full_like(x, np.nan), score, np.ones_like(score))
        told, spread = said[:, : self._channels], said[:, self._channels :]
        size = np.ones_like(x) if self._spread is None else np.maximum(spread, 1e-6 * np.abs(x) + 1e-30)
        return Residuals(at, x, told, (x - told) / size, size)

    def snapshot(self) -> Memory:
        """What is carried."""
        return {"x": self._x, "x_at": self._x_at, "said": self._said, "frame": self._frame}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self._x, self._x_at = memory["x"], memory["x_at"]
        self._said, self._frame = memory["said"], memory["frame"]


def _surprise(logits: Array, normal: int) -> Array:
    """-ln of the probability of the normal label, (frames, 1)."""
    most = logits.max(axis=1, keepdims=True, initial=-np.inf)
    return np.asarray(np.log(np.exp(logits - most).sum(axis=1, keepdims=True)) + most - logits[:, normal : normal + 1])


def _judged(contract: Contract) -> OutputSpec:
    for meaning in JUDGED:
        if (output := contract.by_meaning(meaning)) is not None:
            return output
    raise ContractError(
        f"the contract's detector 'anomaly' judges an output of the meaning {', '.join(JUDGED)}; the model's are "
        f"{', '.join(o.meaning for o in contract.outputs)}"
    )


def _place_of(label: str, o: OutputSpec) -> int:
    if not label:
        return 0
    if o.meaning != "class_logits" or label not in o.labels:
        raise ContractError(
            f"the contract's detector 'anomaly' takes the label {label!r} for normal; the output {o.name} has "
            f"{', '.join(o.labels) or 'no labels'}"
        )
    return o.labels.index(label)


def _check(o: OutputSpec, spread: OutputSpec | None, channels: int, predicts: bool) -> None:
    def need(ok: bool, what: str) -> None:
        if not ok:
            raise ContractError(f"the contract's detector 'anomaly' cannot judge the output {o.name}: {what}")

    need(o.kind == "frames", "it says one thing of all samples so far; expected one frame a place")
    if not predicts:
        return
    need(o.samples_per_frame == 1, f"it has {o.samples_per_frame} samples a frame; a {o.meaning} needs 1")
    need(o.width in (0, channels), f"its width is {o.width}, and the signal has {channels} channels")
    if spread is not None:
        alike = (spread.first_at, spread.samples_per_frame, spread.delay) == (o.first_at, o.samples_per_frame, o.delay)
        need(alike, f"the spread {spread.name} has not the places, the pace and the delay that it has")
        need(spread.width in (0, channels), f"the spread's width is {spread.width}, the signal has {channels} channels")
