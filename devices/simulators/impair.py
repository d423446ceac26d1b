"""What a bad link does to packets, by a seed: when each comes, what is lost, what comes twice or in the wrong order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random
from threading import Event
from time import monotonic
from typing import Any

import numpy as np

from holdover.devices.sources.packet import Packet
from holdover.runtime.errors import UsageError

SHARES = ("loss", "duplicates", "reorder", "garbage")
TIMES = ("jitter_s", "reorder_s")
MAX_GARBAGE = 64
MOST_DRIFT = 0.5


@dataclass(frozen=True, slots=True)
class Impairments:
    """How bad a link is; the default is perfect.

    Attributes
    ----------
    loss
        Share of packets that are lost, 0 to 1.
    burst
        Mean number of packets that are lost in a row (Gilbert 1960: a link that is good or bad, and changes).
    duplicates
        Share of packets that come a second time, up to `reorder_s` later.
    reorder
        Share of packets that are held up by up to `reorder_s`, so that later ones overtake them.
    jitter_s
        Each packet comes late by up to so many seconds, without overtaking.
    drift
        How much faster the device's clock runs than it should: 0.01 for 1 %.
    garbage
        Share of packets before which 1 to 64 random bytes come, where the link is one of bytes.
    lead_off
        Spans in seconds of signal in which an electrode is off.
    unplugged
        Spans in seconds of signal in which the device is not there.
    seed
        The same seed makes the same link.

    Raises
    ------
    UsageError
        If a share is not between 0 and 1, or a time or span cannot be.
    """

    loss: float = 0.0
    burst: float = 1.0
    duplicates: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.2
    jitter_s: float = 0.0
    drift: float = 0.0
    garbage: float = 0.0
    lead_off: tuple[tuple[float, float], ...] = ()
    unplugged: tuple[tuple[float, float], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in SHARES:
            _check(name, getattr(self, name), 0.0, 1.0, "a share of the packets")
        for name in TIMES:
            _check(name, getattr(self, name), 0.0, 3600.0, "seconds")
        _check("burst", self.burst, 1.0, 1e6, "packets in a row")
        _check("drift", self.drift, -MOST_DRIFT, MOST_DRIFT, "a part of the rate, as in 0.01 for 1 %")
        for name in ("lead_off", "unplugged"):
            for span in getattr(self, name):
                if not (len(span) == 2 and 0 <= span[0] < span[1]):
                    raise UsageError(f"{name} = {span} cannot be; expected a beginning and a later end, in seconds")


@dataclass(frozen=True, slots=True)
class Sent:
    """What a device sends: a packet, or that it is gone or back.

    Attributes
    ----------
    due_s
        When it comes, in seconds since the beginning.
    packet
        None where the device is pulled out or put in.
    plugged
        Whether the device is there from now on.
    garbage
        Random bytes that come just before, on a link of bytes.
    """

    due_s: float
    packet: Packet | None
    plugged: bool = True
    garbage: bytes = b""


def impair(packets: Iterable[Packet], rate_hz: float, how: Impairments) -> Iterator[Sent]:
    """Packets as they come over a link, in order of `due_s`.

    Parameters
    ----------
    packets
        As the device makes them, one after the other.
    rate_hz
        Nominal samples a second. Each packet is sent when its last sample has been taken.

    Examples
    --------
    >>> packets = [Packet(np.zeros((10, 1), np.float32), count=10 * i) for i in range(4)]
    >>> [(round(s.due_s, 2), s.packet.count) for s in impair(packets, 100.0, Impairments(loss=0.5, seed=1))]
    [(0.2, 10), (0.4, 30)]
    """
    waiting: list[tuple[float, int, Sent]] = []
    for order, (made_s, sent) in enumerate(_sent(packets, rate_hz, how)):
        ready = sorted(entry for entry in waiting if entry[0] <= made_s)
        waiting = [entry for entry in waiting if entry[0] > made_s]
        yield from (entry[2] for entry in ready)
        waiting.append((sent.due_s, order, sent))
    yield from (entry[2] for entry in sorted(waiting))


def in_time(sent: Iterable[Sent], stop: Event, speed: float = 1.0) -> Iterator[Sent]:
    """Each when it is due, `speed` times as fast; ends with the last, or soon after `stop`."""
    began_s = monotonic()
    for one in sent:
        if stop.wait(max(began_s + one.due_s / speed - monotonic(), 0)):
            return
        yield one


def _sent(packets: Iterable[Packet], rate_hz: float, how: Impairments) -> Iterator[tuple[float, Sent]]:
    """What is sent, and the time before which nothing that follows can come."""
    random, lost, floor_s, plugged, at = Random(how.seed), False, 0.0, True, 0
    for packet in packets:
        packet = _with_lead_off(packet, at, rate_hz, how)
        at += len(packet)
        made_s = at / rate_hz / (1 + how.drift)
        there = not _within(at / rate_hz, how.unplugged)
        if there != plugged:
            plugged = there
            floor_s = max(floor_s, made_s)
            yield made_s, Sent(floor_s, None, plugged)
        lost = _lost(random, lost, how)
        late, again = random.random() < how.reorder, random.random() < how.duplicates
        due_s = made_s + random.random() * how.jitter_s
        garbage = random.randbytes(random.randint(1, MAX_GARBAGE)) if random.random() < how.garbage else b""
        extra_s = (random.random() * how.reorder_s, random.random() * how.reorder_s)
        if lost or not there:
            continue
        if late:
            yield made_s, Sent(due_s + extra_s[0], packet, garbage=garbage)
        else:
            floor_s = max(floor_s, due_s)
            yield made_s, Sent(floor_s, packet, garbage=garbage)
        if again:
            yield made_s, Sent(max(due_s, floor_s) + extra_s[1], packet)


def _lost(random: Random, before: bool, how: Impairments) -> bool:
    """Whether a packet is lost; bad times last `burst` packets on average, and take `loss` of all."""
    if before:
        return random.random() >= 1 / how.burst or how.loss == 1
    begin = how.loss / (1 - how.loss) / how.burst if how.loss < 1 else 1.0
    return random.random() < begin


def _with_lead_off(packet: Packet, at: int, rate_hz: float, how: Impairments) -> Packet:
    off = np.array([_within((at + i) / rate_hz, how.lead_off) for i in range(len(packet))] if how.lead_off else [])
    if not off.any():
        return packet
    x = np.where(off[:, np.newaxis], np.float32(np.nan), packet.x)
    return replace(packet, x=x, lead_off=off if packet.lead_off is None else packet.lead_off | off)


def _within(when_s: float, spans: tuple[tuple[float, float], ...]) -> bool:
    return any(begin <= when_s < end for begin, end in spans)


def _check(name: str, value: Any, least: float, most: float, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UsageError(f"{name} = {value!r} cannot be; expected {what}, from {least:g} to {most:g}")
