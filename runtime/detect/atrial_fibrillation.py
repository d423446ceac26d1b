"""Atrial fibrillation or flutter, by a model that tells rhythms."""

import math
from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import BeatRule

SETTLE_S = 10.0
START, STOP = 0.7, 0.35
"""Mean probability from which on it is atrial fibrillation, and below which it no longer is (ours)."""

LONGEST_S = 2.0
"""A beat counts for its interval, for so long at most."""


class AtrialFibrillation(BeatRule):
    """The model's probability of atrial fibrillation, averaged over some 10 s of beats, above 0.7; over below 0.35.

    The onset is the beat at which the average rose above the lower of the two. Where the model says of no beat whether
    it fibrillates, see `IrregularRhythm`.
    """

    labels = ("atrial_fibrillation",)
    carried = ("mean", "rose")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.mean = 0.0
        self.rose: int | None = None

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        if beat.fibrillates is None or not self.interval:
            return
        share = 1 - math.exp(-min(self.interval / self.rate_hz, LONGEST_S) / SETTLE_S)
        self.mean += share * (beat.fibrillates - self.mean)
        if self.mean < STOP:
            self.rose = None
            if self.episode:
                yield self.episode.end(beat.at, beat.at)
            return
        self.rose = beat.at if self.rose is None else self.rose
        if self.mean > START and not self.episode:
            yield self.episode.start(self.rose, beat.at, round(self.mean, 3), rr_ms=self.rr_ms())
