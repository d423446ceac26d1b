"""Generated series as parallel streams without end, for truncated back-propagation through time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.models.forecast.features import view
from holdover.models.forecast.series import draw

Array = NDArray[Any]

LENGTH, CHUNK = 6144, 128
"""Samples of a series, and of a training step."""


class _Segment:
    """One series as the net sees it, in units of its own typical move."""

    def __init__(self, rng: np.random.Generator) -> None:
        x = draw(rng, LENGTH + 1).astype(np.float64)[None]
        seen, step = view(x[:, :-1]), np.diff(x)
        unit = np.abs(step).mean() + seen.size.mean()
        parts = (
            seen.features,
            seen.below / unit,
            seen.skill,
            seen.size / unit,
            step / unit,
        )
        self.parts = [np.asarray(part[0], np.float32) for part in parts]


class Streams:
    """`slots` series side by side, each followed by a new one; all chance comes from `rng`."""

    def __init__(self, slots: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._segments = [_Segment(rng) for _ in range(slots)]
        self._next = [int(n) for n in rng.integers(LENGTH // CHUNK, size=slots)]  # not all begin at once

    def step(self) -> tuple[list[Array], Array]:
        """The next chunk of every stream (features, below, skill, size, step to the next), and which begin with it."""
        begins = np.array([n == 0 for n in self._next])
        places = [slice(n * CHUNK, (n + 1) * CHUNK) for n in self._next]
        chunks = [[part[at] for part in s.parts] for s, at in zip(self._segments, places, strict=True)]
        for slot in range(len(self._segments)):
            self._next[slot] += 1
            if self._next[slot] == LENGTH // CHUNK:
                self._segments[slot], self._next[slot] = _Segment(self._rng), 0
        return [np.stack(parts) for parts in zip(*chunks, strict=True)], begins
