"""Live lines of text, one for each sample, from standard input or over TCP."""

import sys
import time as wall
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

import numpy as np

from holdover.devices.sources.feeds import PIECE, WAIT_S, Caller, Descriptor, Feed, Listener
from holdover.devices.sources.line_parser import LineParser, Samples
from holdover.devices.sources.recording import checked_number, checked_rate, distinct
from holdover.devices.sources.units import normal
from holdover.runtime.chunk import Chunk
from holdover.runtime.clock import SampleClock
from holdover.runtime.errors import SourceError

SILENT_S = 0.4
"""An empty chunk is yielded when nothing came for so long."""

GATHER_S = 0.1
"""What arrives within this time of the first byte goes into one chunk."""

GATHER_BYTES = 1 << 18
QUEUE_PIECES = 64
OVERRUN_S, TELL_AGAIN_S = 2.0, 60.0
"""Each read has found more than it could take for so long: more comes than is judged. Said so often."""
SECONDS = {"s": 1.0, "ms": 1e-3}

_END = b""


def open_stdin(
    *,
    rate_hz: float | None = None,
    leads: Sequence[str] | str = "ECG",
    unit: str = "mV",
    gain: float = 1.0,
    offset: float = 0.0,
    time: str | None = None,
) -> "Lines":
    """Open standard input: one line for each sample, with a number for each lead.

    Numbers are separated by comma, semicolon, space or tab. "!" says that an electrode is off, an empty field or
    "nan" that a sample is missing; a line that cannot be read is a missing sample too, and counted.

    Parameters
    ----------
    rate_hz
        Samples a second; must be given.
    unit, gain, offset
        A value is (number - offset) * gain, in `unit`.
    time
        "s" or "ms" if the first column is a time stamp of the device; None if there is none.

    Raises
    ------
    SourceError
        If an option cannot be, or there is no standard input.
    """
    try:
        fd = sys.stdin.fileno()
    except (AttributeError, ValueError, OSError):  # none, closed, or put in its place by another program
        raise SourceError("there is no standard input; send lines into it, or choose another source") from None
    return Lines("stdin", Descriptor(fd), rate_hz, leads, unit, gain, offset, time)


def open_tcp(
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    listen: bool = False,
    rate_hz: float | None = None,
    leads: Sequence[str] | str = "ECG",
    unit: str = "mV",
    gain: float = 1.0,
    offset: float = 0.0,
    time: str | None = None,
) -> "Lines":
    """Open a TCP line that carries what `open_stdin` reads.

    Parameters
    ----------
    host, port
        Whom to call, again and again until it answers; or, to listen, the address to wait at (port 0: any free one).
    listen
        Wait for a sender to call instead, one at a time.

    Raises
    ------
    SourceError
        If an option cannot be, or the port to listen on cannot be had.
    """
    number = 0 if port is None else checked_number(port, "port", "tcp")
    if number != int(number) or not (port is not None and 0 <= number <= 65535) or (number == 0 and not listen):
        raise SourceError(f"tcp: port = {port} cannot be; expected 1 to 65535")
    feed: Feed = Listener(host, int(number)) if listen else Caller(host, int(number))
    try:
        return Lines("tcp", feed, rate_hz, leads, unit, gain, offset, time)
    except SourceError:
        feed.close()
        raise


