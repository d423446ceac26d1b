"""Generated series to train and judge on: what sensors and counters do, without a single recorded value."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[Any]
Rng = np.random.Generator
Part = Callable[[Rng, int], Array]
Change = Callable[[Rng, Array], Array]


DAYS = (24, 48, 96, 144, 288, 1440)
"""Samples in a day, at steps from an hour to a minute."""


def draw(rng: Rng, length: int) -> Array:
    """One series, (length,), float32: parts that add up, what happens to them, a unit and a zero of its own."""
    parts = [name for name, share in SHARES.items() if name in PARTS and rng.random() < share]
    x = np.zeros(length)
    for name in parts or ["noise"]:
        x += rng.lognormal(0, 0.8) * PARTS[name](rng, length)
    for name, change in CHANGES.items():
        if rng.random() < SHARES[name]:
            x = change(rng, x)
    size = 10 ** rng.uniform(-2, 3)
    zero = rng.normal(0, 5) * 10 ** rng.uniform(-1, 1.5)
    return np.asarray(size * (x + zero), np.float32)


def many(seed: int, count: int, length: int) -> Array:
    """Series for judging, (count, length), the same for the same seed."""
    rng = np.random.default_rng(seed)
    return np.stack([draw(rng, length) for _ in range(count)])


def _white(rng: Rng, n: int) -> Array:
    """Gaussian, Laplace or Student's t of 2 to 6 degrees of freedom, unit scale."""
    kind = rng.integers(3)
    if kind == 0:
        return rng.normal(0, 1, n)
    return rng.laplace(0, 0.7, n) if kind == 1 else 0.7 * rng.standard_t(rng.uniform(2, 6), n)


def noise(rng: Rng, n: int) -> Array:
    """White, or remembered with a time constant of up to 100 samples; sometimes louder at times."""
    x = _white(rng, n)
    if rng.random() < 0.6:
        a = float(np.exp(-1 / rng.uniform(0.3, 1) ** 4 / 100))
        x = lfilter([np.sqrt(1 - a * a)], [1, -a], x)
    return x * np.exp(0.7 * slow(rng, n)) if rng.random() < 0.3 else x


def slow(rng: Rng, n: int) -> Array:
    """A wandering level with unit variance, its time constant 100 to 3000 samples."""
    a = float(np.exp(-1 / np.exp(rng.uniform(np.log(100), np.log(3000)))))
    x = lfilter([np.sqrt(1 - a * a)], [1, -a], rng.normal(0, 1, n))
    return np.asarray(x)


def walk(rng: Rng, n: int) -> Array:
    """A random walk, or a straight line, or both."""
    steps = _white(rng, n) * rng.uniform(0, 1) + rng.normal(0, 0.1)
    return np.asarray(np.cumsum(steps) * 10 ** rng.uniform(-2, 0))


def season(rng: Rng, n: int) -> Array:
    """Days and weeks at a usual step, or one to three periods between 6 and 2000 samples; each with a shape."""
    if rng.random() < 0.5:
        return _calendar(rng, n)
    return np.asarray(sum(_wave(rng, n, np.exp(rng.uniform(*np.log([6, 2000])))) for _ in range(rng.integers(1, 4))))


