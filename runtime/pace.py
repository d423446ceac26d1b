"""The true rate of a device, by this machine's clock, however its packets are held up on the way."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

BIN_S = 2.0
BINS = 90
KNOWN_AFTER = 3
JUDGED_AFTER_S = 60.0
"""For so long the rate is measured before it is said that it is not the nominal one."""
MISMATCH, MATCH = 0.05, 0.04
"""A rate further from the nominal than the one is wrong, until it is nearer than the other."""


@dataclass(slots=True)
class _Bin:
    """Of the packets since `began_s` the one that was least late for its place; how late it was, and the latest."""

    began_s: float
    earliest: tuple[int, float]
    least_s: float
    most_s: float


class Pace:
    """Samples a second, from how many have come by when.

    A packet can come late but not early, so of each `BIN_S` that which came earliest for its place counts. The rate is
    the median of the slopes between all pairs of these (Theil 1950, Sen 1968): a third of them may be wrong.

    Parameters
    ----------
    nominal_hz
        What the rate should be.

    Attributes
    ----------
    rate_hz
        What it is over the last 3 min; None until it is known.
    jitter_s
        The mean over these bins of how much later than the earliest packet the latest comes; None until it is known.

    Examples
    --------
    >>> pace = Pace(130.0)
    >>> for k in range(200):
    ...     pace.push(73 * k, 73 * k / 129.0)
    >>> round(pace.rate_hz, 3), pace.mismatch
    (129.0, False)
    """

    def __init__(self, nominal_hz: float) -> None:
        self.nominal_hz = nominal_hz
        self.rate_hz: float | None = None
        self.jitter_s: float | None = None
        self.mismatch = False
        self._points: deque[tuple[int, float]] = deque(maxlen=BINS)
        self._spreads: deque[float] = deque(maxlen=BINS)
        self._bin: _Bin | None = None

    def push(self, place: int, now_s: float) -> None:
        """The sample before `place` came at `now_s`, by a clock that is never set."""
        if self._bin is not None and now_s - self._bin.began_s >= BIN_S:
            self._close(self._bin)
        late_s = now_s - place / (self.rate_hz or self.nominal_hz)
        if self._bin is None:
            self._bin = _Bin(now_s, (place, now_s), late_s, late_s)
        elif late_s < self._bin.least_s:
            self._bin.earliest, self._bin.least_s = (place, now_s), late_s
        self._bin.most_s = max(self._bin.most_s, late_s)

    def reset(self) -> None:
        """The device has begun anew: what went before does not count."""
        self._points.clear()
        self._bin = None

    def _close(self, full: _Bin) -> None:
        self._points.append(full.earliest)
        self._spreads.append(full.most_s - full.least_s)
        self._bin = None
        if len(self._points) >= KNOWN_AFTER:
            self._measure()

    def _measure(self) -> None:
        place, now = np.array(self._points, np.float64).T
        i, j = np.triu_indices(len(now), 1)
        self.rate_hz = float(np.median((place[j] - place[i]) / (now[j] - now[i])))
        self.jitter_s = float(np.mean(self._spreads))
        if now[-1] - now[0] >= JUDGED_AFTER_S:
            off = abs(self.rate_hz / self.nominal_hz - 1)
            self.mismatch = off > (MATCH if self.mismatch else MISMATCH)


def ppm(rate_hz: float, nominal_hz: float) -> float:
    """How much faster a rate is than the nominal one, in millionths.

    >>> ppm(129.0, 130.0)
    -7692.3
    """
    return round((rate_hz / nominal_hz - 1) * 1e6, 1) if math.isfinite(rate_hz) else math.nan
