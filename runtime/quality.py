"""What of a signal can be used: holes bridged or announced, dead input recognised, outside the model.

A sample is unusable when it is missing (a hole on the clock, or NaN), saturated, part of a line that has been flat for
`flat_s`, or taken with an electrode off. Up to `bridge_s` of them are bridged by a straight line; more end the model's
memory, and detection is held back until the signal has been back for the model's settle time. That span, from the
first unusable sample to the return of detection, is one technical alarm.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.alert import EndReason, Phase, PhaseName, Priority
from holdover.runtime.annotation import Annotation
from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.limits import Limits
from holdover.runtime.snapshot import Memory

REASONS = {1: "signal_missing", 2: "signal_saturated", 3: "signal_flat", 4: "lead_off"}
"""Label of the alarm by the reason that made the hole too long to bridge."""

FAULT_HOLD_S = 10.0
"""Time stamps that repeat or go back are one episode until they have been in order for this long."""


@dataclass(frozen=True, slots=True)
class Usable:
    """Samples without a hole, bridged ones among them."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Lost:
    """The signal was lost at sample `at`, which became certain at sample `known`; a new memory follows."""

    at: int
    known: int


Piece = Usable | Lost | Annotation | Phase


class Quality:
    """Splits what a source gives into usable runs, losses, and what must be said of them.

    Parameters
    ----------
    rate_hz
        Rate of the source.
    limits
        Of them `bridge_s`, `flat_s` and `rail` are used here.
    settle
        Source samples for which detection is held back after the signal has come back.
    """

    def __init__(self, rate_hz: float, limits: Limits, settle: int) -> None:
        self.limits = limits
        self.rate_hz = rate_hz
        self.settle = settle
        self.next: int | None = None
        self._value: NDArray[np.float32] | None = None
        self._last: NDArray[np.float32] | None = None
        self._run: NDArray[np.int64] | None = None
        self._hole = 0
        self._state: Literal["waiting", "running", "lost"] = "waiting"
        self._open: tuple[str, int, int | None, bool] | None = None
        self._stamps: tuple[int, int, int] | None = None
        self._named: tuple[str, int] | None = None

    @property
    def bridge(self) -> int:
        """Unusable samples in a row that are bridged; at least one, however slow the signal."""
        return max(round(self.limits.bridge_s * self.rate_hz), 1)

    @property
    def flat(self) -> int:
        """Equal samples in a row that make a flat line; 0 for never, as where `flat_s` is less than two samples."""
        n = round(self.limits.flat_s * self.rate_hz)
        return n if n > 1 else 0

    @property
    def running(self) -> bool:
        """Whether the model is being fed."""
        return self._state == "running"

    @property
    def until(self) -> int:
        """Everything that can be said of samples before this one has been said."""
        if self.next is None:
            return 0
        return self.next if self._state == "lost" else self.next - self._hole

    def push(self, chunk: Chunk) -> Iterator[Piece]:
        """Take a chunk; yield what it comes to, in order of the sample clock."""
        if self.next is None:
            self.next = chunk.at
        if chunk.at < self.next and len(chunk):
            yield from self._backward(min(self.next - chunk.at, len(chunk)))
            chunk = _after(chunk, self.next)
        if chunk.at > self.next:
            yield from self._unusable(chunk.at - self.next, 1)
        if chunk.fault:
            yield from self._fault(chunk.fault)
        codes = self._codes(chunk)
        edges = np.flatnonzero(np.diff(codes)) + 1
        bounds = [0, *edges.tolist(), len(codes)] if len(codes) else []
        for start, stop in pairwise(bounds):
            if codes[start]:
                yield from self._unusable(stop - start, int(codes[start]))
            else:
                yield from self._usable(chunk.x[start:stop])
        yield from self._due()

    def _codes(self, chunk: Chunk) -> NDArray[np.int8]:
        """Why each sample is unusable, (samples,); 0 where it is usable."""
        x = chunk.x
        codes = np.zeros(len(x), np.int8)
        if not len(x):
            return codes
        codes[self._flat_line(x)] = 3
        if self.limits.rail:
            codes[(np.abs(x) >= self.limits.rail).any(axis=1)] = 2
        codes[~np.isfinite(x).all(axis=1)] = 1
        if chunk.lead_off is not None:
            codes[chunk.lead_off] = 4
        return codes

    def _flat_line(self, x: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether each sample ends a run of `flat` equal ones in a channel, (samples,); missing ones break no run."""
        line = np.zeros(len(x), bool)
        there = np.isfinite(x).all(axis=1)
        x = x[there]
        if not len(x):
            return line
        before = np.full_like(x[:1], np.nan) if self._value is None else self._value
        run = np.zeros(x.shape[1], np.int64) if self._run is None else self._run
        i = np.arange(len(x))[:, np.newaxis]
        broken = np.maximum.accumulate(np.where(x == np.concatenate([before, x[:-1]]), -run, i), axis=0)
        runs = i - broken + 1
        self._value, self._run = x[-1:].copy(), runs[-1].copy()
        line[there] = bool(self.flat) & (runs >= self.flat).any(axis=1)
        return line

    def _usable(self, x: NDArray[np.float32]) -> Iterator[Piece]:
        assert self.next is not None
        at = self.next
        if self._state == "running" and self._hole and self._last is not None:
            at -= self._hole
            yield Annotation(at, '"', aux=f"bridged {self._hole}")
            x = np.concatenate([_line(self._last, x[0], self._hole), x])
        if self._state == "lost":
            yield from self._back(at)
        self._state, self._hole = "running", 0
        self._last = x[-1].copy()
        self.next = at + len(x)
        yield Usable(Chunk(at, x))

    def _unusable(self, n: int, reason: int) -> Iterator[Piece]:
        assert self.next is not None
        onset = self.next - self._hole
        self._hole += n
        self.next += n
        if self._state == "lost" or self._hole <= self.bridge:
            return
        yield from self._due(onset + self.bridge)
        if self._state == "running":
            yield Lost(onset, onset + self.bridge)
            yield Annotation(onset, "~", subtype=-1, aux=REASONS[reason])
        self._state = "lost"
        if self._open:
            label, began, _, told = self._open
            self._open = (label, began, None, told)
            return
        self._open = (REASONS[reason], onset, None, False)
        evidence = {"bridge_s": self.limits.bridge_s, "detection": "suspended"}
        yield _phase(REASONS[reason], "start", onset, onset + self.bridge, priority="medium", evidence=evidence)

    def _back(self, at: int) -> Iterator[Piece]:
        yield from self._due()
        yield Annotation(at, "~", subtype=0)
        if self._open is None:
            return
        label, onset, _, told = self._open
        self._open = (label, onset, at, True)
        if told:
            return
        held = round(self.settle / self.rate_hz, 3)
        evidence = {"signal_back_sample": at, "detection": "held back", "settle_s": held}
        yield _phase(label, "update", onset, at, evidence=evidence)

    def _due(self, until: int | None = None) -> Iterator[Piece]:
        """What time alone makes true: detection returns, time stamps have long been in order."""
        assert self.next is not None
        now = self.next if until is None else until
        if self._open and self._open[2] is not None and now >= (at := self._open[2] + self.settle):
            label, onset, end, _ = self._open
            self._open = None
            evidence = {"detection": "resumed"}
            yield _phase(label, "end", onset, at, end=end, end_reason="recovered", evidence=evidence)
        hold = round(FAULT_HOLD_S * self.rate_hz)
        if self._stamps and now >= self._stamps[1] + hold:
            yield self._in_order(self._stamps[1] + hold, "recovered")

    def _fault(self, fault: str) -> Iterator[Piece]:
        assert self.next is not None
        if self._named == (fault, self.next):
            return
        self._named = (fault, self.next)
        yield from self._due()
        yield _phase(fault, "start", self.next, self.next)
        yield _phase(fault, "end", self.next, self.next, end=self.next, end_reason="recovered")

    def _backward(self, dropped: int) -> Iterator[Piece]:
        assert self.next is not None
        yield from self._due()
        if self._stamps is None:
            self._stamps = (self.next, self.next, dropped)
            evidence = {"detection": "goes on, repeated samples are dropped"}
            yield _phase("timestamps_backward", "start", self.next, self.next, priority="info", evidence=evidence)
        else:
            self._stamps = (self._stamps[0], self.next, self._stamps[2] + dropped)

    def _in_order(self, at: int, reason: EndReason) -> Phase:
        """Time stamps have long been in order, or no more will come."""
        assert self._stamps is not None
        (onset, last, dropped), self._stamps = self._stamps, None
        return _phase(
            "timestamps_backward", "end", onset, at, priority="info", end=last, end_reason=reason,
            evidence={"dropped_samples": dropped},
        )  # fmt: skip

    def finish(self) -> Iterator[Piece]:
        """The input has ended: an alarm that is open ends with it."""
        if self.next is None:
            return
        yield from self._due()
        if self._open:
            label, onset, *_ = self._open
            self._open = None
            yield _phase(label, "end", onset, self.next, end=self.next, end_reason="input_ended")
        if self._stamps:
            yield self._in_order(self.next, "input_ended")

    def snapshot(self) -> Memory:
        """What is carried."""
        return {key: getattr(self, key) for key in _CARRIED}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        for key in _CARRIED:
            value = memory[key]
            setattr(self, key, tuple(value) if isinstance(value, list) else value)


_CARRIED = ("next", "_value", "_last", "_run", "_hole", "_state", "_open", "_stamps", "_named")


def _phase(label: str, phase: PhaseName, onset: int, at: int, priority: Priority = "low", **more: Any) -> Phase:
    return Phase(label=label, phase=phase, onset=onset, at=at, kind="technical", priority=priority, **more)


def _after(chunk: Chunk, at: int) -> Chunk:
    """The part of a chunk from a place on."""
    n = min(at - chunk.at, len(chunk))
    off = None if chunk.lead_off is None else chunk.lead_off[n:]
    return replace(chunk, at=at if n == len(chunk) else chunk.at + n, x=chunk.x[n:], lead_off=off)


def _line(a: NDArray[np.float32], b: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """The n values between a and b on a straight line, (n, channels)."""
    share = np.arange(1, n + 1, dtype=np.float32)[:, np.newaxis] / np.float32(n + 1)
    return a + (b - a) * share
