"""Ventricular fibrillation and flutter, from the signal itself: there are no beats to find in them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.carried import Carried
from holdover.runtime.detect.episode import Episode
from holdover.runtime.detect.limits import Limits

Array = NDArray[np.float64]

WINDOW_S, SEGMENT_S, APART_S, BASELINE_S = 4, 3, 1, 1.0
LOOK_S = 0.25
ENOUGH, OVER = 9, 12
"""Windows in a row, a quarter of a second apart, that start an episode, and that end it."""

CROSSING, MOST_OFTEN_PERCENT = 0.2, 48.0
MOST_LEAKAGE = 0.625
SLOWEST_HZ, FASTEST_HZ = 1.8, 10.0
LEAST_MV = 0.05
"""Mean absolute deflection; a sine of 0.16 mV from peak to peak has it."""

RATE_HZ = 120.0


class Wave(NamedTuple):
    """What a window is like: share of time away from the baseline, how little of a sine, its rate, its size."""

    crossing_percent: float
    leakage: float
    frequency_hz: float
    mean_abs_mv: float

    @property
    def fibrillates(self) -> bool:
        """Whether it is a wave without complexes, of a rate and a size that fibrillation has."""
        return (
            self.crossing_percent > MOST_OFTEN_PERCENT
            and self.leakage < MOST_LEAKAGE
            and SLOWEST_HZ <= self.frequency_hz <= FASTEST_HZ
            and self.mean_abs_mv >= LEAST_MV
        )


class Fibrillation(Carried):
    """Four seconds of a wave without complexes, in nine windows a quarter of a second apart: 6.25 s after it began.

    Two published measures must agree; their limits are those in use for them, not fitted here. Threshold crossing
    sample count (Arafat, Chowdhury and Hasan, Signal, Image and Video Processing 5:1-10, 2011): the share of samples
    beyond a fifth of the largest, in segments of 3 s, above 48 %. Leakage of the VF filter (Kuo and Dillman, Computers
    in Cardiology 1978; Amann, Tratnig and Unterkofler, BioMedical Engineering OnLine 4:60, 2005): what is left of the
    signal and itself half a period later, below 0.625, the milder of the two limits of that filter. Size and rate are
    bounded by us, so that noise of the input, mains and a wandering baseline are none.

    It tells fibrillation and flutter from rhythms with complexes, not from a fast ventricular tachycardia without an
    isoelectric line, which it calls the same. Fibrillation finer than 0.16 mV is missed, and so is one under strong
    muscle noise; shaking an electrode at 2 to 10 Hz may look like it. Judged on the first channel, in mV.
    """

    carried = ("_begin", "_raw", "_x", "_hits", "_misses", "_first", "_episode")

    def __init__(self, rate_hz: float, limits: Limits) -> None:
        self.limits = limits
        self._by = max(round(rate_hz / RATE_HZ), 1)
        self._hz = rate_hz / self._by
        self._window, self._step = round(WINDOW_S * self._hz), max(round(LOOK_S * self._hz), 1)
        segment = round(SEGMENT_S * self._hz)
        starts = np.arange(0, self._window - segment + 1, round(APART_S * self._hz))
        self._segments = np.arange(segment) + starts[:, np.newaxis]
        self._taper = _tapered(segment, self._hz)
        half, i = round(BASELINE_S * self._hz / 2), np.arange(self._window)
        self._from, self._to = np.maximum(i - half, 0), np.minimum(i + half + 1, self._window)
        self._episode = Episode("ventricular_fibrillation")
        self._forget()

    def _forget(self) -> None:
        self._begin: int | None = None
        self._raw: Array = np.empty(0)
        self._x: Array = np.empty(0)
        self._hits = self._misses = self._first = 0

    def update(self, chunk: Chunk) -> Iterator[Phase]:
        """Take usable samples that follow those before; yield what comes true in them."""
        if not len(chunk):
            return
        if self._begin is None:
            self._begin = chunk.at
        raw = np.concatenate([self._raw, chunk.x[:, 0].astype(np.float64)])
        whole = len(raw) // self._by * self._by
        parts = [raw[i : whole : self._by] for i in range(self._by)]
        self._raw = raw[whole:].copy()
        self._x = np.concatenate([self._x, sum(parts[1:], start=parts[0]) / self._by])
        start = 0
        while start + self._window <= len(self._x):
            yield from self._judge(self.wave(self._x[start : start + self._window]))
            start += self._step
            self._begin += self._step * self._by
        self._x = self._x[start:].copy()

    def wave(self, x: Array) -> Wave:
        """Measure a window, (samples,), mV, at about 120 Hz."""
        total = np.concatenate([[0.0], np.cumsum(x)])
        z = x - (total[self._to] - total[self._from]) / (self._to - self._from)
        segments = np.abs(z[self._segments] * self._taper)
        often = 100 * float((segments > CROSSING * segments.max(axis=1, keepdims=True)).mean())
        if often <= MOST_OFTEN_PERCENT:
            return Wave(often, 1.0, 0.0, 0.0)
        size, slope = float(np.abs(z).sum()), float(np.abs(np.diff(z)).sum())
        half = np.pi * size / slope if slope else len(z)
        lag = round(half)
        if not 1 <= lag < len(z):
            return Wave(often, 1.0, 0.0, size / len(z))
        now, before = z[lag:], z[:-lag]
        leakage = float(np.abs(now + before).sum() / (np.abs(now).sum() + np.abs(before).sum()))
        return Wave(often, leakage, self._hz / (2 * half), size / len(z))

    def _judge(self, wave: Wave) -> Iterator[Phase]:
        assert self._begin is not None
        at = self._begin + self._window * self._by - 1
        if wave.fibrillates:
            self._first = self._first if self._hits else self._begin
            self._hits, self._misses = self._hits + 1, 0
            if self._hits >= ENOUGH and not self._episode:
                evidence = {name: round(value, 3) for name, value in wave._asdict().items()}
                yield self._episode.start(self._first, at, None, **evidence)
            return
        self._hits, self._misses = 0, self._misses + 1
        if self._episode and self._misses >= OVER:
            yield self._episode.end(at - self._misses * self._step * self._by, at)

    def interrupt(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:
        """The signal ended at `end`, which became known at `at`: close what is open, forget the windows."""
        if self._episode:
            yield self._episode.end(end, at, reason)
        self._forget()


def _tapered(n: int, rate_hz: float) -> Array:
    """Ones with a quarter of a second of cosine at both ends, (n,)."""
    edge = min(round(rate_hz / 4), n // 2)
    rise = 0.5 * (1 - np.cos(np.pi * (np.arange(edge) + 0.5) / max(edge, 1)))
    return np.concatenate([rise, np.ones(n - 2 * edge), rise[::-1]])
