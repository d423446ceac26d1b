"""One cell of text to a number; and numbers to what a chunk holds."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING = frozenset({"", "nan", "na", "null", "-"})
"""What stands for a missing sample, in small letters; "-" is what PhysioNet's rdsamp writes."""

LARGEST = float(np.finfo(np.float32).max)


def number(cell: str) -> float | None:
    """The number in a cell, NaN if it is missing, None if it is neither.

    Examples
    --------
    >>> number(" -0.145"), number("NaN"), number("abc"), number("inf")
    (-0.145, nan, None, None)
    """
    text = cell.strip().lower()
    if text in MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= LARGEST and "_" not in text else None


def samples(values: NDArray[Any]) -> NDArray[np.float32]:
    """Any numbers as float32, NaN where they are not finite or too large for it."""
    with np.errstate(over="ignore"):
        x = values.astype(np.float32)
    return np.where(np.isfinite(x), x, np.float32(np.nan))
