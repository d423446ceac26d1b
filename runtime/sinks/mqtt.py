"""Alerts to an MQTT broker, at least once and in order."""

import logging
import queue
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdover.runtime.ledger import Row
from holdover.runtime.mqtt import Event, Link, Will
from holdover.runtime.mqtt_options import MqttOptions, check_name
from holdover.runtime.sinks.envelope import enclose, seal

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.properties import Properties

__all__ = ["MqttOptions", "MqttSink"]

WINDOW = 20
REPEAT_S = 600.0
STEADY_S = 60.0
log = logging.getLogger("holdover.mqtt")


class MqttSink:
    """Sends rows of the ledger with QoS 1, a window at a time; used by the one thread that owns the ledger.

    What goes where: alerts to `{base}/{node}/streams/{stream}/alert`, not retained; "online" or "offline" retained to
    `{base}/{node}/status`, the latter also as the will. A broken connection is replaced for ever; then the rows that
    the ledger still holds are sent again, in order, with the same `event_id`.

    Parameters
    ----------
    node, boot_id
        Who sends, and which start of it.

    Raises
    ------
    ConfigError
        Options that cannot be, or a node's name that cannot stand in a topic.

    Examples
    --------
    The loop around it, with a `Ledger` and while `running`::

        ledger.acknowledge(sink.poll())
        sink.send(ledger.unsent(limit=sink.window))
    """

    window = WINDOW

    def __init__(self, options: MqttOptions, node: str, boot_id: str) -> None:
        check_name("the node's name", node)
        self.options, self.node, self.boot_id = options, node, boot_id
        will = Will(self._topic("status"), b"offline")
        self._link = Link(options, options.client_id or f"holdover-{node}", will=will)
        self._client: Client | None = None
        self._room = WINDOW
        self._in_flight: dict[int, int | None] = {}
        self._since = 0.0
        self._retained: dict[str, bytes] = {}
        self._unsaid: dict[str, bytes] = {}
        self._up_since = 0.0
        self._last = ""
        self._told: dict[str, float] = {}

    @property
    def connected(self) -> bool:
        """Whether the broker was there at the last `poll`."""
        return self._client is not None

    def start(self) -> None:
        """Begin to connect, and say that the node is online as soon as it is; returns at once."""
        self.status(True)
        self._link.start()

    def status(self, online: bool) -> None:
        """Say that the node is online or offline."""
        self.publish_retained("status", b"online" if online else b"offline")

    def publish_retained(self, topic_suffix: str, payload: bytes | str) -> None:
        """Publish under `{base}/{node}/`, retained, now and after each reconnect; a later payload replaces it."""
        raw = payload.encode() if isinstance(payload, str) else payload
        self._retained[topic_suffix] = self._unsaid[topic_suffix] = raw
        self._say()

    def send(self, rows: Sequence[Row]) -> None:
        """Publish the rows that are not on their way yet, as far as the window has room.

        Parameters
        ----------
        rows
            The oldest unsent ones in order of id, as `Ledger.unsent` gives them; call `poll` and acknowledge first.

        Raises
        ------
        ConfigError
            The name of a stream cannot stand in a topic.
        """
        client = self._client
        if client is None:
            return
        self._say()
        under_way = set(self._in_flight.values())
        for row in rows:
            if row.id in under_way:
                continue
            if len(self._in_flight) >= self._room:
                return
            check_name("the stream's name", row.stream)
            payload = enclose(row.body, seal(row, node=self.node, boot_id=self.boot_id, now=time.time()))
            self._publish(client, f"streams/{row.stream}/alert", payload, row.id)

    def poll(self) -> list[int]:
        """Take in what happened since the last call; returns the ids of rows that the broker has now."""
        acknowledged: list[int] = []
        while True:
            try:
                event = self._link.events.get_nowait()
            except queue.Empty:
                break
            acknowledged += self._take(event)
        self._drop_if_stuck()
        self._say()
        return acknowledged

    def close(self, timeout_s: float = 5.0) -> list[int]:
        """Wait for what is on its way, say that the node is offline, and take leave.

        Returns
        -------
        list of int
            The ids of rows that the broker took meanwhile, to be acknowledged in the ledger.
        """
        until = time.monotonic() + timeout_s
        acknowledged = self._settle(until)
        if self.connected:
            self.status(False)
            acknowledged += self._settle(until)
        self._link.stop(self._client, max(0.5, until - time.monotonic()))
        self._client = None
        return acknowledged

    def _settle(self, until: float) -> list[int]:
        acknowledged = self.poll()
        while self.connected and (self._in_flight or self._unsaid) and time.monotonic() < until:
            time.sleep(0.005)
            acknowledged += self.poll()
        return acknowledged

    def _take(self, event: Event) -> list[int]:
        if event.kind == "up":
            self._came_up(event)
        elif event.kind == "down":
            self._went_down(event)
        elif event.kind == "published" and event.client is self._client and event.mid in self._in_flight:
            return self._published(event)
        return []

    def _came_up(self, event: Event) -> None:
        self._client, self._room = event.client, min(WINDOW, event.mid)
        self._up_since = time.monotonic()
        self._in_flight.clear()
        self._unsaid = dict(self._retained)
        self._tell(logging.INFO, f"connected to {self.options.address} as {self._link.client_id}")

    def _went_down(self, event: Event) -> None:
        if self._client is event.client and time.monotonic() - self._up_since > STEADY_S:
            self._told.clear()
        self._client = None
        self._in_flight.clear()
        if event.text:
            self._tell(logging.WARNING, f"{event.text}; alerts are kept, and trying goes on")

    def _published(self, event: Event) -> list[int]:
        key = self._in_flight.pop(event.mid)
        self._since = time.monotonic()
        if not event.failed:
            return [] if key is None else [key]
        self._tell(
            logging.WARNING,
            f"the broker at {self.options.address} refuses what is published under {self._topic('')} ({event.text}): "
            "give this user the right to write there; alerts are kept, and trying goes on",
        )
        self._link.drop(event.client)
        self._client = None
        return []

    def _drop_if_stuck(self) -> None:
        limit_s = max(10.0, 2.0 * self.options.keepalive_s)
        if self._client is not None and self._in_flight and time.monotonic() - self._since > limit_s:
            self._tell(logging.WARNING, f"{self.options.address} has acknowledged nothing for {limit_s:.0f} s")
            self._link.drop(self._client)
            self._client = None

    def _say(self) -> None:
        while self._client is not None and self._unsaid and len(self._in_flight) < self._room:
            suffix = next(iter(self._unsaid))
            self._publish(self._client, suffix, self._unsaid.pop(suffix), None)

    def _publish(self, client: "Client", suffix: str, payload: bytes, key: int | None) -> None:
        if not self._in_flight:
            self._since = time.monotonic()
        retain = key is None
        properties = None if retain or self.options.version != "5" else _json_properties()
        info = client.publish(self._topic(suffix), payload, qos=1, retain=retain, properties=properties)
        self._in_flight[info.mid] = key

    def _topic(self, suffix: str) -> str:
        return f"{self.options.base}/{self.node}/{suffix}"

    def _tell(self, level: int, text: str) -> None:
        now = time.monotonic()
        told = text == self._last or now - self._told.get(text, -REPEAT_S) < REPEAT_S
        log.log(logging.DEBUG if told else level, text)
        if not told:
            self._told[text] = now
        self._last = text


def _json_properties() -> "Properties":
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.PayloadFormatIndicator = 1
    properties.ContentType = "application/json"
    return properties
