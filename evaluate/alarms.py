"""Alarms as events: how many of those that should be raised are, how many are false, and how late they come."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdover.evaluate.annotations import AnnotationFile
from holdover.evaluate.event import Event, Maker, read_alarms
from holdover.evaluate.period import Period
from holdover.evaluate.reference_events import RHYTHMS, UNSEEN, by_rhythm, by_rules
from holdover.runtime.detect.limits import Limits

PRIORITIES = ("high", "medium", "low", "info")
TOLERANCE_S = 1.0

SILENCES = frozenset({"asystole"})
"""Alarms that come true where no beat was: they need not wait for the class of one."""


class AlarmTally(NamedTuple):
    """Events of one label: in the reference, of these found; alarms, of these true.

    `late_s` is how long after its onset each one that was found was told: high is bad.
    """

    priority: str = ""
    reference: int = 0
    found: int = 0
    alarms: int = 0
    true: int = 0
    late_s: tuple[float, ...] = ()

    def figures(self, hours: float) -> dict[str, Any]:
        """The counts, Se and +P in per cent, false alarms in 24 h, and latency in seconds; None where there is none."""
        late = np.percentile(self.late_s, [50, 95, 100]).tolist() if self.late_s else [None] * 3
        return {
            "priority": self.priority or None,
            "reference": self.reference,
            "found": self.found,
            "Se": _percent(self.found, self.reference),
            "alarms": self.alarms,
            "true": self.true,
            "+P": _percent(self.true, self.alarms),
            "false in 24 h": round(24 * (self.alarms - self.true) / hours, 2) if hours > 0 else None,
            "latency_s": {name: _rounded(q) for name, q in zip(("p50", "p95", "p100"), late, strict=True)},
        }


@dataclass(frozen=True)
class AlarmScore:
    """The alarms of one record against the references that it has, which are `rules` and `rhythm`.

    `tallies` is by reference and label, `seconds` (scored) by reference; `technical` counts the technical alarms by
    label, and `technical_s` is their time within the period. `maker` is who judged; its delays are in the latencies.
    """

    tallies: dict[tuple[str, str], AlarmTally]
    seconds: dict[str, float]
    technical: dict[str, int]
    technical_s: float
    maker: Maker


def compare_alarms(
    alarms: AnnotationFile,
    reference: AnnotationFile,
    rate_hz: float,
    period: Period,
    limits: Limits | None = None,
    tolerance_s: float = TOLERANCE_S,
) -> AlarmScore:
    """Compare the alarms of one record with those that it should raise, by the rules and by its rhythm marks.

    An event of the reference is found, and an alarm is true, if the other side has an event of the same label that
    overlaps it; up to `tolerance_s` between the end of one and the beginning of the other is overlap too. Counted are
    the events whose onset lies in the period. They may match any, and more than one. Latency is from the onset in the
    reference to where the first alarm that matches came true, and the delay that the alarm file states (of an
    asystole, the shorter one of silence); an alarm that came true before counts as told at the onset.

    Raises
    ------
    SourceError
        A note of the alarm file is no alarm.
    """
    end = period.end if period.end > 0 else max(reference.last, alarms.last)
    span = (period.start, end)
    told = read_alarms(alarms, end)
    physiological = [event for event in told.events if event.kind == "physiological"]
    tallies: dict[tuple[str, str], AlarmTally] = {}
    seconds = {}
    for kind, wanted in _references(reference, rate_hz, end, limits or Limits()):
        judged = [event for event in physiological if _is_judged(event.label, kind)]
        for label in sorted({event.label for event in [*wanted, *judged]}):
            sides = [[event for event in side if event.label == label] for side in (wanted, judged)]
            delay_s = told.maker.silence_s if label in SILENCES else told.maker.delay_s
            tallies[kind, label] = _tally(sides[0], sides[1], span, rate_hz, tolerance_s, delay_s)
        seconds[kind] = max(end - period.start, 0) / rate_hz
    dead = [event for event in told.events if event.kind == "technical" and _overlaps(event, span)]
    counts = {label: sum(event.label == label for event in dead) for label in sorted({event.label for event in dead})}
    return AlarmScore(tallies, seconds, counts, _covered(dead, span) / rate_hz, told.maker)


def alarm_figures(scores: Sequence[AlarmScore]) -> dict[str, Any]:
    """All figures of many records, ready for `json.dumps`: the events of all records together."""
    technical = sorted({label for score in scores for label in score.technical})
    return {
        "against": {kind: _against(scores, kind) for kind in ("rules", "rhythm")},
        "technical": {label: sum(score.technical.get(label, 0) for score in scores) for label in technical},
        "technical hours": round(sum(score.technical_s for score in scores) / 3600, 3),
        "delay_s": sorted({score.maker.delay_s for score in scores}),
        "silence_s": sorted({score.maker.silence_s for score in scores}),
    }


def _references(file: AnnotationFile, rate_hz: float, end: int, limits: Limits) -> Iterable[tuple[str, list[Event]]]:
    for kind, found in (("rules", by_rules(file, rate_hz, end, limits)), ("rhythm", by_rhythm(file, end))):
        if found is not None:
            yield kind, found


def _is_judged(label: str, kind: str) -> bool:
    return label in RHYTHMS if kind == "rhythm" else label not in UNSEEN


def _against(scores: Sequence[AlarmScore], kind: str) -> dict[str, Any]:
    """Each label's figures, the gravest first, and those of all labels of a priority together."""
    hours = sum(score.seconds.get(kind, 0.0) for score in scores) / 3600
    names = {label for score in scores for of, label in score.tallies if of == kind}
    every = {name: _sum(score.tallies.get((kind, name), AlarmTally()) for score in scores) for name in names}
    if kind == "rhythm":  # what nobody marked in these records cannot be held against them
        every = {name: tally for name, tally in every.items() if tally.reference}
    labels = sorted(every, key=lambda name: (*_grave(every[name]), name))
    sums = {
        priority: _sum(tally for tally in every.values() if tally.priority == priority)
        for priority in sorted({tally.priority for tally in every.values()} & set(PRIORITIES), key=PRIORITIES.index)
    }
    return {
        "hours": round(hours, 3),
        "records": sum(kind in score.seconds for score in scores),
        "labels": {label: every[label].figures(hours) for label in labels},
        "priorities": {priority: tally.figures(hours) for priority, tally in sums.items()},
    }


