"""A clock that runs as fast as it is waited for, so that a simulated chip needs no time."""

from threading import Event

from holdover.devices.sources.bus import Clock
from holdover.devices.sources.device import LinkLost


class VirtualClock(Clock):
    """Time passes where somebody waits, and nowhere else; once it has `ended`, whoever waits has lost the chip."""

    def __init__(self) -> None:
        self.ended = False
        self._now_s = 0.0

    def now(self) -> float:
        """Seconds since the beginning."""
        return self._now_s

    def wait(self, seconds: float, stop: Event) -> None:  # noqa: ARG002 - as a real one
        """Let time pass; `LinkLost` once it has ended."""
        if self.ended:
            raise LinkLost("the signal of the simulated chip is over")
        self.pass_by(max(seconds, 0.0))

    def pass_by(self, seconds: float) -> None:
        """Let time pass, as when this machine was busy."""
        self._now_s += seconds


class WrongSequence(Exception):
    """What a real chip would not have understood; the message says which rule of its data sheet was broken."""
