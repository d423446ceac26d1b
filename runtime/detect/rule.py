"""What a rule on beats is, and the table of them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.asystole import Asystole
from holdover.runtime.detect.frequent import Frequent
from holdover.runtime.detect.limits import Limits
from holdover.runtime.detect.rate import Rate
from holdover.runtime.detect.ventricular import Ventricular
from holdover.runtime.snapshot import Memory


class Rule(Protocol):
    """One rule: beats in, phases of alarms out; causal, and the same however the beats arrive.

    A phase comes true at a sample (`Phase.at`); none is given later for a sample before `until`.
    """

    limits: Limits

    def update(self, beats: Sequence[Annotation], until: int) -> Iterable[Phase]:
        """Take the beats before sample `until`, in order."""
        ...

    def interrupt(self, end: int, at: int, reason: EndReason) -> Iterable[Phase]:
        """The signal ended at `end`, which became known at `at`: close what is open, forget what was counted."""
        ...

    def snapshot(self) -> Memory:
        """What is carried."""
        ...

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        ...


RULES: dict[str, Callable[[float, Limits], Rule]] = {
    "ventricular": Ventricular,
    "frequent": Frequent,
    "rate": Rate,
    "asystole": Asystole,
}
"""By the `kind` that a contract's detectors name; each takes the rate of the sample clock and the limits."""
