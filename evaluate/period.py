"""What part of a record is compared, and how near two marks must be: times as the WFDB programs write them."""

import math
from dataclasses import dataclass

from holdover.evaluate.annotations import AnnotationPair
from holdover.runtime.errors import UsageError

LEARNING = "5:0"
WINDOW = ".15"


@dataclass(frozen=True)
class Period:
    """Start, end and match window of a comparison, in samples.

    `end` -1 means to the end of the reference file (the record's length is unknown), 0 to the end of either file.
    """

    start: int
    end: int
    window: int


def period(
    rate_hz: float, length: int, start: str | None = None, end: str | None = None, window: str | None = None
) -> Period:
    """Turn the texts of `-f`, `-t` and `-w` into a `Period`; defaults are 5 minutes, the record's end and 150 ms.

    >>> period(360, 650000)
    Period(start=108000, end=650000, window=54)
    >>> period(360, 0, start="0", window="0.05")
    Period(start=0, end=-1, window=18)

    Raises
    ------
    UsageError
        A text is no time, or the end does not lie after the start.
    """
    first = samples(LEARNING if start is None else start, rate_hz, length)
    last = (length or -1) if end is None else samples(end, rate_hz, length)
    if 0 < last < first:
        raise UsageError(f"the end of the comparison (sample {last}) is before its start (sample {first})")
    if 0 < last == first:
        raise UsageError(f"the comparison begins and ends at sample {first}: nothing would be compared")
    return Period(first, last, samples(WINDOW if window is None else window, rate_hz, length))


def period_of(
    pair: AnnotationPair, start: str | None = None, end: str | None = None, window: str | None = None
) -> Period:
    """The `period` of two annotators of a record.

    Raises
    ------
    UsageError
        As for `period`, or it begins at the end of the record or later; where that is unknown, after all that the two
        have annotated.
    """
    found = period(pair.rate_hz, pair.length, start, end, window)
    length = pair.length or max(pair.reference.last, pair.test.last) + 1
    if found.start >= length:
        what = "samples" if pair.length else "annotations"
        raise UsageError(
            f"the comparison of {pair.record} would begin at sample {found.start}, but its {what} end before sample "
            f"{length}; begin sooner with -f TIME"
        )
    return found


def samples(text: str, rate_hz: float, length: int = 0) -> int:
    """Samples of a time written as seconds, m:s, h:m:s, `e` (the record's end) or `sN` (sample N); 90s is 90 seconds.

    >>> [samples(text, 360) for text in ("1:0:0.5", "90", "90s", "s90")]
    [1296180, 32400, 32400, 90]

    Raises
    ------
    UsageError
        The text is none of these.
    """
    if text == "e":
        return length
    try:
        if text.startswith("s"):
            return _not_negative(int(text[1:]))
        parts = [float(part or "0") for part in text.removesuffix("s").split(":")]
        if len(parts) > 3 or not text:
            raise ValueError(text)
        seconds = sum(part * 60.0**k for k, part in enumerate(reversed(parts)))
        return _not_negative(math.floor(seconds * rate_hz + 0.5))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is no time: expected seconds, m:s, h:m:s, e, or sN for sample N") from error


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError(value)
    return value


def clock(at: int, rate_hz: float) -> str:
    """Write a duration in samples as the WFDB library does, 12 characters wide.

    >>> clock(417794, 360.0)
    '   19:20.539'
    """
    seconds = int(at / rate_hz)
    milli = int((at - seconds * rate_hz) * 1000 / rate_hz + 0.5)
    if milli == 1000:
        seconds, milli = seconds + 1, 0
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    lead = f"{hours:2d}:{minutes:02d}" if hours else f"   {minutes:2d}"
    return f"{lead}:{seconds:02d}.{milli:03d}"
