"""What the rules on beats have in common: the last beats, the episodes, and time that passes between beats."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.carried import Carried
from holdover.runtime.detect.episode import Episode
from holdover.runtime.detect.limits import Limits
from holdover.runtime.snapshot import Memory

VENTRICULAR = frozenset("VEr")
SUPRAVENTRICULAR = frozenset("AaJS")
NORMAL = frozenset("NLRBejn")
"""Symbols by class, escape beats normal (de Chazal 2004): premature ventricular, premature supraventricular, normal."""

KEPT = 16
"""RR intervals that are kept: what the longest definition looks back on."""

SHOWN = 5
"""RR intervals shown as evidence."""


class BeatRule(Carried):
    """A rule that judges each beat as it comes, and the time that passes without one.

    A rule names its `labels` and what it `carried` beyond the last beats, sets that in `forget`, and says what a beat
    (`beat`) and time alone (`wait`) come to.

    Parameters
    ----------
    rate_hz
        Of the sample clock.
    limits
        See `Limits`.
    """

    labels: ClassVar[tuple[str, ...]] = ()

    def __init__(self, rate_hz: float, limits: Limits) -> None:
        self.rate_hz = rate_hz
        self.limits = limits
        self.episodes = tuple(Episode(label) for label in self.labels)
        self.last: int | None = None
        self.before: int | None = None
        self._begin()

    @property
    def episode(self) -> Episode:
        """The first of the episodes, where there is but one."""
        return self.episodes[0]

    @property
    def interval(self) -> int | None:
        """Samples between the last two beats."""
        return None if self.last is None or self.before is None else self.last - self.before

    def update(self, beats: Sequence[Annotation], until: int) -> Iterator[Phase]:
        """Take the beats before sample `until`, in order; yield what they and the time until then come to."""
        for beat in beats:
            yield from self.wait(beat.at)
            self.before, self.last = self.last, beat.at
            if self.before is not None and beat.at > self.before:
                self.rr.append((beat.at - self.before) / self.rate_hz)
            yield from self.beat(beat)
        yield from self.wait(until)

    def interrupt(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:
        """Close what is open, the signal having ended at `end`, which became known at `at`; forget what was counted."""
        yield from self.close(end, at, reason)
        self._begin()

    def forget(self) -> None:
        """Set what this rule carries to what it is before the first beat."""

    def beat(self, beat: Annotation) -> Iterable[Phase]:  # noqa: ARG002 (a rule may go by time alone)
        """What a beat comes to; `last`, `before` and `rr` know of it already."""
        return ()

    def wait(self, now: int) -> Iterable[Phase]:  # noqa: ARG002 (a rule may go by beats alone)
        """What comes true before sample `now` because no beat came."""
        return ()

    def close(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:
        """End what is open."""
        for episode in self.episodes:
            if episode:
                yield episode.end(end, at, reason)

    def rr_ms(self) -> list[int]:
        """The last RR intervals as evidence, ms, the newest last."""
        return [round(1000 * rr) for rr in list(self.rr)[-SHOWN:]]

    def _begin(self) -> None:
        self.last = self.before = None
        self.rr: deque[float] = deque(maxlen=KEPT)
        self.forget()

    def snapshot(self) -> Memory:
        """What is carried."""
        own = {"last": self.last, "before": self.before, "rr": list(self.rr)}
        return own | super().snapshot() | {"onsets": [episode.onset for episode in self.episodes]}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        super().restore(memory)
        self.last, self.before = memory["last"], memory["before"]
        self.rr = deque(memory["rr"], maxlen=KEPT)
        for episode, onset in zip(self.episodes, memory["onsets"], strict=True):
            episode.onset = onset
