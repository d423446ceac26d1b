"""Views of a stream that are to stay within what they have been: level, mean, profile of the day, residual."""

from collections import deque
from collections.abc import Sequence
from typing import ClassVar

from holdover.runtime.detect.carried import Carried
from holdover.runtime.detect.escape import Escape
from holdover.runtime.detect.layer import Sample, Setting

DAY_S = 86400.0
BINS = 48
"""Parts of a day that a profile tells apart."""
SHARE = 0.1
"""Of a sample in the profile of its half hour."""


class View(Carried):
    """Values of which the greatest surprise counts."""

    surprises = True
    carried: ClassVar[tuple[str, ...]] = ("_ranges", "_values")

    def __init__(self, setting: Setting, values: int | None = None) -> None:
        self._ranges = [Escape(setting.reach, setting.options.hold) for _ in range(values or setting.channels)]
        self._values: list[float] = []

    def score(self, sample: Sample) -> float:
        """See `Layer`."""
        self._values = self.values(sample)
        return max(self._surprises())

    def _surprises(self) -> list[float]:
        return [escape.surprise(x) for escape, x in zip(self._ranges, self._values, strict=True)]

    @property
    def channel(self) -> int | None:
        """See `Layer`."""
        surprises = self._surprises()
        return surprises.index(max(surprises))

    def learn(self) -> None:
        """See `Layer`."""
        for escape, x in zip(self._ranges, self._values, strict=True):
            escape.learn(x)

    def refuse(self) -> None:
        """A record that has been said is none any more: what was seen once, is known of the range."""
        View.learn(self)

    def values(self, sample: Sample) -> list[float]:
        """What is looked at."""
        raise NotImplementedError


class Residual(View):
    """The residuals, signed, as they come: a range needs no scale, and keeps what a scale that follows would lose."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, setting.errors)

    def values(self, sample: Sample) -> list[float]:
        """See `View`."""
        return list(sample.error)

    def band(self, limit: float) -> tuple[float, float]:
        """Residuals of the first channel between which the surprise is no more than so much."""
        return self._ranges[0].band(limit)


class Level(View):
    """The values themselves."""

    def values(self, sample: Sample) -> list[float]:
        """See `View`."""
        return list(sample.x)


class Mean(View):
    """Means of the last `mean` samples."""

    carried = ("_ranges", "_values", "_recent")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._recent = _recent(setting.channels, setting.options.mean)

    def values(self, sample: Sample) -> list[float]:
        """See `View`."""
        return _means(self._recent, sample.x)


class Profile(View):
    """Means of the last `short` samples above what is usual in that half hour of the day.

    Days are counted from the first sample. A half hour that has not been seen yet has the value that is there.
    """

    carried = ("_ranges", "_values", "_recent", "_usual", "_now", "_x")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._recent = _recent(setting.channels, setting.options.short)
        self._bin_samples = DAY_S / BINS * setting.rate_hz
        self._usual: list[list[float] | None] = [None] * BINS
        self._now = 0
        self._x: list[float] = []

    def values(self, sample: Sample) -> list[float]:
        """See `View`."""
        self._now = int(sample.at / self._bin_samples) % BINS
        self._x = list(sample.x)
        usual = self._usual[self._now] or self._x
        return _means(self._recent, [x - u for x, u in zip(self._x, usual, strict=True)])

    def learn(self) -> None:
        """See `Layer`."""
        super().learn()
        usual = self._usual[self._now] or self._x
        self._usual[self._now] = [u + SHARE * (x - u) for x, u in zip(self._x, usual, strict=True)]


def _recent(channels: int, length: int) -> list[deque[float]]:
    return [deque(maxlen=length) for _ in range(channels)]


def _means(recent: list[deque[float]], values: Sequence[float]) -> list[float]:
    for held, x in zip(recent, values, strict=True):
        held.append(x)
    return [sum(held) / len(held) for held in recent]
