"""An alarm that is open: one onset, phases that follow."""

from typing import Any

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.detect.conditions import CONDITIONS
from holdover.runtime.snapshot import Memory


class Episode:
    """Open or not; makes the phases of one label with one onset.

    Parameters
    ----------
    label
        One of `CONDITIONS`, which says how urgent it is.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.priority, self.latched = CONDITIONS[label]
        self.onset: int | None = None

    def __bool__(self) -> bool:
        return self.onset is not None

    def start(self, onset: int, at: int, score: float | None = None, **evidence: Any) -> Phase:
        """Open at `at` an episode that began at `onset`."""
        self.onset = onset
        return Phase(
            label=self.label, phase="start", onset=onset, at=at, priority=self.priority, latched=self.latched,
            score=score, evidence=evidence,
        )  # fmt: skip

    def update(self, at: int, score: float | None = None, **evidence: Any) -> Phase:
        """Say at `at` what has become of the episode."""
        assert self.onset is not None
        return Phase(
            label=self.label, phase="update", onset=self.onset, at=at, priority=self.priority, latched=self.latched,
            score=score, evidence=evidence,
        )  # fmt: skip

    def end(self, end: int, at: int, reason: EndReason = "recovered", **evidence: Any) -> Phase:
        """Close at `at` the episode, which ended at `end`."""
        assert self.onset is not None
        onset, self.onset = self.onset, None
        return Phase(
            label=self.label, phase="end", onset=onset, at=at, end=max(end, onset), priority=self.priority,
            latched=self.latched, end_reason=reason, evidence=evidence,
        )  # fmt: skip

    def snapshot(self) -> Memory:
        """What is carried."""
        return {"onset": self.onset}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self.onset = memory["onset"]
