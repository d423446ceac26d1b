"""What is said of a signal that cannot be used, or is to be doubted: technical alarms with a start and an end."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.alert import EndReason, Phase, PhaseName, Priority
from holdover.runtime.detect.carried import Carried
from holdover.runtime.snapshot import Memory

DOUBTS = ("noise", "baseline_jump", "signal_quiet")
"""What is announced while detection goes on."""

AGAIN_S = 10.0
"""A signal that is lost again so soon comes and goes: its alarm stays open until the signal was good for as long."""
RESUMED_S = 60.0
"""Of a signal that comes and goes, that detection has resumed is said no more often."""

_DOUBTED = {
    "noise": "goes on, beats may be wrong",
    "baseline_jump": "goes on, beats may be wrong",
    "signal_quiet": "goes on, the device says that the electrode is on",
}


def technical(label: str, phase: PhaseName, onset: int, at: int, priority: Priority = "low", **more: Any) -> Phase:
    """A phase of a technical alarm."""
    return Phase(label=label, phase=phase, onset=onset, at=at, kind="technical", priority=priority, **more)


class Outage(Carried):
    """The alarm of a signal that cannot be used, from its loss until detection is back.

    Parameters
    ----------
    rate_hz
        Of the sample clock.
    settle
        Samples after the signal's return for which detection is held back.
    """

    carried = ("label", "onset", "back", "told", "again", "resumed", "resumed_at", "ended")

    def __init__(self, rate_hz: float, settle: int) -> None:
        self.rate_hz = rate_hz
        self.settle = settle
        self.label: str | None = None
        self.onset = 0
        self.back: int | None = None
        self.told = self.again = self.resumed = False
        self.resumed_at: int | None = None
        self.ended: int | None = None

    def __bool__(self) -> bool:
        return self.label is not None

    def lost(self, label: str, onset: int, at: int, **evidence: Any) -> Iterator[Phase]:
        """The signal was lost at `onset`, which is known at `at`; in an alarm that is open, perhaps again."""
        self.back = None
        evidence["detection"] = "suspended"
        if self.label is None:
            self.again = self.ended is not None and onset - self.ended < self._samples(AGAIN_S)
            self.label, self.onset, self.told, self.resumed = label, onset, False, False
            yield self._phase("start", at, evidence=evidence)
        elif self.resumed:
            self.resumed = False
            yield self._phase("update", at, evidence={"cause": label, **evidence})

    def returned(self, at: int) -> Iterator[Phase]:
        """The signal is back; said once."""
        self.back = at
        if self.label is not None and not self.told:
            self.told = True
            held = round(self.settle / self.rate_hz, 3)
            evidence = {"signal_back_sample": at, "detection": "held back", "settle_s": held}
            yield self._phase("update", at, evidence=evidence)

    def due(self, now: int) -> Iterator[Phase]:
        """What time alone makes true: detection resumes, the signal has been good for long."""
        if self.label is None or self.back is None:
            return
        at = self.back + self.settle
        over = self.back + max(self.settle, self._samples(AGAIN_S)) if self.again else at
        if at <= now and at < over and self._may_tell(at):
            self.resumed, self.resumed_at = True, at
            yield self._phase("update", at, evidence={"detection": "resumed"})
        if over <= now:
            yield self._end(over, self.back, "recovered", evidence={"detection": "resumed"})

    def finish(self, at: int) -> Iterator[Phase]:
        """The input has ended."""
        if self.label is not None:
            yield self._end(at, at, "input_ended")

    def _may_tell(self, at: int) -> bool:
        return not self.resumed and (self.resumed_at is None or at - self.resumed_at >= self._samples(RESUMED_S))

    def _end(self, at: int, end: int, reason: EndReason, **more: Any) -> Phase:
        phase = self._phase("end", at, end=end, end_reason=reason, **more)
        self.label, self.ended = None, at
        return phase

    def _phase(self, phase: PhaseName, at: int, **more: Any) -> Phase:
        assert self.label is not None
        return technical(self.label, phase, self.onset, at, priority="medium", **more)

    def _samples(self, seconds: float) -> int:
        return round(seconds * self.rate_hz)


class Doubts:
    """Episodes of what is doubtful while detection goes on.

    Attributes
    ----------
    hidden
        The baseline jumped while nothing could be doubted: with the signal that was lost then, it is over.
    """

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self.hidden = False

    def __bool__(self) -> bool:
        return bool(self._open)

    def update(self, doubts: NDArray[np.bool_], at: int, may_start: bool) -> Iterator[Phase]:
        """What is doubtful from a place on, in the order of `DOUBTS`."""
        now = dict(zip(DOUBTS, doubts.tolist(), strict=True))
        self.hidden = now["baseline_jump"] and (self.hidden or not may_start)
        now["baseline_jump"] &= not self.hidden
        for label, doubted in now.items():
            if label in self._open and not doubted:
                yield technical(label, "end", self._open.pop(label), at, end=at, end_reason="recovered")
            elif doubted and may_start and label not in self._open:
                self._open[label] = at
                yield technical(label, "start", at, at, evidence={"detection": _DOUBTED[label]})

    def end(self, at: int, reason: EndReason) -> Iterator[Phase]:
        """No more can be said, or something graver is."""
        opened, self._open = self._open, {}
        for label, onset in opened.items():
            yield technical(label, "end", onset, at, end=at, end_reason=reason)

    def snapshot(self) -> Memory:
        """What is carried."""
        return {"open": dict(self._open), "hidden": self.hidden}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self._open, self.hidden = dict(memory["open"]), memory["hidden"]
