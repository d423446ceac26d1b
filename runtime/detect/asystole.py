"""No beat for too long."""

from collections.abc import Iterator, Sequence

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.episode import Episode
from holdover.runtime.detect.limits import Limits
from holdover.runtime.snapshot import Memory


class Asystole:
    """No beat for `asystole_s` (Computing in Cardiology Challenge 2015: 4 s), counted from the last one.

    Only after a beat has been seen since the signal came: a signal that is dead, or has just come, never raises it.
    """

    def __init__(self, rate_hz: float, limits: Limits) -> None:
        self.rate_hz = rate_hz
        self.limits = limits
        self._last: int | None = None
        self._episode = Episode("asystole", "high", latched=True)

    def update(self, beats: Sequence[Annotation], until: int) -> Iterator[Phase]:
        """See `Rule.update`."""
        for beat in beats:
            yield from self._wait(beat.at)
            if self._episode and self._last is not None:
                pause = round((beat.at - self._last) / self.rate_hz, 3)
                yield self._episode.end(beat.at, beat.at, pause_s=pause)
            self._last = beat.at
        yield from self._wait(until)

    def _wait(self, now: int) -> Iterator[Phase]:
        if self._last is None or self._episode:
            return
        at = self._last + round(self.limits.asystole_s * self.rate_hz)
        if at < now:
            yield self._episode.start(self._last, at, None, last_beat_sample=self._last, limit_s=self.limits.asystole_s)

    def interrupt(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:
        """See `Rule.interrupt`."""
        self._last = None
        if self._episode:
            yield self._episode.end(end, at, reason)

    def snapshot(self) -> Memory:
        """What is carried."""
        return {"last": self._last, "onset": self._episode.onset}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self._last, self._episode.onset = memory["last"], memory["onset"]
