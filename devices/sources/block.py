"""Samples in one message, as nodes publish them: JSON, CBOR, or a block of numbers behind a small header.

A JSON or CBOR message is an array of numbers (one lead), an array of rows, in JSON also a number alone, or a map::

    {"samples": [[0.11, 0.52], [0.12, null]], "count": 5000, "time": 1700000000.25, "rate_hz": 250, "lead_off": false}

`samples` alone must be there; null is a missing sample. `count` numbers the first sample, so that loss is found;
`time` is when it was taken, in seconds by any clock; `lead_off` is one word for all samples or one for each.

A raw block is little-endian: the header `HEADER`, then n rows of a number for each lead.

=====  ======  ==========================================================
byte   type    what
=====  ======  ==========================================================
0      4 char  "HOSB"
4      uint8   version, 1
5      uint8   1: int16, -32768 is a missing sample; 2: float32, NaN is one
6      uint8   number of leads
7      uint8   flags; bit 0: an electrode is off
8      uint64  number of the first sample; 2^64 - 1: not counted
16     double  its time, s; NaN: not told
24     uint32  n
=====  ======  ==========================================================
"""

import math
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

MAGIC, VERSION = b"HOSB", 1
HEADER = struct.Struct("<4sBBBBQdI")
DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<i2"), 2: np.dtype("<f4")}
LEAD_OFF = 1
NO_COUNT = 2**64 - 1
MISSING = -32768
"""Of int16, as in WFDB's format 16."""
MAX_BYTES = 1 << 20
"""A message that is longer is refused unread."""
RATE_TOLERANCE = 0.05

_JSON_BEGINS = frozenset(b"{[-0123456789n \t\r\n")
_Number = float | None


class BadBlock(ValueError):
    """A message that is not what it should be; its text says why."""


@dataclass(frozen=True, slots=True)
class Block:
    """What a message said.

    Attributes
    ----------
    values
        (n, leads), numbers as sent, NaN where missing.
    lead_off
        (n,), bool; None if it does not say.
    count, time
        Of the first sample; None if it does not say.
    """

    values: NDArray[np.float64]
    lead_off: NDArray[np.bool_] | None = None
    count: int | None = None
    time: float | None = None


class _Said(msgspec.Struct):
    """A map; keys that are not known are passed over."""

    samples: list[Any]
    count: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    time: float | None = None
    rate_hz: float | None = None
    lead_off: bool | list[bool] | None = None


def parse(message: bytes, leads: int, rate_hz: float) -> Block:
    """The samples in a message, whichever of the forms it has.

    Raises
    ------
    BadBlock
        It has none of them, another number of leads, a length that is not the one its header says, a rate that is not
        `rate_hz` within 5 %, or more than `MAX_BYTES`.

    Examples
    --------
    >>> parse(b'{"samples": [0.5, null], "count": 7}', 1, 250.0)
    Block(values=array([[0.5],
           [nan]]), lead_off=None, count=7, time=None)
    """
    if len(message) > MAX_BYTES:
        raise BadBlock(f"{len(message)} bytes; expected at most {MAX_BYTES}")
    if not message:
        raise BadBlock("an empty message")
    if message[: len(MAGIC)] == MAGIC:
        return _raw(message, leads)
    return _told(_decoded(message), leads, rate_hz)


def build(
    values: NDArray[Any], *, count: int | None = None, time: float | None = None, lead_off: bool = False
) -> bytes:
    """The raw block of (n, leads) int16 or float32 numbers.

    Examples
    --------
    >>> parse(build(np.array([[1, 2]], np.int16), count=3), 2, 250.0)
    Block(values=array([[1., 2.]]), lead_off=None, count=3, time=None)
    """
    number = next(key for key, dtype in DTYPES.items() if dtype == values.dtype)
    n, leads = values.shape
    at = NO_COUNT if count is None else count
    stamp = math.nan if time is None else time
    header = HEADER.pack(MAGIC, VERSION, number, leads, LEAD_OFF * lead_off, at, stamp, n)
    return header + values.astype(DTYPES[number]).tobytes()


