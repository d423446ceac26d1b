"""A device that sends bytes: a feed that brings them, a codec that reads them, as a driver."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from threading import Event
from time import monotonic
from typing import Any

import numpy as np

from holdover.devices.sources.codec import FORMATS, Codec, codec_of
from holdover.devices.sources.device import Device, LinkLost
from holdover.devices.sources.feeds import Feed, InputEnded
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.recording import checked_rate
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError

SENSELESS_S = 5.0
"""Bytes have come for so long and none made sense: it is said, with what may be wrong."""
SENSELESS = "senseless"


class ByteDevice(Device):
    """The driver of whatever sends lines or frames.

    Parameters
    ----------
    advice
        What to try where bytes come that make no sense.
    """

    def __init__(self, name: str, rate_hz: float, scale: Scale, feed: Feed, codec: Codec, advice: str = "") -> None:
        super().__init__(name, rate_hz, scale)
        self.feed, self.codec = feed, codec
        self.advice = advice or f"see whether the other end sends what format says ({', '.join(FORMATS)})"
        self._bytes = 0
        self._since_s: float | None = None
        self._said = False

    def packets(self, stop: Event) -> Iterator[Packet]:
        """Yield what comes until `stop` is set or the input ends; the line is found again where it can be."""
        with suppress(InputEnded):
            yield from super().packets(stop)

    def session(self, stop: Event) -> Iterator[Packet]:
        """One line, from its beginning to its loss or end."""
        self.codec.lose(self.feed.torn)
        heard_s = monotonic()
        pieces = self.feed.pieces(stop)
        try:
            for piece in pieces:
                now_s = monotonic()
                heard_s = now_s if piece else heard_s
                if self.feed.silence_s is not None and now_s - heard_s > self.feed.silence_s:
                    raise LinkLost(f"nothing came for {self.feed.silence_s:g} s")
                yield from self._sense(self._read(piece), len(piece), now_s)
        except InputEnded:
            yield from self.codec.finish()
            raise
        finally:
            pieces.close()

    def close(self) -> None:
        """End `packets`, and let go of the line."""
        super().close()
        self.feed.close()

    def _read(self, piece: bytes) -> list[Packet]:
        packets = self.codec.push(piece) if piece else []
        return packets + self.codec.finish() if piece and self.feed.whole else packets

    def _sense(self, packets: list[Packet], size: int, now_s: float) -> Iterator[Packet]:
        """The packets; and, once until it makes sense again, that what comes does not."""
        if any(_makes_sense(packet) for packet in packets):
            self._bytes, self._since_s, self._said = 0, None, False
        elif size:
            self._since_s = self._since_s or now_s
            self._bytes += size
        yield from packets
        if not self._said and self._since_s is not None and now_s - self._since_s >= SENSELESS_S:
            self._said = True
            self.tell(f"{self._bytes} bytes in {now_s - self._since_s:.0f} s, and no sample in them: {self.advice}")
            yield replace(self.nothing(), fault=SENSELESS)


def byte_device(
    name: str, feed: Feed, signal: tuple[Any, Any, Any, Any, Any], form: str, time: Any, lead_off: Any, advice: str = ""
) -> ByteDevice:
    """The driver of a feed, its options checked; the feed is closed if one cannot be.

    Parameters
    ----------
    signal
        rate_hz, leads, unit, gain and offset, as the user gave them.
    """
    rate_hz, leads, unit, gain, offset = signal
    try:
        if rate_hz is None:
            raise SourceError(f"{name}: {form} do not say their rate; give rate_hz")
        rate_hz, scale = checked_rate(rate_hz, name), Scale.of(name, leads, unit, gain, offset)
        return ByteDevice(name, rate_hz, scale, feed, codec_of(name, form, scale, rate_hz, time, lead_off), advice)
    except SourceError:
        feed.close()
        raise


def _makes_sense(packet: Packet) -> bool:
    off = packet.lead_off is not None and bool(packet.lead_off.any())
    return off or bool(np.isfinite(packet.x).any())
