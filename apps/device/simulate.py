"""`holdover devices simulate`: a recording played through a device's own protocol, for another program to receive."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from holdover.devices.sources import open_file
from holdover.runtime.chunk import Source
from holdover.runtime.errors import SourceError, UsageError

if TYPE_CHECKING:
    from holdover.devices.simulators.byte_lines import Line
    from holdover.devices.simulators.impair import Impairments, Sent
    from holdover.devices.sources.packet import Packet

COUNT_MV = 0.001
"""Of one count, where a form has whole numbers."""


class Play(NamedTuple):
    """What is to be played.

    Attributes
    ----------
    name
        Of the recording.
    source
        The recording, opened with the lead that is asked for.
    stop
        Set when it is to end.
    """

    name: str
    source: Source
    args: argparse.Namespace
    stop: Event

    @property
    def leads(self) -> str:
        """Names of the channels, as an option has them."""
        return ",".join(self.source.channels)

    def sent(self, packets: "Iterator[Packet]", how: "Impairments") -> "Iterator[Sent]":
        """The packets as a link lets them through, with a line on the terminal that counts."""
        from holdover.devices.simulators.impair import impair

        return _counted(impair(packets, self.source.rate_hz, how), self.source.rate_hz)


def run(args: argparse.Namespace) -> int:
    """Play to the end, or until Ctrl-C; 0.

    Raises
    ------
    HoldoverError
        The recording cannot be read, an option cannot be, or the line cannot be had.
    """
    if not 0 < args.speed <= 1e4:
        raise UsageError("--speed is above 0, at most 10000")
    how = _impairments(args)
    options = {key: getattr(args, key) for key in ("lead", "start", "stop") if getattr(args, key) is not None}
    with closing(open_file(args.record, **options)) as source:
        play = Play(Path(args.record).stem, source, args, Event())
        try:
            KINDS[args.kind](play, how)
        finally:
            play.stop.set()
    return 0


def _impairments(args: argparse.Namespace) -> "Impairments":
    from holdover.devices.simulators.impair import Impairments

    return Impairments(
        loss=args.loss, burst=args.burst, duplicates=args.duplicates, reorder=args.reorder, jitter_s=args.jitter,
        drift=args.drift, garbage=args.garbage, lead_off=_spans(args.lead_off), unplugged=_spans(args.unplug),
        seed=args.seed,
    )  # fmt: skip


def _spans(words: list[str]) -> tuple[tuple[float, float], ...]:
    try:
        return tuple((float(a), float(b)) for a, b in (word.split("-") for word in words))
    except ValueError:
        raise UsageError(f"{' '.join(words)!r} is no span of seconds; expected e.g. 10-12.5") from None


def _serial(play: Play, how: "Impairments") -> None:
    from holdover.devices.simulators.byte_lines import PtyLine

    path = Path(play.args.port or Path(tempfile.gettempdir()) / f"holdover-{os.getuid()}-{play.name}")
    line = PtyLine(path)
    try:
        _bytes(play, how, line, f"serial port={path} wait=true", lambda: line.plug())
    finally:
        line.unplug()


def _tcp(play: Play, how: "Impairments") -> None:
    from holdover.devices.simulators.byte_lines import TcpLine

    with closing(TcpLine("127.0.0.1", _port(play), listen=True)) as line:

        def meet() -> None:
            while not line.connected:
                line.plug()

        _bytes(play, how, line, f"tcp port={line.port}", meet)


def _udp(play: Play, how: "Impairments") -> None:
    from holdover.devices.simulators.byte_lines import UdpLine

    line = UdpLine("127.0.0.1", _port(play))
    _bytes(play, how, line, f"udp port={line.port} host=127.0.0.1", lambda: None)
    line.unplug()


def _bytes(play: Play, how: "Impairments", line: "Line", options: str, meet: Callable[[], None]) -> None:
    """A form of bytes over a line; `meet` waits until there is somebody at the other end."""
    from holdover.devices.simulators import byte_sensor
    from holdover.devices.sources.scale import Scale

    source, form = play.source, play.args.format
    counts = form != "lines"
    if form == "protocentral" and len(source.channels) != 1:
        raise UsageError(f"a board sends one lead, the recording has {play.leads}: choose one with --lead")
    gain = COUNT_MV if counts else 1.0
    scale = Scale.of("simulate", source.channels, source.units[0], gain)
    more = f" format={form} gain={gain:g}" if counts else ""
    _tell(f"{options} rate_hz={source.rate_hz:g} leads={play.leads} unit={source.units[0]}{more}")
    meet()
    encode = byte_sensor.encoder(form, scale)
    byte_sensor.play(play.sent(byte_sensor.packets_of(source), how), line, encode, play.stop, play.args.speed)


def _mqtt(play: Play, how: "Impairments") -> None:
    from holdover.devices.simulators.byte_sensor import packets_of
    from holdover.devices.simulators.mqtt import connected
    from holdover.runtime.mqtt_options import MqttOptions

    host, _, port = play.args.broker.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--broker {play.args.broker!r} is not HOST:PORT, as in localhost:1883")
    topic = play.args.topic or f"holdover/samples/{play.name}"
    source = play.source
    with connected(MqttOptions(host=host, port=int(port))) as publisher:
        _tell(
            f"mqtt topic={topic} host={host} port={port} rate_hz={source.rate_hz:g} leads={play.leads} "
            f"unit={source.units[0]}"
        )
        publisher.play(topic, play.sent(packets_of(source, 0.5), how), "float32", play.stop, play.args.speed)


def _lsl(play: Play, how: "Impairments") -> None:
    from holdover.devices.simulators.byte_sensor import packets_of
    from holdover.devices.simulators.lsl import Outlet
    from holdover.devices.sources import needs

    if missing := needs("lsl"):
        raise UsageError(f"--as lsl {missing}")
    source, name = play.source, f"holdover-{play.name}"
    with closing(Outlet(name, source.rate_hz, source.channels, source.units[0])) as outlet:
        _tell(f"lsl stream={name}")
        while not outlet.heard:
            time.sleep(0.1)
        outlet.play(play.sent(packets_of(source), how), play.stop, play.args.speed)


def _polar(play: Play, how: "Impairments") -> None:
    """A strap has no line that another process could be at: driver and strap are put together here, and looked at."""
    import numpy as np

    from holdover.apps.device import probe
    from holdover.apps.device.look import Look
    from holdover.devices.simulators import polar as strap
    from holdover.devices.sources import needs
    from holdover.devices.sources.live import Live
    from holdover.devices.sources.polar import PolarStrap
    from holdover.devices.sources.scale import Scale
    from holdover.devices.sources.units import factor
    from holdover.runtime.resample import Resampler

    if missing := needs("polar"):
        raise UsageError(f"--as polar {missing}")
    source = play.source
    x = np.concatenate([chunk.x[:, :1] for chunk in source.chunks()]) * np.float32(factor(source.units[0], "uV"))
    uv = np.rint(np.nan_to_num(Resampler(source.rate_hz, 130.0).push(x)[:, 0])).astype(np.int32)
    radio = strap.SimulatedStrap(strap.play(uv, how, speed=play.args.speed))
    live = Live(PolarStrap(None, Scale.of("polar", source.channels[:1], "uV"), radio))
    print("a simulated H10, and the driver that hears it, in this process (there is no radio):", flush=True)
    look = Look(live.rate_hz, live.channels, live.units)
    with closing(live):
        probe.watch(live, look, len(uv) / 130.0, lambda: None)
    probe.tell(live, look)


KINDS: dict[str, Callable[[Play, "Impairments"], None]] = {
    "serial": _serial, "tcp": _tcp, "udp": _udp, "mqtt": _mqtt, "lsl": _lsl, "polar": _polar,
}  # fmt: skip


def _port(play: Play) -> int:
    text = play.args.port or "9000"
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise UsageError(f"--port {text!r} cannot be; expected 1 to 65535")
    return int(text)


def _tell(options: str) -> None:
    print(f"in another terminal:\n  holdover devices probe {options}", flush=True)


def _counted(sent: "Iterator[Sent]", rate_hz: float) -> "Iterator[Sent]":
    shown, told, samples = sys.stderr.isatty(), 0.0, 0
    for one in sent:
        samples += len(one.packet) if one.packet is not None else 0
        if shown and time.monotonic() - told > 0.5:
            told = time.monotonic()
            print(f"\r{samples / rate_hz:9.1f} s sent; Ctrl-C ends it", end="", file=sys.stderr, flush=True)
        yield one
    if shown:
        print(f"\r{samples / rate_hz:9.1f} s sent" + " " * 20, file=sys.stderr)
    if not samples:
        raise SourceError("the recording has no samples")
