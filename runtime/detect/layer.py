"""What a layer of the anomaly detector is: a score of each sample, of which high is bad."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from holdover.runtime.detect.anomaly_options import AnomalyOptions
from holdover.runtime.snapshot import Memory


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of all channels.

    Attributes
    ----------
    at
        Place on the source's clock.
    x
        Values, in the signal's unit.
    error
        Residuals, signed, over what the model said that it may miss by.
    z
        The same in mean absolute deviations around their centre.
    size
        Of the residuals of all channels together: the root of the sum of their squares.
    """

    at: int
    x: Sequence[float]
    error: Sequence[float]
    z: Sequence[float]
    size: float


@dataclass(frozen=True, slots=True)
class Setting:
    """What layers are made for: channels of the signal and of the residual, and the reach of a view in samples."""

    options: AnomalyOptions
    rate_hz: float
    channels: int
    errors: int
    reach: int


class Layer(Protocol):
    """A score of samples.

    Attributes
    ----------
    surprises
        Whether scores are -ln of probabilities, and need no threshold that learns.
    """

    surprises: bool

    @property
    def channel(self) -> int | None:
        """The channel that is worst in the last sample; None where channels are judged together."""
        ...

    def score(self, sample: Sample) -> float:
        """The score of the next sample; high is bad."""
        ...

    def learn(self) -> None:
        """Hold the last sample for normal."""
        ...

    def refuse(self) -> None:
        """The last sample is alarmed."""
        ...

    def snapshot(self) -> Memory:
        """What is carried."""
        ...

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        ...
