"""Alerts to an MQTT broker, at least once and in order."""

import logging
import queue
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from holdover.runtime.ledger import Row
from holdover.runtime.ledger_room import Dropped
from holdover.runtime.mqtt import Event, Link, Will, topic_of
from holdover.runtime.mqtt_options import MqttOptions, check_name
from holdover.runtime.sinks.envelope import enclose, seal
from holdover.runtime.wire import Ack, dropped_note, iso

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.properties import Properties

__all__ = ["MqttOptions", "MqttSink", "Progress"]

WINDOW = 20
REPEAT_S = 600.0
STEADY_S = 60.0
UPDATE_EXPIRY_S = 300
"""An update that has waited so long is of no use; the start and the end of an episode always are."""
log = logging.getLogger("holdover.mqtt")


class Progress(NamedTuple):
    """What happened since the last call.

    Attributes
    ----------
    rows, dropped
        Ids of rows, and of accounts of what was dropped, that the broker has now.
    confirmed
        Event ids that a subscriber says it has stored.
    connected
        Whether a connection came up.
    heard
        Topic and payload of what else came that was asked for.
    """

    rows: list[int]
    dropped: list[int]
    confirmed: list[str]
    connected: bool
    heard: list[tuple[str, bytes]]


class _Sent(NamedTuple):
    """What a packet on its way is."""

    kind: Literal["row", "dropped", "word"]
    id: int = 0


class _Standing(NamedTuple):
    """A retained message, said again after each reconnect."""

    payload: bytes
    expiry_s: int | None


