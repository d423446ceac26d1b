"""A heart rate so high that it endangers life."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import BeatRule
from holdover.runtime.detect.row import EVEN

AGAIN = 3
"""Fast intervals in a row after which one more slower interval may be forgiven."""


class ExtremeTachycardia(BeatRule):
    """`extreme_tachycardia_beats` beats in a row, each faster than the limit.

    The Computing in Cardiology Challenge 2015: above 140/min for 17 beats. The limit is `tachycardia_bpm` and
    `extreme_tachycardia_delta_bpm` (Philips: a limit and a distance). As many slower intervals as `wrong_beats` are
    forgiven within a row, no longer than two of the limit: such a one is what a beat leaves that was not found. One
    more is after `AGAIN` fast ones, if half of it is as long as these. Over when the rate is back by the hysteresis,
    as for extreme bradycardia, or after a silence of `SILENCE_S`.
    """

    labels = ("extreme_tachycardia",)
    carried = ("first", "fast", "forgiven", "since_slow", "back")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.first = self.fast = self.forgiven = self.since_slow = self.back = 0

    @property
    def limit_bpm(self) -> float:
        """Above which a rate is extreme."""
        return self.limits.tachycardia_bpm + self.limits.extreme_tachycardia_delta_bpm

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        if self.interval is None:
            self.first = beat.at
            return
        self._count(beat.at, self.interval)
        if self.episode:
            if self.back > 2 * self.limits.wrong_beats:
                yield self.episode.end(beat.at, beat.at, rr_ms=self.rr_ms())
        elif self.fast >= self.limits.extreme_tachycardia_beats - 1:
            yield self.episode.start(
                self.first, beat.at, None, beats=self.fast + 1, rr_ms=self.rr_ms(), limit_bpm=self.limit_bpm
            )

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        if self.last is not None and self.episode and (at := self.fell_silent(now)) is not None:
            yield self.episode.end(self.last, at, rr_ms=self.rr_ms())

    def _count(self, at: int, interval: int) -> None:
        limit = self._samples(self.limit_bpm)
        inside = interval >= self._samples(self.limit_bpm - self.limits.rate_hysteresis_bpm)
        self.back = self.back + 1 if inside else 0
        if interval < limit:
            self.fast, self.since_slow = self.fast + 1, self.since_slow + 1
        elif self.fast and interval <= 2 * limit and self._forgives():
            self.forgiven, self.since_slow = self.forgiven + 1, 0
        else:
            self.fast, self.forgiven, self.since_slow, self.first = 0, 0, 0, at

    def _forgives(self) -> bool:
        """Whether the last interval, not fast, is one that the row may have."""
        if self.forgiven < self.limits.wrong_beats:
            return True
        if not self.forgiven or self.since_slow < AGAIN:
            return False
        rr = list(self.rr)
        mean = sum(rr[-1 - AGAIN : -1]) / AGAIN
        return mean <= EVEN * rr[-1] / 2 and rr[-1] / 2 <= EVEN * mean

    def _samples(self, bpm: float) -> float:
        return 60 * self.rate_hz / bpm
