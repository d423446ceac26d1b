"""Run by run: couplets, short and long runs of ectopic beats, as EC57 and the WFDB program `rxr` compare them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdover.evaluate.annotations import (
    BXB_CLASSES,
    NOISE,
    RHYTHM,
    UNKNOWN,
    VF_OFF,
    VF_ON,
    AnnotationFile,
    AnnotationPair,
)
from holdover.evaluate.period import Period
from holdover.runtime.errors import SourceError

LONGEST = 6
"""Run lengths are counted up to this; fibrillation is a run of it."""

_VF_BEGINS, _VF_ENDS, _AF_BEGINS, _AF_ENDS = "[]{}"
_LOST, _BACK, _NOTHING = "UCO"


@dataclass(frozen=True)
class RunKind:
    """What makes a run, what counts as the longest one from begin to end, and which beats break it."""

    ectopic: str
    begins: str
    ends: str
    other_begins: str
    breaks: str


VENTRICULAR = RunKind("VF", _VF_BEGINS, _VF_ENDS, _AF_BEGINS, "NQUS")
SUPRAVENTRICULAR = RunKind("S", _AF_BEGINS, _AF_ENDS, _VF_BEGINS, "NQUVF")


@dataclass(frozen=True)
class RunScore:
    """Runs by length in the reference (rows, 0 to 6) and in the test (columns), 6 standing for all from 6 on.

    `sensitivity` takes the runs of the reference one by one, `predictivity` those of the test. The mismatches are
    (reference length, test length, first sample, last sample) of the window that was searched.
    """

    sensitivity: NDArray[np.int64]
    predictivity: NDArray[np.int64]
    mismatches: tuple[tuple[tuple[int, int, int, int], ...], tuple[tuple[int, int, int, int], ...]]

    def tallies(self) -> dict[str, int]:
        """The twelve tallies: couplets (C), short (S) and long (L) runs; true (T), false (F); by Se (s, N), +P (p, P).

        A short run is found by any test run of three or more; a test run is true where the reference has one as long
        in class or longer.
        """
        s, p = self.sensitivity, self.predictivity
        return {
            "CTs": int(s[2, 2:].sum()),
            "CFN": int(s[2, :2].sum()),
            "CTp": int(p[2:, 2].sum()),
            "CFP": int(p[:2, 2].sum()),
            "STs": int(s[3:6, 3:].sum()),
            "SFN": int(s[3:6, :3].sum()),
            "STp": int(p[3:, 3:6].sum()),
            "SFP": int(p[:3, 3:6].sum()),
            "LTs": int(s[6, 6]),
            "LFN": int(s[6, :6].sum()),
            "LTp": int(p[6, 6]),
            "LFP": int(p[:6, 6].sum()),
        }


def compare_runs(pair: AnnotationPair, period: Period) -> tuple[RunScore, RunScore]:
    """Compare the ventricular and the supraventricular runs of a record, in this order.

    Raises
    ------
    SourceError
        An annotation file has nothing after the learning period.
    """
    readers = _Reader(pair.reference), _Reader(pair.test)
    return _score(readers, period, VENTRICULAR), _score(readers, period, SUPRAVENTRICULAR)


def _score(readers: tuple["_Reader", "_Reader"], period: Period, kind: RunKind) -> RunScore:
    matrices, mismatches = [], []
    for first in (0, 1):
        counts = np.zeros((LONGEST + 1, LONGEST + 1), dtype=np.int64)
        differing = []
        for length, low, high, found in _compared(readers[first], readers[1 - first], period, kind):
            reference, test = (length, found) if first == 0 else (found, length)
            counts[reference, test] += 1
            if reference != test:
                differing.append((reference, test, low, high))
        matrices.append(counts)
        mismatches.append(tuple(differing))
    return RunScore(matrices[0], matrices[1], (mismatches[0], mismatches[1]))


def _compared(
    defining: "_Reader", searched: "_Reader", period: Period, kind: RunKind
) -> Iterator[tuple[int, int, int, int]]:
    defining.rewind()
    searched.rewind()
    for length, low, high in _runs(defining, period, kind):
        yield length, low, high, searched.longest(low, high, kind)


class _Reader:
    """An annotation file read forward once a pass, with what its marks mean in the light of those before."""

    def __init__(self, file: AnnotationFile):
        self.file = file
        self.marks = list(zip(file.at.tolist(), file.code.tolist(), file.subtype.tolist(), file.aux, strict=True))
        self.at, self.code, self.subtype, self.aux = 0, 0, 0, ""
        self.rewind()

    def rewind(self) -> None:
        """Back to the start; the mark read last stays in hand, at sample 0, as it does in `rxr`."""
        self.at, self.k, self.fibrillating_until = 0, 0, 0
        self.in_af = self.in_vf = self.lost = False

    def advance(self) -> bool:
        if self.k == len(self.marks):
            return False
        self.at, self.code, self.subtype, self.aux = self.marks[self.k]
        self.k += 1
        return True

    def meaning(self) -> str:
        """Class of the beat in hand (within AF normal beats are supraventricular ectopic), or which span changes."""
        if self.code in BXB_CLASSES:
            label = BXB_CLASSES[self.code]
            return "S" if label == "N" and self.in_af else label
        if self.code == NOISE:
            return self._noise()
        if self.code == VF_ON:
            return self._vf_begins()
        if self.code == VF_OFF:
            return self._vf_ends()
        return self._rhythm() if self.code == RHYTHM and self.aux else _NOTHING

    def _noise(self) -> str:
        lost, self.lost = self.lost, self.subtype & 0x30 == 0x30
        if lost == self.lost:
            return _NOTHING
        return _LOST if self.lost else _BACK

    def _vf_begins(self) -> str:
        if self.in_vf:
            return _NOTHING
        self.in_af, self.in_vf = False, True
        return _VF_BEGINS

    def _vf_ends(self) -> str:
        was, self.in_vf = self.in_vf, False
        return _VF_ENDS if was else _NOTHING

    def _rhythm(self) -> str:
        if self.aux.startswith("(VF"):
            return self._vf_begins()
        if self.aux.startswith("(AF"):
            if self.in_af:
                return _NOTHING
            self.in_af, self.in_vf = True, False
            return _AF_BEGINS
        if self.in_af:
            self.in_af = False
            return _AF_ENDS
        return self._vf_ends()

    def longest(self, low: int, high: int, kind: RunKind) -> int:
        """The longest run between two samples; windows are asked for in order of time."""
        if self.fibrillating_until < 0 or self.fibrillating_until > low:
            return LONGEST
        if self.at < 0:
            return 0
        while self.at < low:
            if self.meaning() == kind.begins and self._passes_fibrillation(kind, low):
                return LONGEST
            if not self.advance():
                self.at = -1
                return 0
        return self._longest_until(high, kind)

    def _passes_fibrillation(self, kind: RunKind, low: int) -> bool:
        """Read on to where fibrillation ends; whether that is after `low`."""
        while self.advance():
            if self.meaning() in (kind.ends, kind.other_begins, _LOST):
                if self.at > low:
                    self.fibrillating_until = self.at
                return self.at > low
        self.fibrillating_until = -1
        return True

    def _longest_until(self, high: int, kind: RunKind) -> int:
        best = run = 0
        while self.at <= high:
            meaning = self.meaning()
            if meaning == kind.begins:
                self._passes_fibrillation(kind, -1)
                return LONGEST
            if meaning in kind.ectopic:
                run = min(run + 1, LONGEST)
                best = max(best, run)
            elif meaning in kind.breaks or meaning == kind.other_begins:
                run = 0
            if not self.advance():
                self.at = -1
                break
        return best


def _runs(reader: _Reader, period: Period, kind: RunKind) -> Iterator[tuple[int, int, int]]:
    """Length of each run after the learning period, and the window in which the other file may have it."""
    length = _length_at_start(reader, period.start, kind)
    low, high = (period.start - period.window, period.start + period.window) if length else (0, 0)
    while True:
        meaning = reader.meaning()
        if length and meaning in kind.breaks:
            yield length, low, high
            length = 0
        elif meaning in kind.ectopic:
            low = low if length else reader.at - period.window
            high = reader.at + period.window
            length = min(length + 1, LONGEST)
        elif length and meaning == kind.ends:
            high = reader.at + period.window
        elif not length and meaning == kind.begins:
            length, low = LONGEST, reader.at - period.window
        if not reader.advance():
            if not length:
                return
            reader.code = UNKNOWN
        if 0 < period.end < reader.at:
            return


def _length_at_start(reader: _Reader, start: int, kind: RunKind) -> int:
    length = None
    while reader.advance():
        if reader.at >= start:
            return length or 0
        meaning = reader.meaning()
        if meaning == kind.begins:
            length = LONGEST
        elif meaning in (_VF_ENDS, _AF_ENDS):
            length = 0
    if length is None:
        raise SourceError(f"{reader.file.path}: nothing after sample {start}, where the comparison of runs begins")
    return length
