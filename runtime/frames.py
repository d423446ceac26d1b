"""What the model said, and the samples that it spoke of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.contract import OutputSpec


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of every output, on the source's sample clock.

    Attributes
    ----------
    values
        By output: (frames, width).
    first
        By output: the number of the first of them since the last reset.
    origin
        Source sample at which the model's clock stood at 0.
    ratio
        Source samples per model sample.
    until
        Everything about source samples before this one has now been said.
    heard
        The model samples that came, (samples, channels), before any of them were held back for want of a hop.
    heard_first
        The number of the first of them since the last reset.
    """

    values: Mapping[str, NDArray[Any]]
    first: Mapping[str, int]
    origin: int
    ratio: Fraction
    until: int
    heard: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    heard_first: int = 0

    def at(self, spec: OutputSpec) -> NDArray[np.float64]:
        """The source samples that the frames of an output are about, (frames,)."""
        k = self.first[spec.name] + np.arange(len(self.values[spec.name]))
        place = (spec.first_at + k * spec.samples_per_frame).astype(np.float64)
        return self.origin + place * float(self.ratio)
