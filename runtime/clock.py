"""The sample clock of sources that stamp their samples, and of those that fall silent."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.chunk import Chunk

CLOCK_JUMP_S, CLOCK_JUMP = 2.0, 3
"""A time stamp that goes back by more than so many seconds and samples is a clock that was set, not a late sample.
Local time without a zone does so once a year, where an hour comes twice."""
SILENCE_S = 2.0
"""A live source that gives nothing for so long is missing samples."""
MAX_HOLE_S = 86400.0
"""A time stamp of a live source that goes ahead by more than this is a clock that was set, not a silence."""


class SampleClock:
    """Time stamps to places: round((t - t0) * rate), with jitter absorbed.

    A stamp within `jitter_s` of where the next sample is expected counts as that sample. Later ones leave a hole,
    earlier ones repeat or go back and get a place that was there before. A stamp farther back than
    `CLOCK_JUMP_S` and `CLOCK_JUMP` samples, or more than `max_hole_s` ahead, is a clock that was set: places count on,
    and the fault is named.

    Examples
    --------
    >>> clock = SampleClock(10.0)
    >>> [(s.start, s.stop, at, fault) for s, at, fault in clock.place(np.array([5.0, 5.1, 5.4, 5.5]))]
    [(0, 2, 0, ''), (2, 4, 4, '')]
    """

    def __init__(self, rate_hz: float, jitter_s: float = 0.02, max_hole_s: float = MAX_HOLE_S) -> None:
        self.rate_hz = rate_hz
        self.max_hole_s = max_hole_s
        self.slack = max(jitter_s * rate_hz, 0.75)
        self.next = 0
        self.epoch: float | None = None
        self._following = 0  # just after the last sample placed; behind `next` while the source goes over old ones

    def place(self, t: NDArray[np.float64]) -> Iterator[tuple[slice, int, str]]:
        """Split stamps (n,), seconds, into runs of consecutive places: (which, place of the first, fault)."""
        start = 0
        while start < len(t):
            at, fault = self._anchor(float(t[start]))
            run = t[start:]
            off = self._target(run, self.epoch or 0.0) - (at + np.arange(len(run)))
            stray = np.flatnonzero(np.abs(off) > self.slack)
            n = max(int(stray[0]), 1) if len(stray) else len(run)
            yield slice(start, start + n), at, fault
            self._following = at + n
            self.next = max(self.next, at + n)
            start += n

    def _target(self, t: NDArray[np.float64], epoch: float) -> NDArray[np.float64]:
        return (t - epoch) * self.rate_hz

    def _anchor(self, t: float) -> tuple[int, str]:
        if self.epoch is None:
            self.epoch = t - self.next / self.rate_hz
        target = (t - self.epoch) * self.rate_hz
        if abs(target - self._following) <= self.slack:
            return self._following, ""
        ahead_s = (target - self.next) / self.rate_hz
        back = max(CLOCK_JUMP_S * self.rate_hz, CLOCK_JUMP)
        if ahead_s > self.max_hole_s or target < max(-self.slack, self.next - back):
            self.epoch = t - self.next / self.rate_hz
            return self.next, "clock_jump"
        return max(round(target), 0), ""


class Holdover:
    """Keeps a live stream's clock going on the nominal rate while its source is silent.

    After `silence_s` without a sample, the samples that should have come are declared missing, by an empty chunk
    further on. Those that come next take the place that their source gives them if it is after that, as a source
    with time stamps does; else they follow there, as those of a source that only counts must.
    """

    def __init__(self, rate_hz: float, start: int = 0, silence_s: float = SILENCE_S) -> None:
        self.rate_hz = rate_hz
        self.silence_s = silence_s
        self.shift = start
        self.next = start
        self._heard: float | None = None
        self._declared = False

    def push(self, chunk: Chunk, now: float) -> Chunk:
        """Put a chunk on this clock; `now` is a monotonic time in seconds."""
        if self._heard is None:
            self._heard = now
        if len(chunk):
            return self._placed(chunk, now)
        if now - self._heard > self.silence_s:
            self.next += int((now - self._heard) * self.rate_hz)
            self._heard, self._declared = now, True
        self.next = max(self.next, chunk.at + self.shift)
        return replace(chunk, at=self.next)

    def _placed(self, chunk: Chunk, now: float) -> Chunk:
        if self._declared:
            self.shift += max(self.next - chunk.at - self.shift, 0)
        self._heard, self._declared = now, False
        chunk = replace(chunk, at=chunk.at + self.shift)
        self.next = max(self.next, chunk.end)
        return chunk
