"""A connection to an MQTT broker that is kept up, by a thread that connects again for ever."""

import gc
import math
import queue
import random
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from holdover.runtime.errors import ConfigError
from holdover.runtime.mqtt_options import MqttOptions

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

CONNECT_TIMEOUT_S = 10.0
BACKOFF_S = (1.0, 60.0)
STEADY_S = 5.0
LOOP_S = 0.5
CONNECT_LIMIT_S = 300.0
"""To look up a name, try all its addresses and shake hands may take minutes; a thread that takes longer is stuck."""
LOOP_LIMIT_S = 60.0
RECEIVE_MAXIMUM = 65_535


class Will(NamedTuple):
    """What the broker says for us when we are gone; with MQTT 5, for longer than `delay_s`."""

    topic: str
    payload: bytes
    delay_s: int = 0


class Event(NamedTuple):
    """What happened on a connection, told to the thread that owns the link.

    Attributes
    ----------
    kind
        "up", "down", "published", "subscribed" or "message".
    client
        The connection; each one has its own, so that what belonged to an earlier one can be told apart.
    mid
        The packet, for "published"; the number of messages that the broker takes at once, for "up".
    failed
        The broker refused the packet, or for "down" refused us for a reason that waiting does not mend.
    text
        The cause, in words; "" where the owner itself ended the connection.
    message
        For "message" alone.
    """

    kind: Literal["up", "down", "published", "subscribed", "message"]
    client: "Client"
    mid: int = 0
    failed: bool = False
    text: str = ""
    message: "MQTTMessage | None" = None


