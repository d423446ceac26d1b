"""What drivers of chips on this machine's own wires share: pins read on time, and samples handed on in packets."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from threading import Event

import numpy as np

from holdover.devices.sources.bus import Clock, Closing, Register
from holdover.devices.sources.device import Device, LinkLost
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.scale import Scale

PACKET_S = 0.05
"""Samples are handed on this often."""
SILENT_S = 1.0
"""A chip that gives nothing that makes sense for so long is configured anew: it may have lost its power."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of one lead.

    Attributes
    ----------
    count
        Its number, which leaves out those that were lost.
    mv
        mV at the pin; NaN where it is missing.
    off
        Whether an electrode is off; None if the chip cannot tell.
    """

    count: int
    mv: float
    off: bool | None = None


class Chip(Device):
    """A driver of a chip; the wires are let go of when it is closed.

    Parameters
    ----------
    wires
        The bus, and the line that says that a sample is ready, as far as there is one.
    """

    def __init__(self, name: str, rate_hz: float, scale: Scale, clock: Clock, *wires: Closing) -> None:
        super().__init__(name, rate_hz, scale)
        self.clock = clock
        self._wires = wires

    def packets(self, stop: Event) -> Iterator[Packet]:
        """Yield the packets of one session after another until `stop` is set or the driver is closed."""
        try:
            yield from super().packets(stop)
        finally:
            self._let_go()

    def close(self) -> None:
        """End `packets`."""
        super().close()
        if self._stop is None:  # nobody has read from it
            self._let_go()

    def gathered(self, samples: Iterable[Sample]) -> Iterator[Packet]:
        """Samples of one lead as packets of `PACKET_S`; a hole in their counts begins a new one.

        Those that were read before the chip was lost are handed on before that is told.
        """
        n, waiting = max(round(PACKET_S * self.rate_hz), 1), list[Sample]()
        try:
            for sample in samples:
                if waiting and (len(waiting) == n or sample.count != waiting[-1].count + 1):
                    yield self._packet(waiting)
                    waiting = []
                waiting.append(sample)
        except (LinkLost, OSError):
            if waiting:
                yield self._packet(waiting)
            raise

    def _packet(self, samples: list[Sample]) -> Packet:
        x = self.scale.apply(np.array([[sample.mv] for sample in samples], np.float64))
        told = samples[0].off is not None
        off = np.array([bool(sample.off) for sample in samples], np.bool_) if told else None
        return Packet(x, off, samples[0].count)

    def _let_go(self) -> None:
        for wire in self._wires:
            wire.close()


def check_kept(register: Register, reads: int, width: int) -> None:
    """Raise `LinkLost` if a register of so many bytes does not read as it was written."""
    if reads != register.value:
        digits = 2 * width
        raise LinkLost(
            f"{register.name} reads 0x{reads:0{digits}x} after 0x{register.value:0{digits}x} was written; see the "
            "wires, which should be short"
        )


class Slots:
    """The times at which a chip is read that does not say when a sample is ready: every 1 / `rate_hz` s.

    A reader that comes too late for a slot has lost that sample.

    Examples
    --------
    >>> class Late(Clock):
    ...     times = iter([0.0, 0.0, 0.0, 0.01, 0.01, 0.055, 0.055])
    ...
    ...     def now(self):
    ...         return next(self.times)
    >>> slots = Slots(100.0, Late())
    >>> slots.next(Event()), slots.next(Event()), slots.next(Event())
    (0, 1, 5)
    """

    def __init__(self, rate_hz: float, clock: Clock) -> None:
        self.rate_hz, self.clock = rate_hz, clock
        self._began = clock.now()
        self._next = 0

    def next(self, stop: Event) -> int:
        """Wait for the next slot; its number, which leaves out those that are over."""
        self.clock.wait(self._began + self._next / self.rate_hz - self.clock.now(), stop)
        slot = max(self._next, int((self.clock.now() - self._began) * self.rate_hz))
        self._next = slot + 1
        return slot
