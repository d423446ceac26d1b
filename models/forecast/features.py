"""What the net sees of a series, whatever its unit and its rate: NumPy and SciPy, over whole series.

Everything is made of differences, divided by a carried measure of their size, so that a series times a constant, plus a
constant, gives the same features. The graph in `graph.py` computes the same with recurrences.

An anchor is a simple forecast of the next value, of which it is known how well it has lately done. The net trusts in a
mixture of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[Any]

MEANS = (2.0, 5.0, 15.0, 50.0, 150.0)
"""Time constants of the running means, samples."""
LAGS = (24, 48, 96, 144, 168, 288, 336, 672, 1440, 2016)
"""Samples in a day or a week, at the usual steps from a minute to an hour."""
LONG, SHORT, SEASONS = 150.0, 20.0, 500.0
"""Time constants of the measures of size, samples; the last of how well seasons do."""
ANCHORS = 1 + len(MEANS) + 1 + 2
"""The last value; each running mean; the straight line through the last two values; the last value and what followed a
season ago; what stood a season ago."""
FLOOR, RESOLUTION = 1e-20, 1e-6
"""A difference counts as none below FLOOR + RESOLUTION times the value: single precision holds 7 digits."""
LIMIT = 1e15
"""Values are held within this, so that nothing overflows in single precision."""
LEAST_SQUARE = 1e-36
"""As FLOOR, of a square: what single precision holds."""
LEAST = 1e-6
"""The weight of a running mean is at least this, so that nothing is divided by 0 at the first sample."""
WIDE = 10.0
"""Of the two softened views of a difference, the second saturates at so many times the first."""
PICKY, NO_BETTER, NO_WEIGHT = 4, 1e-3, 1e-30
"""A season counts by the PICKY-th power of its mean square against that of the last value, 1 / NO_BETTER at most."""
BOUND = 20.0
"""In the mean squares nothing counts more than so many typical moves, lest one spike hide the seasons for weeks."""
SPREAD_LIMIT = 6.0
"""The logarithm of spread over size is held within this."""
SKILLED, EQUAL, HOPELESS = 4, 0.02, 1e-6
"""An anchor is trusted beforehand by the SKILLED-th power of how well it has done against the last value, 1 / EQUAL at
most, and never less than HOPELESS."""
WIDTH = 2 * ANCHORS + (ANCHORS - 1) + 2 + 3
"""Features a sample."""


def pole(tau: float) -> float:
    """The pole of a running mean with that time constant, in samples."""
    return float(np.exp(-1 / tau))


@dataclass(frozen=True)
class View:
    """A series as the net sees it.

    Attributes
    ----------
    features : array
        (series, time, WIDTH), all between -1 and 1.
    below : array
        (series, time, ANCHORS): how far each anchor lies below the value, in the series' unit.
    skill : array
        (series, time, ANCHORS): how far each anchor is to be trusted before the net has spoken, above 0.
    size : array
        (series, time): what a difference of neighbours typically is, in the series' unit, above 0.
    """

    features: Array
    below: Array
    skill: Array
    size: Array


def view(x: Array) -> View:
    """The features of whole series, x (series, time) in any unit."""
    x = np.clip(x, -LIMIT, LIMIT)
    d = np.diff(x, axis=1, prepend=x[:, :1])
    seen = np.ones_like(d)
    seen[:, 0] = 0.0
    weight = np.maximum(_mean(seen, LONG), LEAST)
    floor = RESOLUTION * np.abs(x) + FLOOR
    size = (_mean(np.sqrt(np.abs(d)), LONG) / weight) ** 2 + floor
    short = (_mean(np.sqrt(np.abs(d)), SHORT) / np.maximum(_mean(seen, SHORT), LEAST)) ** 2 + floor
    moving = _mean((d != 0).astype(float), LONG) / weight
    season = _season(x, d, size)
    means = np.stack([lfilter([pole(tau)], [1, -pole(tau)], d, axis=1) for tau in MEANS], 2)
    below = np.concatenate([np.zeros_like(d)[..., None], means, -d[..., None], season], 2)
    missed = d[..., None] + _before(below)
    typical = _mean(np.sqrt(np.abs(missed)), LONG)
    unit = size[..., None]
    parts = [
        _soft(missed, unit),
        _soft(missed, WIDE * unit),
        _against(typical[..., 1:], typical[..., :1]),
        _soft(season, unit),
        np.stack([_against(short, size), weight, moving], 2),
    ]
    last = typical[..., :1]
    skill = (last / (typical + EQUAL * last + FLOOR)) ** SKILLED + HOPELESS
    return View(np.concatenate(parts, 2).astype(np.float32), below, skill, size)


def _season(x: Array, d: Array, size: Array) -> Array:
    """How far the two seasonal anchors lie below the value, (series, time, 2), 0 before a season has been seen."""
    known = np.arange(x.shape[1])[:, None] >= np.array(LAGS)
    ago = np.stack([_shifted(x, lag - 1) for lag in LAGS], 2)
    moves = np.concatenate([(ago - _before(ago)) * known, (ago - x[..., None]) * known], 2)
    most = BOUND * size[..., None]
    missed = _mean(np.minimum(np.abs(d[..., None] - _before(moves)), most) ** 2, SEASONS)
    last = _mean(np.minimum(np.abs(d[..., None]), most) ** 2, SEASONS)
    skill = (last / (missed + NO_BETTER * last + LEAST_SQUARE)) ** PICKY
    weighted, weights = ((v[..., : len(LAGS)].sum(2), v[..., len(LAGS) :].sum(2)) for v in (skill * moves, skill))
    return -np.stack([w / (v + NO_WEIGHT) for w, v in zip(weighted, weights, strict=True)], 2)


def _shifted(x: Array, lag: int) -> Array:
    return np.asarray(np.concatenate([np.zeros_like(x[:, :lag]), x], 1)[:, : x.shape[1]])


def _before(x: Array) -> Array:
    return _shifted(x, 1)


def _mean(x: Array, tau: float) -> Array:
    a = pole(tau)
    return np.asarray(lfilter([1 - a], [1, -a], x, axis=1))


def _soft(x: Array, size: Array) -> Array:
    return np.asarray(x / (np.abs(x) + size))


def _against(a: Array, b: Array) -> Array:
    """From -1, a much smaller than b, to 1; the hyperbolic tangent of half the logarithm of a / b."""
    return np.asarray((a - b) / (a + b + FLOOR))
