"""No beat for too long."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import BeatRule


class Asystole(BeatRule):
    """No beat for `asystole_s` (Computing in Cardiology Challenge 2015: 4 s), counted from the last one.

    Only after a beat has been seen since the signal came: a signal that is dead, or has just come, never raises it.
    """

    labels = ("asystole",)

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        if self.episode and self.interval is not None:
            yield self.episode.end(beat.at, beat.at, pause_s=round(self.interval / self.rate_hz, 3))

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        if self.last is None or self.episode:
            return
        at = self.last + round(self.limits.asystole_s * self.rate_hz)
        if at < now:
            yield self.episode.start(
                self.last, at, None, last_beat_sample=self.last, limit_s=self.limits.asystole_s, rr_ms=self.rr_ms()
            )
