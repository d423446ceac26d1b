"""The generic binary frame: a counter, samples and a checksum, for sketches and boards of one's own.

=====  ========  =====================================================================================
byte   type      what
=====  ========  =====================================================================================
0      2 bytes   A5 5A
2      uint8     2: samples are int16, the least of them a missing one; 3: int24, likewise
3      uint8     flags; bit 0: an electrode is off
4      uint8     number of leads
5      uint8     n, samples of each lead, 1 to 255
6      uint32    number of the first sample, counted from any start, over 2^32 to 0
10     n x lead  samples, lead by lead within each: x0 y0 x1 y1 ...
...    uint16    CRC-16/CCITT-FALSE (polynomial 1021, start FFFF) of all bytes from byte 2 to here
=====  ========  =====================================================================================

All numbers are little-endian.
"""

import struct
from binascii import crc_hqx

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.packet import Packet
from holdover.devices.sources.scale import Scale

SYNC = b"\xa5\x5a"
HEAD = struct.Struct("<2sBBBBI")
CRC = struct.Struct("<H")
WIDTHS = (2, 3)
LEAD_OFF = 1
MOST = 255
WRAP = 1 << 32


class Frames:
    """The generic frame, as a `holdover.devices.sources.frame_codec.Layout`."""

    sync = SYNC
    head = HEAD.size

    def __init__(self, whose: str, scale: Scale) -> None:
        self.whose = whose
        self.scale = scale
        self._count: int | None = None

    def size(self, head: bytes) -> int:
        """The frame's length; 0 for another number of leads than the configuration has, or a kind that there is not."""
        _, width, _, leads, n, _ = HEAD.unpack(head)
        if width not in WIDTHS or leads != len(self.scale.channels) or not n:
            return 0
        return int(HEAD.size + width * leads * n + CRC.size)

    def packet(self, frame: bytes) -> Packet | None:
        """The samples, in the unit; None if the checksum is another."""
        if crc(frame[2 : -CRC.size]) != CRC.unpack_from(frame, len(frame) - CRC.size)[0]:
            return None
        _, width, flags, leads, n, count = HEAD.unpack_from(frame)
        numbers = integers(frame[HEAD.size : -CRC.size], width)
        values = np.where(numbers == least(width), np.nan, numbers).reshape(n, leads)
        off = np.ones(n, np.bool_) if flags & LEAD_OFF else None
        return Packet(self.scale.apply(values), off, count=self._unwrapped(count))

    def nothing(self, garbage: int) -> Packet:
        """No samples, and so many bytes that were thrown away."""
        return Packet(np.empty((0, len(self.scale.channels)), np.float32), garbage=garbage)

    def _unwrapped(self, count: int) -> int:
        """The counter without its jumps from 2^32 to 0: the number nearest to the one before."""
        if self._count is not None:
            count = self._count + (count - self._count + WRAP // 2) % WRAP - WRAP // 2
        self._count = count
        return count


def build(numbers: NDArray[np.integer], count: int, width: int = 3, lead_off: bool = False) -> bytes:
    """A frame of whole numbers, (n, leads), whose first sample has the number `count`.

    Examples
    --------
    >>> build(np.array([[-1], [513]]), count=7, width=2).hex(" ")
    'a5 5a 02 00 01 02 07 00 00 00 ff ff 01 02 9a 7b'
    """
    n, leads = numbers.shape
    head = HEAD.pack(SYNC, width, LEAD_OFF * lead_off, leads, n, count % WRAP)
    body = head + octets(numbers, width)
    return body + CRC.pack(crc(body[2:]))


def crc(data: bytes) -> int:
    """CRC-16/CCITT-FALSE.

    >>> hex(crc(b"123456789"))
    '0x29b1'
    """
    return crc_hqx(data, 0xFFFF)


def integers(data: bytes, width: int) -> NDArray[np.int64]:
    """Little-endian numbers with a sign, of `width` bytes each.

    >>> integers(bytes([0xFF, 0xFF, 0xFF, 1, 2, 0]), 3).tolist()
    [-1, 513]
    """
    unsigned = np.frombuffer(data, np.uint8).reshape(-1, width).astype(np.int64)
    values = unsigned @ (1 << 8 * np.arange(width, dtype=np.int64))
    signed: NDArray[np.int64] = values - ((values >> 8 * width - 1) << 8 * width)
    return signed


def octets(numbers: NDArray[np.integer], width: int) -> bytes:
    """The bytes that `integers` reads, of numbers of any shape.

    >>> octets(np.array([-1, 513]), 3).hex(" ")
    'ff ff ff 01 02 00'
    """
    return numbers.astype("<i4").reshape(-1, 1).view(np.uint8)[:, :width].tobytes()


def least(width: int) -> int:
    """The least number of so many bytes: a missing sample.

    >>> least(2)
    -32768
    """
    return -(1 << 8 * width - 1)
