"""Where beats fall, changed: early beats, the disorder of atrial fibrillation, the breathing of a sinus rhythm."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.models.ecg_beats.data import RATE_HZ

Array = NDArray[Any]
ONSET_S = 0.12
"""From the onset of a P wave's end to the fiducial point: what is moved along with a beat."""


def time_map(at: Array, shift: Array, span: tuple[float, float]) -> tuple[Array, Array]:
    """Knots of a map from the record's time to the stream's, in which beat i comes `shift[i]` samples later.

    The stretch between the T wave before a beat and its own P wave takes up the shift, as far as there is room; all
    that follows moves along.

    Parameters
    ----------
    at, shift : array
        (beats,), samples at 360 Hz.
    span : tuple of float
        First and last sample in the record.

    Returns
    -------
    source, target : array
        (knots,), samples at 360 Hz; target starts at 0.
    """
    source, target = [span[0]], [0.0]
    onset = ONSET_S * RATE_HZ
    for i in np.flatnonzero(shift[1:]) + 1:
        low = at[i - 1] + 0.25 * np.sqrt((at[i] - at[i - 1]) / RATE_HZ) * RATE_HZ
        room = at[i] - onset - low
        if low <= source[-1] or room < 0.02 * RATE_HZ:
            continue
        for place, moved in ((low, 0.0), (at[i] - onset, max(float(shift[i]), -0.85 * room))):
            target.append(target[-1] + place - source[-1] + moved)
            source.append(place)
    target.append(target[-1] + span[1] - source[-1])
    source.append(span[1])
    return np.array(source), np.array(target)


def early(at: Array, kind: Array, rng: np.random.Generator) -> Array:
    """Shifts by which single normal beats among regular ones come 15 to 42 % early; their `kind` is set to S, in place.

    The pause that follows is longer, in part. Rows of early beats are not made: a net that has seen them calls the
    second ventricular beat of a couplet supraventricular.
    """
    shift, last, share = np.zeros(len(at)), 0, rng.uniform(0.02, 0.15)
    for i in range(3, len(at) - 1):
        if i < last + 3 or rng.random() > share or not _regular(at[i - 3 : i + 2], kind[i - 2 : i + 2]):
            continue
        pulled = (at[i] - at[i - 1]) * rng.uniform(0.15, 0.42)
        kind[i], shift[i], shift[i + 1], last = 1, -pulled, pulled * rng.uniform(0.2, 1.0), i
    return shift


def disordered(at: Array, kind: Array, inside: Array, rng: np.random.Generator) -> Array:
    """Shifts that leave no order in the intervals of the beats that are `inside`, those of V beats untouched."""
    rr = np.diff(at, prepend=at[:1])
    normal = inside & (kind != 2) & np.concatenate([[False], kind[:-1] != 2])
    spread = rng.uniform(0.12, 0.3)
    shift: Array = np.where(normal, rr * (np.exp(spread * rng.standard_normal(len(at))) - 1), 0.0)
    return shift


def breathing(at: Array, rng: np.random.Generator) -> Array:
    """Shifts that make the intervals longer and shorter with the breath (0.1 to 0.35 Hz), by up to 12 %."""
    rr = np.diff(at, prepend=at[:1])
    phase = 2 * np.pi * (rng.uniform(0.1, 0.35) * at / RATE_HZ + rng.random())
    shift: Array = rng.uniform(0.03, 0.12) * rr * np.sin(phase)
    return shift


def _regular(at: Array, kind: Array) -> bool:
    rr = np.diff(at)
    return bool((kind == 0).all() and np.ptp(rr) < 0.15 * rr.mean() and 0.4 < rr.mean() / RATE_HZ < 1.5)
