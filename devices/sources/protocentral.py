"""The frames of ProtoCentral's boards: ADS1292R and ADS1293 breakouts, HealthyPi 3, 4 and 5.

=====  ========  ==========================================================================================
byte   type      what
=====  ========  ==========================================================================================
0      2 bytes   0A FA
2      uint16    length of the payload, little-endian
4      uint8     type of the payload, see `PAYLOADS`
5      payload
...    2 bytes   00 0B
=====  ========  ==========================================================================================

There is neither a counter nor a checksum: what is lost on the way is only seen by its time. As ProtoCentral's own
programs write and read them: the examples of protocentral-ads1292r-arduino and of protocentral_healthypi_v4, and
healthypi_decoders in openview. Those examples send zeros while an electrode is off; of these boards only HealthyPi 3
and 4 also send the chip's status, whose lead-off bits are then read (ADS1292R data sheet SBAS502, LOFF_STAT).
"""

import struct
from typing import NamedTuple

import numpy as np

from holdover.devices.sources.frames import integers
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError

SYNC, END = b"\x0a\xfa", b"\x00\x0b"
HEAD = struct.Struct("<2sHB")
LONGEST = 256
OFF_BITS = 0x1F
"""Of the status: one bit for each electrode that is off."""


class Payload(NamedTuple):
    """Where the ECG stands in a payload: so many samples, each of so many bytes, from its first byte on.

    `status` is the byte with the lead-off bits, None where it has none.
    """

    samples: int
    width: int
    status: int | None = None


PAYLOADS = {
    (2, 8): Payload(1, 2),
    (2, 9): Payload(1, 2),
    (2, 20): Payload(1, 2, status=19),
    (2, 22): Payload(1, 4),
    (3, 50): Payload(8, 4),
    (3, 51): Payload(8, 4),
}
"""By type and length. 8, 9: ADS1292R; 20: ADS1292R, HealthyPi 3 and 4; 22: HealthyPi 5; 50, 51: its batches of 8."""


class ProtoCentral:
    """ProtoCentral's frame, as a `holdover.devices.sources.frame_codec.Layout`; of its signals, the ECG.

    Raises
    ------
    SourceError
        More than one lead is named.
    """

    sync = SYNC
    head = HEAD.size

    def __init__(self, whose: str, scale: Scale) -> None:
        if len(scale.channels) != 1:
            raise SourceError(f"{whose}: protocentral frames carry one lead; found {', '.join(scale.channels)}")
        self.scale = scale

    def size(self, head: bytes) -> int:
        """The frame's length; 0 if that cannot be."""
        length = HEAD.unpack(head)[1]
        return HEAD.size + length + len(END) if 0 < length <= LONGEST else 0

    def packet(self, frame: bytes) -> Packet | None:
        """The ECG samples, in the unit; none of a frame of another kind; None if its end is not one."""
        if not frame.endswith(END):
            return None
        _, length, kind = HEAD.unpack_from(frame)
        payload, data = PAYLOADS.get((kind, length)), frame[HEAD.size :]
        if payload is None:
            return self.nothing(0)
        values = self.scale.apply(integers(data[: payload.samples * payload.width], payload.width)[:, np.newaxis])
        off = payload.status is not None and bool(data[payload.status] & OFF_BITS)
        return Packet(values, np.ones(payload.samples, np.bool_) if off else None)

    def nothing(self, garbage: int) -> Packet:
        """No samples, and so many bytes that were thrown away."""
        return Packet(np.empty((0, 1), np.float32), garbage=garbage)


def build(number: int, length: int = 20, off: bool = False) -> bytes:
    """A frame with one sample, as the boards with payloads of type 2 send it.

    Examples
    --------
    >>> build(-2, length=8).hex(" ")
    '0a fa 08 00 02 fe ff 00 00 00 00 00 00 00 0b'
    """
    payload = PAYLOADS[2, length]
    data = bytearray(length)
    data[: payload.width] = number.to_bytes(payload.width, "little", signed=True)
    if payload.status is not None and off:
        data[payload.status] = OFF_BITS
    return HEAD.pack(SYNC, length, 2) + bytes(data) + END
