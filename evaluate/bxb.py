"""Beat by beat: every reference beat with the test beat nearest to it, as EC57 and the WFDB program `bxb` pair them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdover.evaluate.annotations import BXB_CLASSES, AnnotationPair
from holdover.evaluate.period import Period, samples
from holdover.evaluate.track import FAR, Track, track

LABELS = "NSVFQOX"
"""Classes in the order of rows (reference) and columns (test); O is no beat, X is no beat during shutdown."""

RATES = {
    "Q Se": (("NSVFQ", "NSVFQ"), ("NSVFQ", LABELS)),
    "Q +P": (("NSVFQ", "NSVFQ"), (LABELS, "NSVFQ")),
    "V Se": (("V", "V"), ("V", LABELS)),
    "V +P": (("V", "V"), ("NSVOX", "V")),
    "S Se": (("S", "S"), ("S", LABELS)),
    "S +P": (("S", "S"), ("NSVFOX", "S")),
}
"""Cells of each rate's numerator and denominator: reference classes, test classes.

EC57 leaves F and Q that the test calls V, and Q that it calls S, out of the false positives.
"""


class Match(NamedTuple):
    """One pair: classes of reference and test, their samples, and the RR intervals in force (0: none)."""

    reference: str
    test: str
    reference_at: int
    test_at: int
    reference_rr: int
    test_rr: int

    def __str__(self) -> str:
        at, test_at = self.reference_at, self.test_at
        if self.reference in ("O", "X"):
            at = test_at
        elif self.test in ("O", "X"):
            test_at = at
        return f"{self.reference}({at})/{self.test}({test_at})"


@dataclass(frozen=True)
class BeatScore:
    """What a comparison of beats counted.

    `counts` is (reference, test) by `LABELS`; RR errors are in samples squared; `shutdown` is in samples.
    """

    counts: NDArray[np.int64]
    rr_error_sum: float
    rr_errors: int
    shutdown: int
    mismatches: tuple[Match, ...]

    def n(self, reference: str, test: str) -> int:
        """How many pairs have a reference class out of one set of letters and a test class out of the other."""
        rows, columns = ([LABELS.index(letter) for letter in letters] for letters in (reference, test))
        return int(self.counts[np.ix_(rows, columns)].sum())

    def rate(self, figure: str) -> tuple[int, int]:
        """Numerator and denominator of one of `RATES`, or of `V FPR`, the false positive rate of ventricular beats."""
        if figure == "V FPR":
            false_v = self.n("NSOX", "V")
            return false_v, false_v + self.n("NSFQOX", "NSFQ")
        part, whole = RATES[figure]
        return self.n(*part), self.n(*whole)

    def rr_error_ms(self, rate_hz: float) -> float | None:
        """Root mean square error of the RR intervals in ms, None where there are none; by whole samples a second."""
        if not self.rr_errors:
            return None
        return math.sqrt(self.rr_error_sum / self.rr_errors) * 1000.0 / samples("1", rate_hz)


def compare_beats(pair: AnnotationPair, period: Period, classes: Mapping[int, str] = BXB_CLASSES) -> BeatScore:
    """Pair the beats of a record after its learning period, and count the pairs by class."""
    reference = track(pair.reference, classes, period.window, period.end, reference=True)
    test = track(pair.test, classes, period.window, period.end, reference=False)
    walk = _Walk(reference, test, period)
    counts = np.zeros((len(LABELS), len(LABELS)), dtype=np.int64)
    error_sum, errors, mismatches = 0.0, 0, []
    for match in walk.matches():
        if match.reference in LABELS and match.test in LABELS and match.reference and match.test:
            counts[LABELS.index(match.reference), LABELS.index(match.test)] += 1
        if match.reference_rr > 0 and match.test_rr > 0:
            error_sum += float(match.reference_rr - match.test_rr) ** 2
            errors += 1
        if match.reference != match.test:
            mismatches.append(match)
    counts[5:, 5:] = 0
    return BeatScore(counts, error_sum, errors, test.shutdown_total[test.after(walk.j)], tuple(mismatches))


class _Walk:
    """Two fingers, `i` on the reference and `j` on the test, that move from beat to beat."""

    def __init__(self, reference: Track, test: Track, period: Period):
        self.reference, self.test, self.period = reference, test, period
        self.i = reference.first_from(period.start, 0)
        self.j = test.first_from(period.start, 1) - 1

    def matches(self) -> Iterator[Match]:
        yield from self._edge()
        while self._goes_on():
            early, late = self._now()
            if early < late and self._is_best(self.test, self.j, self.reference, self.i):
                yield self._both()
            elif early < late:
                yield self._extra()
            elif self._is_best(self.reference, self.i, self.test, self.j):
                yield self._both()
            else:
                yield self._missed()

    def _now(self) -> tuple[int, int]:
        return self.test.at[self.j], self.reference.at[self.i]

    def _edge(self) -> Iterator[Match]:
        """Where the learning period ends, its last test beat may belong to the first reference beat after it."""
        at, start = self.reference.at[self.i], self.period.start
        gap, next_gap = at - self.test.at[self.j], abs(at - self.test.at[self.test.after(self.j)])
        if gap < next_gap and gap <= self.period.window:
            if self.reference.label[self.i] or self.test.label[self.j]:
                yield self._match(self.reference.label[self.i], self.test.label[self.j])
            self.i, self.j = self.reference.after(self.i), self.test.after(self.j)
            return
        self.j = self.test.after(self.j)
        at_test, following = self.test.at[self.j], self.test.at[self.test.after(self.j)]
        if at_test - start <= self.period.window and abs(at - following) < abs(at - at_test):
            self.j = self.test.after(self.j)

    def _goes_on(self) -> bool:
        at_test, at = self._now()
        if self.period.end > 0:
            return min(at, at_test) <= self.period.end
        return at != FAR and (self.period.end == -1 or at_test != FAR)

    def _is_best(self, early: Track, k: int, late: Track, m: int) -> bool:
        """Whether the earlier beat is the later one's: in the window, and nearer than the earlier track's next beat.

        The next one is no rival where it is nearer still to the later track's next beat (the rule of 2002).
        """
        gap = late.at[m] - early.at[k]
        following = early.at[early.after(k)]
        rival = abs(late.at[m] - following)
        return gap <= self.period.window and (gap < rival or abs(late.at[late.after(m)] - following) < rival)

    def _both(self) -> Match:
        match = self._match(self.reference.label[self.i], self.test.label[self.j])
        self.i, self.j = self.reference.after(self.i), self.test.after(self.j)
        return match

    def _extra(self) -> Match:
        at, seen = self.test.at[self.j], self.reference.after(self.i)
        in_shutdown = self.reference.shutdown[seen].cover(at)
        label = "*" if self.reference.fibrillation[seen].cover(at) else "X" if in_shutdown else "O"
        match = self._match(label, self.test.label[self.j])
        self.j = self.test.after(self.j)
        return match

    def _missed(self) -> Match:
        in_shutdown = self.test.shutdown[self.test.after(self.j)].cover(self.reference.at[self.i])
        match = self._match(self.reference.label[self.i], "X" if in_shutdown else "O")
        self.i = self.reference.after(self.i)
        return match

    def _match(self, reference: str, test: str) -> Match:
        at_test, at = self._now()
        return Match(reference, test, at, at_test, self.reference.rr[self.i], self.test.rr[self.j])