class Lines:
    """A live source of lines; its clock counts samples, or follows the device's time stamps.

    Attributes
    ----------
    parser
        Parses the lines; its `bad` counts those that could not be read.
    feed
        Where the bytes come from.
    """

    def __init__(
        self,
        name: str,
        feed: Feed,
        rate_hz: float | None,
        leads: Sequence[str] | str = "ECG",
        unit: str = "mV",
        gain: float = 1.0,
        offset: float = 0.0,
        time: str | None = None,
    ) -> None:
        if rate_hz is None:
            raise SourceError(f"{name}: lines of text do not say their rate; give rate_hz")
        if time not in (None, *SECONDS):
            raise SourceError(f'{name}: time = {time!r} cannot be; expected "s" or "ms", or none')
        self.name = name
        self.feed = feed
        self.rate_hz = checked_rate(rate_hz, name)
        self.channels = distinct(leads.split(",") if isinstance(leads, str) else leads)
        self.units = (normal(unit),) * len(self.channels)
        self.epoch: float | None = None
        self.length: int | None = None
        scale = (checked_number(gain, "gain", name), checked_number(offset, "offset", name))
        self.parser = LineParser(name, len(self.channels), time is not None, *scale)
        self._seconds = None if time is None else SECONDS[time]
        self._clock = SampleClock(self.rate_hz)
        self._stamp = float("nan")
        self._next = 0
        self._tells_off = False
        self._queue: Queue[bytes | None] = Queue(QUEUE_PIECES)
        self._stop = Event()
        self._failure: Exception | None = None
        self._full_since: float | None = None
        self._told_at = -TELL_AGAIN_S

    def chunks(self) -> Iterator[Chunk]:
        """Yield what came, an empty chunk when nothing did; ends with the input, or soon after `close`."""
        Thread(target=self._receive, name=f"holdover-{self.name}", daemon=True).start()
        while not self._stop.is_set():
            pieces, ended = self._gather()
            if self._overrun():
                yield Chunk(
                    self._next, np.empty((0, len(self.channels)), np.float32), arrived=wall.time(), fault="overrun"
                )
            yield from self._placed(self._parse(pieces, ended), wall.time())
            if ended:
                if self._failure is not None:
                    raise SourceError(f"{self.name}: reading ended: {self._failure}") from self._failure
                return

    def seek(self, sample: int) -> bool:  # noqa: ARG002 - the protocol's
        """Say that what came is gone."""
        return False

    def close(self) -> None:
        """End `chunks`."""
        self._stop.set()
        self.feed.close()
        with suppress(Full):
            self._queue.put_nowait(None)

    def _receive(self) -> None:
        try:
            for piece in self.feed.pieces(self._stop):
                self._note(piece)
                self._put(piece)
        except Exception as error:  # whatever ends the reading is raised where the chunks are taken
            self._failure = error
        self._put(_END)

    def _put(self, piece: bytes | None) -> None:
        while not self._stop.is_set():
            with suppress(Full):
                self._queue.put(piece, timeout=WAIT_S)
                return

    def _note(self, piece: bytes | None) -> None:
        """A piece that is full has more behind it; who writes into a pipe waits, and loses nothing."""
        if piece is None or len(piece) < PIECE or isinstance(self.feed, Descriptor):
            self._full_since = None
        elif self._full_since is None:
            self._full_since = wall.monotonic()

    def _overrun(self) -> bool:
        """Whether more has come for `OVERRUN_S` than is taken, and that is to be said."""
        since, now = self._full_since, wall.monotonic()
        if since is None or now - since < OVERRUN_S or now - self._told_at < TELL_AGAIN_S:
            return False
        self._told_at = now
        return True

    def _gather(self) -> tuple[list[bytes | None], bool]:
        """What arrives until `GATHER_S` after the first of it, and whether the input ended."""
        pieces: list[bytes | None] = []
        wait, until = SILENT_S, None
        while sum(len(piece or b"") for piece in pieces) < GATHER_BYTES:
            try:
                piece = self._queue.get(timeout=wait)
            except Empty:
                break
            if piece == _END:
                return pieces, True
            pieces.append(piece)
            until = until or wall.monotonic() + GATHER_S
            wait = until - wall.monotonic()
            if wait <= 0 or self._stop.is_set():
                break
        return pieces, False

    def _parse(self, pieces: list[bytes | None], ended: bool) -> Samples:
        parts = []
        for piece in pieces:
            if piece is None:
                self.parser.lose()
            else:
                parts.append(self.parser.push(piece))
        if ended or not parts:
            parts.append(self.parser.finish() if ended else self.parser.push(b""))
        return Samples(*(np.concatenate([getattr(part, field) for part in parts]) for field in ("x", "off", "t")))

    def _placed(self, samples: Samples, now: float) -> Iterator[Chunk]:
        """The samples as chunks: one on a clock that counts, one for each run of places on one that is stamped."""
        self._tells_off = self._tells_off or bool(samples.off.any())
        if self._seconds is not None:
            samples = self._stamped(samples)
        if not len(samples.x):
            yield Chunk(self._next, samples.x, arrived=now)
            return
        runs: Any = [(slice(None), self._next, "")] if self._seconds is None else self._clock.place(samples.t)
        for rows, at, fault in runs:
            chunk = Chunk(at, samples.x[rows], samples.off[rows] if self._tells_off else None, now, fault)
            self._next = max(self._next, chunk.end)
            if self.epoch is None:
                self.epoch = now - len(samples.x) / self.rate_hz
            yield chunk

    def _stamped(self, samples: Samples) -> Samples:
        """The samples whose time is known, in seconds; one whose stamp could not be read follows the one before."""
        t = samples.t * (self._seconds or 1.0)
        for i in np.flatnonzero(np.isnan(t)):
            t[i] = (t[i - 1] if i else self._stamp) + 1 / self.rate_hz
        self._stamp = float(t[-1]) if len(t) else self._stamp
        known = ~np.isnan(t)
        return Samples(samples.x[known], samples.off[known], t[known])
