"""A ventricular beat on the T wave of the one before."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import VENTRICULAR, BeatRule
from holdover.runtime.detect.rate import bpm_of

BEATS = 8
MOST_BPM = 100.0
EARLY, LATE = 1 / 3, 1.25


class ROnT(BeatRule):
    """At less than 100/min, a ventricular beat within a third of the mean RR interval, then none for 1.25 of it.

    So manuals of bedside monitors have it. The mean is over the eight intervals before the beat. It comes true when
    the pause has lasted.
    """

    labels = ("r_on_t",)
    carried = ("due", "early")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.due: int | None = None
        self.early: list[int] = []

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        self.due = None
        rr = list(self.rr)[-BEATS - 1 :]
        if beat.symbol in VENTRICULAR and self.interval and len(rr) > BEATS:
            mean = sum(rr[:-1]) / BEATS
            if bpm_of(mean) < MOST_BPM and rr[-1] < EARLY * mean:
                self.due, self.early = beat.at + round(LATE * mean * self.rate_hz), self.rr_ms()
        return iter(())

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        if self.last is not None and self.due is not None and self.due < now:
            at, self.due = self.due, None
            yield self.episode.start(self.last, at, None, rr_ms=self.early)
            yield self.episode.end(self.last, at)
