"""The anomaly likelihood: a short mean of errors, against all such means."""

from collections import deque

from holdover.runtime.detect.carried import Carried
from holdover.runtime.detect.layer import Sample, Setting
from holdover.runtime.detect.scale import Scale


class Likelihood(Carried):
    """How far a short mean of the residual's size is above where such means are (Lavin and Ahmad, ICMLA 2015).

    In mean absolute deviations of them; 0 below their centre.
    """

    surprises = False
    channel = None
    carried = ("_recent", "_scale", "_mean")

    def __init__(self, setting: Setting) -> None:
        self._recent: deque[float] = deque(maxlen=setting.options.short)
        self._scale = Scale(setting.options.memory)
        self._mean = 0.0

    def score(self, sample: Sample) -> float:
        """See `Layer`."""
        self._recent.append(sample.size)
        self._mean = sum(self._recent) / len(self._recent)
        return max(self._scale.score(self._mean), 0.0) if self._scale.known else 0.0

    def learn(self) -> None:
        """See `Layer`."""
        self._scale.learn(self._mean)

    def refuse(self) -> None:
        """Nothing is learned of an alarmed sample."""


class Error(Carried):
    """The residual's size itself."""

    surprises = False
    channel = None

    def __init__(self, setting: Setting) -> None:
        pass

    def score(self, sample: Sample) -> float:
        """See `Layer`."""
        return sample.size

    def learn(self) -> None:
        """Nothing is carried: residuals have been scaled."""

    def refuse(self) -> None:
        """Nothing is carried."""
