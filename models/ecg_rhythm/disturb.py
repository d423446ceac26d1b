"""What may befall a signal in amplitude, and rhythms made by hand, so that the net has seen them; all at 120 Hz, mV."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, lfilter, sosfilt

from holdover.models.ecg_beats.data import MODEL_HZ
from holdover.models.ecg_rhythm.data import Record
from holdover.models.ecg_rhythm.net import SHAPE

Array = NDArray[Any]
SINGLE, OTHER_LEAD = 0.4, 0.55
BAD_DB, GOOD_DB = 0.0, 6.0
"""Signal to noise in the second around a sample, below which its quality is bad and above which it is good."""


def read(record: Record, at: Array, rng: np.random.Generator) -> Array:
    """A lead of the record at fractional samples of 360 Hz, linearly.

    The first lead (40 %), the other (15 %), or a rotation of the two (45 %); 5 % of single leads upside down.
    """
    low, high = int(at[0]), int(at[-1]) + 2
    x = record.leads[:, low:high]
    index = np.clip(at.astype(int) - low, 0, x.shape[1] - 2)
    y = _lead(x, rng)
    part = at - low - index
    value: Array = y[index] * (1 - part) + y[index + 1] * part
    return value


def _lead(x: Array, rng: np.random.Generator) -> Array:
    draw, sign = rng.random(), -1.0 if rng.random() < 0.05 else 1.0
    if draw < OTHER_LEAD or len(x) == 1:
        single: Array = x[int(draw >= SINGLE) % len(x)]
        return sign * single
    angle = rng.uniform(0, 2 * np.pi)
    mix: Array = np.cos(angle) * x[0] + np.sin(angle) * x[1]
    return mix


def height(x: Array) -> float:
    """From the deepest to the highest point of the complexes, the slow baseline taken away, mV."""
    low, high = np.percentile(_flat(x)[MODEL_HZ:], (0.5, 99.5))
    return float(high - low) + 1e-3


def motion(seconds: float, rng: np.random.Generator) -> Array:
    """Electrode motion as it might be, unit variance.

    A leaky random walk, slow bumps and sharp two-sided ones of all sizes, and bursts of slow noise, in changing shares.
    """
    n = int(seconds * MODEL_HZ)
    walk = lfilter([1], [1, -_pole(rng.uniform(0.2, 2))], rng.standard_normal(n))
    bumps = _bumps(n, rng.uniform(0.05, 0.8), rng.uniform(0.01, 0.08), rng)
    sharp = _bumps(n, rng.uniform(0.02, 0.12), rng.uniform(0.005, 0.03), rng)
    sharp = sharp - rng.uniform(0, 1) * np.roll(sharp, int(MODEL_HZ * rng.uniform(0.02, 0.1)))
    band = butter(2, (rng.uniform(0.7, 2), rng.uniform(5, 15)), "bandpass", fs=MODEL_HZ, output="sos")
    burst = _slow(_bursts(n, 3.0, rng), 0.2) * sosfilt(band, rng.standard_normal(n))
    parts = np.stack([p / (p.std() + 1e-9) for p in (walk, bumps, sharp, burst)])
    y = rng.dirichlet((0.5, 0.7, 0.7, 0.7)) @ parts * np.exp(0.5 * _wander(n, 2.0, rng))
    return np.asarray((y - y.mean()) / y.std(), np.float32)


def _bumps(n: int, fall_s: float, rise_s: float, rng: np.random.Generator) -> Array:
    hits = (rng.random(n) < rng.uniform(0.3, 4) / MODEL_HZ) * rng.standard_t(3, n)
    return _slow(lfilter([1], [1, -_pole(fall_s)], hits), rise_s)


def fibrillate(x: Array, beats: Array, inside: tuple[int, int], rng: np.random.Generator) -> Array:
    """P waves replaced by fibrillation of the atria between two samples; beats at samples."""
    y, size = x.copy(), height(x)
    for before, beat in pairwise(beats):
        low, high = int(max(beat - 0.24 * MODEL_HZ, before + 0.3 * MODEL_HZ)), int(beat - 0.06 * MODEL_HZ)
        if inside[0] < low < high < inside[1]:
            y[low:high] = np.linspace(x[low], x[high], high - low)
    n = inside[1] - inside[0]
    phase = 2 * np.pi * np.cumsum(rng.uniform(4, 9) * np.exp(0.15 * _wander(n, 0.5, rng))) / MODEL_HZ
    waves = np.sin(phase) + rng.uniform(0, 0.5) * np.sin(2 * phase + rng.uniform(0, 6))
    y[inside[0] : inside[1]] += size * rng.uniform(0.005, 0.06) * np.exp(0.4 * _wander(n, 1.0, rng)) * waves
    return y


def flutter(x: Array, inside: tuple[int, int], rng: np.random.Generator) -> Array:
    """The signal between two samples replaced by ventricular flutter or fibrillation."""
    n, size = inside[1] - inside[0], height(x)
    coarse = rng.random() < 0.4
    wave = np.zeros(n)
    for share in (1.0,) if coarse else (1.0, rng.uniform(0.2, 1.0)):
        pace = rng.uniform(2.8, 5) if coarse else rng.uniform(3, 7.5)
        phase = 2 * np.pi * np.cumsum(pace * np.exp((0.03 if coarse else 0.2) * _wander(n, 0.4, rng))) / MODEL_HZ
        bend = rng.uniform(0, 0.4) * np.sin(2 * phase + rng.uniform(0, 6))
        wave += share * (np.sin(phase) + bend) * np.exp((0.1 if coarse else 0.5) * _wander(n, 0.7, rng))
    y = x.copy()
    y[inside[0] : inside[1]] = (
        size * np.exp(rng.uniform(-1.9, 0.0)) * wave
        + x[inside[0]]
        + 0.3 * (_flat(x)[inside[0] : inside[1]] * rng.uniform(0, 0.15))
    )
    return y


def heartless(n: int, noise: Sequence[Array], rng: np.random.Generator) -> Array:
    """A signal without a heart: recorded noise, electrode motion, an open input, mains, nothing; (n,)."""
    draw = rng.random()
    white = 10 ** rng.uniform(-3.5, 0) * rng.standard_normal(n)
    if draw < 0.25:
        return white
    mains = rng.uniform(0, 0.5) * (rng.random() < 0.3) * _mains(n, rng)
    moved: Array = np.exp(rng.uniform(-3.5, 0.7)) * _track(n, noise, rng) + mains + 0.1 * white * (draw < 0.6)
    return moved


def disturb(x: Array, noise: Sequence[Array], rng: np.random.Generator) -> tuple[Array, Array, tuple[int, int]]:
    """Gain, tilt, recorded and made noise, electrode steps, mains, and stretches without a heart.

    Parameters
    ----------
    x : array
        (samples,), mV.
    noise : sequence of array
        Unit variance.

    Returns
    -------
    array
        (samples,), mV.
    array
        (samples,), quality: 1 bad, 0 good, -1 in between.
    tuple of int
        First and last sample of a stretch without a heart, both before the start if there is none.
    """
    n, size = len(x), height(x)
    if rng.random() < 0.3:
        x = _tilted(x, rng)
    added = size * _added(n, noise, rng)
    if rng.random() < 0.15:
        added = added + 0.25 * size * _steps(n, rng)
    gain = np.exp(rng.uniform(-0.8, 0.8))
    y, quality = gain * (x + added) + rng.normal(0, 0.3), _quality(added, size)
    return _detached(y, quality, noise, rng) if rng.random() < 0.1 else (y, quality, (-1, -1))


def _added(n: int, noise: Sequence[Array], rng: np.random.Generator) -> Array:
    """Noise for a signal of height 1; signal to noise as nstdb has it: an eighth of the height squared, over power."""
    y = np.zeros(n)
    if rng.random() < 0.4:
        gates = _bursts(n, 8.0, rng) if rng.random() < 0.5 else 1.0
        y += 8**-0.5 * 10 ** (-rng.uniform(-3, 24) / 20) * gates * _track(n, noise, rng)
    if rng.random() < 0.25:
        y += 8**-0.5 * 10 ** (-rng.uniform(9, 36) / 20) * rng.standard_normal(n)
    if rng.random() < 0.1:
        y += rng.uniform(0.003, 0.06) * _mains(n, rng)
    return y


def _quality(added: Array, size: float) -> Array:
    power = uniform_filter1d(_flat(added) ** 2, MODEL_HZ)
    ratio_db = 10 * np.log10(size**2 / 8 / (power + 1e-12))
    return np.where(ratio_db < BAD_DB, 1, np.where(ratio_db > GOOD_DB, 0, -1))


def _detached(x: Array, quality: Array, noise: Sequence[Array], rng: np.random.Generator) -> Any:
    """A few seconds of an open input, or of an electrode that moves on its own."""
    length = int(MODEL_HZ * rng.uniform(2, 15))
    start = int(rng.integers(len(x) - length))
    dead = (
        heartless(length, noise, rng)
        if rng.random() < 0.5
        else 10 ** rng.uniform(-3.5, -1.7) * rng.standard_normal(length)
    )
    x[start : start + length] = rng.normal() * rng.uniform(0, 1) + dead
    quality[start : start + length] = 1
    return x, quality, (start, start + length)


def _track(n: int, noise: Sequence[Array], rng: np.random.Generator) -> Array:
    track = noise[int(rng.integers(len(noise)))]
    start = int(rng.integers(len(track) - n))
    part: Array = track[start : start + n]
    return part if rng.random() < 0.5 else -part


def _tilted(x: Array, rng: np.random.Generator) -> Array:
    """More or less of what is above a few hertz, as another recorder or electrode would give."""
    slow = _slow(x, 1 / (2 * np.pi * rng.uniform(4, 15)))
    return x + rng.uniform(-0.5, 1.0) * (x - slow)


def _steps(n: int, rng: np.random.Generator) -> Array:
    y = np.zeros(n)
    for start in rng.integers(n, size=1 + rng.poisson(n / MODEL_HZ / 20)):
        decay = np.exp(-np.arange(n - start) / (MODEL_HZ * rng.uniform(0.05, 1.0)))
        y[start:] += rng.normal(0, 6) * decay
    return y


def _mains(n: int, rng: np.random.Generator) -> Array:
    wave: Array = np.sin(2 * np.pi * 50 / MODEL_HZ * np.arange(n) + rng.uniform(0, 6.3))
    return wave


def _bursts(n: int, mean_s: float, rng: np.random.Generator) -> Array:
    """0 or 1, changing every few seconds, (samples,)."""
    edges = np.cumsum(rng.exponential(mean_s * MODEL_HZ, size=int(3 * n / mean_s / MODEL_HZ) + 20))
    return ((np.searchsorted(edges, np.arange(n)) + rng.integers(2)) % 2).astype(float)


def _wander(n: int, tau_s: float, rng: np.random.Generator) -> Array:
    """Slow noise of unit variance."""
    pole = _pole(tau_s)
    y: Array = lfilter([np.sqrt(1 - pole**2)], [1, -pole], rng.standard_normal(n))
    return _slow(y, tau_s / 4)


def _flat(x: Array) -> Array:
    """The signal without its slow baseline, as the front end takes it away."""
    y: Array = x - _slow(x - x[0], 1 / (2 * np.pi * SHAPE.front_end.highpass_hz)) - x[0]
    return y


def _slow(x: Array, tau_s: float) -> Array:
    pole = _pole(tau_s)
    y: Array = lfilter([1 - pole], [1, -pole], x)
    return y


def _pole(tau_s: float) -> float:
    return float(np.exp(-1 / (tau_s * MODEL_HZ)))
