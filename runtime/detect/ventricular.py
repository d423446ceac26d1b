"""Ventricular tachycardia: ventricular beats in a row, and fast."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.detect.beat_rule import VENTRICULAR
from holdover.runtime.detect.row import RowRule

SUSTAINED_S = 30.0


class VentricularTachycardia(RowRule):
    """`vt_beats` ventricular beats in a row at `vt_bpm` or faster, wherever in the row they lie.

    The Computing in Cardiology Challenge 2015: five ventricular beats at more than 100/min (so Philips and Edan;
    Mindray six at 130). The rate is the mean over the last `vt_beats`, so that a slow rhythm that quickens is told at
    once. Over with the row, or when the rate is below the limit by the hysteresis; said to be sustained after 30 s.
    """

    labels = ("ventricular_tachycardia",)
    kind = VENTRICULAR
    carried = ("row", "sustained")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        super().forget()
        self.sustained = False

    def longer(self, at: int) -> Iterator[Phase]:
        """See `RowRule.longer`."""
        row, episode, limits = self.row, self.episode, self.limits
        n = limits.vt_beats
        if row.n < n:
            return
        bpm, onset = row.bpm(n), episode.onset
        if onset is None:
            if bpm >= limits.vt_bpm:
                self.sustained = False
                yield episode.start(row.first(n), at, row.score, **row.evidence(n))
        elif bpm < limits.vt_bpm - limits.rate_hysteresis_bpm:
            yield episode.end(at, at, **row.evidence(n))
        elif not self.sustained and at - onset >= SUSTAINED_S * self.rate_hz:
            self.sustained = True
            yield episode.update(at, row.score, sustained=True, **row.evidence(n))
