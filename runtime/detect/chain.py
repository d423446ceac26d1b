"""Which of the alarms that rules raise are said: the graver silences the lesser, and what repeats is withheld."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from holdover.runtime.alert import Phase
from holdover.runtime.detect.conditions import CONDITIONS, SILENCED, STAGES
from holdover.runtime.detect.limits import Limits
from holdover.runtime.snapshot import Memory

HOLD_S = 20.0
HOLD_HIGH_S = 3.0
"""What was silenced and still lasts so long after the silence is said then; of high priority, sooner."""

_SUPERSEDED = {label: {low for chain in STAGES if label in chain for low in chain[chain.index(label) + 1 :]}
               for label in CONDITIONS}  # fmt: skip
_SILENCERS = {label: tuple(high for high, lows in SILENCED.items() if label in lows) for label in CONDITIONS}
_REPEAT = {"medium": "repeat_medium_s", "low": "repeat_low_s", "info": "repeat_low_s"}


class Chain:
    """Takes the phases of all rules in order of the sample clock, and passes on those that are said.

    While a graver alarm is said, a lesser one of its chain does not start, and one that is a stage of the same event
    ends as superseded. After the end of an alarm of medium or lower priority, those of its label are withheld for a
    time, and counted. What still lasts when the silence or the wait is over, is said then. Technical alarms pass.

    Parameters
    ----------
    rate_hz
        Of the sample clock.
    limits
        Of them `repeat_low_s`, `repeat_medium_s` and `off` are used here.
    """

    def __init__(self, rate_hz: float, limits: Limits) -> None:
        self.rate_hz = rate_hz
        self.limits = limits
        self._open: dict[str, Phase] = {}
        self._said: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._wait: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        self._withheld: dict[str, int] = {}

    def push(self, phase: Phase) -> Iterator[Phase]:
        """Take the next phase; yield what is said by it, and before it."""
        yield from self.due(phase.at)
        if phase.kind == "technical":
            yield phase
        elif phase.phase == "start":
            yield from self._start(phase)
        elif phase.phase == "update":
            yield from self._update(phase)
        else:
            yield from self._end(phase)

    def due(self, until: int) -> Iterator[Phase]:
        """Yield what comes true before sample `until` because a silence or a wait is over."""
        self._drop_off()
        while ready := min(
            ((at, label) for label, at in self._wait.items() if self._ready(label, until)), default=None
        ):
            at, label = ready
            del self._wait[label]
            yield from self._say(self._open[label], at)

    def _drop_off(self) -> None:
        """What was switched off while it waited is not said any more, even if it is switched on again."""
        for label in self._wait.keys() & set(self.limits.off):
            del self._wait[label]
            self._open.pop(label, None)

    def _start(self, phase: Phase) -> Iterator[Phase]:
        label = phase.label
        if label in self.limits.off:
            return
        self._open[label] = phase
        if self._silent(label):
            self._wait[label] = phase.at
        elif (over := self._shielded_until(label)) > phase.at:
            self._wait[label] = over
            self._withheld[label] = self._withheld.get(label, 0) + 1
        else:
            yield from self._say(phase, phase.at)

    def _update(self, phase: Phase) -> Iterator[Phase]:
        if phase.label in self.limits.off:
            return
        if phase.label in self._said:
            yield replace(phase, onset=self._said[phase.label])
        elif phase.label in self._open:
            self._open[phase.label] = replace(self._open[phase.label], score=phase.score, evidence=phase.evidence)

    def _end(self, phase: Phase) -> Iterator[Phase]:
        label = phase.label
        self._open.pop(label, None)
        self._wait.pop(label, None)
        self._used.pop(label, None)
        if label in self._said:
            yield from self._close(label, phase)

    def _say(self, phase: Phase, at: int) -> Iterator[Phase]:
        """Start an episode, after the end of those that it supersedes; one that was said before begins anew."""
        label = phase.label
        onset = at if self._used.get(label) == phase.onset else phase.onset
        for low in sorted(_SUPERSEDED[label] & self._said.keys()):
            end = Phase(label=low, phase="end", onset=0, at=at, end=at, end_reason="superseded")
            self._wait[low] = at
            yield from self._close(low, end)
        self._said[label] = onset
        self._used[label] = phase.onset
        evidence = dict(phase.evidence)
        if withheld := self._withheld.pop(label, 0):
            evidence["withheld"] = withheld
        yield replace(phase, onset=onset, at=at, evidence=evidence)

    def _close(self, label: str, end: Phase) -> Iterator[Phase]:
        onset = self._said.pop(label)
        priority, latched = CONDITIONS[label]
        self._ended[label] = end.at
        last = max(end.end or onset, onset)  # what was said late began late
        yield replace(end, onset=onset, end=last, priority=priority, latched=latched)
        for low in SILENCED.get(label, ()):
            if low in self._wait:
                hold = HOLD_HIGH_S if CONDITIONS[low].priority == "high" else HOLD_S
                self._wait[low] = max(self._wait[low], end.at + round(hold * self.rate_hz))

    def _shielded_until(self, label: str) -> int:
        repeat = _REPEAT.get(CONDITIONS[label].priority)
        if repeat is None or label not in self._ended:
            return 0
        repeat_s: float = getattr(self.limits, repeat)
        return self._ended[label] + round(repeat_s * self.rate_hz)

    def _ready(self, label: str, until: int) -> bool:
        return self._wait[label] < until and not self._silent(label)

    def _silent(self, label: str) -> bool:
        return any(high in self._said for high in _SILENCERS[label])

    def snapshot(self) -> Memory:
        """What is carried."""
        plain: dict[str, Any] = {key: dict(getattr(self, key)) for key in _CARRIED}
        return plain | {"_open": [msgspec.to_builtins(phase) for phase in self._open.values()]}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        for key in _CARRIED:
            setattr(self, key, dict(memory[key]))
        phases = [msgspec.convert(phase, Phase) for phase in memory["_open"]]
        self._open = {phase.label: phase for phase in phases}


_CARRIED = ("_said", "_used", "_wait", "_ended", "_withheld")
