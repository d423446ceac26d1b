"""The time of day of a sample, where the device's clock runs at another rate than its name says."""

import math
from collections import deque
from itertools import combinations
from statistics import median

from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.carried import Carried

WINDOW_S = 30.0
STRAY = 0.1
"""A rate that is off by more is no drift but a recording played fast, a stall, or a wrong setting: not followed."""
STEP_S = 10.0
"""This machine's clock was set if samples of the right rate are off by more: the time of day then jumps, once."""
SEGMENTS = 64
TOLD, NOT_LATE = 20, 10
"""Windows from which the rate is told, ten minutes; of the last so many one was not late, a stall is shorter."""


class WallClock(Carried):
    """Places on the sample clock to Unix time, from when samples arrived.

    Time is a line of straight segments, each `WINDOW_S` of samples long: where one begins, the windows before it have
    told the device's true period and how far off the line is, and its slope is such that it is right at its end. So the
    time of a sample is settled when the sample comes, never changes, and never goes back. A sample can arrive late but
    not early: of each window the one that arrived earliest for its place counts.

    All it knows comes from `Chunk.at`, `Chunk.arrived` and the number of samples, which the journal keeps: a journal
    that is read again gives the same times.

    Parameters
    ----------
    rate_hz
        Nominal rate.
    epoch
        Unix time of sample 0, in seconds.

    Examples
    --------
    >>> import numpy as np
    >>> clock, day = WallClock(100.0, 1e9), 86400  # a device that gives 101 samples a second
    >>> for second in range(day):
    ...     clock.push(Chunk(101 * second, np.zeros((101, 1), np.float32), arrived=1e9 + second + 1.0))
    >>> round(clock.time(101 * day) - 1e9 - day, 3)
    0.0
    """

    carried = ("_segments", "_edge", "_best", "_told")

    def __init__(self, rate_hz: float, epoch: float) -> None:
        self.rate_hz = rate_hz
        self.window = max(round(WINDOW_S * rate_hz), 1)
        self._segments: deque[list[float]] = deque([[0, epoch, 1 / rate_hz]], SEGMENTS)
        self._edge = self.window
        self._best: list[float] | None = None
        self._told: deque[list[float]] = deque(maxlen=TOLD)

    def push(self, chunk: Chunk) -> None:
        """Note when a chunk arrived; a chunk without `arrived` tells nothing."""
        if not math.isfinite(chunk.arrived):
            return
        if self._best is None or chunk.arrived - self.time(chunk.end) < self._best[1] - self.time(int(self._best[0])):
            self._best = [chunk.end, chunk.arrived]
        if chunk.end >= self._edge:
            self._close(chunk.end)

    def time(self, sample: int) -> float:
        """The Unix time of a sample, seconds."""
        at, begin, period = next((s for s in reversed(self._segments) if s[0] <= sample), self._segments[0])
        return begin + (sample - at) * period

    def _close(self, end: int) -> None:
        """Begin a segment at `end`, by what this window and those before it have told."""
        assert self._best is not None
        place, arrived = self._best
        self._told.append(self._best)
        self._best, self._edge = None, end + self.window
        period = self._period()
        if period is None or abs(period * self.rate_hz - 1) > STRAY:
            return
        now = self.time(end)
        true = min(b + (end - a) * period for a, b in list(self._told)[-NOT_LATE:])
        if abs(true - now) > STEP_S:
            self._told = deque([[place, arrived]], TOLD)
            self._segments.append([end, true, period])
            return
        slope = (true + self.window * period - now) / self.window
        self._segments.append([end, now, min(max(slope, 0.5 / self.rate_hz), 2 / self.rate_hz)])

    def _period(self) -> float | None:
        """Seconds from sample to sample: the median over all pairs that are at least a window apart."""
        pairs = [(a, b) for a, b in combinations(self._told, 2) if b[0] - a[0] >= self.window]
        return median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs) if pairs else None
