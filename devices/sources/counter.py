"""The small counter of a device, which begins again at 0, as one that does not."""

import numpy as np
from numpy.typing import NDArray

BACK = 16
"""A number that is at most so much lower than expected came twice or late; a lower one has gone round."""


class Counter:
    """Numbers modulo `modulus` to counts.

    A hole of more than the modulus is told by how long it took: a device cannot have sent fewer samples than fit into
    the time, save for those still on their way.

    Parameters
    ----------
    modulus
        The number after which the device goes on with 0; well above `BACK`.
    rate_hz
        Samples a second.

    Examples
    --------
    >>> counter = Counter(256, 250.0)
    >>> counter.push(np.array([254, 255, 0, 3, 3]), 10.0).tolist()
    [254, 255, 256, 259, 259]
    >>> counter.push(np.array([10]), 13.0).tolist()  # three seconds later, 7 samples or 7 + 2 * 256
    [778]
    """

    def __init__(self, modulus: int, rate_hz: float) -> None:
        self.modulus, self.rate_hz = modulus, rate_hz
        self._last: int | None = None
        self._at_s = 0.0

    def push(self, numbers: NDArray[np.int64], now_s: float) -> NDArray[np.int64]:
        """The counts of some samples, (n,), that came together at `now_s`, n above 0."""
        if self._last is None:
            self._last, self._at_s = int(numbers[0]) - 1, now_s - len(numbers) / self.rate_hz
        steps = np.diff(numbers, prepend=self._last % self.modulus)
        counts = self._last + np.cumsum((steps - 1 + BACK) % self.modulus - BACK + 1)
        due = self._last + (now_s - self._at_s) * self.rate_hz + BACK / 2
        counts += self.modulus * max(int((due - counts[-1]) // self.modulus), 0)
        self._last, self._at_s = int(counts[-1]), now_s
        return counts
