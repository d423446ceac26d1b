"""A simulated node that publishes a recording's samples to a real broker."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from holdover.devices.simulators.impair import Sent, in_time
from holdover.devices.sources.block import build
from holdover.devices.sources.packet import Packet
from holdover.runtime.errors import BrokerError, UsageError
from holdover.runtime.mqtt_options import MqttOptions

if TYPE_CHECKING:
    from paho.mqtt.client import Client

CONNECT_S = 5.0
COUNT_MV = 0.005
"""Of the form int16: a count, in the unit of the samples; a source that reads it has this as its gain."""


def as_map(packet: Packet) -> dict[str, Any]:
    """A packet as the map that JSON and CBOR carry; a missing sample is None."""
    rows = [[None if np.isnan(value) else float(value) for value in row] for row in packet.x]
    off = None if packet.lead_off is None else packet.lead_off.tolist()
    said = {"samples": rows, "count": packet.count, "time": packet.time, "lead_off": off}
    return {key: value for key, value in said.items() if value is not None}


def _json(packet: Packet) -> bytes:
    return msgspec.json.encode(as_map(packet))


def _cbor(packet: Packet) -> bytes:
    import cbor2

    return cbor2.dumps(as_map(packet))


def _int16(packet: Packet) -> bytes:
    counts = np.clip(np.round(packet.x / COUNT_MV), -32767, 32767)
    return _raw(packet, np.where(np.isnan(counts), -32768, counts).astype(np.int16))


def _float32(packet: Packet) -> bytes:
    return _raw(packet, packet.x)


def _raw(packet: Packet, values: NDArray[Any]) -> bytes:
    off = packet.lead_off is not None and bool(packet.lead_off.any())
    return build(values, count=packet.count, time=packet.time, lead_off=off)


FORMS: dict[str, Callable[[Packet], bytes]] = {"json": _json, "cbor": _cbor, "int16": _int16, "float32": _float32}
"""The forms of a message."""


class Publisher:
    """A node that is connected to a broker."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def send(self, topic: str, message: bytes, retain: bool = False) -> None:
        """Publish one message with QoS 1, and wait until the broker has it."""
        self._client.publish(topic, message, qos=1, retain=retain).wait_for_publish(CONNECT_S)

    def play(self, topic: str, sent: Iterable[Sent], form: str, stop: Event, speed: float = 1.0) -> None:
        """Publish what a link lets through, when it is due.

        Raises
        ------
        UsageError
            There is no such form.
        """
        if form not in FORMS:
            raise UsageError(f"there is no form {form!r} of messages; expected one of {', '.join(FORMS)}")
        for item in in_time(sent, stop, speed):
            if item.garbage:
                self.send(topic, item.garbage)
            if item.packet is not None:
                self.send(topic, FORMS[form](item.packet))


@contextmanager
def connected(options: MqttOptions) -> Iterator[Publisher]:
    """A node connected to a broker without TLS or password.

    Raises
    ------
    BrokerError
        The broker does not answer.
    """
    from paho.mqtt.client import Client, MQTTv5
    from paho.mqtt.enums import CallbackAPIVersion

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    up = Event()
    client.on_connect = lambda *_: up.set()
    try:
        client.connect(options.host, options.port)
    except OSError as error:
        raise BrokerError(f"no broker answers at {options.address} ({error}); start one, or name another") from None
    client.loop_start()
    try:
        if not up.wait(CONNECT_S):
            raise BrokerError(f"the broker at {options.address} does not take the connection; see its log")
        yield Publisher(client)
    finally:
        client.disconnect()
        client.loop_stop()
