"""Ventricular beats that come with every second or third beat."""

from collections.abc import Iterator
from typing import ClassVar

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import NORMAL, VENTRICULAR, BeatRule


class Cycle(BeatRule):
    """`cycles` times in a row as many normal beats as make the `period`, and a ventricular one.

    Over when the pattern is broken; where a wrong beat is tolerated, when it is broken a second time before a whole
    cycle has come again, or by a silence of `SILENCE_S`.
    """

    period: ClassVar[int]
    carried = ("normal", "count", "onset", "good", "broken")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.normal = self.count = self.onset = self.good = self.broken = 0

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        if beat.symbol in VENTRICULAR:
            yield from self._ventricular(beat)
        elif beat.symbol in NORMAL:
            self.normal += 1
            if self.normal % self.period == 0:
                yield from self._break(beat.at)
        else:
            self.normal = self.count = 0
            yield from self._break(beat.at)

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        if (at := self.fell_silent(now)) is None:
            return
        self.normal = self.count = 0
        if self.episode:
            yield self.episode.end(self.good, at)

    def _ventricular(self, beat: Annotation) -> Iterator[Phase]:
        normal, self.normal = self.normal, 0
        if normal < self.period - 1:
            self.count = 0
            yield from self._break(beat.at)
            return
        self.count = self.count + 1 if self.count and normal == self.period - 1 else 1
        if self.count == 1:
            self.onset = beat.at
        else:
            self.broken, self.good = 0, beat.at
        if self.count == self.limits.cycles and not self.episode:
            yield self.episode.start(self.onset, beat.at, None, cycles=self.count, rr_ms=self.rr_ms())

    def _break(self, at: int) -> Iterator[Phase]:
        self.broken += 1
        if self.episode and self.broken > self.limits.wrong_beats:
            yield self.episode.end(self.good, at)
