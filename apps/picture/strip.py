"""What a picture shows: alarms as spans, the recording on its own places, and which rows of it fit a page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from holdover.runtime.alert import Kind, Priority
from holdover.runtime.annotation import Annotation

ROW_S = 30.0
MAX_ROWS = 40
BEFORE_S = 5.0
AFTER_S = 60.0

Group = Literal["N", "S", "V", "F", "Q"]

GROUPS: dict[str, Group] = {
    **dict.fromkeys("NLRBejn", "N"), **dict.fromkeys("AaJS", "S"), **dict.fromkeys("VEr", "V"), "F": "F",
    **dict.fromkeys("/fQ?", "Q"),
}  # fmt: skip
"""Beat symbols by class (ANSI/AAMI EC57)."""

SHADE = {"high": "#e5383b", "medium": "#f48c06", "low": "#ffd23f", "info": "#8ecae6"}
TECHNICAL = "#8d99ae"
URGENCY = {"high": 0, "medium": 1, "low": 2, "info": 3}


@dataclass(frozen=True, slots=True)
class Span:
    """An alarm from its onset to its end, samples on the source's clock; `end` is None while it lasts."""

    label: str
    kind: Kind
    priority: Priority
    start: int
    end: int | None

    @property
    def color(self) -> str:
        """What it is shaded with."""
        return TECHNICAL if self.kind == "technical" else SHADE[self.priority]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is drawn: the rows by their first sample, each `width` samples; `note` says what of the whole they are."""

    rows: tuple[int, ...]
    width: int
    note: str


class Strip:
    """The recording on its own places: x[0] is place 0."""

    def __init__(
        self,
        x: NDArray[Any],
        rate_hz: float,
        origin: int,
        annotations: Sequence[Annotation],
        spans: Sequence[Span],
        unit: str,
    ) -> None:
        self.x = x
        self.rate_hz = rate_hz
        self.origin = origin
        self.unit = unit
        self.marks = [a for a in annotations if 0 <= a.at - origin < len(x)]
        self.spans = sorted((s for s in spans if self._inside(s)), key=lambda s: s.start)

    def local(self, span: Span) -> tuple[int, int]:
        """First place of a span, and the one after its last."""
        end = len(self.x) if span.end is None else min(span.end - self.origin, len(self.x))
        start = max(0, span.start - self.origin)
        return start, max(end, start + 1)

    def clock(self, at: float) -> str:
        """A place as a time of the source's clock."""
        return clock((at + self.origin) / self.rate_hz)

    def _inside(self, span: Span) -> bool:
        return span.start - self.origin < len(self.x) and (span.end is None or span.end > self.origin)


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on.

    Examples
    --------
    >>> clock(65), clock(3725)
    ('1:05', '1:02:05')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


def choose(samples: int, rate_hz: float, spans: Sequence[tuple[Span, tuple[int, int]]]) -> Sheet:
    """Choose rows: all of 30 s, or of 60 s, if that is at most `MAX_ROWS`; of a longer recording, those with alarms."""
    length_s = samples / rate_hz
    if length_s <= ROW_S:
        return Sheet((0,), math.ceil(5 * math.ceil(length_s / 5) * rate_hz), "all of it")
    for row_s in (ROW_S, 2 * ROW_S):
        width = round(row_s * rate_hz)
        count = math.ceil(samples / width)
        if count <= MAX_ROWS:
            return Sheet(tuple(i * width for i in range(count)), width, f"all of it, rows of {row_s:.0f} s")
    return _around(samples, rate_hz, spans)


def _around(samples: int, rate_hz: float, spans: Sequence[tuple[Span, tuple[int, int]]]) -> Sheet:
    width = round(ROW_S * rate_hz)
    count = math.ceil(samples / width)
    wanted: dict[int, None] = {}
    for _, (a, b) in sorted(spans, key=lambda item: (URGENCY[item[0].priority], item[1][0])):
        first = max(0, int(a - BEFORE_S * rate_hz)) // width
        last = min(b - 1, int(a + AFTER_S * rate_hz), samples - 1) // width
        wanted.update(dict.fromkeys(range(first, last + 1)))
    shown = sorted(list(wanted)[:MAX_ROWS]) or list(range(MAX_ROWS))
    of = f"{len(shown)} of its {count} rows of {ROW_S:.0f} s"
    if not wanted:
        return Sheet(tuple(i * width for i in shown), width, f"the first {of}; it has no alarms")
    left = len(wanted) - len(shown)
    more = f"; {left} more with less urgent or later alarms are not shown" if left else ""
    return Sheet(tuple(i * width for i in shown), width, f"{of}: those where alarms begin{more}")


def summary(strip: Strip, sheet: Sheet) -> str:
    """One line: how long it is, what was found, and what of it is shown."""
    beats = sum(mark.symbol in GROUPS for mark in strip.marks)
    found = f"{beats} beats, " if beats or strip.unit == "mV" else ""
    return (
        f"{strip.clock(0)} to {strip.clock(len(strip.x))} at {strip.rate_hz:g} Hz · {found}"
        f"{len(strip.spans)} alarms · shown: {sheet.note}"
    )
