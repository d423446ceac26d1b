"""Real lines for simulated sensors that send bytes: a pseudo terminal, TCP, UDP, a pipe, a file that grows."""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from holdover.devices.simulators.byte_lines import Line, PtyLine, TcpLine, UdpLine
from holdover.devices.simulators.byte_sensor import encoder, play
from holdover.devices.simulators.impair import Impairments, Sent, impair
from holdover.devices.sources import open_source
from holdover.devices.sources.byte_device import ByteDevice
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.scale import Scale

PERFECT = Impairments()
MICROVOLTS = {"unit": "mV", "gain": 0.001, "offset": 0.0}
"""What frames carry: whole microvolts."""


class Rig(NamedTuple):
    """A source, and the line on which its sensor is."""

    source: Live
    line: Line
    send: Callable[[Iterable[Sent], threading.Event, float], None]


def packets(x: NDArray[np.float32], rate_hz: float = 360.0, n: int = 18) -> list[Packet]:
    """Samples (n, channels), mV, as a sensor hands them on."""
    return [Packet(x[at : at + n], count=at, time=at / rate_hz) for at in range(0, len(x), n)]


def port_of(source: Live) -> int:
    """The port at which a source waits."""
    assert isinstance(source.driver, ByteDevice)
    port: int = getattr(source.driver.feed, "port")  # noqa: B009 - those that listen have one
    return port


@contextmanager
def rig(kind: str, folder: Path, form: str = "lines", rate_hz: float = 360.0, **options: Any) -> Iterator[Rig]:
    """A source of one of these kinds, and a sensor plugged into its line that has said nothing yet."""
    scaled = MICROVOLTS if form != "lines" else {"unit": "mV"}
    options = {"rate_hz": rate_hz, "leads": "MLII", "format": form, **scaled, **options}
    scale = Scale.of("rig", options["leads"], "mV", options.get("gain", 1.0), options.get("offset", 0.0))
    encode = encoder(form, scale, rate_hz if options.get("time") else None)
    with RIGS[kind](folder, options) as (source, line):
        yield Rig(source, line, lambda sent, stop, speed: play(sent, line, encode, stop, speed))
        source.close()
        line.unplug()


@contextmanager
def sending(rig: Rig, x: NDArray[np.float32], how: Impairments = PERFECT, speed: float = 30.0) -> Iterator[list[Sent]]:
    """The sensor sends samples, in a thread; gives what it sends."""
    sent, stop = list(impair(packets(x, rig.source.rate_hz), rig.source.rate_hz, how)), threading.Event()
    thread = threading.Thread(target=rig.send, args=(sent, stop, speed))
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def _serial(folder: Path, options: dict[str, Any]) -> Iterator[tuple[Live, Line]]:
    pytest.importorskip("serial", reason="pyserial is not installed (pip install holdover[serial])")
    line = PtyLine(folder / "ttySIM")
    line.plug()
    yield _opened("serial", {"port": str(line.path), **options}), line


@contextmanager
def _tcp(folder: Path, options: dict[str, Any]) -> Iterator[tuple[Live, Line]]:  # noqa: ARG001 - as the others
    with closing(TcpLine("127.0.0.1", 0, listen=True)) as line:
        source = _opened("tcp", {"port": line.port, **options})
        yield source, _Patient(line)


class _Patient:
    """A device that waits to be called before it says anything."""

    def __init__(self, line: TcpLine) -> None:
        self.line = line

    def plug(self) -> None:
        self.line.plug()

    def unplug(self) -> None:
        self.line.unplug()

    def write(self, data: bytes, stop: threading.Event) -> None:
        while not self.line.connected and not stop.is_set():
            self.line.plug()
        self.line.write(data, stop)


@contextmanager
def _calling(folder: Path, options: dict[str, Any]) -> Iterator[tuple[Live, Line]]:  # noqa: ARG001 - as the others
    source = _opened("tcp", {"port": 0, "listen": True, **options})
    with closing(TcpLine("127.0.0.1", port_of(source))) as line:
        line.plug()
        yield source, line


@contextmanager
def _udp(folder: Path, options: dict[str, Any]) -> Iterator[tuple[Live, Line]]:  # noqa: ARG001 - as the others
    source = _opened("udp", {"port": 0, "host": "127.0.0.1", **options})
    line = UdpLine("127.0.0.1", port_of(source))
    line.plug()
    yield source, line


class _Written:
    """The writing end of a pipe or a file."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def plug(self) -> None:
        """It is."""

    def unplug(self) -> None:
        """Close it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def write(self, data: bytes, stop: threading.Event) -> None:
        while data and not stop.is_set():
            data = data[os.write(self.fd, data) :]


@contextmanager
def _stdin(folder: Path, options: dict[str, Any]) -> Iterator[tuple[Live, Line]]:  # noqa: ARG001 - as the others
    ours, theirs = os.pipe()
    kept = sys.stdin
    with os.fdopen(ours) as sys.stdin:
        try:
            yield _opened("stdin", options), _Written(theirs)
        finally:
            sys.stdin = kept


def _opened(kind: str, options: dict[str, Any]) -> Live:
    source = open_source(kind, options)
    assert isinstance(source, Live)
    return source


RIGS = {"serial": _serial, "tcp": _tcp, "tcp listen": _calling, "udp": _udp, "stdin": _stdin}
