"""A heart rate so low that it endangers life."""

import math
from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import BeatRule


class ExtremeBradycardia(BeatRule):
    """`extreme_bradycardia_beats` beats in a row, each slower than the limit, or as slow for `extreme_bradycardia_s`.

    The Computing in Cardiology Challenge 2015: below 40/min for five beats. At 20/min these take 12 s, so that the
    time, ours, decides below 35/min: at least two intervals, the last of which may still be open. The limit is
    `bradycardia_bpm` less `extreme_bradycardia_delta_bpm` (Philips: a limit and a distance). Over when the rate of
    every interval is back by the hysteresis: of one, and of two more for each wrong beat that is tolerated.
    """

    labels = ("extreme_bradycardia",)
    carried = ("first", "slow", "back")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.first = self.slow = self.back = 0

    @property
    def limit_bpm(self) -> float:
        """Below which a rate is extreme."""
        return self.limits.bradycardia_bpm - self.limits.extreme_bradycardia_delta_bpm

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        if self.interval is None:
            self.first = beat.at
            return
        if self.interval > self._samples(self.limit_bpm):
            self.slow, self.back = self.slow + 1, 0
        else:
            self.slow, self.first = 0, beat.at
            inside = self.interval <= self._samples(self.limit_bpm + self.limits.rate_hysteresis_bpm)
            self.back = self.back + 1 if inside else 0
        if self.episode:
            if self.back > 2 * self.limits.wrong_beats:
                yield self.episode.end(beat.at, beat.at, rr_ms=self.rr_ms())
        elif self.slow >= self.limits.extreme_bradycardia_beats - 1 or (self.slow > 1 and beat.at >= self._long()):
            yield self._start(beat.at)

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        if self.slow < 1 or self.episode or self.last is None:
            return
        at = max(self._long(), self.last + math.floor(self._samples(self.limit_bpm)) + 1)
        if at < now:
            yield self._start(at)

    def _start(self, at: int) -> Phase:
        return self.episode.start(
            self.first, at, None, beats=self.slow + 1, rr_ms=self.rr_ms(), limit_bpm=self.limit_bpm
        )

    def _long(self) -> int:
        """Sample at which the slow stretch has lasted long enough, however few its beats."""
        return self.first + round(self.limits.extreme_bradycardia_s * self.rate_hz)

    def _samples(self, bpm: float) -> float:
        return 60 * self.rate_hz / bpm
