"""Rhythm and heart rate in WFDB's own marks, for programs that compare episodes (`epicmp`) and rates (`mxm`)."""

from collections.abc import Iterable, Iterator

from holdover.evaluate.event import events
from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.limits import Limits
from holdover.runtime.detect.rate import Rate

SPANS = {
    "atrial_fibrillation": (("+", "(AFIB"), ("+", "(N")),
    "irregular_rhythm": (("+", "(AFIB"), ("+", "(N")),
    "ventricular_fibrillation": (("[", ""), ("]", "")),
}
"""Marks (symbol, text) at the onset and at the end of an alarm; WFDB Programmer's Guide, annotation codes."""

EVERY_S = 5.0
"""From one measurement of the heart rate to the next."""


def rhythm_marks(phases: Iterable[Phase], end: int) -> list[Annotation]:
    """The episodes of `SPANS` among phases of alarms, as marks at their onset and their end, by sample.

    An episode that does not end lasts to sample `end`.

    >>> start = Phase(label="ventricular_fibrillation", phase="start", onset=700, at=2140)
    >>> [(mark.at, mark.symbol) for mark in rhythm_marks([start], 3600)]
    [(700, '['), (3600, ']')]
    """
    marks = []
    for event in events(phases, end):
        if event.label in SPANS:
            places = (event.onset, event.end)
            marks += [
                Annotation(at, symbol, aux=aux) for at, (symbol, aux) in zip(places, SPANS[event.label], strict=True)
            ]
    return sorted(marks, key=lambda mark: mark.at)


def rate_marks(annotations: Iterable[Annotation], rate_hz: float) -> Iterator[Annotation]:
    """Heart rates (`=` of type 0, beats a minute) at the first beat of every 5 s that has one, as a `Watch` knows them.

    Where the signal is lost (`~` of subtype -1) the beats before are forgotten, as there.

    Parameters
    ----------
    annotations
        Beats and marks of signal quality, in order.
    rate_hz
        Of their sample clock.

    Examples
    --------
    >>> beats = [Annotation(at, "N") for at in range(0, 4000, 288)]
    >>> [(mark.at, mark.aux) for mark in rate_marks(beats, 360)]
    [(1152, '75.0'), (2016, '75.0'), (3744, '75.0')]
    """
    rate, told = Rate(rate_hz, Limits()), -1
    for mark in annotations:
        if mark.symbol == "~" and mark.subtype == -1:
            rate = Rate(rate_hz, Limits())
        if not mark.is_beat:
            continue
        list(rate.update([mark], mark.at))  # its alarms are not wanted here
        turn = int(mark.at / (EVERY_S * rate_hz))
        if rate.bpm is not None and turn > told:
            told = turn
            yield Annotation(mark.at, "=", aux=f"{rate.bpm:.1f}")
