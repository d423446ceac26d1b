"""Windows of a quarter of a second on the sample clock, and what is measured of each; NumPy alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.snapshot import Memory

WINDOW_S = 0.25
MAINS_HZ = (50.0, 60.0)
NEVER = 1 << 40
"""Rows since what has not been yet."""

Array = NDArray[np.float64]


class Windows:
    """Samples cut at whole multiples of the window's length on the sample clock.

    Missing samples take the value before them in their window, or else the one after. A window of which more than
    half is missing is left out.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._at = 0
        self._held: NDArray[np.float32] | None = None

    def push(self, at: int, x: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Take samples (samples, channels), NaN where missing; return ends (windows,) and (windows, length, channels).

        `at` is never before what was there; what lies between is missing.
        """
        held = self._begun(at, x) if self._held is None else self._held
        missing = at - self._at - len(held)
        if missing and at >= self._at + self.length:
            first = self._cut([held, self._none(self.length - len(held), x)])
            second = self._cut([self._begun(at, x), x])
            return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
        return self._cut([held, self._none(missing, x), x])

    def _begun(self, at: int, like: NDArray[np.float32]) -> NDArray[np.float32]:
        self._at = at - at % self.length
        return self._none(at - self._at, like)

    def _none(self, n: int, like: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full((n, like.shape[1]), np.nan, np.float32)

    def _cut(self, parts: list[NDArray[np.float32]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        x = np.concatenate(parts)
        n = len(x) // self.length
        ends = self._at + self.length * np.arange(1, n + 1)
        self._at, self._held = self._at + n * self.length, x[n * self.length :].copy()
        windows = x[: n * self.length].reshape(n, self.length, x.shape[1])
        there = np.isfinite(windows).all(axis=2).sum(axis=1)
        keep = 2 * there >= self.length
        if (there[keep] < self.length).any():
            windows = np.array([_filled(w) if k else w for w, k in zip(windows, keep, strict=True)])
        return ends[keep], windows[keep]

    def snapshot(self) -> Memory:
        """What is carried."""
        return {"at": self._at, "held": self._held}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self._at, self._held = memory["at"], memory["held"]


class FlatLine:
    """Finds samples that end a run of equal ones in a channel; missing ones break no run."""

    def __init__(self) -> None:
        self._value: NDArray[np.float32] | None = None
        self._run: NDArray[np.int64] | None = None
        self._alive: NDArray[np.int64] | None = None

    def push(self, x: NDArray[np.float32], flat: int, again: int = 0, within: int = 0) -> NDArray[np.bool_]:
        """Whether each of (samples, channels) ends a run of at least `flat`, (samples,); 0 for never.

        A run that begins less than `within` samples after the end of such a one must be `again` long.
        """
        line = np.zeros(len(x), np.bool_)
        there = np.isfinite(x).all(axis=1)
        x = x[there]
        if not len(x):
            return line
        if self._value is None or self._run is None or self._alive is None:
            self._value = np.full_like(x[:1], np.nan)
            self._run, self._alive = np.zeros(x.shape[1], np.int64), np.full(x.shape[1], NEVER)
        same = runs(x == np.concatenate([self._value, x[:-1]]), self._run)
        late, alive = revived(same + 1, self._run + 1, flat or NEVER, again, within, self._alive)
        self._value, self._run, self._alive = x[-1:].copy(), same[-1], alive[-1]
        line[there] = late.any(axis=1)
        return line

    def snapshot(self) -> Memory:
        """What is carried."""
        return {"value": self._value, "run": self._run, "alive": self._alive}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self._value, self._run, self._alive = memory["value"], memory["run"], memory["alive"]


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of windows, each (windows, channels), in uV.

    Attributes
    ----------
    low, high
        Smallest and largest value, mains taken out.
    least, most, level
        Smallest and largest value, and mean.
    left
        Peak to peak of what neither a straight line nor mains explains.
    mains
        Amplitude of a sine of the power that 50 and 60 Hz and two harmonics have.
    noise
        RMS of what is left, of second differences over 10 ms: 1 at 50 Hz, a half at 25 Hz, a tenth at 10 Hz.
    """

    low: Array
    high: Array
    least: Array
    most: Array
    level: Array
    left: Array
    mains: Array
    noise: Array


def runs(holds: NDArray[np.bool_], carried: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """For how many rows in a row something has held, (rows, ...), `carried` of them before the first.

    Examples
    --------
    >>> runs(np.array([[True], [False], [True], [True]]), 5).ravel().tolist()
    [6, 0, 1, 2]
    """
    i = np.arange(len(holds)).reshape(-1, *(1,) * (holds.ndim - 1))
    run: NDArray[np.int64] = i - np.maximum.accumulate(np.where(holds, -1 - np.asarray(carried), i), axis=0)
    return run


def revived(
    run: NDArray[np.int64], before: NDArray[np.int64], dead: int, again: int, within: int, alive: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each of (rows, channels) of a run is dead, where one that came back to life just before must be longer.

    Parameters
    ----------
    run, before
        For how many rows something has held, and for how many it had before the first of them.
    dead, again
        How many make it dead, and how many do where less than `within` rows lie between one that did and this one.
    alive
        Rows since the last one that did, before the first.

    Returns
    -------
    tuple
        Whether it is dead, and the rows since the last time that it was no longer, each (rows, channels).
    """
    was = np.concatenate([before[np.newaxis], run[:-1]])
    since = runs(~((was >= dead) & (run < was)), alive)
    return run >= np.where(since - run < within, max(again, dead), dead), since


def mains_basis(length: int, rate_hz: float) -> Array:
    """Orthonormal rows (2 + 2 tones, length): a constant, a straight line, then mains and its harmonics."""
    t = np.arange(length) - (length - 1) / 2
    tones = [h * hz for hz in MAINS_HZ for h in (1, 2, 3) if h * hz < 0.49 * rate_hz]
    waves = [wave(2 * np.pi * tone / rate_hz * t) for tone in tones for wave in (np.cos, np.sin)]
    columns, _ = np.linalg.qr(np.stack([np.ones(length), t / length, *waves], axis=1))
    return np.ascontiguousarray(columns.T)


def measure(windows: NDArray[np.float32], basis: Array, lag: int) -> Measures:
    """Measure windows (windows, length, channels), mV.

    The sums are einsum's, which do not depend on how many windows there are, as those of a matrix product do.
    """
    n, length, channels = windows.shape
    x = 1e3 * np.ascontiguousarray(windows.transpose(0, 2, 1), np.float64).reshape(n * channels, length)
    share = np.einsum("rl,kl->rk", x, basis)
    clean = x - np.einsum("rk,kl->rl", share[:, 2:], basis[2:])
    left = clean - np.einsum("rk,kl->rl", share[:, :2], basis[:2])
    fast = left[:, lag:-lag] / 2 - (left[:, 2 * lag :] + left[:, : -2 * lag]) / 4
    values = (
        clean.min(axis=1), clean.max(axis=1), x.min(axis=1), x.max(axis=1), x.mean(axis=1), np.ptp(left, axis=1),
        np.sqrt(np.square(share[:, 2:]).sum(axis=1) * 2 / length), np.sqrt(np.square(fast).mean(axis=1)),
    )  # fmt: skip
    return Measures(*(v.reshape(n, channels) for v in values))


def _filled(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """A window (length, channels) whose missing samples have the value before them, or the first one that is there."""
    there = np.isfinite(window).all(axis=1)
    i = np.maximum.accumulate(np.where(there, np.arange(len(window)), -1))
    return window[np.where(i < 0, there.argmax(), i)]
