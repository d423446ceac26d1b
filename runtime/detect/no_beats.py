"""A signal in which no beat was ever found."""

from collections.abc import Iterator

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import BeatRule
from holdover.runtime.detect.limits import Limits


class NoBeats(BeatRule):
    """No beat for `asystole_s` from where beats can be found on, in a stream that has not had one (ours).

    Technical: it may be an asystole, an electrode in a wrong place, or a lead in which the model finds nothing. Open
    until the first beat, through losses of the signal, so that one stream has it once.
    """

    carried = ("seen", "onset")

    def __init__(self, rate_hz: float, limits: Limits) -> None:
        self.seen = False
        self.onset: int | None = None
        super().__init__(rate_hz, limits)

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        self.seen = True
        yield from self._end(beat.at, beat.at, "recovered")

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        if self.seen or self.onset is not None or self.since is None:
            return
        at = self.since + round(self.limits.asystole_s * self.rate_hz)
        if at < now:
            self.onset = self.since
            evidence = {"limit_s": self.limits.asystole_s, "asystole": "cannot be excluded"}
            yield Phase(
                label="no_beats", phase="start", onset=self.onset, at=at, kind="technical", priority="medium",
                evidence=evidence,
            )  # fmt: skip

    def close(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:
        """End with the input alone: a loss does not make it untrue."""
        if reason == "input_ended":
            yield from self._end(end, at, reason)

    def _end(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:
        if self.onset is None:
            return
        onset, self.onset = self.onset, None
        yield Phase(
            label="no_beats", phase="end", onset=onset, at=at, end=max(end, onset), kind="technical",
            priority="medium", end_reason=reason,
        )  # fmt: skip
