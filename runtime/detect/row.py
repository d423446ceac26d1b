"""Beats of one kind in a row, among them one that may have been called wrong."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, ClassVar

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import BeatRule
from holdover.runtime.detect.carried import Carried
from holdover.runtime.detect.limits import MOST_BEATS

PLACES = 10
"""Beats of a row whose places are kept as evidence; a run may be hours long."""

EVEN = 1.25
"""How far from the row's mean interval, as a factor, a beat of another kind may lie and still be one called wrong."""


class Row(Carried):
    """The row so far: how many beats, how fast, where it began.

    A beat of another kind is doubted, and does not end the row, if it and the next beat keep the row's pace, the next
    is of the kind again, and at least two of the kind came since the last doubt. Doubted beats are not counted.
    """

    carried = ("n", "at", "since", "doubt", "beats", "score", "places", "marks", "numbers")

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.n = self.beats = self.since = self.at = 0
        self.doubt: int | None = None
        self.score = 1.0
        self.places: list[int] = []
        self.marks: deque[int] = deque(maxlen=MOST_BEATS)
        self.numbers: deque[int] = deque(maxlen=MOST_BEATS)

    def breaks(self, at: int, kind: bool, wrong_beats: int) -> bool:
        """Whether a beat, of the row's kind or not, is one that the row cannot go on with."""
        if not self.n:
            return False
        if kind:
            return self.doubt is not None and not self._even(at - self.doubt)
        return self.doubt is not None or not wrong_beats or self.since < 2 or not self._even(at - self.at)

    def take(self, beat: Annotation, kind: bool) -> None:
        """Go on with a beat that does not break the row."""
        if not kind:
            self.doubt = beat.at if self.n else None
            return
        if self.doubt is not None:
            self.doubt, self.since, self.beats = None, 0, self.beats + 1
        self.n, self.beats, self.since, self.at = self.n + 1, self.beats + 1, self.since + 1, beat.at
        self.score = min(self.score, beat.score)
        self.marks.append(beat.at)
        self.numbers.append(self.beats)
        if len(self.places) < PLACES:
            self.places.append(beat.at)

    def first(self, n: int) -> int:
        """Where the last n beats of the kind began."""
        return self.marks[-n]

    def bpm(self, n: int) -> float:
        """Mean rate over the last n beats of the kind and what was doubted between them."""
        return 60 * self.rate_hz * (self.numbers[-1] - self.numbers[-n]) / max(self.marks[-1] - self.marks[-n], 1)

    def evidence(self, n: int) -> dict[str, Any]:
        """Beats, doubted ones, the rate over the last n, places and intervals of the first ten."""
        return {
            "beats": self.n, "doubted_beats": self.beats - self.n, "rate_bpm": round(self.bpm(n), 1),
            "beat_samples": list(self.places),
            "rr_ms": [round(1000 * (b - a) / self.rate_hz) for a, b in pairwise(self.places)],
        }  # fmt: skip

    def _even(self, interval: int) -> bool:
        if len(self.marks) < 2:
            return False
        steps = self.numbers[-1] - self.numbers[0]
        mean = (self.marks[-1] - self.marks[0]) / steps
        return mean <= EVEN * interval and interval <= EVEN * mean


class RowRule(BeatRule):
    """A rule on beats of one kind in a row; a silence of `SILENCE_S` ends the row."""

    kind: ClassVar[frozenset[str]] = frozenset()
    carried: ClassVar[tuple[str, ...]] = ("row",)

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.row = Row(self.rate_hz)

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        kind, row = beat.symbol in self.kind, self.row
        if row.breaks(beat.at, kind, self.limits.wrong_beats):
            yield from self.over(beat.at)
            row.clear()
        row.take(beat, kind)
        if kind:
            yield from self.longer(beat.at)

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        if self.row.n and (at := self.fell_silent(now)) is not None:
            yield from self.over(at)
            self.row.clear()

    def longer(self, at: int) -> Iterable[Phase]:  # noqa: ARG002 (a couplet waits for its end)
        """What one more beat of the kind comes to."""
        return ()

    def over(self, at: int) -> Iterator[Phase]:
        """What the end of the row, known at `at`, comes to."""
        return self.close(self.row.at, at, "recovered")

    def close(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:
        """End what is open at the row's last beat."""
        for episode in self.episodes:
            if episode:
                yield episode.end(min(self.row.at, end), at, reason, **self.row.evidence(min(self.row.n, MOST_BEATS)))
