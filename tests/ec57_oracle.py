"""Random pairs of annotation files, and slow comparisons of them that go back to the definitions."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from holdover.evaluate.annotations import AnnotationFile, AnnotationPair

CODES = {"N": 1, "S": 8, "V": 5, "F": 6, "Q": 13}
LETTERS = {code: letter for letter, code in CODES.items()} | {2: "N", 3: "N", 4: "S", 7: "S", 11: "S", 34: "S", 12: "Q"}
LETTERS |= {10: "V", 38: "Q", 9: "S", 25: "N", 30: "Q", 35: "S", 41: "V"}
FLUTTER, NOISE, VF_ON, VF_OFF = 31, 14, 32, 33
NEVER = 10**9

Mark = tuple[int, int, int]
"""Sample, code, subtype."""

_Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Story:
    """Beats (sample, class), and spans of fibrillation and shutdown (on, off) between them; off None: never ends."""

    beats: tuple[tuple[int, str], ...]
    fibrillation: tuple[tuple[int, int | None], ...] = ()
    shutdown: tuple[tuple[int, int | None], ...] = ()

    def marks(self) -> list[Mark]:
        marks = [(at, CODES[label], 0) for at, label in self.beats]
        marks += [mark for on, off in self.fibrillation for mark in ((on, VF_ON, 0), (off, VF_OFF, 0)) if mark[0]]
        marks += [mark for on, off in self.shutdown for mark in ((on, NOISE, -1), (off, NOISE, 0)) if mark[0]]
        return sorted(marks, key=lambda mark: mark[0])

    def file(self) -> AnnotationFile:
        return annotation_file([(*mark, "") for mark in self.marks()])


def annotation_file(marks: list[tuple[int, int, int, str]]) -> AnnotationFile:
    at, code, subtype = (np.array([mark[k] for mark in marks], dtype=np.int64) for k in range(3))
    return AnnotationFile("story.tst", "tst", at, code, subtype, tuple(mark[3] for mark in marks))


def marks_of(file: AnnotationFile) -> list[Mark]:
    return list(zip(file.at.tolist(), file.code.tolist(), file.subtype.tolist(), strict=True))


def pair_of(reference: Story, test: Story, rate_hz: float = 360.0, length: int = 0) -> AnnotationPair:
    return AnnotationPair("story", rate_hz, length, reference.file(), test.file())


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Beats 0 to 120 samples apart, in some stories on a grid, so that many are as far from one as from another.

    A span has a beat or more before it; the last may never end, and a shutdown may have beats in it.
    """
    at, since, grid = 1, 0, draw(st.sampled_from([1, 1, 20]))
    beats: list[tuple[int, str]] = []
    spans: dict[str, list[tuple[int, int | None]]] = {"fibrillation": [], "shutdown": []}
    for _ in range(draw(st.integers(1, 30))):
        at += grid * draw(st.integers(0, 120 // grid))
        kind = draw(st.sampled_from(["", "", "", "fibrillation", "shutdown", "busy"])) if since else ""
        if not kind:
            beats.append((at, draw(st.sampled_from("NNNSVFQ"))))
            since += 1
            continue
        off = at + draw(st.integers(1, 200))
        spans["shutdown" if kind == "busy" else kind].append((at, off))
        if kind == "busy":
            beats.append((draw(st.integers(at, off)), draw(st.sampled_from("NSVFQ"))))
        at, since = off + 1, 0
    if draw(st.booleans()) and since:
        spans[draw(st.sampled_from(["fibrillation", "shutdown"]))].append((at + 1, None))
    return Story(tuple(beats), tuple(spans["fibrillation"]), tuple(spans["shutdown"]))


@st.composite
def disturbed(draw: st.DrawFn, story: Story) -> Story:
    """A story as a detector might tell it: beats moved, dropped, doubled, called by another name; spans of its own."""
    beats = []
    for at, label in story.beats:
        what = draw(st.sampled_from(["same", "same", "moved", "dropped", "doubled", "twice", "renamed"]))
        if what in ("same", "doubled", "twice"):
            beats.append((at, label))
        if what in ("moved", "doubled"):
            beats.append((max(at + draw(st.integers(-60, 60)), 1), label))
        if what in ("renamed", "twice"):
            beats.append((at, draw(st.sampled_from("NSVFQ"))))
    beats = sorted(beats, key=lambda beat: beat[0]) or [(1, "N")]
    spans = draw(stories()).shutdown[-2:]
    lone = [(on, off) for on, off in spans if any(at < on for at, _ in beats)]
    return Story(tuple(beats), (), tuple(lone) if _apart(lone, beats) else ())


def _apart(spans: list[tuple[int, int | None]], beats: list[tuple[int, str]]) -> bool:
    """Whether a beat stands between each span and the next."""
    ends = [NEVER if off is None else off for _, off in spans]
    return all(any(end < at < on for at, _ in beats) for end, (on, _) in zip(ends, spans[1:], strict=False))


class _Beat(NamedTuple):
    """A beat, its RR interval (0: the first, or a span lies between), and what had been read before it.

    That is the spans, and in `down` the samples of shutdown.
    """

    at: int
    label: str
    rr: int
    fibrillation: _Spans
    shutdown: _Spans
    down: int


def told(marks: list[Mark], window: int, end: int, *, reference: bool) -> list[_Beat]:
    """The beats of a list of marks, and one that never comes, as the comparison program understands them.

    What stands within fibrillation is not there. Shutdown ends with the mark that follows, if that says so; else it was
    a single mark (AHA), and reaches to a window from what is around it. What never ends lasts for ever; but a second
    such span has the end of the one before, and so is none (bxb; only the reference's shutdown is spared this). No more
    than the last two spans of a kind are remembered.
    """
    beats: list[_Beat] = []
    fibrillation: _Spans = []
    shutdown: _Spans = []
    left, down = list(marks), 0

    def put(at: int, label: str) -> None:
        before = beats[-1].at if beats else 0
        broken = before == 0 or any(before <= on < at for on, _ in fibrillation[-2:] + shutdown[-2:])
        beats.append(_Beat(at, label, 0 if broken else at - before, fibrillation[-2:], shutdown[-2:], down))

    while left:
        at, code, subtype = left.pop(0)
        if code in LETTERS or code == FLUTTER:
            put(at, LETTERS.get(code, "O"))
        elif code == VF_ON:
            while left and left[0][1] != VF_OFF:
                left.pop(0)
            off = left.pop(0)[0] if left else (fibrillation[-1][1] if fibrillation else NEVER)
            fibrillation.append((at, off))
        elif code == NOISE and subtype & 48 == 48:
            if not left:
                shutdown.append((at, NEVER if reference or not shutdown else shutdown[-1][1]))
                down += end - at if end > 0 else 0
            elif left[0][1] == NOISE and left[0][2] & 48 != 48:
                shutdown.append((at, left.pop(0)[0]))
                down += shutdown[-1][1] - at
            else:
                off = left[0][0] - window
                before = max(beats[-1].at if beats else 0, fibrillation[-1][1] if fibrillation else -1)
                shutdown.append((min(before + window, off), off))
                down += off - shutdown[-1][0]
    return [*beats, _Beat(NEVER, "*", 0, fibrillation[-2:], shutdown[-2:], down)]


def slow_pairs(
    reference: list[Mark], test: list[Mark], window: int, start: int, end: int
) -> tuple[Counter[str], float, int, int]:
    """Pairs of classes such as "Nv" and "Vo", the sum and number of squared RR errors, samples of shutdown.

    `end` as in `Period`: a sample, -1 to the end of the reference, 0 to the end of either.
    """
    counts: Counter[str] = Counter()
    errors: list[float] = []
    refs, tests = told(reference, window, end, reference=True), told(test, window, end, reference=False)

    def inside(spans: _Spans, at: int) -> bool:
        return any(on <= at <= off for on, off in spans)

    def head(beats: list[_Beat], k: int = 0) -> int:
        return beats[min(k, len(beats) - 1)].at

    def count(label: str) -> None:
        if "*" not in label and label.lower() not in ("oo", "ox", "xo"):
            counts[label] += 1
        if refs[0].rr and tests[0].rr:
            errors.append(float(refs[0].rr - tests[0].rr) ** 2)

    def best(early: list[_Beat], late: list[_Beat]) -> bool:
        gap, rival = head(late) - head(early), abs(head(late) - head(early, 1))
        return gap <= window and (gap < rival or abs(head(late, 1) - head(early, 1)) < rival)

    def goes_on() -> bool:
        if end > 0:
            return min(head(refs), head(tests)) <= end
        return head(refs) != NEVER and (end == -1 or head(tests) != NEVER)

    refs = [beat for beat in refs if beat.at >= start]
    before = [beat for beat in tests if beat.at < start]
    tests = [beat for beat in tests if beat.at >= start]
    if before and head(refs) - before[-1].at <= window and head(refs) - before[-1].at < abs(head(refs) - head(tests)):
        tests.insert(0, before[-1])
        count(refs[0].label + tests[0].label.lower())
        refs, tests = refs[1:], tests[1:]
    elif start and head(tests) - start <= window and abs(head(refs) - head(tests, 1)) < abs(head(refs) - head(tests)):
        tests = tests[1:]
    while goes_on():
        early, late = (tests, refs) if head(tests) < head(refs) else (refs, tests)
        if best(early, late):
            count(refs[0].label + tests[0].label.lower())
            refs, tests = refs[1:], tests[1:]
        elif early is tests:
            then = refs[min(1, len(refs) - 1)]
            missing = "X" if inside(then.shutdown, tests[0].at) else "O"
            count(("*" if inside(then.fibrillation, tests[0].at) else missing) + tests[0].label.lower())
            tests = tests[1:]
        else:
            then = tests[min(1, len(tests) - 1)]
            count(refs[0].label + ("x" if inside(then.shutdown, refs[0].at) else "o"))
            refs = refs[1:]
    return counts, sum(errors), len(errors), tests[min(1, len(tests) - 1)].down


def slow_runs(defining: Story, other: Story, ectopic: str, window: int) -> Counter[tuple[int, int]]:
    """Lengths of each run and of the other's longest in its window; right where windows do not overlap."""
    lengths: Counter[tuple[int, int]] = Counter()
    for is_run, group in groupby(defining.beats, lambda beat: beat[1] in ectopic):
        if is_run:
            run = list(group)
            low, high = run[0][0] - window, run[-1][0] + window
            near = [label in ectopic for at, label in other.beats if low <= at <= high]
            longest = max((len(list(g)) for yes, g in groupby(near) if yes), default=0)
            lengths[min(len(run), 6), min(longest, 6)] += 1
    return lengths
