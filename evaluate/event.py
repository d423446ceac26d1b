"""Events: the episodes of alarms on the sample clock, from phases or from the notes of an annotation file."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, get_args

import msgspec

from holdover.evaluate.annotations import NOTE, AnnotationFile
from holdover.runtime.alert import Kind, Phase, Priority
from holdover.runtime.errors import SourceError

_START = re.compile(
    rf"start (?P<label>\w+) (?P<priority>{'|'.join(get_args(Priority))})"
    rf"(?: (?P<kind>{'|'.join(get_args(Kind))}) (?P<onset>\d+))?"
)
_END = re.compile(r"end (?P<label>\w+)(?: \w+ \w+ \d+ (?P<end>\d+))?(?: .*)?")
_MAKER = re.compile(r"by (?P<model>.+) delay_s (?P<delay_s>\d+\.?\d*)")
_FORM = '"start LABEL PRIORITY [KIND ONSET]" or "end LABEL [PRIORITY KIND ONSET END]"'


class Event(NamedTuple):
    """One episode: where it began, where that was said, and where it ended (samples)."""

    label: str
    priority: str
    kind: str
    onset: int
    at: int
    end: int


class AlarmFile(NamedTuple):
    """What an alarm file tells: events in order of their onset, who judged, and how much later that is known."""

    events: list[Event]
    model: str | None
    delay_s: float


def events(phases: Iterable[Phase], end: int) -> list[Event]:
    """The episodes of phases, by onset; those that do not end last to sample `end`.

    >>> start = Phase(label="asystole", phase="start", onset=700, at=2140, priority="high")
    >>> events([start], 3600)
    [Event(label='asystole', priority='high', kind='physiological', onset=700, at=2140, end=3600)]
    """
    done, going = [], {}
    for p in phases:
        if p.phase == "start":
            going[p.label] = Event(p.label, p.priority, p.kind, p.onset, p.at, end)
        elif p.phase == "end" and p.label in going:
            done.append(going.pop(p.label)._replace(end=p.at if p.end is None else p.end))
    return sorted([*done, *going.values()], key=lambda event: event.onset)


def alarm_note(phase: Phase) -> str:
    """A phase as the text of a WFDB note at the sample where it came true; `read_alarms` reads it.

    >>> alarm_note(Phase(label="asystole", phase="start", onset=700, at=2140, priority="high"))
    'start asystole high physiological 700'
    """
    end = "" if phase.end is None else f" {phase.end}"
    return f"{phase.phase} {phase.label} {phase.priority} {phase.kind} {phase.onset}{end}"


def maker_note(name: str, version: str, sha256: str, delay_s: float) -> str:
    """Who judged, and how many seconds after a sample all is known of it, as the text of a WFDB note."""
    return f"by {name} {version} sha256:{sha256} delay_s {delay_s:.3f}"


def read_alarms(file: AnnotationFile, end: int) -> AlarmFile:
    """The events that an annotation file tells as notes; other annotations are passed over.

    A note is `start LABEL PRIORITY KIND ONSET` at the sample where the alarm came true, later `end LABEL PRIORITY KIND
    ONSET END`. Without KIND and ONSET the alarm is physiological, and begins where the note stands; without END it
    ends there. A label has one episode at a time: what starts again has ended.

    Raises
    ------
    SourceError
        A note begins as one of these and does not go on as one; the message names the file and the place.
    """
    phases: list[Phase] = []
    model, delay_s = None, 0.0
    for place, at, text in _notes(file):
        if maker := _MAKER.fullmatch(text):
            model, delay_s = maker["model"], float(maker["delay_s"])
        elif text.startswith(("start ", "end ")):
            phases += _phases(text, at, f"{file.path}: annotation {place} at sample {at}")
    return AlarmFile(events(phases, end), model, delay_s)


def _notes(file: AnnotationFile) -> Iterator[tuple[int, int, str]]:
    for place, (at, code, aux) in enumerate(zip(file.at.tolist(), file.code.tolist(), file.aux, strict=True), 1):
        if code == NOTE:
            yield place, at, aux


def _phases(text: str, at: int, whose: str) -> Iterator[Phase]:
    if start := _START.fullmatch(text):
        label, onset = start["label"], int(start["onset"] or at)
        if onset > at:
            raise SourceError(f"{whose}: the alarm begins at sample {onset}, after it is told")
        yield Phase(label=label, phase="end", onset=at, at=at)
        known = {"priority": start["priority"], "kind": start["kind"] or "physiological"}
        yield msgspec.convert({"label": label, "phase": "start", "onset": onset, "at": at, **known}, Phase)
    elif end := _END.fullmatch(text):
        yield Phase(label=end["label"], phase="end", onset=at, at=at, end=int(end["end"] or at))
    else:
        raise SourceError(
            f"{whose}: {text!r} is no alarm; expected {_FORM}, priorities {', '.join(get_args(Priority))}"
        )
