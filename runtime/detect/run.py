"""Ventricular beats in a row, too few or too slow for more."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.detect.beat_rule import VENTRICULAR
from holdover.runtime.detect.limits import MOST_BEATS
from holdover.runtime.detect.row import RowRule

LONG = 6


class Run(RowRule):
    """`run_beats` ventricular beats or more in a row: short up to five, long from six on (EC57).

    A tachycardia or an idioventricular rhythm supersedes it.
    """

    labels = ("ventricular_run",)
    kind = VENTRICULAR

    def longer(self, at: int) -> Iterator[Phase]:
        """See `RowRule.longer`."""
        row = self.row
        length = "long" if row.n >= LONG else "short"
        evidence = {"run": length} | row.evidence(min(row.n, MOST_BEATS))
        if row.n >= self.limits.run_beats and not self.episode:
            yield self.episode.start(row.places[0], at, row.score, **evidence)
        elif row.n == LONG and self.episode:
            yield self.episode.update(at, row.score, **evidence)
