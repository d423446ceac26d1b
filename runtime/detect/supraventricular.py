"""Supraventricular premature beats in a row."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.detect.beat_rule import SUPRAVENTRICULAR
from holdover.runtime.detect.row import RowRule


class SupraventricularRun(RowRule):
    """`sv_beats` supraventricular premature beats in a row (EC57: 3) at `sv_bpm` or faster; over with the row.

    The rate is ours: it keeps escape beats and slow atrial rhythms out.
    """

    labels = ("supraventricular_run",)
    kind = SUPRAVENTRICULAR

    def longer(self, at: int) -> Iterator[Phase]:
        """See `RowRule.longer`."""
        row, n = self.row, self.limits.sv_beats
        if row.n >= n and not self.episode and row.bpm(n) >= self.limits.sv_bpm:
            yield self.episode.start(row.first(n), at, row.score, **row.evidence(n))
