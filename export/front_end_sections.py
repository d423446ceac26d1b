"""Second-order sections, designed with SciPy, and whether single precision could hold them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.errors import UsageError

Array = NDArray[np.float64]
Step = Mapping[str, Any]
"""One step as the contract has it: its kind and its numbers."""


def butter(step: Step, rate_hz: float) -> Array:
    """A Butterworth high-pass or low-pass, (sections, 6)."""
    from scipy import signal

    designed = signal.butter(int(step["order"]), step["corner_hz"], step["kind"], fs=rate_hz, output="sos")
    return np.asarray(designed, np.float64)


def notch(step: Step, rate_hz: float) -> Array:
    """A notch, `quality` times narrower than its place is high, (1, 6)."""
    from scipy import signal

    b, a = signal.iirnotch(step["at_hz"], step["quality"], fs=rate_hz)
    return np.asarray([[*b, *a]], np.float64)


def difference(_step: Step, _rate_hz: float) -> Array:
    """Each sample less the one before, (1, 6)."""
    return np.asarray([[1.0, -1.0, 0.0, 1.0, 0.0, 0.0]])


def check_sections(sections: Array, shown: str) -> None:
    """Refuse a filter whose poles leave the unit circle once its coefficients are rounded to single precision.

    The graph computes in double precision and would bear some of these; a converter or a microcontroller that keeps
    single precision would not, and the output would grow without a word.

    Parameters
    ----------
    sections : array
        (sections, 6), as `scipy.signal.butter(..., output="sos")` gives them.
    shown : str
        The filter in words.

    Raises
    ------
    UsageError
        With the largest radius of a pole.

    Examples
    --------
    >>> check_sections(np.array([[1, -2, 1, 1, -1.99999, 0.9999900001]]), "high-pass")
    Traceback (most recent call last):
    holdover.runtime.errors.UsageError: high-pass is unstable in float32: a pole lies at radius 1.0000000, \
expected below 1; take a higher corner, a lower order, or fewer samples a second
    """
    rounded = [(float(a1), float(a2)) for a1, a2 in sections[:, 4:].astype(np.float32)]
    if all(abs(a2) < 1 and abs(a1) < 1 + a2 for a1, a2 in rounded):  # Jury's criterion: exact where roots are not
        return
    largest = max(_radius(a1, a2) for a1, a2 in rounded)
    raise UsageError(f"{shown} is unstable in float32: a pole lies at radius {largest:.7f}, expected below 1; take a "
                     "higher corner, a lower order, or fewer samples a second")  # fmt: skip


def fading(sections: Array, part: float) -> int:
    """Samples until what was fed before has faded to a part of itself."""
    radius = max(_radius(float(a1), float(a2)) for a1, a2 in sections[:, 4:])
    return math.ceil(math.log(part) / math.log(radius)) if radius else len(sections)


def _radius(a1: float, a2: float) -> float:
    """Of the larger root of z^2 + a1 z + a2."""
    under = a1 * a1 / 4 - a2
    return math.sqrt(a2) if under < 0 else abs(a1) / 2 + math.sqrt(under)
