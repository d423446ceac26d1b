"""A beat that did not come when it was due."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import NORMAL, BeatRule
from holdover.runtime.detect.rate import bpm_of

FAST_BPM = 120.0
LATE, LATE_FAST_S = 1.75, 1.0
BEATS = 8


class MissedBeat(BeatRule):
    """No beat for 1.75 times the mean of the last eight RR intervals; from 120/min on, for 1 s (manuals of monitors).

    Only after a normal beat: what follows a premature one is its compensatory pause.
    """

    labels = ("missed_beat",)
    carried = ("due",)

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.due: int | None = None

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        if self.episode and self.interval is not None:
            yield self.episode.end(beat.at, beat.at, interval_s=round(self.interval / self.rate_hz, 3))
        self.due = None
        rr = list(self.rr)[-BEATS:]
        if len(rr) == BEATS and beat.symbol in NORMAL:
            mean_s = sum(rr) / BEATS
            late_s = LATE * mean_s if bpm_of(mean_s) < FAST_BPM else LATE_FAST_S
            self.due = beat.at + round(late_s * self.rate_hz)

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        if self.last is not None and self.due is not None and self.due < now:
            at, self.due = self.due, None
            yield self.episode.start(self.last, at, None, last_beat_sample=self.last, rr_ms=self.rr_ms())
