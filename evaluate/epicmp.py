"""Episode by episode: atrial and ventricular fibrillation, as EC57 and the WFDB program `epicmp` compare them."""

from dataclasses import dataclass
from typing import Literal

from holdover.evaluate.annotations import RHYTHM, VF_OFF, VF_ON, AnnotationFile, AnnotationPair
from holdover.evaluate.period import Period
from holdover.evaluate.track import Span

Kind = Literal["AF", "VF", "AFL"]


@dataclass(frozen=True)
class EpisodeTally:
    """Episodes of one annotator that the other knows of (`match`) or not; durations in samples."""

    match: int = 0
    mismatch: int = 0
    duration: int = 0
    overlap: int = 0


@dataclass(frozen=True)
class EpisodeScore:
    """`reference` tells sensitivity, `test` positive predictivity."""

    reference: EpisodeTally
    test: EpisodeTally


def compare_episodes(
    pair: AnnotationPair,
    period: Period,
    kind: Literal["AF", "VF"],
    *,
    exclude_flutter: bool = False,
    shortest: int = 0,
    ignore_shorter: bool = False,
) -> EpisodeScore:
    """Compare the episodes of a record after its learning period.

    Parameters
    ----------
    exclude_flutter
        Leave reference atrial flutter out of the positive predictivity of AF (EC38:1998).
    shortest
        Episodes shorter than this many samples are not counted; with `ignore_shorter` they match nothing either.
    """
    reference = episodes(pair.reference, kind, period.end)
    test = episodes(pair.test, kind, period.end)
    flutter = episodes(pair.reference, "AFL", period.end) if exclude_flutter and kind == "AF" else []
    least = shortest if ignore_shorter else 0
    return EpisodeScore(
        _tally(_within(reference, period), test, [], shortest, least),
        _tally(_within(test, period), reference, _excluded(flutter, period), shortest, least),
    )


def episodes(file: AnnotationFile, kind: Kind, end: int) -> list[Span]:
    """Spans of a rhythm in samples; one that never ends lasts to `end`, or to the last annotation if that is later."""
    spans, on = [], None
    for at, code, aux in zip(file.at.tolist(), file.code.tolist(), file.aux, strict=True):
        if on is None and _begins(code, aux, kind):
            on = at
        elif on is not None and _ends(code, aux, kind):
            spans.append(Span(on, at))
            on = None
    if on is not None:
        spans.append(Span(on, max(end, int(file.at[-1]))))
    return spans


def _begins(code: int, aux: str, kind: Kind) -> bool:
    return code == VF_ON if kind == "VF" else code == RHYTHM and aux.startswith(_NAMES[kind])


def _ends(code: int, aux: str, kind: Kind) -> bool:
    return code == VF_OFF if kind == "VF" else code == RHYTHM and not aux.startswith(_NAMES[kind])


_NAMES = {"AF": "(AFIB", "AFL": "(AFL"}


def _within(spans: list[Span], period: Period) -> list[Span]:
    """Those after the learning period and before the end, cut to it; none where the record's length is unknown."""
    found = [Span(max(on, period.start), off) for on, off in spans if off >= period.start]
    if period.end == 0:
        return found
    return [Span(on, min(off, period.end)) for on, off in found if on < period.end]


def _excluded(spans: list[Span], period: Period) -> list[Span]:
    return [span for span in spans if span.off >= period.start and (period.end == 0 or span.on < period.end)]


def _tally(defining: list[Span], others: list[Span], excluded: list[Span], shortest: int, least: int) -> EpisodeTally:
    match = mismatch = total = overlapping = 0
    finger = _Finger(others, least)
    for whole in defining:
        span, duration = _cut(whole, excluded)
        if duration < shortest:
            continue
        total += duration
        overlap = finger.overlap(span)
        overlapping += overlap
        match, mismatch = (match + 1, mismatch) if overlap > 0 else (match, mismatch + 1)
    return EpisodeTally(match, mismatch, total, overlapping)


def _cut(span: Span, excluded: list[Span]) -> tuple[Span, int]:
    """An episode without what is excluded from its ends, and its duration without all that is; -1: nothing is left."""
    on, off = span
    duration = off - on
    for out in excluded:
        if off <= out.on:
            break
        if out.on <= on <= out.off:
            if off <= out.off:
                return Span(on, off), -1
            duration += out.off - on  # epicmp adds what it means to take away; kept, to give the same figures
            on = out.off
        elif on <= out.on <= off:
            duration -= min(out.off, off) - out.on
            off = off if out.off < off else out.on
    return Span(on, off), duration


class _Finger:
    """A place among the other annotator's episodes that only moves forward."""

    def __init__(self, spans: list[Span], least: int):
        self.spans, self.least, self.k = spans, least, 0

    def overlap(self, window: Span) -> int:
        """How many samples of a window lie in an episode that is not shorter than `least`."""
        while self.k < len(self.spans) and self.spans[self.k].off < window.on:
            self.k += 1
        total = 0
        if self.k == len(self.spans) or self.spans[self.k].on > window.off:
            return total
        while True:
            on, off = self.spans[self.k]
            if off - on >= self.least:
                total += min(off, window.off) - max(on, window.on)
                if off >= window.off:
                    return total
            self.k += 1
            if self.k == len(self.spans) or self.spans[self.k].on >= window.off:
                return total
