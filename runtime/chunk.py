"""Samples with their place on the sample clock."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive samples of one source, of any number, even none.

    Attributes
    ----------
    at
        Place of the first sample on the source's sample clock. A place beyond what came before announces missing
        samples, an earlier one repeats or goes back; both are the business of `holdover.runtime.quality`.
    x
        (samples, channels), float32, in the unit that the source states; NaN where a sample is missing.
    lead_off
        (samples,), bool, where the device says that an electrode is off; None if it cannot tell.
    arrived
        Unix time in seconds at which the last sample came; NaN if it has no meaning, as for a file.
    fault
        What the source found wrong just before the first sample, in one word ("clock_jump"), or "".
    """

    at: int
    x: NDArray[np.float32]
    lead_off: NDArray[np.bool_] | None = None
    arrived: float = float("nan")
    fault: str = ""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def end(self) -> int:
        """The place just after the last sample."""
        return self.at + len(self.x)


class Source(Protocol):
    """Where samples come from; `devices/sources/` has one file for each kind.

    Attributes
    ----------
    name
        What the source is called, a file's stem or a kind; the default name of its stream.
    rate_hz
        Nominal samples a second.
    channels, units
        Names of the channels that chunks carry, and the unit of each.
    epoch
        Unix time of sample 0, or None where the recording does not say. A live source knows it with its first chunk.
    length
        Number of samples, or None for a live source.
    """

    name: str
    rate_hz: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    epoch: float | None
    length: int | None

    def chunks(self) -> Iterator[Chunk]:
        """Yield what came, at least every 0.5 s: an empty chunk when nothing did. Ends with the input."""
        ...

    def seek(self, sample: int) -> bool:
        """Go to a place before `chunks` is called; False where that cannot be, and the journal stands in."""
        ...

    def close(self) -> None:
        """Let go of the device or file; may be called from another thread, and ends `chunks`."""
        ...
