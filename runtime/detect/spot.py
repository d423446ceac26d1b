"""SPOT: a threshold that a stated share of samples exceeds, from the peaks of the stream itself.

Siffer, Fouque, Termier and Largouet, Anomaly detection in streams with extreme value theory, KDD 2017, algorithm 2.
"""

import math
from collections import deque
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.detect.carried import Carried
from holdover.runtime.detect.tail import Tail, fit

LEVEL = 0.98
"""Share of samples below the threshold over which peaks are taken (as in the paper)."""
PEAKS = 500
"""Peaks that are kept, the newest."""
AGE = 60_000
"""Samples after which a peak is too old to count."""
SHAPES = (-0.5, 0.9)
"""Shapes that are believed: below, the likelihood has no regular maximum; above, the tail has no mean."""
REFIT = 25
"""The law is fitted again when one in so many of the peaks is new."""
LOOK = 1000
"""It is fitted again after so many samples in any case, so that peaks age."""
FEW = 10
"""So few peaks give the exponential law alone, one more peak supposed, of the size of the threshold."""


class Spot(Carried):
    """The threshold of one stream of scores; high is bad.

    Beside the paper's: peaks age; those nearer than `hold` samples to the first of a cluster are one, the greatest, so
    that what is counted is clusters; and a score that raised an alert is kept as "greater than the threshold", not with
    its size, for without it the tail would seem shorter with each alert.

    Parameters
    ----------
    risk
        The probability, a sample, of a score beyond the threshold.
    calibrate
        Samples from which the first threshold is taken.
    hold
        Samples within which peaks are one cluster; 0 for none.

    Examples
    --------
    >>> spot = Spot(risk=1e-3, calibrate=1000)
    >>> for x in np.random.default_rng(1).exponential(size=20_000).tolist():
    ...     spot.learn(x)
    >>> round(spot.limit, 1), round(spot.probability(10.0), 6)  # of the exponential law: 6.9 and 0.000045
    (6.8, 3.2e-05)
    """

    carried = ("risk", "n", "over", "limit", "_first", "_places", "_values", "_beyond", "_cluster", "_new", "_rate",
               "_shape", "_scale", "_least")  # fmt: skip

    def __init__(self, risk: float, calibrate: int, hold: int = 0) -> None:
        self.risk = risk
        self.calibrate = calibrate
        self.hold = hold
        self.level = min(LEVEL, max(1 - 8 * risk, 0.5))
        self.n = 0
        self.over = math.inf
        self.limit = math.inf
        self._first: list[float] = []
        self._places: deque[int] = deque(maxlen=PEAKS)
        self._values: deque[float] = deque(maxlen=PEAKS)
        self._beyond: deque[bool] = deque(maxlen=PEAKS)
        self._cluster = -hold - 1
        self._new = 0
        self._rate, self._shape, self._scale = 1.0, 0.0, 1.0
        self._least = 0.0

    @property
    def calibrating(self) -> bool:
        """Whether there is no threshold yet."""
        return self.n < self.calibrate

    @property
    def tail(self) -> Tail:
        """The law of what exceeds `over`."""
        return Tail(self._shape, self._scale)

    def probability(self, x: float) -> float:
        """How often, a sample, a cluster of scores goes beyond x; 1 where that is not in the tail."""
        return self._rate * self.tail.survival(x - self.over) if x > self.over else 1.0

    def learn(self, x: float) -> None:
        """Take a score that raised no alert."""
        self.n += 1
        if self.n <= self.calibrate:
            self._first.append(x)
            if self.n == self.calibrate:
                self._begin()
            return
        if x > self.over:
            self._peak(x, beyond=False)
        if self._new * REFIT > len(self._values) or not self.n % LOOK:
            self.refit()

    def exceeded(self) -> None:
        """Take it that one cluster went beyond the threshold, and nothing more of it."""
        self.n += 1
        self._peak(self.limit, beyond=True)
        self.refit()

    def refit(self) -> None:
        """Find the threshold anew, once there is one."""
        if self.calibrating:
            return
        self._new = 0
        while self._places and self._places[0] <= self.n - AGE:
            self._drop()
        span = min(self.n, AGE)
        if len(self._places) == PEAKS:
            span = self.n - self._places[0] + 1
        self._track((1 - self.level) * span)
        values, beyond = np.array(self._values, np.float64), np.array(self._beyond, np.bool_)
        self._rate, (self._shape, self._scale) = self._fitted(values - self.over, beyond, span)
        self.limit = self.over + self.tail.excess(min(self.risk / self._rate, 1.0))

    def _begin(self) -> None:
        first, self._first = self._first, []
        self._least, self.over = np.quantile(first, (0.5, self.level)).tolist()
        self.n = 0
        for x in first:
            self.n += 1
            if x > self.over:
                self._peak(x, beyond=False)
        self.refit()

    def _peak(self, x: float, beyond: bool) -> None:
        if self.n - self._cluster <= self.hold and self._values:
            if beyond or (x > self._values[-1] and not self._beyond[-1]):
                self._values[-1], self._beyond[-1] = x, beyond
            return
        self._places.append(self.n)
        self._values.append(x)
        self._beyond.append(beyond)
        self._cluster = self.n
        self._new += 1

    def _drop(self) -> None:
        self._places.popleft()
        self._values.popleft()
        self._beyond.popleft()

    def _track(self, expected: float) -> None:
        """Move the lower threshold where the peaks are twice as many as they should be, or less than half."""
        if len(self._values) > 2 * expected + FEW:
            self.over = sorted(self._values, reverse=True)[int(expected)]
            keep = [value > self.over for value in self._values]
            self._places = deque(compress(self._places, keep), PEAKS)
            self._beyond = deque(compress(self._beyond, keep), PEAKS)
            self._values = deque(compress(self._values, keep), PEAKS)
        elif 2 * len(self._values) + FEW < expected:
            self.over = max(self.over - self._scale / 4, self._least)

    def _fitted(self, excesses: NDArray[np.float64], beyond: NDArray[np.bool_], span: int) -> tuple[float, Tail]:
        """Clusters a sample, and their law."""
        known, censored = excesses[~beyond], np.maximum(excesses[beyond], 0.0)
        n = len(excesses)
        if len(known) < FEW:
            supposed = abs(self.over) or 1.0
            return (n + 1) / span, Tail(0.0, float((supposed + excesses.sum()) / (len(known) + 1)))
        return n / span, fit(known, censored, SHAPES)
