"""How a journal is written: the first line of a segment, and a record for each chunk."""

import struct
import zlib
from collections.abc import Iterator

import msgspec
import numpy as np

from holdover.runtime.chunk import Chunk

FORMAT = "holdover journal 1"
MAGIC = b"\xa5HJ1"
HEAD = struct.Struct("<4sIIQqIHBHd")
"""magic, crc32 of what follows it, bytes of the payload, number, at, samples, channels, lead-off given, bytes of the
fault, arrived."""
CHECKED_FROM = 8


class JournalHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of each segment, in JSON: whose samples these are, and how far the journal had come.

    `end` is the place after the furthest sample before this segment.
    """

    format: str = FORMAT
    stream: str
    rate_hz: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    epoch: float | None = None
    end: int = 0


def read_head(data: bytes) -> JournalHead | None:
    """The first line of a segment; None if it is damaged."""
    line, newline, _ = data.partition(b"\n")
    try:
        return msgspec.json.decode(line, type=JournalHead) if newline else None
    except ValueError:
        return None


def pack_record(number: int, chunk: Chunk) -> bytes:
    """One record: `HEAD`, then the fault (UTF-8), lead-off (one byte a sample, if given), samples (float32)."""
    x = np.ascontiguousarray(chunk.x, "<f4")
    lead_off = b"" if chunk.lead_off is None else np.ascontiguousarray(chunk.lead_off, np.bool_).tobytes()
    fault = chunk.fault.encode()[:65535]
    payload = fault + lead_off + x.tobytes()
    n, channels = x.shape
    fields = (len(payload), number, chunk.at, n, channels, chunk.lead_off is not None, len(fault), chunk.arrived)
    checked = HEAD.pack(MAGIC, 0, *fields)[CHECKED_FROM:] + payload
    return MAGIC + zlib.crc32(checked).to_bytes(4, "little") + checked


def unpack_records(data: bytes) -> Iterator[tuple[int, int, Chunk]]:
    """Every whole record in order: (number, the byte after it, chunk); all else is passed over."""
    at = 0
    while (at := data.find(MAGIC, at)) >= 0:
        found = _unpack(data, at)
        if found is None:
            at += 1
        else:
            at = found[1]
            yield found


def _unpack(data: bytes, at: int) -> tuple[int, int, Chunk] | None:
    if at + HEAD.size > len(data):
        return None
    _, crc, size, number, place, n, channels, has_lead_off, fault_size, arrived = HEAD.unpack_from(data, at)
    begin, end = at + HEAD.size, at + HEAD.size + size
    if end > len(data) or zlib.crc32(memoryview(data)[at + CHECKED_FROM : end]) != crc:
        return None
    if size != fault_size + n * bool(has_lead_off) + 4 * n * channels:
        return None
    fault = data[begin : begin + fault_size].decode(errors="replace")
    begin += fault_size
    lead_off = np.frombuffer(data, np.bool_, n, begin).copy() if has_lead_off else None
    begin += n * bool(has_lead_off)
    x = np.frombuffer(data, "<f4", n * channels, begin).reshape(n, channels).astype(np.float32)
    return number, end, Chunk(place, x, lead_off, arrived, fault)
