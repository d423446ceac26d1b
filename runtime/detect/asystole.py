"""No beat for too long."""

from collections.abc import Iterator

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import BeatRule
from holdover.runtime.detect.limits import Limits


class Asystole(BeatRule):
    """No beat for `asystole_s` (Computing in Cardiology Challenge 2015: 4 s), counted from the last one.

    After a loss of the signal it is counted from where beats can be found again, so that an asystole that goes on is
    said again. Only where a beat was seen earlier in the stream; where none was, see `NoBeats`.
    """

    labels = ("asystole",)
    carried = ("seen",)

    def __init__(self, rate_hz: float, limits: Limits) -> None:
        self.seen = False
        super().__init__(rate_hz, limits)

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        self.seen = True
        if self.episode.onset is not None:
            pause = beat.at - self.episode.onset
            yield self.episode.end(beat.at, beat.at, pause_s=round(pause / self.rate_hz, 3))

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        since = self.silent_since
        if since is None or not self.seen or self.episode:
            return
        at = since + round(self.limits.asystole_s * self.rate_hz)
        if at < now:
            yield self.episode.start(
                since, at, None, last_beat_sample=self.last, limit_s=self.limits.asystole_s, rr_ms=self.rr_ms()
            )
