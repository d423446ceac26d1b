"""Where live bytes come from: standard input, a server that we call, a sender that calls us, datagrams."""

import os
import select
import socket
from collections.abc import Generator
from contextlib import suppress
from threading import Event
from typing import Any, Protocol

from holdover.devices.sources.device import WAIT_S, LinkLost, log
from holdover.devices.sources.recording import checked_number
from holdover.runtime.errors import SourceError

PIECE = 65536
CALL_S = 5.0
MAX_PORT = 65535


class InputEnded(Exception):
    """The input has ended, as a file or a pipe does; nothing more will come."""


class Feed(Protocol):
    """A line of bytes.

    Attributes
    ----------
    silence_s
        A line on which nothing comes for so long is half open, and is given up; None where that tells nothing.
    torn
        Whether one may come upon it in the middle of a line of text or a frame.
    whole
        Whether each piece is whole: no line or frame begins in one and ends in the next.
    """

    silence_s: float | None
    torn: bool
    whole: bool

    def pieces(self, stop: Event) -> Generator[bytes, None, None]:
        """Connect, and yield bytes as they come, none where nothing did for `WAIT_S`, until `stop` is set.

        Raises
        ------
        LinkLost
            The line is not there, or was lost.
        InputEnded
            It has an end, and that has come.
        """
        ...

    def close(self) -> None:
        """Let go of what is held, also if `pieces` was never called."""
        ...


class Descriptor:
    """The bytes of an open file, pipe or terminal, until its end."""

    silence_s: float | None = None
    torn, whole = False, False

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def pieces(self, stop: Event) -> Generator[bytes, None, None]:
        """Yield what comes."""
        yield from until_end(self.fd, stop)
        if not stop.is_set():
            raise InputEnded

    def close(self) -> None:
        """Do nothing: the descriptor belongs to whoever opened it."""


class Caller:
    """The bytes that a server sends."""

    torn, whole = False, False

    def __init__(self, host: str, port: int, silence_s: float) -> None:
        self.host, self.port = host, port
        self.silence_s: float | None = silence_s

    def pieces(self, stop: Event) -> Generator[bytes, None, None]:
        """Call, and yield what comes."""
        where = f"{self.host}:{self.port}"
        try:
            line = socket.create_connection((self.host, self.port), CALL_S)
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
            raise LinkLost(f"{where}: {error}") from None
        with line:
            yield from _received(line, stop)
        raise LinkLost(f"{where}: the line was lost")

    def close(self) -> None:
        """Do nothing: each line is closed where it is read."""


class Listener:
    """The bytes of whoever calls, one at a time.

    Raises
    ------
    SourceError
        If the port cannot be had.
    """

    torn, whole = False, False

    def __init__(self, host: str, port: int, silence_s: float) -> None:
        self.silence_s: float | None = silence_s
        try:
            self._server = socket.create_server((host, port))
        except (OSError, UnicodeError) as error:
            raise _taken("tcp", host, port, error) from None
        self._server.settimeout(WAIT_S)
        self.port: int = self._server.getsockname()[1]

    def pieces(self, stop: Event) -> Generator[bytes, None, None]:
        """Wait for a call, and yield what comes."""
        while not stop.is_set():
            try:
                line, peer = self._server.accept()
            except TimeoutError:
                yield b""
                continue
            except OSError as error:
                if self._server.fileno() < 0:  # closed meanwhile
                    return
                raise LinkLost(f"port {self.port}: no call can be taken ({error})") from None
            log.info("tcp port %d: %s calls", self.port, peer[0])
            with line:
                yield from _received(line, stop)
            raise LinkLost(f"port {self.port}: {peer[0]} is gone")

    def close(self) -> None:
        """Give the port back."""
        self._server.close()


class Datagrams:
    """The datagrams that come to a port.

    Raises
    ------
    SourceError
        If the port cannot be had.
    """

    silence_s: float | None = None
    torn, whole = False, True

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        try:
            self._socket.bind((host, port))
        except (OSError, UnicodeError) as error:
            self._socket.close()
            raise _taken("udp", host, port, error) from None
        self._socket.settimeout(WAIT_S)
        self.port: int = self._socket.getsockname()[1]

    def pieces(self, stop: Event) -> Generator[bytes, None, None]:
        """Yield one datagram at a time."""
        while not stop.is_set():
            try:
                piece = self._socket.recv(PIECE)
            except TimeoutError:
                piece = b""
            except OSError as error:
                if self._socket.fileno() < 0:  # closed meanwhile
                    return
                raise LinkLost(f"port {self.port}: {error}") from None
            yield piece

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


def until_end(fd: int, stop: Event) -> Generator[bytes, None, None]:
    """Yield what a descriptor gives, none where nothing came for `WAIT_S`, to its end or until `stop` is set."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not stop.is_set():
        if not poll.poll(WAIT_S * 1000):
            yield b""
            continue
        try:
            piece = os.read(fd, PIECE)
        except OSError:  # a terminal whose other end is gone
            return
        if not piece:
            return
        yield piece


def checked_port(port: Any, whose: str, any_free: bool) -> int:
    """A port's number; SourceError if it cannot be one. `any_free`: 0 stands for any that is free."""
    number = -1.0 if port is None else checked_number(port, "port", whose)
    if number != int(number) or not (0 if any_free else 1) <= number <= MAX_PORT:
        raise SourceError(f"{whose}: port = {port} cannot be; expected 1 to {MAX_PORT}")
    return int(number)


def _taken(whose: str, host: str, port: int, error: Exception) -> SourceError:
    return SourceError(
        f"{whose}: cannot listen on {host}:{port} ({error}); choose another host or port, or stop what uses it"
    )


def _received(line: socket.socket, stop: Event) -> Generator[bytes, None, None]:
    with suppress(OSError):  # gone already, which recv tells
        _keep_alive(line)
    line.settimeout(WAIT_S)
    while not stop.is_set():
        try:
            piece = line.recv(PIECE)
        except TimeoutError:
            yield b""
            continue
        except OSError:  # cut off
            return
        if not piece:
            return
        yield piece


def _keep_alive(line: socket.socket) -> None:
    """Notice within about 11 s that the other end is gone without a word, as a sensor is that lost its power."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
