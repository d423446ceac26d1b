"""A rhythm of the ventricles' own, not fast."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.detect.beat_rule import VENTRICULAR
from holdover.runtime.detect.row import RowRule


class IdioventricularRhythm(RowRule):
    """`ivr_beats` ventricular beats in a row at less than `vt_bpm` (Mindray: five, 40/min up to the rate of a VT).

    Below 40/min monitors call it ventricular bradycardia, of high priority; here extreme bradycardia says so.
    """

    labels = ("idioventricular_rhythm",)
    kind = VENTRICULAR

    def longer(self, at: int) -> Iterator[Phase]:
        """See `RowRule.longer`."""
        row, n = self.row, self.limits.ivr_beats
        if row.n < n:
            return
        slow = row.bpm(n) < self.limits.vt_bpm
        if slow and not self.episode:
            yield self.episode.start(row.first(n), at, row.score, **row.evidence(n))
        elif self.episode and not slow:
            yield self.episode.end(at, at, **row.evidence(n))