def _calendar(rng: Rng, n: int) -> Array:
    """A day's shape, sometimes less of it on some days of the week, sometimes a week's shape beside it."""
    day = rng.choice(DAYS)
    x = _wave(rng, n, day)
    if rng.random() < 0.5:
        x *= np.where(rng.random(7) < 0.3, rng.uniform(0, 1), 1.0)[np.arange(n) // day % 7]
    return x + rng.uniform(0, 1) * _wave(rng, n, 7 * day) if rng.random() < 0.3 else x


def _wave(rng: Rng, n: int, period: float) -> Array:
    phase = (np.arange(n) / period + rng.random()) % 1
    if rng.random() < 0.1:
        phase = (phase + 0.03 * slow(rng, n)) % 1
    x = _SHAPES[rng.integers(len(_SHAPES))](rng, phase)
    return x * (1 + 0.3 * slow(rng, n)) if rng.random() < 0.3 else x


def _harmonics(rng: Rng, phase: Array) -> Array:
    k = np.arange(1, rng.integers(2, 8))
    a, b = rng.normal(0, 1, (2, len(k))) / k ** rng.uniform(0.5, 2)
    angle = 2 * np.pi * phase[:, None] * k
    return np.asarray(np.cos(angle) @ a + np.sin(angle) @ b)


def _pulse(rng: Rng, phase: Array) -> Array:
    return np.where(phase < rng.uniform(0.02, 0.7), 2.0, 0.0)


def _hump(rng: Rng, phase: Array) -> Array:
    width = rng.uniform(0.2, 0.8)
    return np.asarray(2.0 * np.sin(np.pi * np.clip(phase / width, 0, 1)) ** rng.uniform(0.5, 2))


def _saw(rng: Rng, phase: Array) -> Array:
    return np.asarray(2.0 * phase * rng.choice([-1, 1]))


_SHAPES = (_harmonics, _harmonics, _pulse, _hump, _saw)


def states(rng: Rng, n: int) -> Array:
    """A few levels, each held for a random time, as a machine that switches."""
    levels = rng.normal(0, 2, rng.integers(2, 5))
    held = np.exp(rng.uniform(np.log(5), np.log(800)))
    changes = rng.random(n) < 1 / held
    return np.asarray(levels[rng.integers(len(levels), size=n)[np.maximum.accumulate(np.arange(n) * changes)]])


def bursts(rng: Rng, n: int) -> Array:
    """Rare peaks of heavy-tailed height that fall off at once or slowly."""
    hits = (rng.random(n) < 10 ** rng.uniform(-3, -1)) * rng.pareto(rng.uniform(1.5, 4), n) * rng.uniform(1, 8)
    a = rng.choice([0.0, rng.uniform(0.3, 0.95)])
    return np.asarray(lfilter([1], [1, -a], np.minimum(hits, 100.0)))


def shifts(rng: Rng, n: int) -> Array:
    """A level that jumps now and then, and stays."""
    jumps = (rng.random(n) < rng.uniform(0.3, 4) / n) * rng.normal(0, 4, n)
    return np.asarray(np.cumsum(jumps))


def counts(rng: Rng, x: Array) -> Array:
    """Counts whose expected number follows the series."""
    z = (x - x.mean()) / (x.std() + 1e-9)
    rate = np.exp(np.clip(rng.uniform(0.1, 1) * z + rng.uniform(-1.5, 5), -5, 9))
    return np.asarray(rng.poisson(rate), float)


def positive(rng: Rng, x: Array) -> Array:
    """What is always above 0, its noise the larger the higher it is."""
    return np.asarray(np.exp(np.clip(rng.uniform(0.2, 1) * (x - x.mean()) / (x.std() + 1e-9), -8, 8)))


def saturated(rng: Rng, x: Array) -> Array:
    """Held within what a sensor can show."""
    low, high = np.quantile(x, [rng.choice([0, rng.uniform(0, 0.4)]), rng.choice([1, rng.uniform(0.6, 1)])])
    return np.clip(x, low, high)


def quantised(rng: Rng, x: Array) -> Array:
    """In steps of a coarse or a fine converter."""
    step = max(float(x.std()), 1e-9) * 10 ** rng.uniform(-2.5, 0.3)
    return np.asarray(np.round(x / step) * step)


def held(rng: Rng, x: Array) -> Array:
    """The last value again where one is missing, singly or for a while."""
    missing = rng.random(len(x)) < rng.uniform(0, 0.3)
    if rng.random() < 0.5:
        starts = np.flatnonzero(rng.random(len(x)) < 0.002)
        for start, length in zip(starts, rng.geometric(0.03, len(starts)), strict=True):
            missing[start : start + length] = True
    return np.asarray(x[np.maximum.accumulate(np.where(missing, 0, np.arange(len(x))))])


def still(rng: Rng, x: Array) -> Array:
    """Constant for a long stretch."""
    start = rng.integers(len(x))
    y = x.copy()
    y[start : start + rng.integers(50, 600)] = x[start]
    return y


PARTS: Mapping[str, Part] = {
    "season": season, "noise": noise, "slow": slow, "walk": walk, "states": states, "bursts": bursts, "shifts": shifts,
}  # fmt: skip
"""What adds up, by name."""
CHANGES: Mapping[str, Change] = {
    "counts": counts, "positive": positive, "saturated": saturated, "quantised": quantised, "held": held,
    "still": still,
}  # fmt: skip
"""What happens to the sum, in this order."""
SHARES = {
    "season": 0.65, "noise": 0.85, "slow": 0.4, "walk": 0.15, "states": 0.15, "bursts": 0.25, "shifts": 0.3,
    "counts": 0.15, "positive": 0.15, "saturated": 0.15, "quantised": 0.35, "held": 0.15, "still": 0.1,
}  # fmt: skip
"""How often each is there."""
