"""Frames to beats: where the model saw one, and of which class."""

import math

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.annotation import Annotation
from holdover.runtime.contract import Contract, OutputSpec
from holdover.runtime.errors import ContractError
from holdover.runtime.frames import Frames
from holdover.runtime.snapshot import Memory

Array = NDArray[np.float64]


class Beats:
    """Peaks of an event logit, moved by the offset output, classed by the class output at the same place.

    A beat is a frame at which the probability summed over it and its two neighbours is at least `threshold` and the
    largest within `refractory_s`. Beats before the event output has settled are left out; those before their class
    has settled are called Q.

    Parameters
    ----------
    contract
        A model with an output of meaning event_logit; offset and class_logits are used where they are.
    threshold
        Of the summed probability, 0 to 3 (low: more beats, more of them false).
    refractory_s
        No two beats are nearer than this, seconds.
    """

    def __init__(self, contract: Contract, threshold: float = 0.8, refractory_s: float = 0.2) -> None:
        event = contract.by_meaning("event_logit")
        if event is None:
            raise ContractError("the detector 'beats' needs an output of meaning event_logit, which this model lacks")
        self._event, self._class = event, contract.by_meaning("class_logits")
        self._offset, self._rhythm = contract.by_meaning("offset"), contract.by_meaning("rhythm_logits")
        _check_options(threshold, refractory_s)
        _check_offset(event, self._offset)
        _check_rhythm(self._rhythm, self._class)
        self._labels = self._class.labels if self._class else ("N",)
        self._settles = _settles(self._class)
        self.threshold = threshold
        self._rate_hz = contract.signal.rate_hz
        self._near = max(round(refractory_s * self._rate_hz / event.samples_per_frame), 1)
        self._shift = _frames_between(event, self._class)
        self.reset()

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The outputs that a beat rests on: its place and its class."""
        return tuple(o for o in (self._event, self._offset, self._class) if o)

    @property
    def settle(self) -> int:
        """Model samples after a reset from which on beats are found, and the first of the classes is told."""
        return max(
            self._event.settle, self._offset.settle if self._offset else 0, min(self._settles.values(), default=0)
        )

    @property
    def silence_s(self) -> float:
        """Seconds of signal, after the event output's delay, until it is certain that no beat lies before a place."""
        return 2 * self._event.samples_per_frame / self._rate_hz

    @property
    def look_s(self) -> float:
        """Seconds that are waited after a peak, to know that it is one."""
        return (self._near + 1) * self._event.samples_per_frame / self._rate_hz

    def listens(self, frames: Frames) -> int:
        """Source sample from which on beats are found in the memory that frames are of."""
        return frames.origin + math.ceil(self._event.settle * frames.ratio)

    def reset(self) -> None:
        """Forget all frames: the next ones begin a new memory."""
        pad = self._near + 1
        self._p: Array = np.zeros(pad)
        self._moved: Array = np.zeros(pad)
        self._share: Array = np.empty((0, len(self._labels)))
        self._fibrillates: Array = np.empty(0)
        self._done = self._share_at = self._until = 0

    def update(self, frames: Frames, last: bool = False) -> tuple[list[Annotation], int]:
        """Take frames; return the beats that are now certain, and the sample before which all are known.

        With `last`, no frame will follow: what is near the end is decided with what is there.
        """
        self._take(frames)
        pad = self._near + 1
        ready = len(self._p) - pad - (0 if last else pad)
        if self._class:
            said = self._share_at + len(self._share) - (0 if last else 1) - self._shift - self._done
            ready = min(ready, said) if len(self._share) else 0
        found = [self._beat(int(i), frames) for i in self._peaks(ready)] if ready > 0 else []
        self._forget(max(ready, 0))
        self._until = frames.until if last else max(self._until, frames.origin, self._clear(frames))
        return [b for b in found if b], self._until

    def _clear(self, frames: Frames) -> int:
        """Source sample before which no beat is undecided: known of silence long before a beat could be classed."""
        p = self._p[self._near + 1 :]
        q = self._p[self._near : -2] + p[:-1] + p[1:]
        pending = np.flatnonzero(q >= self.threshold)
        k = self._done + (int(pending[0]) if len(pending) else max(len(p) - 1, 0))
        place = self._event.first_at + (k - 1) * self._event.samples_per_frame  # an offset moves by a frame at most
        return frames.origin + math.floor(place * frames.ratio)

    def _take(self, frames: Frames) -> None:
        """Append new frames: probability and offset of events, log shares of the classes."""
        logit = frames.values[self._event.name][:, 0].astype(np.float64)
        step = self._event.samples_per_frame
        moved = frames.values[self._offset.name][:, 0].astype(np.float64) if self._offset else np.zeros(len(logit))
        self._p = np.concatenate([self._p, 1 / (1 + np.exp(-logit))])
        self._moved = np.concatenate([self._moved, np.clip(moved, -step, step)])
        if self._class:
            self._share = np.concatenate([self._share, _log_shares(frames, self._class)])
        if self._rhythm:
            share = np.exp(_log_shares(frames, self._rhythm)[:, self._rhythm.labels.index(FIBRILLATION)])
            self._fibrillates = np.concatenate([self._fibrillates, share])

    def _peaks(self, ready: int) -> NDArray[np.intp]:
        """Which of the next `ready` frames are the largest around, the first of equals."""
        near, pad = self._near, self._near + 1
        p = np.concatenate([self._p, np.zeros(pad)])
        q = p[:-2] + p[1:-1] + p[2:]
        around = np.lib.stride_tricks.sliding_window_view(q, 2 * near + 1)[:ready]
        centre = around[:, near]
        peak = (centre >= self.threshold) & (centre >= around[:, near:].max(axis=1))
        return np.flatnonzero(peak & (centre > around[:, :near].max(axis=1)))

    def _beat(self, i: int, frames: Frames) -> Annotation | None:
        spec, k = self._event, self._done + i
        place = spec.first_at + k * spec.samples_per_frame + float(self._moved[self._near + 1 + i])
        if place < spec.settle:
            return None
        at = frames.origin + round(place * float(frames.ratio))
        label, score = self._label(k)
        if place < self._settles.get(label, 0):
            label = "Q"
        return Annotation(at, label, score=score, fibrillates=self._rhythm_at(k))

    def _label(self, k: int) -> tuple[str, float]:
        """The class of a beat at event frame k, and its probability: log shares smoothed over three frames."""
        if not self._class:
            return "N", float(min(self._p[k - self._done + self._near + 1], 1.0))
        at = k + self._shift - self._share_at
        rows = self._share[np.clip([at - 1, at, at + 1], 0, len(self._share) - 1)]
        smooth = 0.25 * rows[0] + 0.5 * rows[1] + 0.25 * rows[2]
        best = int(smooth.argmax())
        share = np.exp(smooth - smooth.max())
        return self._labels[best], round(float(1 / share.sum()), 4)

    def _rhythm_at(self, k: int) -> float | None:
        """The share of fibrillation in the frame that comes with the class of a beat at event frame k, once settled."""
        at = k + self._shift
        if not self._rhythm or self._rhythm.first_at + at * self._rhythm.samples_per_frame < self._rhythm.settle:
            return None
        i = min(at - self._share_at, len(self._fibrillates) - 1)
        return round(float(self._fibrillates[i]), 4) if i >= 0 else None

    def _forget(self, ready: int) -> None:
        self._p, self._moved = self._p[ready:], self._moved[ready:]
        self._done += ready
        drop = min(max(self._done + self._shift - 1 - self._share_at, 0), len(self._share))
        self._share, self._share_at = self._share[drop:], self._share_at + drop
        self._fibrillates = self._fibrillates[drop:]

    def snapshot(self) -> Memory:
        """What is carried."""
        return {key: getattr(self, key) for key in _CARRIED}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        for key in _CARRIED:
            setattr(self, key, memory[key])


