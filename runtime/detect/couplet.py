"""Two ventricular beats in a row."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.detect.beat_rule import VENTRICULAR
from holdover.runtime.detect.row import RowRule


class Couplet(RowRule):
    """Exactly two ventricular beats in a row (EC57), known when a beat or a silence has ended the row."""

    labels = ("ventricular_couplet",)
    kind = VENTRICULAR

    def over(self, at: int) -> Iterator[Phase]:
        """See `RowRule.over`."""
        row = self.row
        if row.n == 2:
            yield self.episode.start(row.first(2), at, row.score, **row.evidence(2))
            yield self.episode.end(row.at, at)
