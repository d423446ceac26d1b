"""A sensor at a serial port: an Arduino or a board that prints samples, or sends them in frames."""

import errno
import os
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from holdover.devices.sources import Found
from holdover.devices.sources.byte_device import byte_device
from holdover.devices.sources.device import LinkLost
from holdover.devices.sources.feeds import until_end
from holdover.devices.sources.line_parser import LEAD_OFF
from holdover.devices.sources.live import Live
from holdover.runtime.errors import SourceError

if TYPE_CHECKING:
    from serial import Serial

AUTO = "auto"
BAUD = 115200
BY_ID = Path("/dev/serial/by-id")


def open(
    *,
    port: str | None = None,
    baud: int = BAUD,
    wait: bool = False,
    rate_hz: float | None = None,
    leads: Sequence[str] | str = "ECG",
    unit: str = "mV",
    gain: float = 1.0,
    offset: float = 0.0,
    format: str = "lines",
    time: str | None = None,
    lead_off: str = LEAD_OFF,
) -> Live:
    """Open a serial port, for this process alone; a device that is pulled out is opened again when it is back.

    Parameters
    ----------
    port
        As /dev/ttyUSB0; better as /dev/serial/by-id/..., which stays the same whatever else is plugged in; or "auto",
        if one device is plugged in and no other.
    baud
        Bits a second, as the device sends them.
    wait
        Begin even if the device is not plugged in yet.
    rate_hz, leads, unit, gain, offset, format, time, lead_off
        As `holdover.devices.sources.lines.open_stdin` has them.

    Raises
    ------
    SourceError
        The port is not there, is in use, or belongs to others, or an option cannot be.
    """
    if not isinstance(port, str) or not port:
        raise SourceError(f'serial: port = {port!r} cannot be; expected a device such as /dev/ttyUSB0, or "{AUTO}"')
    if isinstance(baud, bool) or not isinstance(baud, int) or not 50 <= baud <= 4_000_000:
        raise SourceError(f"serial: baud = {baud!r} cannot be; expected bits a second, such as {BAUD}")
    advice = f"is {baud} baud right? try another, as baud = 9600, 57600 or 230400, or another format"
    feed = SerialPort(port, baud)
    driver = byte_device("serial", feed, (rate_hz, leads, unit, gain, offset), format, time, lead_off, advice)
    try:
        feed.open()
    except LinkLost as error:
        if not (wait and error.__cause__ is None):
            raise SourceError(f"serial: {error}") from None
    return Live(driver, window_s=0)


def find() -> list[Found]:
    """The serial devices that are plugged in, by the name that stays theirs."""
    from serial.tools.list_ports import comports

    names = {os.path.realpath(path): str(path) for path in sorted(BY_ID.glob("*"))}
    return [
        Found(f"{info.device}: {info.description}", {"port": names.get(info.device, info.device)})
        for info in sorted(comports())
        if info.vid is not None
    ]


class SerialPort:
    """The bytes of a serial port, as a `holdover.devices.sources.feeds.Feed`."""

    silence_s: float | None = None
    torn, whole = True, False

    def __init__(self, port: str, baud: int) -> None:
        self.port, self.baud = port, baud
        self._line: Serial | None = None

    def open(self) -> None:
        """Take the port, for the next `pieces`.

        Raises
        ------
        LinkLost
            It cannot be had. Its cause is None where it is not there, and may come.
        """
        from serial import Serial, SerialException

        port = self._named()
        try:
            self._line = Serial(port, self.baud, timeout=0, exclusive=True)
        except (SerialException, ValueError) as error:
            raise _explained(port, error) from (None if not Path(port).exists() else error)

    def pieces(self, stop: Event) -> Generator[bytes, None, None]:
        """Yield what comes until the device is pulled out."""
        if self._line is None:
            self.open()
        line, self._line = self._line, None
        assert line is not None
        with closing(line):
            yield from until_end(line.fileno(), stop)
        if not stop.is_set():
            raise LinkLost(f"{self.port} is gone, as if it had been pulled out")

    def close(self) -> None:
        """Give back the port that was taken and not read."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _named(self) -> str:
        if self.port != AUTO:
            return self.port
        there = [found.options["port"] for found in find()]
        if len(there) == 1:
            return str(there[0])
        if there:
            raise LinkLost(f"several devices are plugged in: name one by port = {', '.join(there)}") from OSError()
        raise LinkLost("no serial device is plugged in")


def _explained(port: str, error: Exception) -> LinkLost:
    say = _SENTENCES.get(getattr(error, "errno", None) or 0)
    if say is not None:
        return LinkLost(say(port))
    if "Inappropriate ioctl" in str(error) or not Path(port).is_char_device():  # pyserial says it in words
        return LinkLost(f"{port} is no serial port")
    return LinkLost(f"{port} cannot be opened as a serial port ({error})")


def _not_there(port: str) -> str:
    there = ", ".join(found.options["port"] for found in find())
    return f"{port} is not there; plugged in: {there or 'nothing: see its cable (some only charge), and dmesg'}"


def _forbidden(port: str) -> str:
    import grp

    status = Path(port).stat()
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    if not status.st_mode & stat.S_IRGRP or group == "root":
        return f"{port} belongs to root alone: a udev rule must give it to a group, such as dialout"
    return f"{port} belongs to group {group}: sudo usermod -aG {group} $USER, then log in again"


def _busy(port: str) -> str:
    return f"{port} is in use by another program, or another stream of this one: each device can be read by one alone"


_SENTENCES: dict[int, Callable[[str], str]] = {
    errno.ENOENT: _not_there, errno.ENXIO: _not_there, errno.ENODEV: _not_there,
    errno.EACCES: _forbidden, errno.EPERM: _forbidden,
    errno.EBUSY: _busy, errno.EAGAIN: _busy,
}  # fmt: skip