_CARRIED = ("_p", "_moved", "_share", "_fibrillates", "_done", "_share_at", "_until")

FIBRILLATION = "AF"
"""Label by which a rhythm output calls atrial fibrillation and flutter."""


def _log_shares(frames: Frames, spec: OutputSpec) -> Array:
    """The logarithms of the probabilities of an output's labels, (frames, labels)."""
    value = frames.values[spec.name].astype(np.float64)
    value -= value.max(axis=1, keepdims=True)
    share: Array = value - np.log(np.exp(value).sum(axis=1, keepdims=True))
    return share


def _check_options(threshold: float, refractory_s: float) -> None:
    for name, value, most in (("threshold", threshold, 3), ("refractory_s", refractory_s, 10)):
        if not isinstance(value, int | float) or not 0 < value <= most:
            raise ContractError(f"the detector 'beats' has {name} {value!r}, expected a number above 0, at most {most}")


def _check_offset(event: OutputSpec, offset: OutputSpec | None) -> None:
    if offset is None:
        return
    for name in ("samples_per_frame", "first_at", "delay"):
        if getattr(offset, name) != getattr(event, name):
            raise ContractError(
                f"outputs {event.name} and {offset.name} have {name} {getattr(event, name)} and "
                f"{getattr(offset, name)}; the detector 'beats' needs them equal"
            )


def _settles(classes: OutputSpec | None) -> dict[str, int]:
    """Model samples after a reset from which on a class is told, by its label."""
    return {label: classes.settle_labels.get(label, classes.settle) for label in classes.labels} if classes else {}


def _check_rhythm(rhythm: OutputSpec | None, classes: OutputSpec | None) -> None:
    if rhythm is None:
        return
    if FIBRILLATION not in rhythm.labels:
        raise ContractError(
            f"output {rhythm.name} has the labels {', '.join(rhythm.labels)}; the detector 'beats' needs one that is "
            f"{FIBRILLATION}"
        )
    if classes is None or (_arrival(rhythm), rhythm.samples_per_frame) != (
        _arrival(classes),
        classes.samples_per_frame,
    ):
        raise ContractError(
            f"the frames of output {rhythm.name} do not come with those of a class output; the detector 'beats' needs "
            "their first_at + delay and their samples_per_frame equal"
        )


def _arrival(o: OutputSpec) -> int:
    """The model sample with which an output's first frame comes."""
    return o.first_at + o.delay


def _frames_between(event: OutputSpec, classes: OutputSpec | None) -> int:
    """How many frames later the class output speaks of what the event output speaks of now."""
    if classes is None:
        return 0
    if classes.samples_per_frame != event.samples_per_frame:
        raise ContractError(
            f"outputs {event.name} and {classes.name} have {event.samples_per_frame} and {classes.samples_per_frame} "
            "samples a frame; the detector 'beats' needs them equal"
        )
    return round((event.first_at - classes.first_at) / event.samples_per_frame)
