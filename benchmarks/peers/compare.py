"""Whether what was streamed is what the whole-sequence graph says, at whatever constant delay."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TOLERANCE = 1e-4
"""Of the whole graph's largest output, or of 1 where that is smaller."""
LEAST = 8
"""Frames that there must be; a delay may be as long as half of them."""


def error(streamed: Sequence[Array | None], time: int | None, whole: Array, axis: int | None) -> float:
    """Largest difference from the whole graph at the delay where it is smallest; infinite where shapes differ.

    Parameters
    ----------
    streamed : sequence of array or None
        What every step gave; None where it waited for more samples.
    time : int or None
        Their time axis.
    whole : array
        Of a longer signal, so that its end is not seen; where it has no time axis, of as much as was streamed.
    axis : int or None
        Its time axis.
    """
    given = [y for y in streamed if y is not None]
    if axis is None:
        last, wanted = given[-1].reshape(-1), whole.reshape(-1)
        return _apart(last[-len(wanted) :], wanted) if len(last) >= len(wanted) else float("inf")
    rows = [_rows(y, time) for y in given]
    wanted = _rows(whole, axis)
    if any(y.shape[1] != wanted.shape[1] for y in rows if len(y)) or sum(map(len, rows)) < LEAST:
        return float("inf")
    y = np.concatenate([y for y in rows if len(y)])
    return min(_apart(y[d:], wanted[: len(y) - d]) for d in range(len(y) // 2 + 1))


def _rows(y: Array, axis: int | None) -> Array:
    """(frames, numbers)."""
    if axis is None or axis >= y.ndim or not y.size:
        return np.empty((0, 0))
    return np.moveaxis(y, axis, 0).reshape(y.shape[axis], -1).astype(np.float64)


def _apart(a: Array, b: Array) -> float:
    n = min(len(a), len(b))
    a, b = a[:n].astype(np.float64), b[:n].astype(np.float64)
    found = np.abs(a - b).max(initial=0) / max(1.0, float(np.abs(b).max(initial=0)))
    return float(found) if np.isfinite(found) else float("inf")
