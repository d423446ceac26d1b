"""What a driver of a live device gives, and what a driver is: the clock and the chunks are made of it by `live`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
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
    garbage
        Bytes, or samples of a device that gives no bytes, that were thrown away since the packet before because they
        made no sense.
    """

    x: NDArray[np.float32]
    lead_off: NDArray[np.bool_] | None = None
    count: int | None = None
    time: float | None = None
    fault: str = ""
    garbage: int = 0

    def __len__(self) -> int:
        return len(self.x)

    def part(self, start: int, stop: int | None = None) -> "Packet":
        """Some of the samples, numbered as they were; only the part with the first one has the fault.

        Its `time` is None where it is not that of the packet's first sample.
        """
        first = start == 0
        return Packet(
            self.x[start:stop],
            None if self.lead_off is None else self.lead_off[start:stop],
            None if self.count is None else self.count + start,
            self.time if first else None,
            self.fault if first else "",
            self.garbage if first else 0,
        )


def merged(packets: Iterable[Packet]) -> list[Packet]:
    """The same samples in fewer packets: those joined whose numbers and marks follow on.

    Examples
    --------
    >>> x = np.zeros((2, 1), np.float32)
    >>> [(p.count, len(p)) for p in merged([Packet(x, count=0), Packet(x, count=2), Packet(x, count=9)])]
    [(0, 4), (9, 2)]
    """
    runs: list[list[Packet]] = []
    for packet in packets:
        if runs and _follows(packet, runs[-1]):
            runs[-1].append(packet)
        else:
            runs.append([packet])
    return [_joined(run) for run in runs]


def _follows(packet: Packet, run: list[Packet]) -> bool:
    first, n = run[0], sum(map(len, run))
    counted = packet.count is None if first.count is None else packet.count == first.count + n
    alike = (packet.lead_off is None) == (first.lead_off is None)
    return counted and alike and packet.time is None and not packet.fault


def _joined(run: list[Packet]) -> Packet:
    if len(run) == 1:
        return run[0]
    offs = [packet.lead_off for packet in run if packet.lead_off is not None]
    return replace(
        run[0],
        x=np.concatenate([packet.x for packet in run]),
        lead_off=np.concatenate(offs) if offs else None,
        garbage=sum(packet.garbage for packet in run),
    )


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
