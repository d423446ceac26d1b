"""A rhythm without any, as in atrial fibrillation."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from statistics import median
from typing import ClassVar

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import VENTRICULAR, BeatRule

BEATS = 8
APART_S = 0.03
BIGEMINY = 2e-4
START, STOP = 0.725, 0.5
"""Irregularity a second, from which on the rhythm is irregular and below which it no longer is."""

SETTLE_S = 16.0
LONGEST_S = 1.0


class IrregularRhythm(BeatRule):
    """RR intervals as irregular as in atrial fibrillation, for half a minute (an alarm within 60 s of the onset).

    After Petrenas, Marozas and Sornmo, "Low-complexity detection of atrial fibrillation in continuous long-term
    monitoring", Computers in Biology and Medicine 65:184-191, 2015: the share of pairs among the last eight intervals,
    smoothed by a median of three, that differ by 30 ms or more; averaged, over the mean interval; where the intervals
    alternate as in bigeminy, next to nothing. Ours are: the averages run in time (16 s) and not in beats, the mean
    interval counts as 1 s at most, so that a slow fibrillation is found within the minute, intervals beside a
    ventricular beat are left out, and the end has a limit of its own. P waves are not looked at: flutter with changing
    conduction and many premature beats are as irregular.
    """

    labels = ("irregular_rhythm",)
    carried: ClassVar[tuple[str, ...]] = ("ventricular", "raw", "smooth", "mean", "spread", "turns")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.ventricular = False
        self.raw: deque[float] = deque(maxlen=BEATS + 1)
        self.smooth: deque[float] = deque(maxlen=BEATS)
        self.mean = self.spread = self.turns = 0.0

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        value = self.irregularity(beat)
        if value is None:
            return
        if self.episode and value < STOP:
            yield self.episode.end(beat.at, beat.at, irregularity=round(value, 3))
        elif value > START and not self.episode:
            evidence = {"irregularity": round(value, 3), "mean_rr_ms": round(1000 * self.mean), "rr_ms": self.rr_ms()}
            yield self.episode.start(beat.at, beat.at, None, **evidence)

    def irregularity(self, beat: Annotation) -> float | None:
        """Irregularity a second, with the interval that the beat ends; None where it ends none, or of too few."""
        before, self.ventricular = self.ventricular, beat.symbol in VENTRICULAR
        if before or self.ventricular or not self.interval:
            return None
        self._take(self.interval / self.rate_hz)
        if len(self.raw) <= BEATS:
            return None
        return self.spread / min(self.mean, LONGEST_S) if self.turns >= BIGEMINY else self.turns

    def _take(self, rr: float) -> None:
        self.raw.append(rr)
        smooth = median(list(self.raw)[-3:])
        self.smooth.append(smooth)
        share = 1 - math.exp(-rr / SETTLE_S)
        self.mean += share * (smooth - self.mean) if self.mean else smooth
        if len(self.raw) > BEATS:
            turns = (sum(self.smooth) / sum(list(self.raw)[:-1]) - 1) ** 2
            self.spread += share * (_apart(self.smooth) - self.spread)
            self.turns += share * (turns - self.turns)


def _apart(rr: Iterable[float]) -> float:
    """The share of pairs that differ by `APART_S` or more."""
    ordered, far, low = sorted(rr), 0, 0
    for value in ordered:
        while value - ordered[low] >= APART_S:
            low += 1
        far += low
    return 2 * far / (len(ordered) * (len(ordered) - 1))
