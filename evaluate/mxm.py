"""Measurement by measurement: heart rates and the like, as EC38 and the WFDB program `mxm` compare them."""

import math
import re
from dataclasses import dataclass

import numpy as np

from holdover.evaluate.annotations import MEASURE, AnnotationFile, AnnotationPair
from holdover.evaluate.period import Period
from holdover.evaluate.track import FAR
from holdover.runtime.errors import SourceError

HEADING = "Record\tRMS error (%)\tMean reference measurement\n"

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class MeasurementScore:
    """Sums over the pairs of a reference and a test measurement, and how many test measurements were read.

    As `compare_measurements` finds them, those of the learning period are among the `measurements` by which the sums
    are divided, and where the reference is not yet at its end when the test is, the last pair is summed twice: both as
    in `mxm`. `measured_by_definition` does neither.
    """

    error_sum: float
    reference_sum: float
    measurements: int

    def rms_error(self, *, normalized: bool = True) -> float:
        """Root mean square of the errors; normalized, in per cent of the mean reference measurement.

        Raises
        ------
        SourceError
            The reference measurements have zero mean: there is nothing to normalize by.
        """
        if not normalized:
            return math.sqrt(self.error_sum / self.measurements)
        if self.reference_sum == 0.0:
            raise SourceError("the reference measurements have zero mean; compare them unnormalized (-u)")
        return 100.0 * math.sqrt(self.error_sum * self.measurements / (self.reference_sum * self.reference_sum))

    @property
    def mean_reference(self) -> float:
        """Mean of the reference measurements, in their unit."""
        return self.reference_sum / self.measurements


def compare_measurements(pair: AnnotationPair, period: Period, subtype: int = 0) -> MeasurementScore:
    """Compare each test measurement of a subtype with the reference measurement nearest to it in time.

    Raises
    ------
    SourceError
        One of the files has no such measurement.
    """
    reference, test = _measured(pair.reference, subtype), _measured(pair.test, subtype)
    k = next(k for k, (at, _) in enumerate(test) if at >= period.start)
    error_sum = reference_sum = 0.0
    (at, value), (next_at, next_value), r = (0, 0.0), (-1, 0.0), 0
    while _goes_on(next_at, test[k][0], period.end):
        test_at, test_value = test[k]
        while next_at < test_at:
            (at, value), (next_at, next_value) = (next_at, next_value), reference[r]
            r += 1
        nearest = value if test_at - at < next_at - test_at else next_value
        error_sum += (nearest - test_value) ** 2
        reference_sum += nearest
        k = min(k + 1, len(test) - 1)
    return MeasurementScore(error_sum, reference_sum, min(k + 1, len(test) - 1))


def measured_by_definition(pair: AnnotationPair, period: Period, subtype: int = 0) -> MeasurementScore:
    """The same with each test measurement of the period counted once, against the reference nearest to it.

    Raises
    ------
    SourceError
        One of the files has no such measurement, or the test has none in the period.
    """
    reference, test = _measured(pair.reference, subtype)[:-1], _measured(pair.test, subtype)[:-1]
    at, value = np.array(reference, dtype=np.float64).T
    test_at, test_value = np.array(test, dtype=np.float64).T
    counted = (test_at >= period.start) & ((period.end <= 0) | (test_at <= period.end))
    if not counted.any():
        raise SourceError(f"{pair.test.path} has no measurements of type {subtype} in the period that is compared")
    test_at, test_value = test_at[counted], test_value[counted]
    after = np.clip(np.searchsorted(at, test_at), 0, len(at) - 1)
    before = np.maximum(after - 1, 0)
    nearest = value[np.where(test_at - at[before] < np.abs(at[after] - test_at), before, after)]
    return MeasurementScore(float(((nearest - test_value) ** 2).sum()), float(nearest.sum()), len(test_at))


def _measured(file: AnnotationFile, subtype: int) -> list[tuple[int, float]]:
    """Samples and values; a last one at `FAR`, with the value of the one before, stands for the end of the file."""
    found, value = [], 0.0
    for at, code, kind, aux in zip(file.at.tolist(), file.code.tolist(), file.subtype.tolist(), file.aux, strict=True):
        if code == MEASURE and kind == subtype:
            value = _number(aux) if aux else value
            found.append((at, value))
    if not found:
        raise SourceError(f"{file.path} has no measurements of type {subtype} (annotations '=' with this subtype)")
    return [*found, (FAR, value)]


def _number(text: str) -> float:
    match = _NUMBER.match(text)
    return float(match.group()) if match else 0.0


def _goes_on(reference_at: int, test_at: int, end: int) -> bool:
    if end > 0:
        return min(reference_at, test_at) <= end
    return reference_at != FAR and (end == -1 or test_at != FAR)


def standard(pair: AnnotationPair, score: MeasurementScore, subtype: int, *, normalized: bool = True) -> str:
    """The report of `-s`, or of `-s -u` where it is not `normalized`."""
    error, n = score.rms_error(normalized=normalized), score.measurements
    last = f"     Normalized RMS error: {error:7.4f}%" if normalized else f"   Unnormalized RMS error: {error:7.4f}"
    return (
        f"Measurement-by-measurement comparison results for record {pair.record}\nMeasurement number {subtype}\n"
        f"Reference annotator: {pair.reference.annotator}\n     Test annotator: {pair.test.annotator}\n\n"
        f"{last} (n = {n})\nMean reference measurement: {score.mean_reference:g}\n"
    )


def line(pair: AnnotationPair, score: MeasurementScore, *, normalized: bool = True) -> str:
    """The report of `-l`, without its heading."""
    tail = "" if normalized else " (unnormalized)"
    return f"{pair.record:>6}\t{score.rms_error(normalized=normalized):7.4f}\t\t{score.mean_reference:g}{tail}\n"


def heading(subtype: int) -> str:
    """First lines of a file of line-format reports."""
    return f"(Measurement errors)\nMeasurement {subtype}\n{HEADING}"
