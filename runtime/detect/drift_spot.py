"""Drift SPOT: SPOT on what a stream is above its own recent mean (Siffer et al., KDD 2017, algorithm 3)."""

from collections import deque

from holdover.runtime.detect.carried import Carried
from holdover.runtime.detect.spot import Spot


class DriftSpot(Carried):
    """The threshold of a stream of scores whose level drifts: that of `Spot`, over a moving mean; high is bad.

    Parameters
    ----------
    risk, calibrate, hold
        See `Spot`; the first `depth` samples make the first mean and calibrate nothing.
    depth
        Samples without an alert that the mean is taken over.
    """

    carried = ("spot", "_recent", "_sum")

    def __init__(self, risk: float, calibrate: int, hold: int = 0, depth: int = 100) -> None:
        self.spot = Spot(risk, max(calibrate - depth, 1), hold)
        self._recent: deque[float] = deque(maxlen=depth)
        self._sum = 0.0

    @property
    def calibrating(self) -> bool:
        """Whether there is no threshold yet."""
        return self.spot.calibrating

    @property
    def risk(self) -> float:
        """See `Spot`."""
        return self.spot.risk

    @risk.setter
    def risk(self, risk: float) -> None:
        self.spot.risk = risk

    @property
    def mean(self) -> float:
        """Of the last `depth` samples without an alert."""
        return self._sum / max(len(self._recent), 1)

    @property
    def limit(self) -> float:
        """What raises an alert now."""
        return self.mean + self.spot.limit

    def probability(self, x: float) -> float:
        """See `Spot.probability`."""
        return self.spot.probability(x - self.mean)

    def learn(self, x: float) -> None:
        """Take a score that raised no alert."""
        if len(self._recent) == self._recent.maxlen:
            self.spot.learn(x - self.mean)
            self._sum -= self._recent[0]
        self._recent.append(x)
        self._sum += x
        if not self.spot.n % len(self._recent):
            self._sum = sum(self._recent)  # so that rounding does not add up

    def exceeded(self) -> None:
        """See `Spot.exceeded`."""
        self.spot.exceeded()

    def refit(self) -> None:
        """See `Spot.refit`."""
        self.spot.refit()