class MqttSink:
    """Sends rows of the ledger with QoS 1, a window at a time; used by the one thread that owns the ledger.

    What goes where: alerts to `{base}/{node}/streams/{stream}/alert`, not retained, and beside it what was `dropped`;
    "online" or "offline" retained to `{base}/{node}/status`, the latter also as the will. A broken connection is
    replaced for ever; then the rows that the ledger still holds are sent again, in order, with the same `event_id`.

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
    `holdover.runtime.delivery.Delivery` is the loop around it.
    """

    window = WINDOW

    def __init__(self, options: MqttOptions, node: str, boot_id: str) -> None:
        check_name("the node's name", node)
        self.options, self.node, self.boot_id = options, node, boot_id
        will = Will(self.topic("status"), b"offline", options.will_delay_s)
        # With MQTT 5 the session must outlive the connection, or its end brings out the will at once.
        session_s = 2 * options.will_delay_s if options.version == "5" else 0
        self._link = Link(options, options.client_id or f"holdover-{node}", will=will, session_s=session_s)
        self._wanted = {self.topic("streams/+/ack")} if options.confirm else set[str]()
        self._client: Client | None = None
        self._room = WINDOW
        self._in_flight: dict[int, _Sent] = {}
        self._since = 0.0
        self._retained: dict[str, _Standing] = {}
        self._unsaid: dict[str, _Standing] = {}
        self._progress = Progress([], [], [], False, [])
        self._up_since = 0.0
        self._last = ""
        self._told: dict[str, float] = {}

    @property
    def connected(self) -> bool:
        """Whether the broker was there at the last `poll`."""
        return self._client is not None

    def topic(self, suffix: str) -> str:
        """A topic of this node."""
        return f"{self.options.base}/{self.node}/{suffix}"

    def start(self) -> None:
        """Begin to connect, and say that the node is online as soon as it is; returns at once."""
        self.status(True)
        self._link.start()

    @property
    def stuck_s(self) -> float:
        """For how long the thread that keeps the connection has been overdue, in seconds; 0 while it turns."""
        return self._link.stuck_s

    def status(self, online: bool) -> None:
        """Say that the node is online or offline."""
        self.retain(self.topic("status"), b"online" if online else b"offline")

    def retain(self, topic: str, payload: bytes, expiry_s: int | None = None) -> None:
        """Publish retained, now and after each reconnect; a later payload replaces it, an empty one removes it."""
        self._retained[topic] = self._unsaid[topic] = _Standing(payload, expiry_s)
        self._say()

    def mention(self, topic: str, payload: bytes, expiry_s: int) -> None:
        """Publish once with QoS 0 if the broker is there; else it is forgotten."""
        if self._client is not None:
            self._client.publish(topic, payload, properties=self._properties(payload, expiry_s))

    def listen(self, topic: str) -> None:
        """Ask for a topic, from the next connection on; what comes is in `Progress.heard`."""
        self._wanted.add(topic)

    def send(self, rows: Sequence[Row], dropped: Sequence[Dropped] = ()) -> None:
        """Publish what is not on its way yet, as far as the window has room; accounts of what was dropped go first.

        Parameters
        ----------
        rows
            The oldest unsent ones in order of id, as `Ledger.unsent` gives them; call `poll` and acknowledge first.
        dropped
            As `Ledger.dropped` gives them.

        Raises
        ------
        ConfigError
            The name of a stream cannot stand in a topic.
        """
        client = self._client
        if client is None:
            return
        self._say()
        now, under_way = time.time(), set(self._in_flight.values())
        for account in dropped:
            if (what := _Sent("dropped", account.id)) not in under_way and self._has_room:
                payload = dropped_note(account, self.node, self.boot_id, now)
                self._publish(
                    client, f"{self._stream(account.stream)}/dropped", payload, what, self._properties(payload, None)
                )
        for row in rows:
            if (what := _Sent("row", row.id)) not in under_way and self._has_room:
                place = self._stream(row.stream)
                payload = enclose(row.body, seal(row, node=self.node, boot_id=self.boot_id, now=now))
                self._publish(client, f"{place}/alert", payload, what, self._alert_properties(row, place))

    def poll(self) -> Progress:
        """Take in what happened since the last call."""
        self._take_in()
        progress, self._progress = self._progress, Progress([], [], [], False, [])
        return progress

    def close(self, timeout_s: float = 5.0) -> Progress:
        """Wait for what is on its way, say that the node is offline, and take leave; what happened meanwhile."""
        until = time.monotonic() + timeout_s
        self._settle(until)
        if self.connected:
            self.status(False)
            self._settle(until)
        if self._client is not None and (self._unsaid or self._in_flight):
            self._link.drop(self._client)  # a farewell would take back the will, which has yet to say "offline"
            self._client = None
        self._link.stop(self._client, max(0.5, until - time.monotonic()))
        self._client = None
        return self.poll()

    def _settle(self, until: float) -> None:
        self._take_in()
        while self.connected and (self._in_flight or self._unsaid) and time.monotonic() < until:
            time.sleep(0.005)
            self._take_in()

    def _take_in(self) -> None:
        while True:
            try:
                event = self._link.events.get_nowait()
            except queue.Empty:
                break
            self._take(event)
        self._drop_if_stuck()
        self._say()

    def _take(self, event: Event) -> None:
        if event.kind == "up":
            self._came_up(event)
        elif event.kind == "down":
            self._went_down(event)
        elif event.client is not self._client:
            return
        elif event.kind == "published" and event.mid in self._in_flight:
            self._published(event)
        elif event.kind == "subscribed" and event.failed:
            self._tell(logging.WARNING, f"the broker refuses what this node would hear ({event.text}): give it the "
                                        f"right to read {', '.join(sorted(self._wanted))}")  # fmt: skip
        elif event.message is not None:
            self._hear(topic_of(event.message), bytes(event.message.payload))

    def _hear(self, topic: str, payload: bytes) -> None:
        if not topic.endswith("/ack"):
            self._progress.heard.append((topic, payload))
            return
        try:
            self._progress.confirmed.append(msgspec.json.decode(payload, type=Ack).event_id)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
            self._tell(logging.WARNING, f"what came on {topic} is no acknowledgement; it is passed over")

    def _came_up(self, event: Event) -> None:
        self._client, self._room = event.client, min(WINDOW, event.mid)
        self._up_since = time.monotonic()
        self._in_flight.clear()
        self._unsaid = dict(self._retained)
        self._progress = self._progress._replace(connected=True)
        for topic in sorted(self._wanted):
            event.client.subscribe(topic, qos=1)
        self._tell(logging.INFO, f"connected to {self.options.address} as {self._link.client_id}")

    def _went_down(self, event: Event) -> None:
        if self._client is event.client and time.monotonic() - self._up_since > STEADY_S:
            self._told.clear()
        self._client = None
        self._in_flight.clear()
        if event.text:
            self._tell(logging.WARNING, f"{event.text}; alerts are kept, and trying goes on")

    def _published(self, event: Event) -> None:
        sent = self._in_flight.pop(event.mid)
        self._since = time.monotonic()
        if not event.failed:
            taken: dict[str, list[int]] = {"row": self._progress.rows, "dropped": self._progress.dropped}
            if sent.kind in taken:
                taken[sent.kind].append(sent.id)
            return
        self._tell(
            logging.WARNING,
            f"the broker at {self.options.address} refuses what is published under {self.topic('')} ({event.text}): "
            "give this user the right to write there; alerts are kept, and trying goes on",
        )
        self._link.drop(event.client)
        self._client = None

    def _drop_if_stuck(self) -> None:
        limit_s = max(10.0, 2.0 * self.options.keepalive_s)
        if self._client is not None and self._in_flight and time.monotonic() - self._since > limit_s:
            self._tell(logging.WARNING, f"{self.options.address} has acknowledged nothing for {limit_s:.0f} s")
            self._link.drop(self._client)
            self._client = None

    @property
    def _has_room(self) -> bool:
        return len(self._in_flight) < self._room

    def _say(self) -> None:
        while self._client is not None and self._unsaid and self._has_room:
            topic = next(iter(self._unsaid))
            payload, expiry_s = self._unsaid.pop(topic)
            if not payload:
                self._retained.pop(topic, None)
            self._publish(self._client, topic, payload, _Sent("word"), self._properties(payload, expiry_s))

    def _publish(
        self, client: "Client", topic: str, payload: bytes, sent: _Sent, properties: "Properties | None" = None
    ) -> None:
        if not self._in_flight:
            self._since = time.monotonic()
        info = client.publish(topic, payload, qos=1, retain=sent.kind == "word", properties=properties)
        self._in_flight[info.mid] = sent

    def _stream(self, name: str) -> str:
        check_name("the stream's name", name)
        return self.topic(f"streams/{name}")

    def _alert_properties(self, row: Row, place: str) -> "Properties | None":
        """What MQTT 5 carries beside the payload: CloudEvents in binary mode, and where to acknowledge."""
        if self.options.version != "5":
            return None
        said = msgspec.json.decode(row.body)
        cloud = {
            "specversion": "1.0", "id": row.event_id, "source": f"/{self.node}/{row.stream}",
            "type": f"io.holdover.alert.{said['phase']}", "time": said["event_time"] or iso(row.created),
            "subject": said["label"],
        }  # fmt: skip
        properties = self._properties(row.body, UPDATE_EXPIRY_S if said["phase"] == "update" else None)
        assert properties is not None
        properties.UserProperty = list(cloud.items())
        properties.CorrelationData = said["episode_id"].encode()
        properties.ResponseTopic = f"{place}/ack"
        return properties

    def _properties(self, payload: bytes, expiry_s: int | None) -> "Properties | None":
        if self.options.version != "5":
            return None
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.PayloadFormatIndicator = 1
        if payload.startswith(b"{"):
            properties.ContentType = "application/json"
        if expiry_s is not None:
            properties.MessageExpiryInterval = expiry_s
        return properties

    def _tell(self, level: int, text: str) -> None:
        now = time.monotonic()
        told = text == self._last or now - self._told.get(text, -REPEAT_S) < REPEAT_S
        log.log(logging.DEBUG if told else level, text)
        if not told:
            self._told[text] = now
        self._last = text
