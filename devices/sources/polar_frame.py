"""What a Polar strap and a host say to each other: the bytes of Polar's Measurement Data service (PMD).

Sources: Polar_Measurement_Data_Specification.pdf, TimeSystemExplained.md and KnownIssues.md in Polar's BLE SDK.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.frames import integers, octets

CONTROL = "fb005c81-02e7-f387-1cad-8acd2d8df0c8"
DATA = "fb005c82-02e7-f387-1cad-8acd2d8df0c8"
HEART_RATE = "00002a37-0000-1000-8000-00805f9b34fb"
"""Characteristics; the last one is that of the Bluetooth Heart Rate Service 1.0."""

RATE_HZ = 130
START_ECG = bytes([0x02, 0x00, 0x00, 0x01, RATE_HZ, 0x00, 0x01, 0x01, 14, 0x00])
"""Start, ECG; setting 0 (rate): one value, 130 Hz; setting 1 (resolution): one value, 14 bit."""
STOP_ECG = bytes([0x03, 0x00])
RESPONSE, STOPPED = 0xF0, 0x01
"""First byte of an answer, and of a strap's word that it stopped of itself."""
SUCCESS, ALREADY = 0, 6
STATUS = {
    1: "invalid op code", 2: "invalid measurement type", 3: "not supported", 4: "invalid length",
    5: "invalid parameter", ALREADY: "already in that state", 7: "invalid resolution", 8: "invalid sample rate",
    9: "invalid range", 10: "invalid MTU", 11: "invalid number of channels", 12: "invalid state",
    13: "device in charger", 14: "disk full",
}  # fmt: skip

ECG, RAW = 0, 0
HEADER, SAMPLE = 10, 3
"""Bytes of a data frame's header, and of a sample."""


class EcgFrame(NamedTuple):
    """Samples of one data frame.

    Attributes
    ----------
    ns
        When the last of the samples was taken, ns since 2000-01-01 by the strap's clock.
    uv
        (n,) int32, uV.
    """

    ns: int
    uv: NDArray[np.int32]


def parse(frame: bytes) -> EcgFrame | None:
    """An ECG frame of raw type 0; None if it is anything else, cut off, or empty.

    Examples
    --------
    >>> parse(bytes.fromhex("00 00943577000000 00 00 0280ff"))
    EcgFrame(ns=2000000000, uv=array([-32766], dtype=int32))
    """
    body = len(frame) - HEADER
    if body < SAMPLE or body % SAMPLE or frame[0] != ECG or frame[HEADER - 1] != RAW:
        return None
    uv = integers(frame[HEADER:], SAMPLE).astype(np.int32)
    return EcgFrame(int.from_bytes(frame[1 : HEADER - 1], "little"), uv)


def build(ns: int, uv: NDArray[np.int32]) -> bytes:
    """The frame that `parse` reads.

    Examples
    --------
    >>> parse(build(5, np.array([1, -1, -8388608], np.int32))).uv.tolist()
    [1, -1, -8388608]
    """
    return bytes([ECG]) + ns.to_bytes(HEADER - 2, "little") + bytes([RAW]) + octets(uv, SAMPLE)


def contact(measurement: bytes) -> bool | None:
    """Whether a heart rate measurement says that the electrodes touch the skin; None if it does not say.

    Bits 1 and 2 of its flags: contact, and whether contact is told (Heart Rate Service 1.0, 3.1.1.1).

    Examples
    --------
    >>> contact(bytes([0x06, 60])), contact(bytes([0x04, 60])), contact(bytes([0x00, 60])), contact(b"")
    (True, False, None, None)
    """
    return None if not measurement or not measurement[0] & 4 else bool(measurement[0] & 2)
