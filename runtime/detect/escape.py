"""How far a value is outside all that the stream has been lately, and how rare that is."""

import math
from collections import deque

from holdover.runtime.detect.carried import Carried

BLOCKS = 16
"""Parts of the reach, of each of which the least and the greatest are kept: the oldest part is forgotten at a time."""
EXCESS, WORTH = 0.01, 50.0
"""Mean excess of a record, in ranges, that is supposed before the first, and how many records that is worth (ours:
0.003 to 0.03 do as well on the NAB series)."""
FIRST = 100
"""Values of which none counts as a record."""
DOUBT = 10.0
"""How many records as often as chance has them are supposed before the first."""
KEPT = 200.0
"""When so many records were due, what is known of them counts for half from there on."""
LEAST = 1e-30
MOST = 1.0
"""Ranges that a record may count for in what is learned of excesses."""


class Escape(Carried):
    """The surprise of a value, -ln of its probability: 0 within the range of the last `reach` values; high is bad.

    One of n values that can be exchanged is the greatest or the least with the probability 2 / n. Streams set records
    more often or less: that is counted, those within `hold` values of the last as one. How far a record goes beyond the
    range is exponential of a mean that is learned from those before (their predictive law, Lomax), so the tail is light
    at first and the stream's own later. Every value becomes part of the range: a new level is said once.

    Parameters
    ----------
    reach
        Values that the range is remembered for, to a sixteenth.
    hold
        Values within which records are one.

    Examples
    --------
    >>> escape = Escape(reach=160, hold=1)
    >>> for x in range(100):
    ...     escape.learn(float(x % 10))
    >>> escape.surprise(5.0), round(escape.surprise(9.09), 1), round(escape.surprise(12.0), 1)
    (0.0, 4.9, 29.5)
    """

    carried = ("n", "low", "high", "_lows", "_highs", "_in_block", "_due", "_records", "_excess", "_since", "_peak")

    def __init__(self, reach: int, hold: int) -> None:
        self.hold = hold
        self._block = max(reach // BLOCKS, 1)
        self.n = 0
        self.low, self.high = math.inf, -math.inf
        self._lows: deque[float] = deque(maxlen=BLOCKS)
        self._highs: deque[float] = deque(maxlen=BLOCKS)
        self._in_block = 0
        self._due = self._records = self._excess = self._peak = 0.0
        self._since = hold + 1

    def surprise(self, x: float) -> float:
        """-ln of how often, a sample, a value is so far out."""
        if self.low <= x <= self.high or not self.n:
            return 0.0
        return self._rare() + self._steep() * math.log1p(self._beyond(x) / self._sum())

    def band(self, limit: float) -> tuple[float, float]:
        """Values between which the surprise is no more than so much."""
        over = math.expm1(min(max(limit - self._rare(), 0.0) / self._steep(), 300.0))
        room = self._sum() * over * self._range()
        return self.low - room, self.high + room

    def learn(self, x: float) -> None:
        """Make a value one of those that have been."""
        if self.n >= FIRST:
            self._count(x)
        if not self._in_block:
            self._lows.append(x)
            self._highs.append(x)
            self.low, self.high = min(self._lows), max(self._highs)
        else:
            self._lows[-1], self._highs[-1] = min(self._lows[-1], x), max(self._highs[-1], x)
            self.low, self.high = min(self.low, x), max(self.high, x)
        self._in_block = (self._in_block + 1) % self._block
        self.n = min(self.n + 1, len(self._lows) * self._block)

    def _count(self, x: float) -> None:
        """Count the records that were due, and a value that is one."""
        self._due += 2 / (self.n + 1)
        self._since += 1
        if not self.low <= x <= self.high:
            excess = min(self._beyond(x), MOST)
            if self._since > self.hold:
                self._records += 1
                self._since, self._peak = 0, 0.0
            self._excess += max(excess - self._peak, 0.0)
            self._peak = max(self._peak, excess)
        if self._due > KEPT:
            self._due, self._records, self._excess = self._due / 2, self._records / 2, self._excess / 2

    def _beyond(self, x: float) -> float:
        """How far a value that is outside the range is beyond it, in ranges."""
        return max(x - self.high, self.low - x) / self._range()

    def _range(self) -> float:
        return max(self.high - self.low, 1e-6 * max(abs(self.high), abs(self.low)), LEAST)

    def _rare(self) -> float:
        """The surprise of the smallest record."""
        often = 2 / (self.n + 1) * (DOUBT + self._records) / (DOUBT + self._due)
        return max(-math.log(often), 0.0)

    def _steep(self) -> float:
        return WORTH + self._records

    def _sum(self) -> float:
        """Sum of the excesses, of as many records as `_steep`."""
        return WORTH * EXCESS + self._excess
