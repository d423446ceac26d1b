"""Pairs of WFDB annotation files: what the reference says of a record, and what a detector says."""

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.errors import SourceError

UNKNOWN, NOISE, NOTE, MEASURE, RHYTHM, VF_ON, VF_OFF = 13, 14, 22, 23, 28, 32, 33
DEFINED = range(1, 50)
"""Codes that WFDB defines, or leaves to be defined by its users."""

_NORMAL = {1: "N", 2: "N", 3: "N", 25: "N"}  # N L R B
_PREMATURE = {4: "S", 7: "S", 8: "S", 9: "S"}  # a J A S
_VENTRICULAR = {5: "V", 10: "V", 41: "V"}  # V E r
_OTHER = {6: "F", 12: "Q", 13: "Q", 30: "Q", 38: "Q"}  # F, and / Q ? f

BXB_CLASSES = {**_NORMAL, **_PREMATURE, **_VENTRICULAR, **_OTHER, 11: "S", 34: "S", 35: "S"}
"""AAMI class of each WFDB beat code as `bxb -S` maps it: escape beats (j e n) are supraventricular ectopic."""

DE_CHAZAL_CLASSES = {**BXB_CLASSES, 11: "N", 34: "N", 35: "N"}
"""The same with escape beats normal: EC57 as de Chazal 2004 and most papers on DS1 and DS2 read it."""

QRS_CODES = frozenset(BXB_CLASSES) | {31}
"""Codes that mark a QRS complex; 31 is a flutter wave, which has no class of its own."""

_SLACK_S = 1.0


@dataclass(frozen=True)
class AnnotationFile:
    """The annotations of one annotator on one record, in order of time.

    `at` (samples), `code` (WFDB annotation codes) and `subtype` are arrays of one length; `aux` is text beside each.
    """

    path: str
    annotator: str
    at: NDArray[np.int64]
    code: NDArray[np.int64]
    subtype: NDArray[np.int64]
    aux: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.at)

    @property
    def last(self) -> int:
        """The sample of the last annotation, -1 if there is none."""
        return int(self.at[-1]) if len(self) else -1


@dataclass(frozen=True)
class AnnotationPair:
    """Reference and test annotations of one record; `length` is in samples, 0 where the header does not say."""

    record: str
    rate_hz: float
    length: int
    reference: AnnotationFile
    test: AnnotationFile


def read_pair(record: str, reference: str, test: str) -> AnnotationPair:
    """Read two annotators of a record, each file found as given or along the folders of the `WFDB` variable.

    Raises
    ------
    SourceError
        A file is missing, empty, unreadable, of another rate or out of order, goes on after the record's end, or has
        codes that WFDB does not know.
    """
    place = _located(record, "hea")
    if place is None:
        along = " here and along WFDB" if len(_places(record)) > 1 else ""
        raise SourceError(f"there is no record {record}: {record}.hea is missing{along}")
    header = _header(place)
    rate_hz, length = float(header.fs), int(header.sig_len or 0)
    if not 1 <= rate_hz < math.inf:
        raise SourceError(f"{place}.hea gives a rate of {rate_hz:g} Hz; expected 1 or more samples a second")
    files = [read_annotations(_located(record, name) or place, name, rate_hz, length) for name in (reference, test)]
    return AnnotationPair(record, rate_hz, length, files[0], files[1])


def read_annotations(
    record: str, annotator: str, rate_hz: float, length: int, *, may_be_empty: bool = False
) -> AnnotationFile:
    """Read one annotation file and check it against its record's rate (Hz) and length (samples, 0: unknown).

    Raises
    ------
    SourceError
        As for `read_pair`; the message names the file and, where there is one, the annotation and its sample.
    """
    path = f"{record}.{annotator}"
    found = _annotations(path, record, annotator)
    if len(found.sample) == 0 and not may_be_empty:
        raise SourceError(f"{path} is empty: not one annotation in it")
    if found.fs and abs(float(found.fs) - rate_hz) > 1e-6 * rate_hz:
        raise SourceError(
            f"{path} counts time at {found.fs:g} Hz, its record at {rate_hz:g} Hz; write it again at the record's rate"
        )
    file = AnnotationFile(
        path,
        annotator,
        np.asarray(found.sample, dtype=np.int64),
        np.asarray(found.label_store, dtype=np.int64),
        np.asarray(found.subtype, dtype=np.int64),
        tuple(str(text).rstrip("\0") for text in found.aux_note),
    )
    _check_codes(file)
    _check_order(file)
    _check_end(file, rate_hz, length)
    return file


def _located(record: str, ending: str) -> str | None:
    return next((place for place in _places(record) if Path(f"{place}.{ending}").is_file()), None)


def _places(record: str) -> list[str]:
    folders = [Path(part) for part in os.environ.get("WFDB", "").replace(" ", os.pathsep).split(os.pathsep) if part]
    return [str(folder / record) for folder in (Path(), *folders)]


def _wfdb() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas tells wfdb, not us, what it will drop one day
        import wfdb
    return wfdb


def _header(place: str) -> Any:
    try:
        return _wfdb().rdheader(place)
    except Exception as error:  # the reader raises whatever its parsing runs into
        raise SourceError(f"{place}.hea cannot be read as a WFDB header: {error}") from error


def _annotations(path: str, record: str, annotator: str) -> Any:
    if not Path(path).is_file():
        raise SourceError(f"{path} is missing: no annotator {annotator} for this record")
    try:
        found = _wfdb().rdann(record, annotator, return_label_elements=["label_store"])
    except Exception as error:  # as above
        raise SourceError(
            f"{path} cannot be read as WFDB annotations ({error}); is it cut off, or of another kind?"
        ) from error
    return found


def _check_codes(file: AnnotationFile) -> None:
    unknown = np.flatnonzero((file.code < DEFINED.start) | (file.code >= DEFINED.stop))
    if len(unknown):
        k = int(unknown[0])
        raise SourceError(
            f"{file.path}: annotation {k + 1} at sample {file.at[k]} has code {file.code[k]}, which WFDB does not know "
            f"(expected 1 to {DEFINED.stop - 1}); is the file damaged?"
        )


def _check_order(file: AnnotationFile) -> None:
    back = np.flatnonzero(np.diff(file.at) < 0)
    if len(back):
        k = int(back[0]) + 1
        raise SourceError(
            f"{file.path}: annotation {k + 1} is at sample {file.at[k]}, before the one ahead of it at "
            f"sample {file.at[k - 1]}; sort the file by time"
        )
    if len(file) and file.at[0] < 0:
        raise SourceError(f"{file.path}: annotation 1 is at sample {file.at[0]}, before the record begins")


def _check_end(file: AnnotationFile, rate_hz: float, length: int) -> None:
    if length and len(file) and file.at[-1] > length + _SLACK_S * rate_hz:
        k = int(np.searchsorted(file.at, length + _SLACK_S * rate_hz, side="right"))
        raise SourceError(
            f"{file.path}: annotation {k + 1} is at sample {file.at[k]}, after the end of the record at sample "
            f"{length}; is it of another record, or of another rate?"
        )
