"""The one clock policy of all live devices: packets to places on the sample clock, what is lost or double found out."""

import math
from bisect import insort
from collections import deque
from dataclasses import dataclass, replace

from holdover.devices.sources.packet import Packet
from holdover.runtime.clock import CLOCK_JUMP_S, MAX_HOLE_S
from holdover.runtime.link import LinkFacts
from holdover.runtime.pace import Pace, ppm

WINDOW_S = 0.5
"""For so long a hole is held open for packets that were overtaken."""
MAX_HELD = 4096
LOST_RANGES = 64
"""Holes that are remembered, so that what comes late is told from what comes twice."""

RECONNECTED = "reconnected"
CLOCK_JUMP = "clock_jump"
RATE_MISMATCH = "rate_mismatch"

JITTER_S = 0.02
ALPHA, BETA = 0.5, 1 / 6
"""Gains by which stamps are followed: a pair after Benedict and Bordner (1962), beta = alpha^2 / (2 - alpha)."""
MOST_DRIFT = 0.1


@dataclass(frozen=True, slots=True)
class _Held:
    """A packet that has come too early, and when it came."""

    place: int
    came_s: float
    packet: Packet

    @property
    def end(self) -> int:
        return self.place + len(self.packet)


def slack_s(rate_hz: float) -> float:
    """How far a time stamp may be off the rate, in seconds, and still be that of the sample that is due."""
    return max(JITTER_S, 0.75 / rate_hz)


class Stamps:
    """A device's own time as a counter: follows its drift, absorbs its jitter, and tells a hole or a repetition.

    Examples
    --------
    >>> stamps = Stamps(100.0)
    >>> [stamps.count(t, 50) for t in (7.0, 7.503, 8.5, 8.0)]
    [0, 50, 150, 100]
    """

    def __init__(self, rate_hz: float) -> None:
        self.nominal_s = 1 / rate_hz
        self.slack_s = slack_s(rate_hz)
        self._period_s = self.nominal_s
        self._next = 0
        self._next_s: float | None = None
        self._before = 0

    def count(self, time_s: float, n: int) -> int | None:
        """The number of the first of n samples; None where the clock was set, and they follow on."""
        if self._next_s is None:
            self._next_s = time_s
        off = time_s - self._next_s
        if off < -CLOCK_JUMP_S or off > MAX_HOLE_S:
            self.follow(self._next, time_s, n)
            return None
        if abs(off) <= self.slack_s:
            count = self._next
            self._learn(off)
            time_s = self._next_s + ALPHA * off
        else:
            count = self._next + round(off / self._period_s)
        if count >= self._next:
            self.follow(count, time_s, n)
        return count

    def follow(self, count: int, time_s: float, n: int) -> None:
        """Go on from n samples whose first has this number and time."""
        self._next, self._next_s, self._before = count + n, time_s + n * self._period_s, n

    def _learn(self, off_s: float) -> None:
        if self._before:
            period_s = self._period_s + BETA * off_s / self._before
            self._period_s = min(max(period_s, (1 - MOST_DRIFT) * self.nominal_s), (1 + MOST_DRIFT) * self.nominal_s)


