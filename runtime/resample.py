"""Resampling on the fly: any rational ratio, carried history, the same output however the samples arrive."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.errors import UsageError
from holdover.runtime.snapshot import Memory

Array = NDArray[np.float32]


class Resampler:
    """Polyphase resampling with a linear-phase Kaiser-windowed sinc, aligned so that it shifts nothing.

    The filter is that of `scipy.signal.resample_poly` (Kaiser window, beta 5, ten zero crossings a side), written
    causally: output m stands for time m / to_hz and comes `delay` input samples late. Before the first sample the
    signal is taken to have had its value.

    Examples
    --------
    >>> r = Resampler(360, 120)
    >>> len(r.push(np.zeros((360, 1), np.float32))), r.delay
    (110, 30)
    """

    def __init__(self, from_hz: float, to_hz: float, channels: int = 1) -> None:
        ratio = Fraction(to_hz).limit_denominator(1000) / Fraction(from_hz).limit_denominator(1000)
        self.up, self.down = ratio.numerator, ratio.denominator
        if max(self.up, self.down) > 4000:
            raise UsageError(f"cannot resample {from_hz} Hz to {to_hz} Hz: {self.up}/{self.down} is no simple ratio")
        self.channels = channels
        reach = 10 * max(self.up, self.down)
        self.delay = 0 if ratio == 1 else (reach + self.up - 1) // self.up
        self._width = 2 * self.delay + 1
        self._table = _phases(self.up, self.down, reach, self.delay)
        self.reset()

    def reset(self) -> None:
        """Forget all: the next sample is the first."""
        self._kept: Array = np.empty((0, self.channels), np.float32)
        self._kept_at = -self.delay
        self._out = 0

    def push(self, x: Array) -> Array:
        """Take (samples, channels) and return what is complete, (outputs, channels); either may be empty."""
        if self.up == self.down or not len(x):
            return x
        if not len(self._kept):
            x = np.concatenate([np.repeat(x[:1], self.delay, axis=0), x])
        held = np.concatenate([self._kept, x])
        complete = self._kept_at + len(held) - self.delay - 1
        n = max((complete * self.up + self.up - 1) // self.down + 1 - self._out, 0)
        y = self._filter(held, n) if n else np.empty((0, self.channels), np.float32)
        self._out += n
        drop = self._start(self._out)
        self._kept, self._kept_at = held[drop:], self._kept_at + drop
        return y

    def _start(self, m: int) -> int:
        """Where in what is held the window of output m begins."""
        return m * self.down // self.up - self.delay - self._kept_at

    def _filter(self, held: Array, n: int) -> Array:
        # einsum sums each row in the same order whatever the number of rows, which matmul does not
        if self.up == 1:
            windows = _windows(held[self._start(self._out) :], n, self._width, self.down)
            return np.asarray(np.einsum("nck,k->nc", np.ascontiguousarray(windows), self._table[0]))
        m = np.arange(self._out, self._out + n) * self.down
        windows = _windows(held, len(held) - self._width + 1, self._width)
        picked = windows[m // self.up - (self.delay + self._kept_at)]
        return np.asarray(np.einsum("nck,nk->nc", np.ascontiguousarray(picked), self._table[m % self.up]))

    def snapshot(self) -> Memory:
        """What is carried."""
        return {"kept": self._kept, "kept_at": self._kept_at, "out": self._out}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self._kept, self._kept_at, self._out = memory["kept"], memory["kept_at"], memory["out"]


def _windows(x: Array, n: int, width: int, every: int = 1) -> Array:
    """A view of n windows on x (samples, channels), (n, channels, width); `sliding_window_view`, ten times as fast."""
    row, column = x.strides
    return np.ndarray((n, x.shape[1], width), x.dtype, x, strides=(every * row, column, row))


def _phases(up: int, down: int, reach: int, delay: int) -> Array:
    """Filter taps by phase, (up, 2 delay + 1), in the order of the input samples."""
    n = np.arange(-reach, reach + 1)
    prototype = np.sinc(n / max(up, down)) * np.kaiser(2 * reach + 1, 5.0)
    prototype *= up / prototype.sum()
    place = np.arange(up)[:, np.newaxis] - np.arange(-delay, delay + 1)[np.newaxis] * up
    return np.where(np.abs(place) <= reach, prototype[np.clip(place + reach, 0, 2 * reach)], 0).astype(np.float32)
