"""The real lines on which a simulated device sends its bytes: a pseudo terminal, TCP, datagrams."""

import os
import select
import socket
import tty
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Protocol

from holdover.runtime.errors import UsageError

PATIENCE_S = 2.0
"""Who does not take the bytes for so long does not get them."""
WAIT_S = 0.1
GREETING = b"holdover: a simulated sensor\r\n"
"""What sketches print first: who comes upon a serial line cannot know whether the first line is a whole one."""


class Line(Protocol):
    """A line that a device is put on and taken off."""

    def plug(self) -> None:
        """Be there; doing so twice is fine."""
        ...

    def unplug(self) -> None:
        """Be gone; doing so twice is fine."""
        ...

    def write(self, data: bytes, stop: Event) -> None:
        """Send; what nobody takes is lost."""
        ...


class PtyLine:
    """A serial port that is not there: a pseudo terminal, found under a path of one's own.

    Raises
    ------
    UsageError
        Something else is at that path.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_symlink():
            raise UsageError(f"{path} is there already; name another path for the simulated port")
        self._ours = self._theirs = -1
        self._greeting = b""

    def plug(self) -> None:
        """Make the terminal, and let the path lead to it."""
        if self._ours >= 0:
            return
        self.unplug()
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self.path.symlink_to(os.ttyname(self._theirs))
        self._greeting = GREETING

    def unplug(self) -> None:
        """Hang up."""
        if self._ours >= 0 or self.path.is_symlink():
            self.path.unlink(missing_ok=True)
        for fd in (self._ours, self._theirs):
            with suppress(OSError):
                os.close(fd)
        self._ours = self._theirs = -1

    def write(self, data: bytes, stop: Event) -> None:
        """Send, as fast as it is taken."""
        if self._ours < 0:
            return
        data, self._greeting = self._greeting + data, b""
        poll, left = select.poll(), memoryview(data)
        poll.register(self._ours, select.POLLOUT)
        for _ in range(round(PATIENCE_S / WAIT_S)):
            while left and poll.poll(0):
                try:
                    left = left[os.write(self._ours, left) :]
                except BlockingIOError:
                    break
            if not left or stop.is_set():
                return
            poll.poll(WAIT_S * 1000)


class TcpLine:
    """A device that calls a port, and again when the line is lost; or waits there for a call.

    Attributes
    ----------
    port
        The port; the one that was found free, if it was 0 and is listened at.
    """

    def __init__(self, host: str, port: int, listen: bool = False) -> None:
        self.host, self.port = host, port
        self._line: socket.socket | None = None
        self._server: socket.socket | None = None
        if listen:
            try:
                self._server = socket.create_server((host, port))
            except (OSError, OverflowError) as error:
                raise UsageError(f"cannot listen on {host}:{port} ({error}); choose another port") from None
            self._server.settimeout(WAIT_S)
            self.port = self._server.getsockname()[1]
        self._plugged = False

    @property
    def connected(self) -> bool:
        """Whether somebody is at the other end, as far as is known."""
        return self._line is not None

    def plug(self) -> None:
        """Be there: call, or take the call of whoever waits."""
        self._plugged = True
        if self._line is not None:
            return
        with suppress(OSError):
            if self._server is not None:
                self._line, _ = self._server.accept()
            else:
                self._line = socket.create_connection((self.host, self.port), WAIT_S)
        if self._line is not None:
            self._line.settimeout(PATIENCE_S)

    def unplug(self) -> None:
        """Hang up."""
        self._plugged = False
        if self._line is not None:
            self._line.close()
        self._line = None

    def write(self, data: bytes, stop: Event) -> None:
        """Send to who is there; if nobody is, see whether somebody has come."""
        if self._line is None and self._plugged and not stop.is_set():
            self.plug()
        if self._line is None:
            return
        try:
            self._line.sendall(data)
        except OSError:
            self._line.close()
            self._line = None

    def close(self) -> None:
        """Hang up, and give the port back."""
        self.unplug()
        if self._server is not None:
            self._server.close()


class UdpLine:
    """A device that sends each packet as a datagram."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._socket: socket.socket | None = None

    def plug(self) -> None:
        """Be there."""
        if self._socket is not None:
            return
        self._socket = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_DGRAM)

    def unplug(self) -> None:
        """Be gone."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def write(self, data: bytes, stop: Event) -> None:  # noqa: ARG002 - the protocol's
        """Send a datagram; nobody need listen."""
        if self._socket is not None and data:
            with suppress(ConnectionRefusedError):
                self._socket.sendto(data, (self.host, self.port))
