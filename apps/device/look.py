"""What a signal looks like from outside: its rate, size, noise, mains, and what is missing; for a person to judge."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.units import POWERS, factor
from holdover.runtime.chunk import Chunk

WINDOW_S = 10.0
"""Of the newest signal that is measured."""
MAINS_HZ = (50.0, 60.0)
RATE_PERCENT = 5.0
"""A rate that is further from what was stated is another one."""
QRS_MV = (0.3, 6.0)
"""Peak to peak of an ECG in one lead; monitors must detect QRS complexes of 0.5 to 5 mV (IEC 60601-2-27)."""
MAINS_MV, NOISE_MV = 0.1, 0.05
OFF_PERCENT = 1.0

Array = NDArray[Any]


@dataclass
class Look:
    """A source's chunks, counted; the newest `WINDOW_S` of them measured.

    Attributes
    ----------
    samples, missing, off, holes, back
        Samples that came; those of them without a value; those with an electrode off; samples that are missing on the
        clock between chunks; chunks that went back.
    faults
        What the source said was wrong, by name.
    """

    rate_hz: float
    channels: Sequence[str]
    units: Sequence[str]
    live: bool = True
    samples: int = 0
    missing: int = 0
    off: int = 0
    holes: int = 0
    back: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    _next: int | None = None
    _first_s: float | None = None
    _after_first: int = 0
    _last_s: float = math.nan
    _window: Array | None = None

    def push(self, chunk: Chunk, now_s: float) -> None:
        """Take a chunk that came at a monotonic time, seconds."""
        if chunk.fault:
            self.faults[chunk.fault] += 1
        if self._next is not None:
            self.holes += max(chunk.at - self._next, 0)
            self.back += len(chunk) > 0 and chunk.at < self._next
        self._next = chunk.end if self._next is None else max(self._next, chunk.end)
        if not len(chunk):
            return
        if self._first_s is None:
            self._first_s = now_s
        else:
            self._after_first += len(chunk)
            self._last_s = now_s
        self.samples += len(chunk)
        self.missing += int((~np.isfinite(chunk.x)).any(axis=1).sum())
        self.off += 0 if chunk.lead_off is None else int(chunk.lead_off.sum())
        parts = [chunk.x] if self._window is None else [self._window, chunk.x]
        self._window = np.concatenate(parts)[-max(int(WINDOW_S * self.rate_hz), 16) :]

    @property
    def window(self) -> Array:
        """The newest samples, (samples, channels)."""
        return np.empty((0, len(self.channels)), np.float32) if self._window is None else self._window

    @property
    def measured_hz(self) -> float | None:
        """Samples a second as they arrived; None before two seconds of them."""
        if self._first_s is None or not self._last_s - self._first_s > 2.0:
            return None
        return self._after_first / (self._last_s - self._first_s)


@dataclass(frozen=True)
class Measure:
    """What one channel's window holds, in its unit.

    Attributes
    ----------
    size
        From the 0.5th to the 99.5th percentile.
    middle
        Median: an electrode's offset.
    noise
        Standard deviation of white noise with the power that is between 0.2 and 0.45 of the rate, mains left out; an
        ECG has little there.
    mains
        Peak to peak, by the frequency in Hz; without those above half the rate.
    """

    size: float
    middle: float
    noise: float
    mains: dict[float, float]


def measure(x: Array, rate_hz: float) -> Measure | None:
    """Measure (samples,); None with less than a second of it."""
    x = x[np.isfinite(x)].astype(np.float64)
    if len(x) < max(rate_hz, 16):
        return None
    low, middle, high = np.percentile(x, (0.5, 50, 99.5))
    spectrum = np.abs(np.fft.rfft((x - x.mean()) * np.hanning(len(x)))) / (len(x) / 4)
    hz = np.fft.rfftfreq(len(x), 1 / rate_hz)
    mains = {f: float(_line(spectrum, hz, f)) for f in MAINS_HZ if f < 0.45 * rate_hz}
    apart = np.abs(hz[:, None] - np.array([*MAINS_HZ, *(2 * f for f in MAINS_HZ)])).min(axis=1) > 1.5
    band = (hz > 0.2 * rate_hz) & (hz < 0.45 * rate_hz) & apart
    # White noise of variance s2 has a mean of 6 s2 / n in each bin of a Hann window's spectrum scaled to amplitudes.
    power = float((spectrum[band] ** 2).mean()) * len(x) / 6 if band.any() else math.nan
    return Measure(float(high - low), float(middle), math.sqrt(power), mains)


def verdicts(look: Look) -> list[tuple[bool, str]]:
    """Sentences on a look, and whether each is as it should be."""
    said = [_rate(look)]
    lost = look.holes + look.missing
    total = max(look.samples + look.holes, 1)
    said.append((lost == 0, f"missing: {lost:,} of {total:,} samples ({100 * lost / total:.2f} %)"))
    if look.off:
        share = 100 * look.off / max(look.samples, 1)
        said.append((share < OFF_PERCENT, f"electrode off: {share:.1f} % of the time"))
    if look.back:
        said.append((False, f"went back or repeated: {look.back} times"))
    said += [(False, f"{name.replace('_', ' ')}: {n} times") for name, n in look.faults.most_common()]
    for i, (name, unit) in enumerate(zip(look.channels, look.units, strict=True)):
        said += _channel(name, unit, measure(look.window[:, i], look.rate_hz))
    return said


def _rate(look: Look) -> tuple[bool, str]:
    measured = look.measured_hz
    if not look.live:
        return True, f"rate: {look.rate_hz:g} Hz, as the file says"
    if measured is None:
        return look.samples > 0, f"rate: {look.rate_hz:g} Hz stated; too little came to measure it"
    off = 100 * (measured / look.rate_hz - 1)
    text = f"rate: {measured:.2f} Hz as it arrives, {look.rate_hz:g} stated ({off:+.2f} %)"
    if abs(off) <= RATE_PERCENT:
        return True, text
    return False, f"{text}: state rate_hz={measured:.0f}, or the beats will be judged at a wrong pace"


def _channel(name: str, unit: str, found: Measure | None) -> list[tuple[bool, str]]:
    if found is None:
        return [(False, f"{name}: too little to measure")]
    text = f"{name}: {short(found.size)} {unit} peak to peak, around {short(found.middle)} {unit}"
    if unit not in POWERS:
        return [(found.size > 0, text if found.size else f"{text}: a flat line")]
    mv = factor(unit, "mV")
    size = found.size * mv
    low, high = QRS_MV
    if size == 0:
        return [(False, f"{text}: a flat line")]
    if not low <= size <= high:
        hint = "a wrong unit or gain, or no electrode" if size < low else "a wrong unit or gain, or movement"
        return [(False, f"{text}: not the size of an ECG ({low:g} to {high:g} mV): {hint}")]
    noise = found.noise * mv
    said = [(True, f"{text}: the size of an ECG")]
    said.append((noise < NOISE_MV, f"{name}: noise {1e3 * noise:.0f} uV"))
    for hz, value in found.mains.items():
        if value * mv >= 0.02:
            said.append((value * mv < MAINS_MV, f"{name}: mains {value * mv:.2f} mV peak to peak at {hz:g} Hz"))
    return said


def short(value: float) -> str:
    """Three figures that matter, without an exponent.

    Examples
    --------
    >>> short(0.01234), short(2.681), short(2681.4)
    ('0.0123', '2.68', '2,681')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _line(spectrum: Array, hz: Array, at: float) -> float:
    """Peak to peak of a sine at about this frequency."""
    near = np.abs(hz - at) < 0.6
    return 2 * float(spectrum[near].max(initial=0.0))


def strip(x: Array, width: int) -> str:
    """The newest samples (samples,) as one line of block characters, oldest left; "·" where there is none.

    Each character is the value furthest from the median in its stretch.

    Examples
    --------
    >>> strip(np.array([0, 0, 7, 0, np.nan, np.nan]), 3)
    '▁█·'
    """
    bars = "▁▂▃▄▅▆▇█"
    finite = x[np.isfinite(x)]
    if not len(finite) or width < 1:
        return "·" * width
    low, middle, high = float(finite.min()), float(np.median(finite)), float(finite.max())
    edges = np.linspace(0, len(x), width + 1).astype(int)
    line = []
    for a, b in pairwise(edges):
        part = x[a : max(b, a + 1)]
        part = part[np.isfinite(part)]
        if not len(part):
            line.append("·")
            continue
        value = float(part[np.abs(part - middle).argmax()])
        line.append(bars[int(7 * (value - low) / (high - low) + 0.5) if high > low else 0])
    return "".join(line)
