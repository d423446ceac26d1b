"""What the rules on beats have in common: the last beats, the episodes, and time that passes between beats."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from msgspec.structs import replace

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

SILENCE_S = 2.0
"""No rhythm of a rate goes on through so long without a beat, that is below 30/min (ours)."""


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
        self.since: int | None = None
        self.known = 0
        self._begin()

    @property
    def episode(self) -> Episode:
        """The first of the episodes, where there is but one."""
        return self.episodes[0]

    @property
    def interval(self) -> int | None:
        """Samples between the last two beats."""
        return None if self.last is None or self.before is None else self.last - self.before

    @property
    def silent_since(self) -> int | None:
        """The last beat, or where one could first have been found; None before that is known."""
        return self.since if self.last is None else self.last

    def fell_silent(self, now: int) -> int | None:
        """Sample at which no beat had come for `SILENCE_S`, where that is before sample `now`."""
        if self.last is None:
            return None
        at = self.last + round(SILENCE_S * self.rate_hz)
        return at if at < now else None

    def listen(self, at: int) -> None:
        """A memory has begun, in which beats are found from sample `at` on; told again, it changes nothing."""
        if self.since is None:
            self.since = at

    def update(self, beats: Sequence[Annotation], until: int) -> Iterator[Phase]:
        """Take the beats before sample `until`, in order; yield what they and the time until then come to."""
        for beat in beats:
            yield from self._waited(beat.at)
            self.before, self.last = self.last, beat.at
            if self.before is not None and beat.at > self.before:
                self.rr.append((beat.at - self.before) / self.rate_hz)
            yield from self.beat(beat)
        yield from self._waited(until)
        self.known = max(self.known, until)

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

    def _waited(self, now: int) -> Iterator[Phase]:
        """What time alone comes to; nothing comes true before what is known, even where a limit was lowered."""
        for phase in self.wait(now):
            yield phase if phase.at >= self.known else replace(phase, at=self.known)

    def _begin(self) -> None:
        self.last = self.before = self.since = None
        self.known = 0
        self.rr: deque[float] = deque(maxlen=KEPT)
        self.forget()

    def snapshot(self) -> Memory:
        """What is carried."""
        own = {name: getattr(self, name) for name in _PLACES} | {"rr": list(self.rr)}
        return own | super().snapshot() | {"onsets": [episode.onset for episode in self.episodes]}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        super().restore(memory)
        for name in _PLACES:
            setattr(self, name, memory[name])
        self.rr = deque(memory["rr"], maxlen=KEPT)
        for episode, onset in zip(self.episodes, memory["onsets"], strict=True):
            episode.onset = onset


_PLACES = ("last", "before", "since", "known")
