"""A simulated device that sends bytes: a recording as lines of text or frames, through the real protocol."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from threading import Event

import numpy as np

from holdover.devices.simulators.byte_lines import Line
from holdover.devices.simulators.impair import Sent, in_time
from holdover.devices.sources import frames, protocentral
from holdover.devices.sources.line_parser import LEAD_OFF
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.scale import Scale
from holdover.runtime.chunk import Source
from holdover.runtime.errors import UsageError

PACKET_S = 0.05
"""A device hands on what it has taken this often."""
MISSING_16 = -(1 << 15)

Encode = Callable[[Packet], bytes]


def packets_of(source: Source, packet_s: float = PACKET_S) -> Iterator[Packet]:
    """A recording as a device gives it: packets of `packet_s` seconds, each with its number and its time."""
    n = max(round(packet_s * source.rate_hz), 1)
    for chunk in source.chunks():
        for i in range(0, len(chunk), n):
            at = chunk.at + i
            yield Packet(chunk.x[i : i + n], count=at, time=at / source.rate_hz)


def encoder(form: str, scale: Scale, stamped_hz: float | None = None) -> Encode:
    """What makes bytes of packets; the source that reads them has the same scale.

    Parameters
    ----------
    form
        "lines", "frames" or "protocentral".
    stamped_hz
        Lines begin with the device's time in seconds, at this nominal rate.

    Raises
    ------
    UsageError
        There is no such form.
    """
    encoders: dict[str, Encode] = {
        "lines": lambda packet: _as_lines(packet, scale, stamped_hz),
        "frames": lambda packet: _as_frames(packet, scale),
        "protocentral": lambda packet: _as_protocentral(packet, scale),
    }
    if form not in encoders:
        raise UsageError(f"there is no format {form!r}; expected one of {', '.join(encoders)}")
    return encoders[form]


def play(sent: Iterable[Sent], line: Line, encode: Encode, stop: Event, speed: float = 1.0) -> None:
    """Send it all at its time, `speed` times as fast; ends with it, or soon after `stop`. The line stays as it is."""
    line.plug()
    for one in in_time(sent, stop, speed):
        if one.packet is not None:
            line.write(one.garbage + encode(one.packet), stop)
        elif one.plugged:
            line.plug()
        else:
            line.unplug()


def _as_lines(packet: Packet, scale: Scale, stamped_hz: float | None) -> bytes:
    values = packet.x / scale.gain + scale.offset if (scale.gain, scale.offset) != (1, 0) else packet.x
    off = _off(packet)
    rows = []
    for i, row in enumerate(values):
        text = LEAD_OFF if off[i] else ",".join("nan" if v != v else f"{v:.9g}" for v in row)
        time = f"{(packet.time or 0.0) + i / stamped_hz:.6f}," if stamped_hz else ""
        rows.append(time + text)
    return "".join(f"{row}\r\n" for row in rows).encode()


def _as_frames(packet: Packet, scale: Scale) -> bytes:
    numbers = _counts(packet, scale, frames.least(3))
    off, at = _off(packet), packet.count or 0
    edges = sorted({0, len(packet), *(np.flatnonzero(np.diff(off)) + 1).tolist(), *range(0, len(packet), frames.MOST)})
    return b"".join(frames.build(numbers[a:b], at + a, lead_off=bool(off[a])) for a, b in pairwise(edges))


def _as_protocentral(packet: Packet, scale: Scale) -> bytes:
    numbers = np.clip(_counts(packet, scale, 0)[:, 0], MISSING_16, -MISSING_16 - 1).tolist()
    pairs = zip(numbers, _off(packet).tolist(), strict=True)
    return b"".join(protocentral.build(number, off=off) for number, off in pairs)


def _counts(packet: Packet, scale: Scale, missing: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    counts = np.rint(packet.x.astype(np.float64) / scale.gain + scale.offset)
    return np.where(np.isnan(counts), missing, counts).astype(np.int64)


def _off(packet: Packet) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    return np.zeros(len(packet), np.bool_) if packet.lead_off is None else packet.lead_off
