"""A live source made of a driver: a thread that reads, a bounded store, a clock, chunks at least twice a second."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from threading import Condition, Event, Thread, current_thread

import numpy as np

from holdover.devices.boards.board import defaults
from holdover.devices.sources.device import TELL_AGAIN_S
from holdover.devices.sources.order import WINDOW_S, Order
from holdover.devices.sources.packet import Driver, Packet
from holdover.runtime.chunk import Chunk
from holdover.runtime.errors import HoldoverError, SourceError
from holdover.runtime.link import LinkFacts

SILENT_S = 0.4
"""An empty chunk is yielded when nothing came for so long."""
STORE_SAMPLES = 1 << 14
CLOSE_S = 3.0
"""How long `close` waits for the driver to take leave of its device."""
OVERRUN_S = 2.0
"""The store was full whenever it was looked at for so long: more comes than is judged."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A packet, and when it came: by a clock that is never set, and in Unix time."""

    packet: Packet
    now_s: float
    unix_s: float


class _Store:
    """Packets on their way from the thread that reads to the one that takes; whoever finds it full waits."""

    def __init__(self, gather_s: float) -> None:
        self._gather_s = gather_s
        self._arrivals: deque[_Arrival] = deque()
        self._samples = 0
        self._changed = Condition()
        self.ended = False
        self.full_since: float | None = None

    def put(self, packet: Packet, stop: Event) -> None:
        arrival = _Arrival(packet, time.monotonic(), time.time())
        with self._changed:
            while self._samples >= STORE_SAMPLES and not stop.is_set():
                self.full_since = self.full_since or arrival.now_s
                self._changed.wait(SILENT_S)
            self._arrivals.append(arrival)
            self._samples += max(len(packet), 1)
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def take(self, stop: Event) -> list[_Arrival]:
        """What arrives until `gather_s` after the first of it; nothing if nothing comes for `SILENT_S`."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrivals or self.ended or stop.is_set(), SILENT_S)
            if self._arrivals:
                self._changed.wait_for(
                    lambda: self._samples >= STORE_SAMPLES or self.ended or stop.is_set(),
                    self._arrivals[0].now_s + self._gather_s - time.monotonic(),
                )
            if 2 * self._samples < STORE_SAMPLES:
                self.full_since = None
            taken = list(self._arrivals)
            self._arrivals.clear()
            self._samples = 0
            self._changed.notify_all()
        return taken

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Live:
    """What a driver gives, as a `holdover.runtime.chunk.Source`.

    Parameters
    ----------
    driver
        The device.
    window_s
        For how long a hole is held open for packets that were overtaken; 0 where that cannot be, as on a wire.
    sender_waits
        Whether the other end waits while nobody reads, so that nothing is lost: no overrun is said then.

    Attributes
    ----------
    facts
        What was lost, repaired and measured; read it from any thread.
    """

    def __init__(self, driver: Driver, *, window_s: float = WINDOW_S, sender_waits: bool = False) -> None:
        self.driver = driver
        self.name, self.rate_hz = driver.name, driver.rate_hz
        self.channels, self.units = driver.channels, driver.units
        self.epoch: float | None = None
        self.length: int | None = None
        self.facts = LinkFacts(nominal_hz=driver.rate_hz)
        self._order = Order(driver.rate_hz, self.facts, window_s)
        self._sender_waits = sender_waits
        self._store = _Store(defaults().gather_s)
        self._stop = Event()
        self._thread: Thread | None = None
        self._failure: Exception | None = None
        self._told_at = -TELL_AGAIN_S
        self._tells_off = False

    def chunks(self) -> Iterator[Chunk]:
        """Yield what came, an empty chunk when nothing did; ends with the input, or soon after `close`.

        Raises
        ------
        SourceError
            The driver has failed.
        """
        thread = Thread(target=self._read, name=f"holdover-{self.name}", daemon=True)
        thread.start()
        self._thread = thread
        while not self._stop.is_set():
            arrivals = self._store.take(self._stop)
            yield from self._overrun()
            yield from self._chunks(arrivals, ended=not arrivals and self._store.ended)
            if not arrivals and self._store.ended:
                break
        if self._failure is not None and not self._stop.is_set():
            raise _explained(self.name, self._failure) from self._failure

    def seek(self, sample: int) -> bool:  # noqa: ARG002 - the protocol's
        """Say that what came is gone."""
        return False

    def close(self) -> None:
        """End `chunks`, and wait a little for the driver to let go of the device."""
        self._stop.set()
        self._store.wake()
        self.driver.close()
        if self._thread is not None and self._thread is not current_thread():
            self._thread.join(CLOSE_S)

    def _read(self) -> None:
        try:
            for packet in self.driver.packets(self._stop):
                if len(packet) or packet.fault or packet.garbage:
                    self._store.put(packet, self._stop)
        except Exception as error:  # whatever ends the reading is raised where the chunks are taken
            self._failure = error
        self._store.end()

    def _overrun(self) -> Iterator[Chunk]:
        since, now_s = self._store.full_since, time.monotonic()
        if self._sender_waits or since is None or now_s - since < OVERRUN_S or now_s - self._told_at < TELL_AGAIN_S:
            return
        self._told_at = now_s
        self.facts.overruns += 1
        yield replace(self._empty(), fault="overrun")

    def _chunks(self, arrivals: list[_Arrival], ended: bool) -> Iterator[Chunk]:
        """What the arrivals come to, in as few chunks as can be; an empty one if that is nothing."""
        placed: list[tuple[int, Packet]] = []
        for arrival in arrivals:
            placed += self._order.push(arrival.packet, arrival.now_s)
        placed += self._order.finish() if ended else self._order.due(time.monotonic())
        if not placed:
            yield from () if ended else (self._empty(),)
            return
        unix_s = arrivals[-1].unix_s if arrivals else time.time()
        if self.epoch is None:
            self.epoch = unix_s - sum(len(packet) for _, packet in placed) / self.rate_hz
        for run in _runs(placed):
            yield self._chunk(run, unix_s)

    def _chunk(self, run: list[tuple[int, Packet]], unix_s: float) -> Chunk:
        packets = [packet for _, packet in run]
        self._tells_off = self._tells_off or any(packet.lead_off is not None for packet in packets)
        off = [np.zeros(len(p), np.bool_) if p.lead_off is None else p.lead_off for p in packets]
        x = np.concatenate([packet.x for packet in packets]).astype(np.float32, copy=False)
        return Chunk(run[0][0], x, np.concatenate(off) if self._tells_off else None, unix_s, packets[0].fault)

    def _empty(self) -> Chunk:
        return Chunk(self._order.next, np.empty((0, len(self.channels)), np.float32), arrived=time.time())


def _runs(placed: Iterable[tuple[int, Packet]]) -> Iterator[list[tuple[int, Packet]]]:
    """Packets that follow one another without a hole or a fault in between."""
    run: list[tuple[int, Packet]] = []
    for at, packet in placed:
        if run and (packet.fault or at != run[-1][0] + len(run[-1][1])):
            yield run
            run = []
        run.append((at, packet))
    if run:
        yield run


def _explained(name: str, failure: Exception) -> HoldoverError:
    return failure if isinstance(failure, HoldoverError) else SourceError(f"{name}: reading ended: {failure}")
