"""Many ventricular beats in a minute."""

from collections import deque
from collections.abc import Iterator, Sequence

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.episode import Episode
from holdover.runtime.detect.limits import Limits
from holdover.runtime.detect.ventricular import VENTRICULAR
from holdover.runtime.snapshot import Memory


class Frequent:
    """More than `pvc_per_min` ventricular beats in the last 60 s; over when half as many are left.

    Monitors alarm at 1 to 30 a minute and set 10 as default (Mindray, Philips); the hysteresis of a half is ours.
    """

    def __init__(self, rate_hz: float, limits: Limits) -> None:
        self.rate_hz = rate_hz
        self.limits = limits
        self._minute = round(60 * rate_hz)
        self._seen: deque[int] = deque()
        self._episode = Episode("frequent_ventricular_beats", "low")

    def update(self, beats: Sequence[Annotation], until: int) -> Iterator[Phase]:
        """See `Rule.update`."""
        for beat in beats:
            yield from self._expire(beat.at)
            if beat.symbol not in VENTRICULAR:
                continue
            self._seen.append(beat.at)
            if len(self._seen) > self.limits.pvc_per_min and not self._episode:
                yield self._episode.start(self._seen[0], beat.at, None, ventricular_per_min=len(self._seen))
        yield from self._expire(until)

    def _expire(self, now: int) -> Iterator[Phase]:
        """Let beats fall out of the minute one by one, so that the end has its own sample."""
        while self._seen and self._seen[0] + self._minute <= now:
            at = self._seen.popleft() + self._minute
            if self._episode and len(self._seen) <= self.limits.pvc_per_min // 2:
                yield self._episode.end(at, at, ventricular_per_min=len(self._seen))

    def interrupt(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:
        """See `Rule.interrupt`."""
        self._seen.clear()
        if self._episode:
            yield self._episode.end(end, at, reason)

    def snapshot(self) -> Memory:
        """What is carried."""
        return {"seen": list(self._seen), "onset": self._episode.onset}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self._seen, self._episode.onset = deque(memory["seen"]), memory["onset"]