class Link:
    """Keeps one connection up in a thread of its own, with a fresh client for each attempt.

    The thread only connects and moves bytes; all that happens is put on `events`, which one other thread reads. A
    client that is gone is never used again, so nothing that it still had queued is sent a second time behind the
    owner's back.

    Parameters
    ----------
    session_s
        How long the broker keeps the session while we are away; 0: it starts anew each time.
    manual_ack
        Messages are acknowledged by the owner (`client.ack`), not on arrival.
    """

    def __init__(
        self,
        options: MqttOptions,
        client_id: str,
        *,
        will: Will | None = None,
        session_s: int = 0,
        manual_ack: bool = False,
    ) -> None:
        options.check()
        self.options, self.client_id, self.will = options, client_id, will
        self.session_s, self.manual_ack = session_s, manual_ack
        # Not a SimpleQueue: a signal that outlasts the timeout of its get makes it wait for ever (Python 3.11).
        self.events: queue.Queue[Event] = queue.Queue()
        self._stop = threading.Event()
        self._drop: Client | None = None
        self._due = math.inf
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{client_id}", daemon=True)

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._thread.start()

    @property
    def stuck_s(self) -> float:
        """For how long the thread has been overdue, in seconds; 0 while it turns, whatever the broker does."""
        return max(0.0, time.monotonic() - self._due)

    def drop(self, client: "Client") -> None:
        """End this connection without a farewell, within a second; another follows."""
        self._drop = client

    def stop(self, client: "Client | None", timeout_s: float) -> None:
        """Take leave of the broker if `client` is connected, and end the thread."""
        self._stop.set()
        if not self._thread.is_alive():
            return
        if client is not None:
            client.disconnect()
            self._thread.join(timeout_s)
            self._drop = client
        self._thread.join(1.5)
        # An event that nobody reads ties its client to itself, by way of the queue.
        while not self.events.empty():
            self.events.get_nowait()

    def _run(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            began = time.monotonic()
            self._busy(CONNECT_LIMIT_S)
            self._connection()
            attempt = 0 if time.monotonic() - began > STEADY_S else attempt + 1
            pause_s = min(BACKOFF_S[0] * 2.0 ** min(attempt, 10), BACKOFF_S[1]) * random.uniform(0.25, 0.5)
            self._busy(LOOP_LIMIT_S + pause_s)
            gc.collect()  # a client that is gone hangs together in cycles, with all that it had queued
            self._stop.wait(pause_s)

    def _busy(self, limit_s: float) -> None:
        """What comes next in this thread takes no longer."""
        self._due = time.monotonic() + limit_s

    def _connection(self) -> None:
        talk = _Talk(self.events)
        client = _new_client(self, talk)
        failed = False
        try:
            _connect(self, client)
            while client.socket() is not None and client.loop(LOOP_S) == 0 and self._drop is not client:
                self._busy(LOOP_LIMIT_S)
        # Whatever ends a connection must not end the thread: the cause is told, and the next attempt follows.
        except Exception as error:
            talk.text, failed = _explain(error, self.options)
        _hang_up(client)
        text = "" if self._drop is client else talk.text or _lost(self.options, talk.was_up)
        self.events.put(Event("down", client, failed=failed or talk.refused, text=text))


class _Talk:
    """The callbacks of one connection. They run under paho's own locks: they put on a queue, and nothing else."""

    def __init__(self, events: queue.Queue[Event]) -> None:
        self.events = events
        self.was_up = False
        self.refused = False
        self.text = ""

    def on_connect(
        self, client: "Client", _data: object, _flags: "ConnectFlags", reason: "ReasonCode", props: "Properties | None"
    ) -> None:
        if reason.is_failure:
            self.text, self.refused = _refusal(str(reason), client)
            return
        self.was_up = True
        window = getattr(props, "ReceiveMaximum", RECEIVE_MAXIMUM) if props else RECEIVE_MAXIMUM
        self.events.put(Event("up", client, mid=window))

    def on_disconnect(
        self, client: "Client", _data: object, flags: "DisconnectFlags", reason: "ReasonCode", _p: "Properties | None"
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.text, self.refused = _refusal(str(reason), client)

    def on_publish(self, client: "Client", _data: object, mid: int, reason: "ReasonCode", _p: "Properties") -> None:
        self.events.put(Event("published", client, mid=mid, failed=reason.is_failure, text=str(reason)))

    def on_subscribe(
        self, client: "Client", _data: object, mid: int, reasons: "list[ReasonCode]", _p: "Properties | None"
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        self.events.put(Event("subscribed", client, mid=mid, failed=bool(refused), text=", ".join(refused)))

    def on_message(self, client: "Client", _data: object, message: "MQTTMessage") -> None:
        self.events.put(Event("message", client, mid=message.mid, message=message))


def topic_of(message: "MQTTMessage") -> str:
    """The topic of a message; what a broker lets through that is no UTF-8 is in it as U+FFFD, so that it is nobody's.

    >>> from paho.mqtt.client import MQTTMessage
    >>> topic_of(MQTTMessage(topic=b"a/\\xff/ack")) == "a/\\ufffd/ack"
    True
    """
    try:
        return message.topic
    except UnicodeDecodeError as error:
        return str(error.object, "utf-8", "replace")


def _new_client(link: Link, talk: _Talk) -> "Client":
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    five = link.options.version == "5"
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=link.client_id,
        clean_session=None if five else link.session_s == 0,
        protocol=paho.MQTTv5 if five else paho.MQTTv311,
        reconnect_on_failure=False,
        manual_ack=link.manual_ack,
    )
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.max_inflight_messages_set(0)
    client.on_connect, client.on_disconnect = talk.on_connect, talk.on_disconnect
    client.on_publish, client.on_subscribe, client.on_message = talk.on_publish, talk.on_subscribe, talk.on_message
    # Without this, paho writes to the socket from whichever thread publishes; with it, only from the one that loops.
    client.on_socket_register_write = _left_to_the_loop
    if link.will:
        properties = _will_properties(link.will) if five else None
        client.will_set(link.will.topic, link.will.payload, qos=1, retain=True, properties=properties)
    return client


def _will_properties(will: Will) -> "Properties":
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
    properties.WillDelayInterval = will.delay_s
    return properties


def _lost(options: MqttOptions, was_up: bool) -> str:
    if was_up:
        return f"the connection to {options.address} was lost"
    return (
        f"{options.address} closed the connection before it answered: expected an MQTT {options.version} broker "
        f"{'with' if options.uses_tls else 'without'} TLS there; check port, tls and version"
        f"{_certificate_hint(options)}"
    )


def _certificate_hint(options: MqttOptions) -> str:
    """A broker that wants another certificate of ours says so by hanging up, after the handshake (TLS 1.3)."""
    if not options.uses_tls:
        return ""
    what = "has to know the one in cert_file" if options.cert_file else "needs cert_file and key_file"
    return f"; a broker that asks for a client certificate {what}"


def _left_to_the_loop(_client: "Client", _data: object, _sock: object) -> None:
    """Do nothing: `Client.loop` asks for itself whether there is something to write."""


def _connect(link: Link, client: "Client") -> None:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    options = link.options
    if options.username is not None:
        client.username_pw_set(options.username, options.password())
    if options.uses_tls:
        _use_tls(client, options)
    if options.version != "5":
        client.connect(options.host, options.port, options.keepalive_s)
        return
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = link.session_s
    client.connect(
        options.host, options.port, options.keepalive_s, clean_start=link.session_s == 0, properties=properties
    )


def _use_tls(client: "Client", options: MqttOptions) -> None:
    try:
        client.tls_set(options.ca_file, options.cert_file, options.key_file)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise ConfigError(
            f"mqtt certificates cannot be used ({why}): ca_file, cert_file and key_file are PEM files, the last two "
            "belong together"
        ) from error


def _hang_up(client: "Client") -> None:
    sock = client.socket()
    if sock is not None:
        sock.close()


REFUSALS: tuple[tuple[str, Callable[["Client"], str]], ...] = (
    ("bad user name", lambda c: f"as user {c.username!r}: correct username and password_file"),
    ("not authorized", lambda c: f"as user {c.username!r}: give a username and password_file it knows, or its rights"),
    ("protocol version", lambda _: 'its MQTT is another: set version = "3.1.1"'),
    ("identifier", lambda _: "it does not take the client id: set another client_id"),
    ("banned", lambda _: "it has barred this client: ask whoever runs it"),
)


def _refusal(reason: str, client: "Client") -> tuple[str, bool]:
    """What the broker said, what to do, and whether waiting is of no use."""
    where = f"the broker at {client.host}:{client.port}"
    if "taken over" in reason.lower():
        return f"{where} gave the connection to another client of the same id: give each node a name of its own", False
    for key, advice in REFUSALS:
        if key in reason.lower():
            return f"{where} refuses us ({reason}) {advice(client)}", True
    return f"{where} ended the connection: {reason}", False


def _explain(error: Exception, options: MqttOptions) -> tuple[str, bool]:
    where = options.address
    if isinstance(error, ConfigError):
        return str(error), True
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        mend = "set ca_file, or use the name it was made for"
        if "expired" in why or "not yet valid" in why:
            mend = "renew it at the broker, or set this machine's clock"
        return f"the certificate of {where} is not trusted ({why}): {mend}", True
    if isinstance(error, ssl.SSLError) or (options.uses_tls and isinstance(error, ConnectionResetError)):
        why = getattr(error, "reason", None) or error.strerror or str(error)
        return f"no TLS with {where} ({why}): set its TLS port (usually 8883), or tls = false if it has none", True
    if isinstance(error, OSError):
        why = error.strerror or str(error) or type(error).__name__
        return f"cannot reach a broker at {where} ({why}): start it, or correct host and port", False
    return f"the connection to {where} ended with {type(error).__name__}: {error}", False