def _grave(tally: AlarmTally) -> tuple[int]:
    return (PRIORITIES.index(tally.priority) if tally.priority in PRIORITIES else len(PRIORITIES),)


def _sum(tallies: Iterable[AlarmTally]) -> AlarmTally:
    total = AlarmTally()
    for tally in tallies:
        total = AlarmTally(
            total.priority or tally.priority,
            total.reference + tally.reference,
            total.found + tally.found,
            total.alarms + tally.alarms,
            total.true + tally.true,
            total.late_s + tally.late_s,
        )
    return total


def _tally(
    wanted: Sequence[Event],
    told: Sequence[Event],
    span: tuple[int, int],
    rate_hz: float,
    tolerance_s: float,
    delay_s: float,
) -> AlarmTally:
    slack = round(tolerance_s * rate_hz)
    found, first = _matched(wanted, told, slack)
    true, _ = _matched(told, wanted, slack)
    here, there = (
        np.array([span[0] <= event.onset < span[1] for event in side], dtype=bool) for side in (wanted, told)
    )
    late = [
        max(told[first[k]].at - wanted[k].onset, 0) / rate_hz + delay_s for k in np.flatnonzero(here & found).tolist()
    ]
    return AlarmTally(
        next((event.priority for event in [*told, *wanted] if event.priority), ""),
        int(here.sum()),
        int((here & found).sum()),
        int(there.sum()),
        int((there & true).sum()),
        tuple(late),
    )


def _matched(
    events: Sequence[Event], others: Sequence[Event], slack: int
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Whether each event overlaps one of the others, and the first that it does; those of a side do not overlap."""
    (on, off), (other_on, other_off) = _ends(events), _ends(others)
    first = np.searchsorted(np.maximum.accumulate(other_off), on - slack, side="left")
    return np.searchsorted(other_on, off + slack, side="right") > first, first


def _ends(events: Sequence[Event]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    on, off = (np.array([getattr(event, end) for event in events], dtype=np.int64) for end in ("onset", "end"))
    return on, off


def _overlaps(event: Event, span: tuple[int, int]) -> bool:
    return event.onset < span[1] and event.end > span[0]


def _covered(events: Sequence[Event], span: tuple[int, int]) -> int:
    """Samples of the span that lie in at least one of the events, which are in order of onset."""
    total, done = 0, span[0]
    for event in events:
        total += max(min(event.end, span[1]) - max(event.onset, done), 0)
        done = max(done, event.end)
    return total


def _percent(part: int, whole: int) -> float | None:
    return round(100.0 * part / whole, 2) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
