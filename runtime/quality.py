"""What of a signal can be used: holes bridged or announced, dead input recognised, outside the model.

A sample is unusable when it is missing (a hole on the clock, or NaN), saturated, part of a line that has been flat for
`flat_s`, taken with an electrode off, or follows windows in which there is no ECG (`quality_measures`). Up to
`bridge_s` of them are bridged by a straight line, unless there are as many in every other such time; more end the
model's memory, and detection is held back until the signal has been back for the model's settle time. That span, from
the first unusable sample to the return of detection, is one technical alarm. A signal that is only in doubt is
announced, and detection goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.limits import Limits, SignalLimits
from holdover.runtime.quality_episodes import DOUBTS, Doubts, Outage, technical
from holdover.runtime.quality_judge import AGAIN, FLAT, MIN_RATE_HZ, WINDOW_REASONS, WITHIN, Judge
from holdover.runtime.quality_measures import WINDOW_S, FlatLine
from holdover.runtime.snapshot import Memory

REASONS = {1: "signal_missing", 2: "signal_saturated", FLAT: "signal_flat", 4: "lead_off"} | WINDOW_REASONS
"""Label of the alarm by the reason that made the hole too long to bridge."""

DEFAULT_SIGNAL = SignalLimits()

NO_EXCUSE = ("signal_flat", "mains_only", "electrode_pop")
"""What a heart that has stopped looks like, on a quiet input or under mains."""

COST = 2
SPARE_S = 0.3
"""An unusable sample costs two that can be used: where more than a third of the signal is unusable, a debt grows. The
signal is lost when it is that of two bridges and a little (ours), and back when it is paid off."""

FAULT_HOLD_S, FAULT_HOLD = 10.0, 10
"""Time stamps that repeat or go back are one episode until they have been in order for so many seconds and samples."""


@dataclass(frozen=True, slots=True)
class Usable:
    """Samples without a hole; the first `bridged` of them are made up."""

    chunk: Chunk
    bridged: int = 0


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
        Of them `bridge_s`, `flat_s` and `rail` are used here, or `sensor` in place of the last two.
    settle
        Source samples for which detection is held back after the signal has come back.
    signal
        What is told from an ECG in mV; None for other signals.

    Raises
    ------
    ConfigError
        If a dead ECG would be an asystole by the limits.
    """

    def __init__(
        self, rate_hz: float, limits: Limits, settle: int, signal: SignalLimits | None = DEFAULT_SIGNAL
    ) -> None:
        if signal:
            limits.check_ecg()
        self.limits = limits
        self.rate_hz = rate_hz
        self.signal = signal
        self.next: int | None = None
        self._last: NDArray[np.float32] | None = None
        self._hole = 0
        self._state: Literal["waiting", "running", "lost"] = "waiting"
        self._debt = 0
        self._outage = Outage(rate_hz, settle)
        self._stamps: tuple[int, int, int] | None = None
        self._named: tuple[str, int] | None = None
        self._judge = Judge(rate_hz) if rate_hz >= MIN_RATE_HZ else None
        self._reason = 0
        self._doubts = Doubts()
        self._flat_line = FlatLine()
        self._marked = False

    @property
    def bridge(self) -> int:
        """Unusable samples in a row that are bridged; at least one, however slow the signal."""
        return max(round(self.limits.bridge_s * self.rate_hz), 1)

    @property
    def flat(self) -> int:
        """Equal samples in a row that make a flat line; 0 for never, as where `flat_s` is less than two samples."""
        n = self.limits.sensor.flat_samples if self.signal is None else round(self.limits.flat_s * self.rate_hz)
        return n if n > 1 else 0

    @property
    def _most_debt(self) -> int:
        return COST * self.bridge + max(round(SPARE_S * self.rate_hz), 1)

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
        if chunk.at < self.next:
            if len(chunk):
                yield from self._backward(min(self.next - chunk.at, len(chunk)))
            chunk = _after(chunk, self.next)
        codes, events = self._judged(chunk, self._codes(chunk))
        yield from self._stretches(chunk, codes, events, chunk.at)
        if chunk.fault:
            yield from self._fault(chunk.fault)
        yield from self._stretches(chunk, codes, events, chunk.end)
        yield from self._due()

    def _stretches(
        self, chunk: Chunk, codes: NDArray[np.int8], events: dict[int, NDArray[np.bool_]], stop: int
    ) -> Iterator[Piece]:
        """Go on to a place, in stretches that are of one kind and in which no doubt begins or ends."""
        assert self.next is not None
        edges = chunk.at + np.flatnonzero(np.diff(codes)) + 1
        bounds = sorted({at for at in (chunk.at, stop, *edges.tolist(), *events) if self.next < at <= stop})
        for bound in bounds:
            i, j = self.next - chunk.at, bound - chunk.at
            if i < 0:
                yield from self._unusable(j - i, 1)
            elif codes[i]:
                yield from self._unusable(j - i, int(codes[i]))
            else:
                yield from self._usable(chunk.x[i:j])
            if bound in events:
                yield from self._doubt(events[bound])

    def _judged(self, chunk: Chunk, codes: NDArray[np.int8]) -> tuple[NDArray[np.int8], dict[int, NDArray[np.bool_]]]:
        """Codes with those of windows where a sample has none, and the doubts at the ends of windows that matter."""
        if self._judge is None or self.signal is None:
            return codes, {}
        held = (codes == 0) | (codes == FLAT)
        x = chunk.x if held.all() else np.where(held[:, np.newaxis], chunk.x, np.float32(np.nan))
        verdicts = self._judge.push(chunk.at, x, self.signal, self.limits)
        ends = np.clip(verdicts.ends - chunk.at, 0, len(chunk))
        reasons = np.concatenate([[self._reason], verdicts.reasons]).astype(np.int8)
        self._reason = int(reasons[-1])
        on = np.zeros(len(chunk), np.bool_) if chunk.lead_off is None else ~chunk.lead_off
        if reasons.any():
            judged = np.repeat(reasons, np.diff(ends, prepend=0, append=len(chunk)))
            judged[on & (judged == FLAT)] = 0
            codes = np.where(codes, codes, judged)
        doubts = verdicts.doubts
        doubts[:, DOUBTS.index("signal_quiet")] &= np.concatenate([[False], on])[ends]
        matter = np.logical_or.reduce(doubts, axis=1)
        matter[1:] |= matter[:-1]
        matter[:1] |= bool(self._doubts) or self._doubts.hidden
        return codes, dict(zip(verdicts.ends[matter].tolist(), doubts[matter], strict=True))

    def _codes(self, chunk: Chunk) -> NDArray[np.int8]:
        """Why each sample is unusable, (samples,); 0 where it is usable."""
        x = chunk.x
        codes = np.zeros(len(x), np.int8)
        if not len(x):
            return codes
        again, within = (0, 0) if self.signal is None else (self._samples(AGAIN), self._samples(WITHIN))
        codes[self._flat_line.push(x, self.flat, again, within)] = FLAT
        if rail := self.limits.sensor.rail if self.signal is None else self.limits.rail:
            codes[(np.abs(x) >= rail).any(axis=1)] = 2
        codes[~np.isfinite(x).all(axis=1)] = 1
        if chunk.lead_off is not None:
            codes[chunk.lead_off] = 4
        return codes

    def _samples(self, windows: int) -> int:
        return round(windows * WINDOW_S * self.rate_hz)

    def _usable(self, x: NDArray[np.float32]) -> Iterator[Piece]:
        assert self.next is not None
        x = x[self._paid(len(x)) :]
        if not len(x):
            return
        at, bridged = self.next, 0
        if self._state == "running" and self._hole and self._last is not None:
            bridged = self._hole
            at -= bridged
            yield Annotation(at, '"', aux=f"bridged {self._hole}")
            x = np.concatenate([_line(self._last, x[0], self._hole), x])
        if self._state == "lost":
            yield from self._due()
            yield Annotation(at, "~", subtype=0)
            yield from self._outage.returned(at)
        elif self._marked != bool(self._doubts):
            yield Annotation(self.next, "~", subtype=int(not self._marked))
        self._marked = bool(self._doubts)
        self._state, self._hole = "running", 0
        self._last = x[-1].copy()
        self.next = at + len(x)
        yield Usable(Chunk(at, x), bridged)

    def _paid(self, n: int) -> int:
        """Pay debt with usable samples; return how many of them are spent on it, the signal having been lost by it."""
        assert self.next is not None
        if self._state != "lost":
            self._debt = max(self._debt + COST * self._hole - n, 0)
            return 0
        spent = min(n, self._debt)
        self._debt -= spent
        self.next += spent
        self._hole = 0
        return spent

    def _unusable(self, n: int, reason: int) -> Iterator[Piece]:
        assert self.next is not None
        onset = self.next - self._hole
        self._hole += n
        self.next += n
        if self._state == "lost":
            self._debt = min(self._debt + COST * n, self._most_debt) if self._debt else 0
            return
        most = max(min(self.bridge, (self._most_debt - self._debt) // COST), 0)
        if self._hole <= most:
            return
        self._debt = self._most_debt if most < self.bridge else 0
        yield from self._lose(onset, onset + most, REASONS[reason])

    def _lose(self, onset: int, known: int, label: str) -> Iterator[Piece]:
        """The signal is lost from `onset` on, or has not come yet."""
        yield from self._due(known)
        if self._state == "running":
            yield from self._doubts.end(known, "superseded")
            yield Lost(onset, known)
        yield Annotation(max(onset, 1), "~", subtype=-1, aux=label)  # WFDB keeps no mark of quality at sample 0
        self._state = "lost"
        more = {"asystole": "cannot be excluded"} if label in NO_EXCUSE else {}
        yield from self._outage.lost(label, onset, known, bridge_s=self.limits.bridge_s, **more)

    def _due(self, until: int | None = None) -> Iterator[Piece]:
        """What time alone makes true: detection returns, time stamps have long been in order."""
        assert self.next is not None
        now = self.next if until is None else until
        yield from self._outage.due(now)
        hold = max(round(FAULT_HOLD_S * self.rate_hz), FAULT_HOLD)
        if self._stamps and now >= self._stamps[1] + hold:
            yield self._in_order(self._stamps[1] + hold, "recovered")

    def _doubt(self, doubts: NDArray[np.bool_]) -> Iterator[Piece]:
        """What is doubtful from here on; while detection is held back there is nothing to doubt."""
        assert self.next is not None
        yield from self._due()
        yield from self._doubts.update(doubts, self.next, self.running and not self._outage)

    def _fault(self, fault: str) -> Iterator[Piece]:
        assert self.next is not None
        if self._named == (fault, self.next):
            return
        self._named = (fault, self.next)
        yield from self._due()
        yield technical(fault, "start", self.next, self.next)
        yield technical(fault, "end", self.next, self.next, end=self.next, end_reason="recovered")

    def _backward(self, dropped: int) -> Iterator[Piece]:
        assert self.next is not None
        yield from self._due()
        if self._stamps is None:
            self._stamps = (self.next, self.next, dropped)
            evidence = {"detection": "goes on, repeated samples are dropped"}
            yield technical("timestamps_backward", "start", self.next, self.next, priority="info", evidence=evidence)
        else:
            self._stamps = (self._stamps[0], self.next, self._stamps[2] + dropped)

    def _in_order(self, at: int, reason: EndReason) -> Phase:
        """Time stamps have long been in order, or no more will come."""
        assert self._stamps is not None
        (onset, last, dropped), self._stamps = self._stamps, None
        return technical(
            "timestamps_backward", "end", onset, at, priority="info", end=last, end_reason=reason,
            evidence={"dropped_samples": dropped},
        )  # fmt: skip

    def finish(self) -> Iterator[Piece]:
        """The input has ended: an alarm that is open ends with it."""
        if self.next is None:
            return
        yield from self._due()
        yield from self._outage.finish(self.next)
        yield from self._doubts.end(self.next, "input_ended")
        if self._stamps:
            yield self._in_order(self.next, "input_ended")

    def snapshot(self) -> Memory:
        """What is carried."""
        carried = {key: getattr(self, key) for key in _CARRIED}
        return carried | {key: part.snapshot() for key, part in self._parts().items()}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        for key in _CARRIED:
            value = memory[key]
            setattr(self, key, tuple(value) if isinstance(value, list) else value)
        for key, part in self._parts().items():
            part.restore(memory[key])

    def _parts(self) -> dict[str, Outage | Doubts | FlatLine | Judge]:
        parts: dict[str, Outage | Doubts | FlatLine | Judge] = {
            "outage": self._outage, "doubts": self._doubts, "flat_line": self._flat_line,
        }  # fmt: skip
        return parts | ({"judge": self._judge} if self._judge else {})


_CARRIED = ("next", "_last", "_hole", "_debt", "_state", "_stamps", "_named", "_reason", "_marked")


def _after(chunk: Chunk, at: int) -> Chunk:
    """The part of a chunk from a place on."""
    n = min(at - chunk.at, len(chunk))
    off = None if chunk.lead_off is None else chunk.lead_off[n:]
    return replace(chunk, at=at if n == len(chunk) else chunk.at + n, x=chunk.x[n:], lead_off=off)


def _line(a: NDArray[np.float32], b: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """The n values between a and b on a straight line, (n, channels)."""
    share = np.arange(1, n + 1, dtype=np.float32)[:, np.newaxis] / np.float32(n + 1)
    return a + (b - a) * share
