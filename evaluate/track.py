"""The beats of one annotator in order, each with what was known of fibrillation and shutdown when it was reached."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from holdover.evaluate.annotations import NOISE, QRS_CODES, VF_OFF, VF_ON, AnnotationFile

FAR = 2**62
"""A time after every beat: where a track stands once its file is read."""

_OPEN = -1


class Span(NamedTuple):
    """A stretch of the record in samples, both ends in it; an end of -1 is not known."""

    on: int
    off: int


_NONE = Span(-1, _OPEN)


class Spans(NamedTuple):
    """The last span of its kind and the one before it: the comparison rules look no further back."""

    last: Span = _NONE
    before: Span = _NONE

    def cover(self, at: int) -> bool:
        """Whether a sample lies in one of them."""
        last, before = self
        return (last.on != -1 and last.on <= at and (at <= last.off or last.off == _OPEN)) or (
            before.on != -1 and before.on <= at <= before.off
        )

    def begin_between(self, low: int, high: int) -> bool:
        """Whether one of them begins at or after `low` and before `high`."""
        return any(low <= span.on < high for span in self)

    def opened(self, on: int) -> "Spans":
        """These after a new span has begun; until its end is read it has the end of the one before."""
        return Spans(Span(on, self.last.off), self.last)

    def closed(self, off: int) -> "Spans":
        """These with the end of the last span known."""
        return Spans(Span(self.last.on, off), self.before)


@dataclass
class Track:
    """Beats by index: sample, class, RR interval to the one before (0: none), spans and shutdown known when read.

    Index 0 stands before the first beat, at sample 0 and without a class; the last stands after the end, at `FAR`.
    """

    at: list[int] = field(default_factory=list)
    label: list[str] = field(default_factory=list)
    rr: list[int] = field(default_factory=list)
    fibrillation: list[Spans] = field(default_factory=list)
    shutdown: list[Spans] = field(default_factory=list)
    shutdown_total: list[int] = field(default_factory=list)

    def after(self, k: int) -> int:
        """The index that follows; after the end comes the end."""
        return min(k + 1, len(self.at) - 1)

    def first_from(self, start: int, least: int) -> int:
        """The first index, `least` or more, whose beat is at sample `start` or later."""
        return next(k for k in range(least, len(self.at)) if self.at[k] >= start)


def track(file: AnnotationFile, classes: Mapping[int, str], window: int, end: int, *, reference: bool) -> Track:
    """Walk an annotation file from beat to beat; `window` and `end` in samples as in `Period`.

    Shutdown is a noise mark with bits 4 and 5 of its subtype set, until the next that lacks one of them; where the next
    annotation is something else (AHA), it reaches to `window` from its neighbours. All between the marks of
    ventricular fibrillation is passed over.
    """
    return _Walk(file, classes, window, end, reference).track()


class _Walk:
    def __init__(self, file: AnnotationFile, classes: Mapping[int, str], window: int, end: int, reference: bool):
        self.marks = list(zip(file.at.tolist(), file.code.tolist(), file.subtype.tolist(), strict=True))
        self.classes, self.window, self.end, self.reference = classes, window, end, reference
        self.k = 0
        self.fibrillation, self.shutdown, self.total = Spans(), Spans(), 0
        self.out = Track()

    def track(self) -> Track:
        self._put(0, "")
        while self.k < len(self.marks):
            at, code, subtype = self.marks[self.k]
            self.k += 1
            if code in QRS_CODES:
                self._put(at, self.classes.get(code, "O"))
            elif code == NOISE and subtype & 0x30 == 0x30:
                self._shut_down(at)
            elif code == VF_ON:
                self._fibrillate(at)
        self._put(FAR, "*")
        return self.out

    def _put(self, at: int, label: str) -> None:
        out = self.out
        before = out.at[-1] if out.at else 0
        broken = self.fibrillation.begin_between(before, at) or self.shutdown.begin_between(before, at)
        out.at.append(at)
        out.label.append(label)
        out.rr.append(0 if before == 0 or at == FAR or broken else at - before)
        out.fibrillation.append(self.fibrillation)
        out.shutdown.append(self.shutdown)
        out.shutdown_total.append(self.total)

    def _shut_down(self, at: int) -> None:
        self.shutdown = self.shutdown.opened(at)
        if self.k == len(self.marks):
            self._never_back(at)
            return
        off, code, subtype = self.marks[self.k]
        if code == NOISE and subtype & 0x30 != 0x30:
            self.k += 1
        else:
            off -= self.window
            beat, over = self.out.at[-1], self.fibrillation.last.off
            at = min((over if over > beat else beat) + self.window, off)
            self.shutdown = Spans(Span(at, self.shutdown.last.off), self.shutdown.before)
        self.shutdown = self.shutdown.closed(off)
        self.total += off - at

    def _never_back(self, at: int) -> None:
        if self.reference:
            self.shutdown = self.shutdown.closed(FAR)
        elif self.end > 0:
            self.total += self.end - at

    def _fibrillate(self, at: int) -> None:
        self.fibrillation = self.fibrillation.opened(at)
        while self.k < len(self.marks):
            off, code, _ = self.marks[self.k]
            self.k += 1
            if code == VF_OFF:
                self.fibrillation = self.fibrillation.closed(off)
                return
