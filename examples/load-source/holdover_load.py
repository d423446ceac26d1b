"""A source for holdover: how busy the processor is, in percent, read from /proc/stat at an even pace.

All that a source needs is here: a driver that yields packets, a function that opens it, and, if devices of its kind can
be found, a function `find` beside it. The entry point in pyproject.toml makes it known.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np

from holdover.devices.sources import Found
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.runtime.chunk import Source
from holdover.runtime.errors import SourceError

STAT = Path("/proc/stat")


def open(*, rate_hz: float = 10.0) -> Source:
    """Open the processor's load.

    Parameters
    ----------
    rate_hz
        Samples a second, 0.01 to 50: the kernel counts in hundredths of a second.

    Raises
    ------
    SourceError
        The rate cannot be, or this is no Linux.
    """
    if not 0.01 <= rate_hz <= 50:
        raise SourceError(f"load: rate_hz = {rate_hz} cannot be; expected 0.01 to 50")
    if not STAT.exists():
        raise SourceError(f"load: there is no {STAT}; this source needs Linux")
    return Live(Load(rate_hz))


def find() -> list[Found]:
    """What `holdover devices list` shows."""
    return [Found("this machine's processor", {})] if STAT.exists() else []


class Load:
    """The driver: one sample each 1 / rate_hz seconds, numbered, so that a late one is seen as what it is."""

    def __init__(self, rate_hz: float) -> None:
        self.name = "load"
        self.rate_hz = rate_hz
        self.channels = ("busy",)
        self.units = ("%",)

    def packets(self, stop: Event) -> Iterator[Packet]:
        """Yield samples until `stop` is set."""
        began, before, count, share = time.monotonic(), _ticks(), 0, float("nan")
        while not stop.wait(max(began + (count + 1) / self.rate_hz - time.monotonic(), 0)):
            now = _ticks()
            total = now[1] - before[1]
            share = 100 * (now[0] - before[0]) / total if total else share  # no tick since: as it was
            yield Packet(np.array([[share]], np.float32), count=count)
            before, count = now, count + 1

    def close(self) -> None:
        """Nothing to let go of."""


def _ticks() -> tuple[int, int]:
    """Ticks that the processor was busy, and all ticks, since the machine was started (proc(5), /proc/stat)."""
    user, nice, system, idle, iowait, *others = map(int, STAT.read_text().split("\n", 1)[0].split()[1:])
    busy = user + nice + system + sum(others[:3])
    return busy, busy + idle + iowait
