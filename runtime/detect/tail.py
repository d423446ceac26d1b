"""The tail of a distribution: a generalised Pareto law fitted to what exceeds a threshold."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID = 48
"""Values that are tried of the one unknown; between the neighbours of the best, `ROUNDS` times again."""
ROUNDS = 3
SMALL = 1e-8
"""A shape nearer to 0 than this is that of the exponential law."""


class Tail(NamedTuple):
    """A generalised Pareto law: P(excess > y) = (1 + shape y / scale) ** (-1 / shape)."""

    shape: float
    scale: float

    def survival(self, excess: float) -> float:
        """The probability of a greater excess, 0 to 1.

        Examples
        --------
        >>> round(Tail(0.0, 2.0).survival(2.0), 4), Tail(-0.5, 1.0).survival(3.0)
        (0.3679, 0.0)
        """
        if abs(self.shape) < SMALL:
            return math.exp(-excess / self.scale)
        inside = 1 + self.shape * excess / self.scale
        return float(inside ** (-1 / self.shape)) if inside > 0 else 0.0

    def excess(self, probability: float) -> float:
        """The excess that is exceeded with a probability, in (0, 1].

        Examples
        --------
        >>> Tail(0.5, 1.0).excess(0.25)
        2.0
        """
        if abs(self.shape) < SMALL:
            return -self.scale * math.log(probability)
        return float(self.scale / self.shape * (probability**-self.shape - 1))


def fit(excesses: Array, censored: Array | None = None, shapes: tuple[float, float] = (-1.0, 10.0)) -> Tail:
    """The most likely law (Grimshaw, Technometrics 35:185, 1993), censored values taken in.

    Parameters
    ----------
    excesses
        (n,), above 0; at least one.
    censored
        (m,), excesses of which only this is known, that they were greater; None for none.
    shapes
        Smallest and greatest shape; where the likeliest lies outside, the nearer one with its likeliest scale.

    Notes
    -----
    With r = shape / scale, the likeliest shape is the sum of log(1 + r y) over all, by the number of those that are not
    censored. That leaves one unknown, which is above -1 / max(y).
    """
    y = np.asarray(excesses, np.float64)
    every = y if censored is None else np.concatenate([y, censored])
    mean = float(y.mean())
    r = np.concatenate(
        [np.linspace(-0.999 / float(every.max()), 0, GRID // 3, endpoint=False), np.geomspace(1e-3, 20.0, GRID) / mean]
    )
    ratio = _refined(r, lambda r: _likelihood_of_ratio(r, every, len(y)))
    if abs(ratio * mean) < SMALL:
        return Tail(0.0, float(every.sum() / len(y)))
    shape = float(np.log1p(ratio * every).sum() / len(y))
    if shapes[0] <= shape <= shapes[1]:
        return Tail(shape, shape / ratio)
    return _fit_scale(min(max(shape, shapes[0]), shapes[1]), every, len(y))


def _fit_scale(shape: float, every: Array, n: int) -> Tail:
    """The law of a shape that is not 0 with the likeliest scale; the first n values are not censored."""
    mean = float(every.mean())
    least = max(-1.001 * shape * float(every.max()), 1e-3 * mean)
    scales = np.geomspace(least, 30 * max(mean, least), 2 * GRID)
    return Tail(shape, _refined(scales, lambda s: _likelihood_of_scale(s, shape, every, n)))


def _refined(grid: Array, likelihood: Callable[[Array], Array]) -> float:
    for _ in range(ROUNDS):
        best = int(np.argmax(likelihood(grid)))
        grid = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], GRID)
    return float(grid[int(np.argmax(likelihood(grid)))])


def _likelihood_of_ratio(r: Array, every: Array, n: int) -> Array:
    r = np.where(np.abs(r) < SMALL, SMALL, r)
    logs = np.log1p(r[:, np.newaxis] * every)
    return np.asarray(-n * np.log(logs.sum(axis=1) / n / r) - logs[:, :n].sum(axis=1))


def _likelihood_of_scale(scales: Array, shape: float, every: Array, n: int) -> Array:
    logs = np.log1p(shape / scales[:, np.newaxis] * every)
    return np.asarray(-n * np.log(scales) - logs[:, :n].sum(axis=1) - logs.sum(axis=1) / shape)
