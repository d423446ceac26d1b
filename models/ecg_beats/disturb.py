"""What may befall a recording, in time and in amplitude, so that the net has seen it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from holdover.models.ecg_beats.data import MODEL_HZ, RATE_HZ, Record

Array = NDArray[Any]
NOWHERE = (-1e9, -1e9)


def lead(record: Record, rng: np.random.Generator) -> Array:
    """MLII (40 %), the other lead (20 %), or a rotation of the two (40 %), (samples,) at 360 Hz, mV."""
    draw = rng.random()
    if draw < 0.6:
        single: Array = record.leads[int(draw >= 0.4)]
        return single
    angle = rng.uniform(0, 2 * np.pi)
    mix: Array = np.cos(angle) * record.leads[0] + np.sin(angle) * record.leads[1]
    return mix


def read(x: Array, at: Array) -> Array:
    """x at fractional samples, linearly."""
    index = np.clip(at.astype(int), 0, len(x) - 2)
    part = at - index
    value: Array = x[index] * (1 - part) + x[index + 1] * part
    return value


def time_map(at: Array, kind: Array, span: tuple[float, float], rng: np.random.Generator) -> tuple[Array, Array]:
    """Knots of a map from the record's time to the stream's; in half of the calls single beats come too early.

    A normal beat among regular normal beats is pulled forward by 20 to 42 % of its RR interval by compressing the
    stretch between the T wave before it and its own P wave, the pause after it is longer in part, and its `kind` is
    set to S, in place.

    Returns
    -------
    source, target : array
        (knots,), samples at 360 Hz; target starts at 0.
    """
    source, target = [span[0]], [0.0]
    last, share = -3, rng.uniform(0.03, 0.2) if rng.random() < 0.5 else 0.0
    for i in range(3, len(at) - 1):
        if rng.random() < share and i - last > 2 and _regular(at[i - 3 : i + 2], kind[i - 2 : i + 2]):
            last = i
            kind[i] = 1
            _pull(source, target, at[i - 1 : i + 2], rng)
    source.append(span[1])
    target.append(target[-1] + source[-1] - source[-2])
    return np.array(source), np.array(target)


def _regular(at: Array, kind: Array) -> bool:
    rr = np.diff(at)
    return bool((kind == 0).all() and np.ptp(rr) < 0.15 * rr.mean() and 0.4 < rr.mean() / RATE_HZ < 1.5)


def _pull(source: list[float], target: list[float], at: Array, rng: np.random.Generator) -> None:
    before, here, after = at
    rr = here - before
    repolarised = 0.25 * np.sqrt(rr / RATE_HZ) * RATE_HZ
    onset = 0.12 * RATE_HZ
    room = here - onset - (before + repolarised)
    earlier = min(rr * rng.uniform(0.2, 0.42), 0.85 * room)
    later = earlier * rng.uniform(0.2, 1.0)
    for place, shift in ((before + repolarised, 0.0), (here - onset, -earlier), (here + repolarised, 0.0)):
        if place > source[-1]:
            target.append(target[-1] + place - source[-1] + shift)
            source.append(place)
    if after - onset > source[-1]:
        target.append(target[-1] + after - onset - source[-1] + later)
        source.append(after - onset)


def disturb(x: Array, noise: Sequence[Array], rng: np.random.Generator) -> tuple[Array, tuple[float, float]]:
    """Gain, tilt, electrode offset, recorded and white noise, electrode steps, mains, and dead stretches.

    Parameters
    ----------
    x : array
        (samples,) at 120 Hz, mV.
    noise : sequence of array
        At 360 Hz, unit variance.

    Returns
    -------
    array
        (samples,), mV.
    tuple of float
        First and last sample of a stretch without signal, far before the start if there is none.
    """
    n = len(x)
    size = float(np.std(x - np.median(x))) + 1e-3
    if rng.random() < 0.3:
        x = _tilted(x, rng)
    if rng.random() < 0.5:
        x = x + size * 10 ** (-rng.uniform(0, 24) / 20) * _recorded(n, noise, rng)
    if rng.random() < 0.3:
        x = x + size * 10 ** (-rng.uniform(5, 30) / 20) * rng.standard_normal(n)
    if rng.random() < 0.1:
        x = x + size * rng.uniform(0.02, 0.3) * np.sin(2 * np.pi * 50 / MODEL_HZ * np.arange(n) + rng.uniform(0, 6.3))
    if rng.random() < 0.15:
        x = x + size * _steps(n, rng)
    x = x * np.exp(rng.uniform(-0.7, 0.7)) + rng.normal(0, 0.3)
    return _dead(x, rng) if rng.random() < 0.1 else (x, NOWHERE)


def _tilted(x: Array, rng: np.random.Generator) -> Array:
    """More or less of what is above a few hertz, as another recorder or electrode would give."""
    pole = np.exp(-2 * np.pi * rng.uniform(4, 15) / MODEL_HZ)
    slow: Array = lfilter([1 - pole], [1, -pole], x)
    return x + rng.uniform(-0.5, 1.0) * (x - slow)


def _recorded(n: int, noise: Sequence[Array], rng: np.random.Generator) -> Array:
    track = noise[int(rng.integers(len(noise)))]
    start = int(rng.integers(len(track) - 3 * n))
    y: Array = track[start : start + 3 * n : 3]
    return y * _bursts(n, rng) if rng.random() < 0.5 else y


def _bursts(n: int, rng: np.random.Generator) -> Array:
    """0 or 1, changing every few seconds, (samples,)."""
    edges = np.cumsum(rng.exponential(6.0 * MODEL_HZ, size=200))
    return (np.searchsorted(edges, np.arange(n)) % 2).astype(float)


def _steps(n: int, rng: np.random.Generator) -> Array:
    y = np.zeros(n)
    for start in rng.integers(n, size=1 + rng.poisson(n / MODEL_HZ / 20)):
        decay = np.exp(-np.arange(n - start) / (MODEL_HZ * rng.uniform(0.05, 1.0)))
        y[start:] += rng.normal(0, 6) * decay
    return y


def _dead(x: Array, rng: np.random.Generator) -> tuple[Array, tuple[float, float]]:
    """A few seconds of nearly nothing, as from an open input."""
    length = int(MODEL_HZ * rng.uniform(2, 12))
    start = int(rng.integers(len(x) - length))
    x[start : start + length] = rng.normal() + 10 ** rng.uniform(-3.5, -1.7) * rng.standard_normal(length)
    return x, (float(start), float(start + length))
