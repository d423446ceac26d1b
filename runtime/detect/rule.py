"""What a rule is, and the tables of them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.asystole import Asystole
from holdover.runtime.detect.atrial_fibrillation import AtrialFibrillation
from holdover.runtime.detect.bigeminy import Bigeminy
from holdover.runtime.detect.couplet import Couplet
from holdover.runtime.detect.extreme_bradycardia import ExtremeBradycardia
from holdover.runtime.detect.extreme_tachycardia import ExtremeTachycardia
from holdover.runtime.detect.fibrillation import Fibrillation
from holdover.runtime.detect.frequent import Frequent
from holdover.runtime.detect.idioventricular import IdioventricularRhythm
from holdover.runtime.detect.irregular import IrregularRhythm
from holdover.runtime.detect.limits import Limits
from holdover.runtime.detect.missed_beat import MissedBeat
from holdover.runtime.detect.no_beats import NoBeats
from holdover.runtime.detect.pause import Pause
from holdover.runtime.detect.r_on_t import ROnT
from holdover.runtime.detect.rate import Rate
from holdover.runtime.detect.run import Run
from holdover.runtime.detect.supraventricular import SupraventricularRun
from holdover.runtime.detect.trigeminy import Trigeminy
from holdover.runtime.detect.ventricular import VentricularTachycardia
from holdover.runtime.snapshot import Memory


class Rule(Protocol):
    """One rule: beats in, phases of alarms out; causal, and the same however the beats arrive.

    A phase comes true at a sample (`Phase.at`); none is given later for a sample before `until`.
    """

    limits: Limits

    def listen(self, at: int) -> None:
        """A memory has begun, in which beats are found from sample `at` on; told again, it changes nothing."""
        ...

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


class SignalRule(Protocol):
    """A rule on samples instead of beats; else as a `Rule`."""

    limits: Limits

    def update(self, chunk: Chunk) -> Iterable[Phase]:
        """Take usable samples that follow those before; a phase comes true at one of them."""
        ...

    def interrupt(self, end: int, at: int, reason: EndReason) -> Iterable[Phase]:
        """See `Rule.interrupt`."""
        ...

    def snapshot(self) -> Memory:
        """What is carried."""
        ...

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        ...


RULES: dict[str, Callable[[float, Limits], Rule]] = {
    "asystole": Asystole,
    "no_beats": NoBeats,
    "ventricular_tachycardia": VentricularTachycardia,
    "extreme_bradycardia": ExtremeBradycardia,
    "extreme_tachycardia": ExtremeTachycardia,
    "idioventricular_rhythm": IdioventricularRhythm,
    "ventricular_run": Run,
    "pause": Pause,
    "rate": Rate,
    "r_on_t": ROnT,
    "atrial_fibrillation": AtrialFibrillation,
    "irregular_rhythm": IrregularRhythm,
    "supraventricular_run": SupraventricularRun,
    "couplet": Couplet,
    "bigeminy": Bigeminy,
    "frequent": Frequent,
    "trigeminy": Trigeminy,
    "missed_beat": MissedBeat,
}
"""The rules on beats by name, the graver first; each takes the rate of the sample clock and the limits."""

SIGNAL_RULES: dict[str, Callable[[float, Limits], SignalRule]] = {"fibrillation": Fibrillation}
"""The rules on samples; they are for an ECG in mV."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "asystole": ("asystole", "no_beats", "pause", "missed_beat"),
    "rate": ("extreme_bradycardia", "extreme_tachycardia", "rate", "irregular_rhythm"),
    "ventricular": (
        "fibrillation", "ventricular_tachycardia", "idioventricular_rhythm", "ventricular_run", "r_on_t", "couplet",
        "bigeminy", "trigeminy", "supraventricular_run",
    ),
    "frequent": ("frequent",),
    "rhythm": ("atrial_fibrillation",),
}  # fmt: skip
"""By the `kind` that a contract's detectors name: what rests on there being a beat, on its place, on its class (the
kind is called after the gravest of these), and on counting."""
