"""Many ventricular beats in a minute."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import VENTRICULAR, BeatRule


class Frequent(BeatRule):
    """More than `pvc_per_min` ventricular beats in the last 60 s; over when half as many are left.

    Monitors alarm at 1 to 30 a minute and set 10 as default (Mindray, Philips). All ventricular beats count; how many
    of them were isolated, so far as the next beat has told, is in the evidence. The hysteresis of a half is ours.
    """

    labels = ("frequent_ventricular_beats",)
    carried = ("seen", "paired", "row")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.seen: deque[int] = deque()
        self.paired: deque[int] = deque()
        self.row = False

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        before, self.row = self.row, beat.symbol in VENTRICULAR
        if not self.row:
            return
        self._pair(beat.at, before)
        self.seen.append(beat.at)
        if len(self.seen) > self.limits.pvc_per_min and not self.episode:
            yield self.episode.start(self.seen[0], beat.at, None, **self._evidence())

    def _pair(self, at: int, before: bool) -> None:
        """Note the ventricular beats that have another beside them."""
        if before and self.seen and (not self.paired or self.paired[-1] != self.seen[-1]):
            self.paired.append(self.seen[-1])
        if before:
            self.paired.append(at)

    def _evidence(self) -> dict[str, Any]:
        return {"ventricular_per_min": len(self.seen), "isolated_per_min": len(self.seen) - len(self.paired)}

    def wait(self, now: int) -> Iterator[Phase]:
        """Let beats fall out of the minute one by one, so that the end has its own sample."""
        minute = round(60 * self.rate_hz)
        while self.seen and self.seen[0] + minute <= now:
            gone = self.seen.popleft()
            if self.paired and self.paired[0] == gone:
                self.paired.popleft()
            if self.episode and len(self.seen) <= self.limits.pvc_per_min // 2:
                yield self.episode.end(gone + minute, gone + minute, **self._evidence())
