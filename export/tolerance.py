"""What rounding explains: how far single precision is from double, for each output, stream and column on its own."""

import math
from collections.abc import Sequence

import numpy as np

from holdover.export.measure import Array, Reference, Tensors

LEAST = 1e-5
"""Of the power of ten above the largest number that an output gives, 1 at most: so much is always excused."""
MOST = 1e-3
"""Of the largest number in a column: double precision that is further away speaks for no rounding, but of another
model."""
MARGIN = 50
"""Times what single precision itself costs."""


def tolerances(reference: Reference, precise: Reference | None, x: Array, lengths: Sequence[int]) -> dict[str, Array]:
    """Differences that rounding explains, in the unit of the output.

    Parameters
    ----------
    reference, precise : Reference
        The original in single and in double precision; None: one rounding of the largest number is all there is.
    x : array
        (streams, samples, channels), run whole in single precision: how large the numbers get.
    lengths : sequence of int
        Beginnings of x that are run in double precision too.

    Returns
    -------
    dict of str to array
        By output, (streams, width), above 0 and finite. What is not finite on either side says nothing of rounding.
    """
    seen = [_seen(reference, precise, x[k : k + 1], lengths) for k in range(len(x))]
    return {name: _tolerance(*(np.stack([s[name][i] for s in seen]) for i in (0, 1))) for name in seen[0]}


def _tolerance(gaps: Array, largest: Array) -> Array:
    """From (streams, width) each. A quiet output is held to its own scale, a loud one excuses no other."""
    loudest = float(largest.max(initial=0))
    scale = 10.0 ** min(math.ceil(math.log10(loudest)), 0) if loudest else 1.0
    rounding = MARGIN * np.maximum(gaps, largest * float(np.finfo(np.float32).eps))
    found: Array = np.clip(rounding, LEAST * scale, MOST * np.maximum(largest, scale))
    return found


def _seen(
    reference: Reference, precise: Reference | None, x: Array, lengths: Sequence[int]
) -> dict[str, tuple[Array, Array]]:
    """The largest gap and the largest number, by output and column."""
    whole = reference(x)
    seen = {name: (np.zeros(value.shape[-1]), _largest(value)) for name, value in whole.items()}
    for n in lengths:
        single = reference(x[:, :n])
        with np.errstate(all="ignore"):  # what overflows is left out below
            double: Tensors = single if precise is None else precise(x[:, :n])
            for name, (gap, largest) in seen.items():
                apart = _largest(single[name].astype(np.float64) - double[name])
                seen[name] = np.maximum(gap, apart), np.maximum(largest, _largest(single[name]))
    return seen


def _largest(value: Array) -> Array:
    """Of the finite numbers of (batch, frames, width), by column."""
    size = np.abs(value.astype(np.float64))
    found: Array = np.where(np.isfinite(size), size, 0).max(axis=(0, 1), initial=0)
    return found
