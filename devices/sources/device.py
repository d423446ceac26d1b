"""What drivers of devices that come and go share: one session after another, until they are closed."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from threading import Event
from time import monotonic

import numpy as np

from holdover.devices.sources.packet import Packet
from holdover.devices.sources.scale import Scale

BACKOFF_S = (0.2, 5.0)
"""The first pause before a device that was lost is called again, and the longest."""
TELL_AGAIN_S = 60.0
WAIT_S = 0.2
"""How long a driver waits at a time before it looks whether it is to end."""

log = logging.getLogger("holdover.source")


class LinkLost(Exception):
    """A device that is not there now, in words for the user; it is called again."""


class Device(ABC):
    """A driver that is made of sessions: connect, hand out what comes, let go.

    A session ends by `LinkLost` or `OSError`; it is told once, until samples come again, and the next session follows
    after a pause. The first samples of every session but the first carry the fault "reconnected".

    Attributes
    ----------
    name, rate_hz, channels, units
        As `holdover.devices.sources.packet.Driver` has them.
    sessions
        How many sessions gave samples.
    garbage
        Bytes that made no sense since the last packet, which the next one carries.
    """

    def __init__(self, name: str, rate_hz: float, scale: Scale) -> None:
        self.name = name
        self.rate_hz = rate_hz
        self.scale = scale
        self.channels = scale.channels
        self.units = scale.units
        self.sessions = 0
        self.garbage = 0
        self._closed = Event()
        self._stop: Event | None = None
        self._told = False
        self._refused_at = -TELL_AGAIN_S

    @abstractmethod
    def session(self, stop: Event) -> Iterator[Packet]:
        """Connect and yield what comes; let go of the device when closed, however that comes about."""

    def packets(self, stop: Event) -> Iterator[Packet]:
        """Yield the packets of one session after another until `stop` is set or the driver is closed."""
        self._stop = stop
        if self._closed.is_set():
            stop.set()
        wait = BACKOFF_S[0]
        while not stop.is_set():
            before = self.sessions
            try:
                yield from self._heard(stop)
            except (LinkLost, OSError) as error:
                if not stop.is_set():
                    self.tell(f"{error}; trying again until it answers")
            wait = BACKOFF_S[0] if self.sessions > before else min(2 * wait, BACKOFF_S[1])
            stop.wait(wait)

    def close(self) -> None:
        """End `packets`; the device is let go of in its thread."""
        self._closed.set()
        if self._stop is not None:
            self._stop.set()

    def tell(self, what: str) -> None:
        """Log what is wrong, once until samples come again."""
        log.log(logging.DEBUG if self._told else logging.WARNING, "%s: %s", self.name, what)
        self._told = True

    def refuse(self, n: int, why: str) -> None:
        """Count bytes that made no sense, and say why, once a minute."""
        self.garbage += n
        if monotonic() - self._refused_at >= TELL_AGAIN_S:
            self._refused_at = monotonic()
            log.warning("%s: %d bytes thrown away: %s", self.name, n, why)

    def nothing(self) -> Packet:
        """A packet that says that the link stands and nothing came."""
        return Packet(np.empty((0, len(self.channels)), np.float32))

    def _heard(self, stop: Event) -> Iterator[Packet]:
        fresh = True
        for packet in self.session(stop):
            if fresh and len(packet.x):
                packet = replace(packet, fault=packet.fault or ("reconnected" if self.sessions else ""))
                fresh, self._told = False, False
                self.sessions += 1
            garbage, self.garbage = self.garbage, 0
            yield replace(packet, garbage=garbage) if garbage else packet
