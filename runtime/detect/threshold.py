"""What turns a layer's score into a probability and a decision; the table of them."""

import math
from collections.abc import Callable
from typing import Protocol

from holdover.runtime.detect.anomaly_options import AnomalyOptions
from holdover.runtime.detect.carried import Carried
from holdover.runtime.detect.drift_spot import DriftSpot
from holdover.runtime.detect.spot import Spot
from holdover.runtime.snapshot import Memory


class Threshold(Protocol):
    """A limit on scores, of which high is bad. `risk` is the probability, a sample, that is asked for beyond it."""

    risk: float

    @property
    def calibrating(self) -> bool:
        """Whether there is no limit yet."""
        ...

    @property
    def limit(self) -> float:
        """A score beyond it raises an alert."""
        ...

    def probability(self, x: float) -> float:
        """How often, a sample, a score is beyond x."""
        ...

    def learn(self, x: float) -> None:
        """Take a score that raised no alert."""
        ...

    def exceeded(self) -> None:
        """Take it that an alert was raised, and nothing more of it."""
        ...

    def refit(self) -> None:
        """Find the limit anew, the risk having changed."""
        ...

    def snapshot(self) -> Memory:
        """What is carried."""
        ...

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        ...


class _Waiting(Carried):
    """A limit that learns nothing of scores, and waits until what it limits is settled."""

    carried = ("risk", "_left")

    def __init__(self, risk: float, calibrate: int) -> None:
        self.risk = risk
        self._left = calibrate

    @property
    def calibrating(self) -> bool:
        """Whether what it limits is not settled yet."""
        return self._left > 0

    def learn(self, x: float) -> None:  # noqa: ARG002 (nothing is learned but that time passes)
        """Count the samples of the calibration."""
        self._left = max(self._left - 1, 0)

    def exceeded(self) -> None:
        """Nothing is learned."""

    def refit(self) -> None:
        """Nothing was fitted."""


class Fixed(_Waiting):
    """A limit that never moves; probabilities are those of a normal law whose mean absolute deviation is 1."""

    def __init__(self, risk: float, calibrate: int, limit: float) -> None:
        super().__init__(risk, calibrate)
        self.limit = limit

    def probability(self, x: float) -> float:
        """See `Threshold.probability`.

        Examples
        --------
        >>> round(Fixed(0.0, 0, 6.0).probability(1.2533), 4)  # one standard deviation
        0.3173
        """
        return math.erfc(max(x, 0.0) / math.sqrt(math.pi))


class Own(_Waiting):
    """The limit of scores that are surprises, -ln of a probability, themselves."""

    @property
    def limit(self) -> float:
        """The surprise of what is as rare as was asked for."""
        return -math.log(self.risk)

    def probability(self, x: float) -> float:
        """See `Threshold.probability`."""
        return math.exp(-x)


def _fixed(risk: float, options: AnomalyOptions) -> Threshold:
    return Fixed(risk, options.calibration, options.fixed)


def _spot(risk: float, options: AnomalyOptions) -> Threshold:
    return Spot(risk, options.calibration, options.hold)


def _drift_spot(risk: float, options: AnomalyOptions) -> Threshold:
    return DriftSpot(risk, options.calibration, options.hold, options.depth)


THRESHOLDS: dict[str, Callable[[float, AnomalyOptions], Threshold]] = {
    "spot": _spot,
    "drift_spot": _drift_spot,
    "fixed": _fixed,
}
"""By the name that a contract's detector gives."""