def _raw(message: bytes, leads: int) -> Block:
    if len(message) < HEADER.size:
        raise BadBlock(f"{len(message)} bytes of a header of {HEADER.size}")
    _, version, number, channels, flags, count, time, n = HEADER.unpack_from(message)
    dtype = DTYPES.get(number)
    if version != VERSION or dtype is None:
        raise BadBlock(f"version {version}, numbers of kind {number}; expected version {VERSION}, kind 1 or 2")
    if channels != leads:
        raise BadBlock(f"{channels} leads; expected {leads}")
    expected = HEADER.size + n * channels * dtype.itemsize
    if len(message) != expected:
        raise BadBlock(f"{len(message)} bytes; its header says {n} samples, {expected} bytes")
    values = np.frombuffer(message, dtype, offset=HEADER.size).reshape(n, channels).astype(np.float64)
    if dtype.kind == "i":
        values[values == MISSING] = np.nan
    off = np.ones(n, np.bool_) if flags & LEAD_OFF else None
    return Block(values, off, None if count == NO_COUNT else count, time if math.isfinite(time) else None)


def _decoded(message: bytes) -> Any:
    try:
        return msgspec.json.decode(message) if message[0] in _JSON_BEGINS else _from_cbor(message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadBlock(f"no JSON ({error})") from None


def _from_cbor(message: bytes) -> Any:
    try:
        import cbor2
    except ImportError:
        raise BadBlock("neither JSON nor a raw block; if it is CBOR, install holdover[cbor]") from None
    try:
        stream = BytesIO(message)
        said = cbor2.load(stream)
    except Exception as error:  # a decoder of tags answers a hostile message with errors of many kinds
        raise BadBlock(f"neither JSON nor CBOR ({type(error).__name__}: {error})") from None
    if stream.tell() < len(message):
        raise BadBlock(f"neither JSON nor CBOR ({len(message) - stream.tell()} bytes after its end)")
    if not isinstance(said, list | dict):  # many a byte of noise is a number in CBOR
        raise BadBlock("neither JSON, nor an array or map of CBOR")
    return said


def _told(said: Any, leads: int, rate_hz: float) -> Block:
    try:
        message = msgspec.convert(said if isinstance(said, dict) else {"samples": _listed(said)}, _Said)
        values = _values(message.samples, leads)
    except (msgspec.ValidationError, OverflowError) as error:
        raise BadBlock(str(error)) from None
    told = message.rate_hz
    if told is not None and not abs(told / rate_hz - 1) <= RATE_TOLERANCE:
        raise BadBlock(f"it says {told:g} Hz; this stream is of {rate_hz:g} Hz")
    time = message.time if message.time is not None and math.isfinite(message.time) else None
    return Block(values, _off(message.lead_off, len(values)), message.count, time)


def _listed(said: Any) -> Any:
    return said if isinstance(said, list) else [said]


def _values(samples: list[Any], leads: int) -> NDArray[np.float64]:
    if leads == 1 and not (samples and isinstance(samples[0], list)):
        samples = [[value] for value in samples]
    rows = msgspec.convert(samples, list[list[_Number]])
    wrong = next((row for row in rows if len(row) != leads), None)
    if wrong is not None:
        raise BadBlock(f"a row of {len(wrong)} numbers; expected {leads}")
    return np.array(rows, np.float64).reshape(-1, leads)


def _off(told: bool | list[bool] | None, n: int) -> NDArray[np.bool_] | None:
    if told is None:
        return None
    if isinstance(told, bool):
        return np.full(n, told)
    if len(told) != n:
        raise BadBlock(f"lead_off for {len(told)} samples; expected {n}")
    return np.array(told, np.bool_)
