"""One connection to a broker for all the streams of a process that read from it."""

import logging
import queue
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import msgspec

from holdover.devices.sources.device import WAIT_S, log
from holdover.runtime.mqtt import Event, Link
from holdover.runtime.mqtt_options import MqttOptions

if TYPE_CHECKING:
    from paho.mqtt.client import Client

MAX_WAITING = 256
"""Messages that wait for one stream; what comes beyond is dropped and said."""


class Heard(NamedTuple):
    """What an exchange tells a stream: a message, or that the connection was lost (`payload` is None).

    Attributes
    ----------
    old
        The broker had kept the message for whoever comes.
    """

    payload: bytes | None
    old: bool = False


class Inbox:
    """What waits for one stream."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[Heard] = queue.Queue(MAX_WAITING)
        self.dropped = 0

    def put(self, heard: Heard) -> None:
        """Add to what waits, or count it as dropped where that is full."""
        try:
            self.waiting.put_nowait(heard)
        except queue.Full:
            self.dropped += 1


class Exchange:
    """A connection, kept up, and who listens to which topic on it."""

    _open: ClassVar[dict[bytes, "Exchange"]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, options: MqttOptions) -> None:
        self.options = options
        self._link = Link(options, options.client_id or f"holdover-samples-{uuid.uuid4().hex[:12]}")
        self._inboxes: dict[str, list[Inbox]] = {}
        self._client: Client | None = None
        self._stop = threading.Event()
        self._told = ""
        self._thread = threading.Thread(target=self._run, name="holdover-mqtt-samples", daemon=True)

    @classmethod
    @contextmanager
    def listening(cls, options: MqttOptions, topic: str) -> Iterator[Inbox]:
        """What comes on a topic, over the connection that all of the same options share; the last one closes it."""
        key, inbox = msgspec.json.encode(options), Inbox()
        with cls._lock:
            exchange = cls._open.get(key)
            if exchange is None:
                exchange = cls._open[key] = cls(options)
                exchange._link.start()
                exchange._thread.start()
            exchange._add(topic, inbox)
        try:
            yield inbox
        finally:
            with cls._lock:
                exchange._remove(topic, inbox)
                unused = not exchange._inboxes
                if unused:
                    del cls._open[key]
            if unused:
                exchange._close()

    def _add(self, topic: str, inbox: Inbox) -> None:
        self._inboxes = self._inboxes | {topic: [*self._inboxes.get(topic, []), inbox]}
        if self._client is not None:
            self._client.subscribe(topic, qos=1)

    def _remove(self, topic: str, inbox: Inbox) -> None:
        left = [other for other in self._inboxes[topic] if other is not inbox]
        self._inboxes = {**self._inboxes, topic: left} if left else _without(self._inboxes, topic)
        if self._client is not None and not left:
            self._client.unsubscribe(topic)

    def _close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._link.stop(self._client, 1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                event = self._link.events.get(timeout=WAIT_S)
            except queue.Empty:
                continue
            self._take(event)

    def _take(self, event: Event) -> None:
        if event.message is not None:
            heard = Heard(bytes(event.message.payload), bool(event.message.retain))
            for inbox in self._inboxes.get(event.message.topic, []):
                inbox.put(heard)
        elif event.kind == "up":
            self._came_up(event.client)
        elif event.kind == "down":
            self._went_down(event.text)
        elif event.failed:
            self._tell(f"the broker refuses {event.text}: give this user the right to read {', '.join(self._inboxes)}")

    def _came_up(self, client: "Client") -> None:
        with self._lock:
            self._client = client
            for topic in self._inboxes:
                client.subscribe(topic, qos=1)
        self._told = ""
        log.info("mqtt: connected to %s", self.options.address)

    def _went_down(self, why: str) -> None:
        was_up, self._client = self._client is not None, None
        for inbox in (inbox for inboxes in self._inboxes.values() for inbox in inboxes if was_up):
            inbox.put(Heard(None))
        self._tell(f"{why}; trying again until it answers")

    def _tell(self, what: str) -> None:
        log.log(logging.DEBUG if what == self._told else logging.WARNING, "mqtt: %s", what)
        self._told = what


def _without(inboxes: dict[str, list[Inbox]], topic: str) -> dict[str, list[Inbox]]:
    return {other: listeners for other, listeners in inboxes.items() if other != topic}
