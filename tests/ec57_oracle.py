"""Random pairs of annotation files, and slow comparisons of them that go back to the definitions."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from hypothesis import strategies as st

from holdover.evaluate.annotations import AnnotationFile, AnnotationPair

CODES = {"N": 1, "S": 8, "V": 5, "F": 6, "Q": 13}
NEVER = 10**9


@dataclass(frozen=True)
class Story:
    """Beats (sample, class), and spans of fibrillation and shutdown (on, off) between them."""

    beats: tuple[tuple[int, str], ...]
    fibrillation: tuple[tuple[int, int], ...] = ()
    shutdown: tuple[tuple[int, int], ...] = ()

    def file(self) -> AnnotationFile:
        marks = [(at, CODES[label], 0, "") for at, label in self.beats]
        marks += [mark for on, off in self.fibrillation for mark in ((on, 32, 0, ""), (off, 33, 0, ""))]
        marks += [mark for on, off in self.shutdown for mark in ((on, 14, -1, ""), (off, 14, 0, ""))]
        return annotation_file(sorted(marks, key=lambda mark: mark[0]))


def annotation_file(marks: list[tuple[int, int, int, str]]) -> AnnotationFile:
    at, code, subtype = (np.array([mark[k] for mark in marks], dtype=np.int64) for k in range(3))
    return AnnotationFile("story.tst", "tst", at, code, subtype, tuple(mark[3] for mark in marks))


def pair_of(reference: Story, test: Story, rate_hz: float = 360.0, length: int = 0) -> AnnotationPair:
    return AnnotationPair("story", rate_hz, length, reference.file(), test.file())


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Beats 1 to 120 samples apart; spans with three beats or more from one to the next."""
    at, since = 0, 0
    beats: list[tuple[int, str]] = []
    spans: dict[str, list[tuple[int, int]]] = {"fibrillation": [], "shutdown": []}
    for _ in range(draw(st.integers(1, 30))):
        at += draw(st.integers(1, 120))
        kind = draw(st.sampled_from(["", "", "", "fibrillation", "shutdown"])) if since >= 3 else ""
        if kind:
            off = at + draw(st.integers(1, 200))
            spans[kind].append((at, off))
            at, since = off, 0
            continue
        beats.append((at, draw(st.sampled_from("NNNSVFQ"))))
        since += 1
    if not beats:
        beats.append((at + 1, "N"))
    return Story(tuple(beats), tuple(spans["fibrillation"]), tuple(spans["shutdown"]))


@st.composite
def disturbed(draw: st.DrawFn, story: Story) -> Story:
    """A story as a detector might tell it: beats moved, dropped, doubled, called by another name."""
    beats = []
    for at, label in story.beats:
        what = draw(st.sampled_from(["same", "same", "moved", "dropped", "doubled", "renamed"]))
        if what in ("same", "doubled"):
            beats.append((at, label))
        if what in ("moved", "doubled"):
            beats.append((max(at + draw(st.integers(-60, 60)), 1), label))
        if what == "renamed":
            beats.append((at, draw(st.sampled_from("NSVFQ"))))
    beats = beats or [(1, "N")]
    off = draw(stories())
    spans = tuple(
        (on, end) for on, end in off.shutdown[:1] if not any(on <= at <= end for at, _ in beats) and beats[0][0] < on
    )
    return Story(tuple(sorted(beats, key=lambda beat: beat[0])), (), spans)


def slow_pairs(reference: Story, test: Story, window: int, start: int, end: int) -> tuple[Counter[str], float, int]:
    """Pairs of classes such as "Nv" and "Vo", with the sum and number of squared RR errors."""
    counts: Counter[str] = Counter()
    errors: list[float] = []

    def inside(spans: tuple[tuple[int, int], ...], at: int) -> bool:
        return any(on <= at <= off for on, off in spans)

    def told(story: Story) -> list[tuple[int, str, int]]:
        """Sample, class and RR interval of each beat; 0 for the first and after a span."""
        out, before = [], 0
        for at, label in story.beats:
            broken = before == 0 or any(before <= on < at for on, _ in story.fibrillation + story.shutdown)
            out.append((at, label, 0 if broken else at - before))
            before = at
        return out

    refs, tests = told(reference), told(test)

    def head(beats: list[tuple[int, str, int]], k: int = 0) -> int:
        return beats[k][0] if k < len(beats) else NEVER

    def count(label: str) -> None:
        if "*" not in label:
            counts[label] += 1
        if refs and tests and refs[0][2] and tests[0][2]:
            errors.append(float(refs[0][2] - tests[0][2]) ** 2)

    def best(early: list[tuple[int, str, int]], late: list[tuple[int, str, int]]) -> bool:
        gap, rival = head(late) - head(early), abs(head(late) - head(early, 1))
        return gap <= window and (gap < rival or abs(head(late, 1) - head(early, 1)) < rival)

    refs = [beat for beat in refs if beat[0] >= start]
    before = [beat for beat in tests if beat[0] < start]
    tests = [beat for beat in tests if beat[0] >= start]
    if before and head(refs) - before[-1][0] <= window and head(refs) - before[-1][0] < abs(head(refs) - head(tests)):
        tests.insert(0, before[-1])
        count(refs[0][1] + tests[0][1].lower())
        refs, tests = refs[1:], tests[1:]
    elif start and head(tests) - start <= window and abs(head(refs) - head(tests, 1)) < abs(head(refs) - head(tests)):
        tests = tests[1:]
    while min(head(refs), head(tests)) <= end:
        if head(tests) < head(refs):
            at, label, _ = tests[0]
            if best(tests, refs):
                count(refs[0][1] + label.lower())
                refs, tests = refs[1:], tests[1:]
                continue
            lost = "X" if inside(reference.shutdown, at) else "O"
            count(("*" if inside(reference.fibrillation, at) else lost) + label.lower())
            tests = tests[1:]
        else:
            at, label, _ = refs[0]
            if best(refs, tests):
                count(label + tests[0][1].lower())
                refs, tests = refs[1:], tests[1:]
                continue
            count(label + ("x" if inside(test.shutdown, at) else "o"))
            refs = refs[1:]
    return counts, sum(errors), len(errors)


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
