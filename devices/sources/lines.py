"""Live samples as lines of text or frames: from standard input, over TCP, in datagrams."""

import sys
from collections.abc import Sequence

from holdover.devices.sources.byte_device import byte_device
from holdover.devices.sources.feeds import Caller, Datagrams, Descriptor, Feed, Listener, checked_port
from holdover.devices.sources.line_parser import LEAD_OFF
from holdover.devices.sources.live import Live
from holdover.devices.sources.order import WINDOW_S
from holdover.devices.sources.recording import checked_number
from holdover.runtime.errors import SourceError

SILENCE_S = 30.0
"""A TCP line on which nothing has come for so long is taken to be dead, and made anew."""


def open_stdin(
    *,
    rate_hz: float | None = None,
    leads: Sequence[str] | str = "ECG",
    unit: str = "mV",
    gain: float = 1.0,
    offset: float = 0.0,
    format: str = "lines",
    time: str | None = None,
    lead_off: str = LEAD_OFF,
) -> Live:
    """Open standard input: one line for each sample, with a number for each lead; or frames.

    Numbers are separated by comma, semicolon, space or tab. "!" says that an electrode is off, an empty field or
    "nan" that a sample is missing; a line that cannot be read is a missing sample too, and counted.

    Parameters
    ----------
    rate_hz
        Samples a second; must be given.
    unit, gain, offset
        A value is (number - offset) * gain, in `unit`.
    format
        "lines"; "frames" as `holdover.devices.sources.frames` describes them; "protocentral", the boards of that maker.
    time
        "s", "ms" or "us" if the first column is a time stamp of the device; None if there is none.
    lead_off
        What the device writes where an electrode is off.

    Raises
    ------
    SourceError
        If an option cannot be, or there is no standard input.
    """
    try:
        fd = sys.stdin.fileno()
    except (AttributeError, ValueError, OSError):  # none, closed, or put in its place by another program
        raise SourceError("there is no standard input; send lines into it, or choose another source") from None
    feed = Descriptor(fd)
    signal = (rate_hz, leads, unit, gain, offset)
    return Live(byte_device("stdin", feed, signal, format, time, lead_off), window_s=0, sender_waits=True)


def open_tcp(
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    listen: bool = False,
    silence_s: float = SILENCE_S,
    rate_hz: float | None = None,
    leads: Sequence[str] | str = "ECG",
    unit: str = "mV",
    gain: float = 1.0,
    offset: float = 0.0,
    format: str = "lines",
    time: str | None = None,
    lead_off: str = LEAD_OFF,
) -> Live:
    """Open a TCP line that carries what `open_stdin` reads.

    Parameters
    ----------
    host, port
        Whom to call, again and again until it answers; or, to listen, the address to wait at (port 0: any free one).
    listen
        Wait for a sender to call instead, one at a time.
    silence_s
        A line on which nothing comes for so long is dead, even if nobody said so: it is made anew.

    Raises
    ------
    SourceError
        If an option cannot be, or the port to listen on cannot be had.
    """
    number, patience_s = checked_port(port, "tcp", listen), checked_number(silence_s, "silence_s", "tcp")
    if patience_s <= 0:
        raise SourceError(f"tcp: silence_s = {silence_s} cannot be; expected a time above 0, such as {SILENCE_S:g}")
    feed: Feed = Listener(host, number, patience_s) if listen else Caller(host, number, patience_s)
    signal = (rate_hz, leads, unit, gain, offset)
    return Live(byte_device("tcp", feed, signal, format, time, lead_off), window_s=0)


def open_udp(
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    window_s: float = WINDOW_S,
    rate_hz: float | None = None,
    leads: Sequence[str] | str = "ECG",
    unit: str = "mV",
    gain: float = 1.0,
    offset: float = 0.0,
    format: str = "lines",
    time: str | None = None,
    lead_off: str = LEAD_OFF,
) -> Live:
    """Open a UDP port to which datagrams come that carry what `open_stdin` reads, whole lines or frames.

    Datagrams are lost, doubled and overtaken on their way. That is only seen where they are numbered, as frames are,
    or have the device's time.

    Parameters
    ----------
    host, port
        The address to wait at: "0.0.0.0" for all of this machine's, so that others can send; port 0: any free one.
    window_s
        For how long a missing datagram is waited for before it is lost; samples after it come so much later.

    Raises
    ------
    SourceError
        If an option cannot be, or the port cannot be had.
    """
    number, patience_s = checked_port(port, "udp", any_free=True), checked_number(window_s, "window_s", "udp")
    if not 0 <= patience_s <= 60:
        raise SourceError(f"udp: window_s = {window_s} cannot be; expected 0 to 60 s")
    signal = (rate_hz, leads, unit, gain, offset)
    return Live(byte_device("udp", Datagrams(host, number), signal, format, time, lead_off), window_s=patience_s)
