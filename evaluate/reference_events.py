"""Which alarms a record should raise: by the rules on its reference beats, and by its reference rhythm."""

from collections.abc import Iterator

from holdover.evaluate.annotations import DE_CHAZAL_CLASSES, NOISE, RHYTHM, VF_OFF, VF_ON, AnnotationFile
from holdover.evaluate.epicmp import episodes
from holdover.evaluate.event import Event, events
from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.chain import Chain
from holdover.runtime.detect.limits import Limits
from holdover.runtime.detect.rule import RULES

RHYTHMS = {
    "asystole": ("(ASYS",),
    "atrial_fibrillation": ("(AFIB", "(AFL"),
    "irregular_rhythm": ("(AFIB",),
    "ventricular_tachycardia": ("(VT",),
    "ventricular_fibrillation": ("(VF", "(VFIB", "(VFL"),
    "idioventricular_rhythm": ("(IVR",),
    "supraventricular_run": ("(SVTA",),
    "ventricular_bigeminy": ("(B",),
    "ventricular_trigeminy": ("(T",),
}
"""Rhythm marks (`+`, their text) that say of an alarm that it should be raised; WFDB Programmer's Guide, appendix."""

UNSEEN = frozenset({"ventricular_fibrillation", "atrial_fibrillation"})
"""Alarms that no rule raises on a reference's beats: the signal has to, or a model that tells rhythms."""


def by_rules(file: AnnotationFile, rate_hz: float, end: int, limits: Limits) -> list[Event] | None:
    """The alarms that the rules raise on the beats of an annotation file, by onset; None if it has no beats.

    Escape beats are normal ones (de Chazal's map). Within fibrillation (`[` to `]`) and shutdown (`~` with bits 4 and 5
    of its subtype set, to the next `~` without) no beats are judged: the rules are interrupted, as they are where a
    signal is lost, and count anew from its end.
    """
    rules = [make(rate_hz, limits) for make in RULES.values()]
    phases: list[Phase] = []
    seen = False
    for since, beats, until, lost in _stretches(file, end):
        seen = seen or bool(beats)
        for rule in rules:
            if since:
                rule.listen(since)
            phases += rule.update(beats, until)
            phases += rule.interrupt(until, until, "signal_lost") if lost else ()
    judged = [phase for phase in phases if phase.kind == "physiological"]
    return events(_said(judged, rate_hz, end, limits), end) if seen else None


def _said(phases: list[Phase], rate_hz: float, end: int, limits: Limits) -> Iterator[Phase]:
    """What of the phases is said, as in a `Watch`: the graver silences the lesser."""
    chain = Chain(rate_hz, limits)
    for phase in sorted(phases, key=lambda phase: phase.at):
        yield from chain.push(phase)
    yield from chain.due(end)


def _stretches(file: AnnotationFile, end: int) -> Iterator[tuple[int, list[Annotation], int, bool]]:
    """Beats with the samples between which they lie, cut where fibrillation or shutdown begins (then True)."""
    since, beats = 0, list[Annotation]()
    hidden: set[int] = set()
    for at, code, subtype in zip(file.at.tolist(), file.code.tolist(), file.subtype.tolist(), strict=True):
        if code in _HIDES:
            began = code == VF_ON or (code == NOISE and subtype & 0x30 == 0x30)
            if began and not hidden:
                yield since, beats, at, True
                since, beats = 0, []
            over = hidden == {_HIDES[code]} and not began
            hidden = hidden | {_HIDES[code]} if began else hidden - {_HIDES[code]}
            since = at if over else since
        elif code in DE_CHAZAL_CLASSES and not hidden:
            beats.append(Annotation(at, DE_CHAZAL_CLASSES[code]))
    yield since, beats, max(end, file.last + 1), False


_HIDES = {NOISE: NOISE, VF_ON: VF_ON, VF_OFF: VF_ON}


def by_rhythm(file: AnnotationFile, end: int) -> list[Event] | None:
    """The alarms that the rhythm marks of an annotation file call for, by label and onset; None if it has no marks."""
    if not ({RHYTHM, VF_ON} & set(file.code.tolist())):
        return None
    bracketed = [_event("ventricular_fibrillation", *span) for span in episodes(file, "VF", end)]
    marked = [
        _event(label, *span)
        for label, names in RHYTHMS.items()
        if not (bracketed and label == "ventricular_fibrillation")  # `[` and `]` are there: `(VFL` says the same again
        for span in _spans(file, names, end)
    ]
    return bracketed + marked


def _event(label: str, on: int, off: int) -> Event:
    return Event(label, "", "physiological", on, on, off)


def _spans(file: AnnotationFile, names: tuple[str, ...], end: int) -> Iterator[tuple[int, int]]:
    """Stretches from a rhythm mark of one of these names to the next mark of another."""
    on = None
    for at, code, aux in zip(file.at.tolist(), file.code.tolist(), file.aux, strict=True):
        if code != RHYTHM:
            continue
        if aux in names:
            on = at if on is None else on
        elif on is not None:
            yield on, at
            on = None
    if on is not None:
        yield on, end
