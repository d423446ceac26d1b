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
_END = re.compile(r"end (?P<label>\w+)(?: \w+ \w+ (?P<onset>\d+) (?P<end>\d+))?(?: .*)?")
_MAKER = re.compile(r"by (?P<model>.+?) delay_s (?P<delay_s>\d+\.?\d*)(?: silence_s (?P<silence_s>\d+\.?\d*))?")
_FORM = '"start LABEL PRIORITY [KIND ONSET]" or "end LABEL [PRIORITY KIND ONSET END]"'


class Event(NamedTuple):
    """One episode: where it began, where that was said, and where it ended (samples)."""

    label: str
    priority: str
    kind: str
    onset: int
    at: int
    end: int


class Maker(NamedTuple):
    """Who judged, and how many seconds after a sample all is known of it; `silence_s`, that it is no beat's."""

    model: str | None = None
    delay_s: float = 0.0
    silence_s: float = 0.0


class AlarmFile(NamedTuple):
    """What an alarm file tells: events in order of their onset, and who judged."""

    events: list[Event]
    maker: Maker


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


def maker_note(maker: Maker) -> str:
    """Who judged, and how late, as the text of a WFDB note.

    >>> maker_note(Maker("ecg-rhythm 0.1.0", 0.983, 0.483))
    'by ecg-rhythm 0.1.0 delay_s 0.983 silence_s 0.483'
    """
    return f"by {maker.model} delay_s {maker.delay_s:.3f} silence_s {maker.silence_s:.3f}"


def read_alarms(file: AnnotationFile, end: int) -> AlarmFile:
    """The events that an annotation file tells as notes; other annotations are passed over.

    A note is `start LABEL PRIORITY KIND ONSET` at the sample where the alarm came true, later `end LABEL PRIORITY KIND
    ONSET END`. Without KIND and ONSET the alarm is physiological, and begins where the note stands; without END it
    ends there. A label has one episode at a time: what starts again has ended.

    Raises
    ------
    SourceError
        A note begins as one of these and does not go on as one, or ends an alarm before its onset; the message names
        the file and the place.
    """
    phases: list[Phase] = []
    maker, onsets = Maker(), dict[str, int]()
    for place, at, text in _notes(file):
        if by := _MAKER.fullmatch(text):
            delay_s = float(by["delay_s"])
            maker = Maker(by["model"], delay_s, float(by["silence_s"] or delay_s))
        elif text.startswith(("start ", "end ")):
            phases += _phases(text, at, f"{file.path}: annotation {place} at sample {at}", onsets)
    return AlarmFile(events(phases, end), maker)


def _notes(file: AnnotationFile) -> Iterator[tuple[int, int, str]]:
    for place, (at, code, aux) in enumerate(zip(file.at.tolist(), file.code.tolist(), file.aux, strict=True), 1):
        if code == NOTE:
            yield place, at, aux


def _phases(text: str, at: int, whose: str, onsets: dict[str, int]) -> Iterator[Phase]:
    """What one note comes to; `onsets` are those of the alarms that are open, and are kept up."""
    if start := _START.fullmatch(text):
        label, onset = start["label"], int(start["onset"] or at)
        if onset > at:
            raise SourceError(f"{whose}: the alarm begins at sample {onset}, after it is told")
        onsets[label] = onset
        yield Phase(label=label, phase="end", onset=at, at=at)
        known = {"priority": start["priority"], "kind": start["kind"] or "physiological"}
        yield msgspec.convert({"label": label, "phase": "start", "onset": onset, "at": at, **known}, Phase)
    elif end := _END.fullmatch(text):
        label, over = end["label"], int(end["end"] or at)
        onset = max(onsets.pop(label, 0), int(end["onset"] or 0))
        if over < onset:
            raise SourceError(f"{whose}: the alarm ends at sample {over}, before its onset at sample {onset}")
        yield Phase(label=label, phase="end", onset=at, at=at, end=over)
    else:
        raise SourceError(
            f"{whose}: {text!r} is no alarm; expected {_FORM}, priorities {', '.join(get_args(Priority))}"
        )
