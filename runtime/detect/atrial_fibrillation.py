"""Atrial fibrillation or flutter, by a model that tells rhythms and by the intervals."""

import math
from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.irregular import IrregularRhythm

SETTLE_S = 10.0
TRUST = 0.7
"""How much of the evidence is the model's; the rest is the intervals'."""

REGULAR, IRREGULAR = 0.3, 0.9
"""Irregularity a second that is no evidence, and that is all there can be."""

START, STOP = 0.5, 0.35
"""Evidence from which on it is atrial fibrillation, and below which it no longer is."""

LONGEST_S = 2.0
"""A beat counts for its interval, for so long at most."""


class AtrialFibrillation(IrregularRhythm):
    """The model's probability of atrial fibrillation, averaged over some 10 s of beats, and irregular intervals.

    The evidence is 0.7 times the one and 0.3 times the other, both from 0 to 1: above 0.5 it is fibrillation or
    flutter, over below 0.35. The weights and limits are ours, found on patients that the model had not seen: a model
    that knows many recordings by hand-held devices misses slow fibrillation in a Holter recording, intervals alone
    take many premature beats for it. The onset is the beat at which the evidence rose above the lower limit. Where
    the model says of no beat whether it fibrillates, see `IrregularRhythm`.
    """

    labels = ("atrial_fibrillation",)
    carried = (*IrregularRhythm.carried, "share", "apart", "rose")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        super().forget()
        self.share = self.apart = 0.0
        self.rose: int | None = None

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        found = self.irregularity(beat)
        self.apart = self.apart if found is None else found
        if beat.fibrillates is None or not self.interval:
            return
        part = 1 - math.exp(-min(self.interval / self.rate_hz, LONGEST_S) / SETTLE_S)
        self.share += part * (beat.fibrillates - self.share)
        evidence = TRUST * self.share + (1 - TRUST) * min(max((self.apart - REGULAR) / (IRREGULAR - REGULAR), 0.0), 1.0)
        if evidence < STOP:
            self.rose = None
            if self.episode:
                yield self.episode.end(beat.at, beat.at)
            return
        self.rose = beat.at if self.rose is None else self.rose
        if evidence > START and not self.episode:
            told = {"irregularity": round(self.apart, 3), "rr_ms": self.rr_ms()}
            yield self.episode.start(self.rose, beat.at, round(self.share, 3), **told)
