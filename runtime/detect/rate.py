"""Heart rate as monitors compute it, and its limits."""

from collections import deque
from collections.abc import Iterator, Sequence

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.episode import Episode
from holdover.runtime.detect.limits import Limits
from holdover.runtime.snapshot import Memory

INTERVALS = 12
SLOW_S = 1.2


def heart_rate_bpm(rr_s: Sequence[float]) -> float | None:
    """Mean rate over the last RR intervals, None while there are fewer than four.

    The last 12 intervals without the longest and the shortest; where the last three are all longer than 1.2 s, the
    last four alone (as the manuals of Mindray and Philips monitors describe it).

    Examples
    --------
    >>> heart_rate_bpm([0.8] * 12)
    75.0
    >>> heart_rate_bpm([0.8] * 8 + [1.5] * 4)
    40.0
    """
    if len(rr_s) < 4:
        return None
    if min(rr_s[-3:]) > SLOW_S:
        used = list(rr_s[-4:])
    elif len(rr_s) >= INTERVALS:
        used = sorted(rr_s[-INTERVALS:])[1:-1]
    else:
        used = list(rr_s)
    return round(60 * len(used) / sum(used), 3)


class Rate:
    """Tachycardia above and bradycardia below the limits; over when the rate is back inside by the hysteresis."""

    def __init__(self, rate_hz: float, limits: Limits) -> None:
        self.rate_hz = rate_hz
        self.limits = limits
        self._last: int | None = None
        self._rr: deque[float] = deque(maxlen=INTERVALS)
        self._fast = Episode("tachycardia", "medium")
        self._slow = Episode("bradycardia", "medium")

    @property
    def bpm(self) -> float | None:
        """The heart rate now, beats a minute."""
        return heart_rate_bpm(list(self._rr))

    def update(self, beats: Sequence[Annotation], until: int) -> Iterator[Phase]:  # noqa: ARG002 (beats alone decide)
        """See `Rule.update`."""
        for beat in beats:
            if self._last is not None and beat.at > self._last:
                self._rr.append((beat.at - self._last) / self.rate_hz)
            self._last = beat.at
            if (bpm := self.bpm) is not None:
                yield from self._judge(bpm, beat.at)

    def _judge(self, bpm: float, at: int) -> Iterator[Phase]:
        limits, back = self.limits, self.limits.rate_hysteresis_bpm
        shown = round(bpm, 1)
        if self._fast and bpm <= limits.tachycardia_bpm - back:
            yield self._fast.end(at, at, rate_bpm=shown)
        if self._slow and bpm >= limits.bradycardia_bpm + back:
            yield self._slow.end(at, at, rate_bpm=shown)
        if bpm > limits.tachycardia_bpm and not self._fast:
            yield self._fast.start(at, at, None, rate_bpm=shown, limit_bpm=limits.tachycardia_bpm)
        if bpm < limits.bradycardia_bpm and not self._slow:
            yield self._slow.start(at, at, None, rate_bpm=shown, limit_bpm=limits.bradycardia_bpm)

    def interrupt(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:
        """See `Rule.interrupt`."""
        self._last = None
        self._rr.clear()
        for episode in (self._fast, self._slow):
            if episode:
                yield episode.end(end, at, reason)

    def snapshot(self) -> Memory:
        """What is carried."""
        return {"last": self._last, "rr": list(self._rr), "fast": self._fast.onset, "slow": self._slow.onset}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self._last, self._rr = memory["last"], deque(memory["rr"], maxlen=INTERVALS)
        self._fast.onset, self._slow.onset = memory["fast"], memory["slow"]
