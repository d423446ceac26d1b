"""What a live link has lost, repaired and measured, in one struct: what `health` and `holdover status` show."""

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]


class LinkFacts(msgspec.Struct, kw_only=True):
    """How the link to a device is doing, counted since the stream was opened.

    Attributes
    ----------
    nominal_hz
        The rate that the device should have.
    rate_hz
        The rate that it has, by this machine's clock; null until it is known (4 s).
    drift_ppm
        How much faster than `nominal_hz` that is, in millionths.
    jitter_ms
        How much later than others of the same 2 s the latest packet comes, on average.
    lost
        Samples that did not come in time: by the device's counter or clock, or, where it has neither, by how long the
        link was away.
    late
        Samples that came after they had been given up as lost, or after the first that they should have preceded.
    duplicated
        Samples that came again, and were dropped.
    reordered
        Packets that came after a later one, and were put in their place.
    garbage
        Bytes that made no sense.
    reconnects
        How often the link was lost and found again.
    clock_jumps
        How often the device's counter or clock was set.
    overruns
        How often more came than was judged.
    """

    nominal_hz: float
    rate_hz: float | None = None
    drift_ppm: float | None = None
    jitter_ms: float | None = None
    lost: Count = 0
    late: Count = 0
    duplicated: Count = 0
    reordered: Count = 0
    garbage: Count = 0
    reconnects: Count = 0
    clock_jumps: Count = 0
    overruns: Count = 0
