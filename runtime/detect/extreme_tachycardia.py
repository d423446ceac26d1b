"""A heart rate so high that it endangers life."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import BeatRule


class ExtremeTachycardia(BeatRule):
    """`extreme_tachycardia_beats` beats in a row, each faster than the limit.

    The Computing in Cardiology Challenge 2015: above 140/min for 17 beats. The limit is `tachycardia_bpm` and
    `extreme_tachycardia_delta_bpm` (Philips: a limit and a distance). As many slower intervals as `wrong_beats` are
    forgiven within a row, no longer than two of the limit: such a one is what a beat leaves that was not found. Over
    when the rate is back by the hysteresis, as for extreme bradycardia.
    """

    labels = ("extreme_tachycardia",)
    carried = ("first", "fast", "forgiven", "back")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.first = self.fast = self.forgiven = self.back = 0

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

    def _count(self, at: int, interval: int) -> None:
        limit = self._samples(self.limit_bpm)
        inside = interval >= self._samples(self.limit_bpm - self.limits.rate_hysteresis_bpm)
        self.back = self.back + 1 if inside else 0
        if interval < limit:
            self.fast += 1
        elif self.fast and self.forgiven < self.limits.wrong_beats and interval <= 2 * limit:
            self.forgiven += 1
        else:
            self.fast, self.forgiven, self.first = 0, 0, at

    def _samples(self, bpm: float) -> float:
        return 60 * self.rate_hz / bpm