class Order:
    """Gives every packet its place.

    By the device's counter where it has one, else by its time, else as packets come. Samples that came before are
    dropped. A packet that is ahead waits for up to `window_s` for those that it has overtaken; what has not come by
    then is lost, and its place stays empty. A counter or a clock that is set, or a link that was away, begins anew: as
    many samples are then lost as fit into the time since the one before.

    Parameters
    ----------
    rate_hz
        Nominal rate.
    facts
        Where all is counted.
    window_s
        0 where packets cannot overtake one another.

    Attributes
    ----------
    next
        The place that the next sample has if nothing is wrong.
    """

    def __init__(self, rate_hz: float, facts: LinkFacts, window_s: float = WINDOW_S) -> None:
        self.rate_hz, self.facts, self.window_s = rate_hz, facts, window_s
        self.next = 0
        self._pace = Pace(rate_hz)
        self._stamps = Stamps(rate_hz)
        self._shift: int | None = None
        self._heard_s: float | None = None
        self._held: list[_Held] = []
        self._lost: deque[tuple[int, int]] = deque(maxlen=LOST_RANGES)
        self._fault = ""

    def push(self, packet: Packet, now_s: float) -> list[tuple[int, Packet]]:
        """Take a packet that came at `now_s`, a time in seconds by a clock that is never set.

        Returns
        -------
        What can be said now: packets, each with the place of its first sample.
        """
        self.facts.garbage += packet.garbage
        self.facts.reconnects += packet.fault == RECONNECTED
        ready = self.due(now_s)
        if not len(packet):
            return ready + ([(self.next, packet)] if packet.fault else [])
        place = self._place(packet, now_s)
        if place is None:
            ready += self.finish()
            packet, place = self._begin_anew(packet, now_s)
        self._heard_s = now_s
        if place + len(packet) > self._newest:
            self._measure(place + len(packet), now_s)
        elif place + len(packet) > self.next:
            self.facts.reordered += not self._is_held(place, packet)
        if place <= self.next or not self.window_s:
            return ready + self._release(place, packet)
        self._hold(_Held(place, now_s, packet))
        return ready + (self.finish() if len(self._held) > MAX_HELD else [])

    def due(self, now_s: float) -> list[tuple[int, Packet]]:
        """What need wait no longer: the window of the hole before it is over."""
        ready: list[tuple[int, Packet]] = []
        while self._held and now_s - min(held.came_s for held in self._held) >= self.window_s:
            first = self._held.pop(0)
            ready += self._release(first.place, first.packet)
        return ready

    def finish(self) -> list[tuple[int, Packet]]:
        """What is left at the end of the input."""
        return self.due(math.inf)

    def _place(self, packet: Packet, now_s: float) -> int | None:
        """Where a packet goes; None where that has to be found anew."""
        count = packet.count
        if count is None and packet.time is not None:
            count = self._stamps.count(packet.time, len(packet))
        elif count is None:
            return None if packet.fault == RECONNECTED and self._heard_s is not None else self._newest
        if self._shift is None:
            self._shift = self.next - (count or 0)
        if count is None:
            return None
        place = count + self._shift
        return None if self._is_set(place, count, packet, now_s) else place

    @property
    def _newest(self) -> int:
        return max(self.next, self._held[-1].end if self._held else 0)

    def _is_set(self, place: int, count: int, packet: Packet, now_s: float) -> bool:
        """Whether a counter was set: it is far off, or after a loss of the link no further than it can be from 0."""
        if place >= self.next:
            return place - self.next > MAX_HOLE_S * self.rate_hz
        if packet.fault == RECONNECTED and packet.count is not None and self._heard_s is not None:
            return count <= (now_s - self._heard_s + 2 * self.window_s) * self.rate_hz
        return self.next - place > CLOCK_JUMP_S * self.rate_hz + len(packet)

    def _begin_anew(self, packet: Packet, now_s: float) -> tuple[Packet, int]:
        """The packet with its fault, and its place by how long nothing has come."""
        if packet.count is not None or packet.time is not None:
            self.facts.clock_jumps += 1
            packet = replace(packet, fault=packet.fault or CLOCK_JUMP)
        away_s = 0.0 if self._heard_s is None else now_s - self._heard_s
        place = self.next + max(round(away_s * self.rate_hz) - len(packet), 0)
        if packet.count is not None:
            self._shift = place - packet.count
        elif packet.time is not None:
            self._shift = 0
            self._stamps.follow(place, packet.time, len(packet))
        self._pace.reset()
        return packet, place

    def _measure(self, end: int, now_s: float) -> None:
        before = self._pace.mismatch
        self._pace.push(end, now_s)
        facts, rate_hz, jitter_s = self.facts, self._pace.rate_hz, self._pace.jitter_s
        if rate_hz is not None and jitter_s is not None:
            facts.rate_hz, facts.jitter_ms = round(rate_hz, 3), round(jitter_s * 1e3, 1)
            facts.drift_ppm = ppm(rate_hz, self.rate_hz)
        if self._pace.mismatch and not before:
            self._fault = RATE_MISMATCH

    def _is_held(self, place: int, packet: Packet) -> bool:
        return any(held.place <= place and place + len(packet) <= held.end for held in self._held)

    def _hold(self, held: _Held) -> None:
        if self._is_held(held.place, held.packet):
            self.facts.duplicated += len(held.packet)
        else:
            insort(self._held, held, key=lambda entry: entry.place)

    def _release(self, place: int, packet: Packet) -> list[tuple[int, Packet]]:
        """A packet, and those held that follow it."""
        if place > self.next:
            self.facts.lost += place - self.next
            self._lost.append((self.next, place))
        ready = [self._new(place, packet)]
        while self._held and self._held[0].place <= self.next:
            first = self._held.pop(0)
            ready.append(self._new(first.place, first.packet))
        return [(at, new) for at, new in ready if len(new) or new.fault]

    def _new(self, place: int, packet: Packet) -> tuple[int, Packet]:
        """What of a packet has not been there, with its place."""
        again = min(max(self.next - place, 0), len(packet))
        late = self._given_up(place, place + again) if again else 0
        self.facts.late += late
        self.facts.duplicated += again - late
        fault = packet.fault or self._fault
        if fault == self._fault:
            self._fault = ""
        new = replace(packet.part(again), fault=fault)
        at = place + again if len(new) else self.next
        self.next = max(self.next, place + len(packet))
        return at, new

    def _given_up(self, start: int, stop: int) -> int:
        """How many samples between two places were given up as lost, or come before the first."""
        return sum(max(min(stop, b) - max(start, a), 0) for a, b in (*self._lost, (start, 0)))
