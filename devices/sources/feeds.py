"""Where live bytes come from: standard input, a server that we call, a sender that calls us."""

import logging
import os
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from threading import Event
from typing import Protocol

from holdover.runtime.errors import SourceError

PIECE = 65536
WAIT_S = 0.2
CALL_S = 5.0
BACKOFF_S = (0.2, 5.0)

_log = logging.getLogger("holdover.source")


class Feed(Protocol):
    """A line of bytes that may be lost and found again."""

    def pieces(self, stop: Event) -> Iterator[bytes | None]:
        """Yield bytes as they come, None where the line was lost; ends with the input, or soon after `stop`."""
        ...

    def close(self) -> None:
        """Let go of what is held, also if `pieces` was never called."""
        ...


class Descriptor:
    """The bytes of an open file, pipe or terminal, until its end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def pieces(self, stop: Event) -> Iterator[bytes | None]:
        """Yield what comes."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while not stop.is_set():
            if not poll.poll(WAIT_S * 1000):
                continue
            piece = self._read()
            if not piece:
                return
            yield piece

    def close(self) -> None:
        """Do nothing: the descriptor belongs to whoever opened it."""

    def _read(self) -> bytes:
        try:
            return os.read(self.fd, PIECE)
        except OSError:  # a terminal whose other end is gone
            return b""


class Caller:
    """The bytes that a server sends; it is called again, for as long as it takes, whenever the line is lost."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._wait = BACKOFF_S[0]
        self._told = False

    def pieces(self, stop: Event) -> Iterator[bytes | None]:
        """Yield what comes, None after each line."""
        while not stop.is_set():
            try:
                line = socket.create_connection((self.host, self.port), CALL_S)
            except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
                self._tell(str(error))
            else:
                yield from self._hear(line, stop)
                yield None
            stop.wait(self._wait)
            self._wait = min(2 * self._wait, BACKOFF_S[1])

    def close(self) -> None:
        """Do nothing: each line is closed where it is read."""

    def _hear(self, line: socket.socket, stop: Event) -> Iterator[bytes]:
        with line:
            for piece in _received(line, stop):
                self._wait, self._told = BACKOFF_S[0], False
                yield piece
        if not stop.is_set():
            self._tell("the line was lost")

    def _tell(self, what: str) -> None:
        """Log an outage once, until something comes again."""
        if not self._told:
            _log.warning("tcp %s:%d: %s; calling again until it answers", self.host, self.port, what)
        self._told = True


class Listener:
    """The bytes of whoever calls, one at a time.

    Raises
    ------
    SourceError
        If the port cannot be had.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            self._server = socket.create_server((host, port))
        except (OSError, UnicodeError) as error:
            raise SourceError(
                f"tcp: cannot listen on {host}:{port} ({error}); choose another host or port, or stop what uses it"
            ) from None
        self._server.settimeout(WAIT_S)
        self.port: int = self._server.getsockname()[1]

    def pieces(self, stop: Event) -> Iterator[bytes | None]:
        """Yield what comes, None after each sender."""
        told = False
        while not stop.is_set():
            try:
                line, peer = self._server.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if stop.is_set() or self._server.fileno() < 0:  # closed meanwhile
                    return
                if not told:
                    _log.warning("tcp port %d: no call can be taken (%s); trying again", self.port, error)
                told = True
                stop.wait(WAIT_S)
                continue
            told = False
            _log.info("tcp port %d: %s calls", self.port, peer[0])
            with line:
                yield from _received(line, stop)
            _log.warning("tcp port %d: %s is gone; waiting for the next call", self.port, peer[0])
            yield None

    def close(self) -> None:
        """Give the port back."""
        self._server.close()


def _received(line: socket.socket, stop: Event) -> Iterator[bytes]:
    with suppress(OSError):  # gone already, which recv tells
        _keep_alive(line)
    line.settimeout(WAIT_S)
    while not stop.is_set():
        try:
            piece = line.recv(PIECE)
        except TimeoutError:
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
