"""What a driver of a live device gives, and what a driver is: the clock and the chunks are made of it by `live`."""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Packet:
    """Samples that a device gave in one go.

    Attributes
    ----------
    x
        (samples, channels), float32, in the unit that the driver states; NaN where a sample is missing. No samples: the
        link stands and nothing came.
    lead_off
        (samples,), bool, where the device says that an electrode is off; None if it cannot tell.
    count
        The number of the first sample by the device's own counter, unwrapped; None if it does not count.
    time
        The device's own time of the first sample, seconds since any start; None if it has no clock.
    fault
        What the driver found wrong just before the first sample, in one word ("reconnected", "checksum"), or "".
    """

    x: NDArray[np.float32]
    lead_off: NDArray[np.bool_] | None = None
    count: int | None = None
    time: float | None = None
    fault: str = ""


class Driver(Protocol):
    """One device, spoken to in its own protocol.

    Attributes
    ----------
    name
        What the source is called.
    rate_hz
        Nominal samples a second.
    channels, units
        Names of the channels, and the unit of each.
    """

    name: str
    rate_hz: float
    channels: tuple[str, ...]
    units: tuple[str, ...]

    def packets(self, stop: Event) -> Iterator[Packet]:
        """Yield what comes until `stop` is set or the input ends; connect again by itself where that makes sense.

        Runs in a thread of its own and may block for at most 0.5 s at a time.
        """
        ...

    def close(self) -> None:
        """Let go of the device; may be called from another thread, and ends `packets`."""
        ...
