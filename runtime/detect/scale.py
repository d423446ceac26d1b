"""Where errors lie and how far they scatter, carried from sample to sample and robust against those that do not fit."""

from holdover.runtime.detect.carried import Carried

FIRST = 50
"""Samples whose median and mean absolute deviation are where it begins."""
CLIP = 3.0
"""An error counts as no more than so many of the scale (Huber, Robust Statistics, 1981)."""
MOST = 1e6
"""No score is greater; a signal that never moved has no scale, and its first step any."""
LEAST = 1e-30
"""What stands for a spread of 0."""


class Scale(Carried):
    """Median-like centre and mean absolute deviation of a stream of errors.

    Parameters
    ----------
    memory
        Samples that are remembered: an exponential mean, of fewer at the start.
    """

    carried = ("n", "centre", "spread", "_first")

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.n = 0
        self.centre = 0.0
        self.spread = 0.0
        self._first: list[float] = []

    @property
    def known(self) -> bool:
        """Whether there are a centre and a spread yet."""
        return self.n >= FIRST

    def score(self, error: float, least: float = LEAST) -> float:
        """How far an error is from the centre, signed, in spreads, of at least so much each; within `MOST`."""
        z = (error - self.centre) / max(self.spread, least)
        return MOST if z > MOST else max(z, -MOST)

    def learn(self, error: float) -> None:
        """Take an error."""
        self.n += 1
        if self.n <= FIRST:
            self._first.append(error)
            if self.n == FIRST:
                self._begin()
            return
        most = CLIP * self.spread if self.spread else abs(error - self.centre)
        off = min(max(error - self.centre, -most), most)
        share = 1 / min(self.n, self.memory)
        self.centre += share * off
        self.spread += share * (abs(off) - self.spread)

    def _begin(self) -> None:
        self.centre = sorted(self._first)[FIRST // 2]
        self.spread = sum(abs(error - self.centre) for error in self._first) / FIRST
        self._first = []
