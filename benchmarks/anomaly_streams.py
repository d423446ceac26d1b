"""Streams of a sensor, one sample in five minutes: drifting, seasonal, heavy-tailed, quantised, counted. All seeded."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

DAY = 288
YEAR = 365 * DAY

Array = NDArray[np.float64]


def seasons(t: Array) -> Array:
    """A day with two harmonics, a week and a year."""
    day, week, year = (2 * np.pi * t / length for length in (DAY, 7 * DAY, YEAR))
    return np.asarray(5 * np.sin(day) + 2 * np.sin(2 * day + 1) + 2 * np.sin(week) + 8 * np.sin(year))


def lingering(rng: np.random.Generator, n: int, share: float, scale: float, tail: float = np.inf) -> Array:
    """Noise of which a share lasts to the next sample; of Student's t with `tail` degrees of freedom."""
    e = scale * (rng.normal(size=n) if np.isinf(tail) else rng.standard_t(tail, n))
    out = np.empty(n)
    level = 0.0
    for i, step in enumerate(e.tolist()):
        level = share * level + step
        out[i] = level
    return out


def drifting(rng: np.random.Generator, n: int) -> Array:
    """Seasons, a random walk, and noise of three degrees of freedom."""
    walk = np.cumsum(rng.normal(0, 0.02, n))
    return 50 + seasons(np.arange(n)) + walk + lingering(rng, n, 0.5, 0.5, 3)


def counted(rng: np.random.Generator, n: int) -> Array:
    """Events in five minutes, more by day, in bursts."""
    t = np.arange(n)
    level = 2 + np.sin(2 * np.pi * t / DAY) + 0.3 * np.sin(2 * np.pi * t / (7 * DAY)) + lingering(rng, n, 0.99, 0.02)
    return rng.poisson(np.exp(level) * rng.gamma(2, 0.5, n)).astype(np.float64)


def restless(rng: np.random.Generator, n: int) -> Array:
    """Noise that is louder by day and in summer, and comes in bouts, of four degrees of freedom."""
    t = np.arange(n)
    loud = 0.7 * np.sin(2 * np.pi * t / DAY) + 0.7 * np.sin(2 * np.pi * t / YEAR) + lingering(rng, n, 0.995, 0.05)
    return 20 + seasons(t) + 0.3 * np.exp(loud) * rng.standard_t(4, n)


def quantised(rng: np.random.Generator, n: int) -> Array:
    """A temperature in tenths of a degree."""
    x = 20 + 0.3 * seasons(np.arange(n)) + lingering(rng, n, 0.995, 0.05) + 0.05 * rng.standard_t(5, n)
    return np.round(10 * x) / 10


def skewed(rng: np.random.Generator, n: int) -> Array:
    """Traffic: the logarithm has seasons and noise of six degrees of freedom."""
    t = np.arange(n)
    level = 4 + 0.8 * np.sin(2 * np.pi * t / DAY) + 0.2 * np.sin(2 * np.pi * t / (7 * DAY))
    return np.exp(level + lingering(rng, n, 0.7, 0.1) + 0.05 * rng.standard_t(6, n))


STREAMS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "drifting": drifting,
    "counted": counted,
    "restless": restless,
    "quantised": quantised,
    "skewed": skewed,
}
