"""No beat for long, but not long enough for an asystole."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import BeatRule


class Pause(BeatRule):
    """No beat for `pause_s`, counted from the last one; an asystole supersedes it.

    Manuals of bedside monitors offer 1.5 to 3 s; 3 s is the longest of these, so that the pauses of an atrial
    fibrillation at night are not alarms. None where `pause_s` is `asystole_s` or more.
    """

    labels = ("pause",)

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        if self.episode and self.interval is not None:
            yield self.episode.end(beat.at, beat.at, pause_s=round(self.interval / self.rate_hz, 3))

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        limits = self.limits
        if self.last is None or self.episode or limits.pause_s >= limits.asystole_s:
            return
        at = self.last + round(limits.pause_s * self.rate_hz)
        if at < now:
            yield self.episode.start(
                self.last, at, None, last_beat_sample=self.last, limit_s=limits.pause_s, rr_ms=self.rr_ms()
            )
