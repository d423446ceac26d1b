"""Telling the node that an alert is stored, before the broker is told that it need not keep it."""

import time
from typing import TYPE_CHECKING

import msgspec

from holdover.runtime.wire import Ack, iso

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage


class Confirmations:
    """What was confirmed, until the broker has the confirmation: only then is the message itself acknowledged.

    So a confirmation that is lost with its connection is repeated when the broker sends the alert again.

    Parameters
    ----------
    by
        Who confirms: the client id.
    """

    def __init__(self, by: str) -> None:
        self._by = by
        self._under_way: dict[int, MQTTMessage] = {}

    @property
    def under_way(self) -> bool:
        """Whether the broker still owes an answer."""
        return bool(self._under_way)

    def send(self, client: "Client", message: "MQTTMessage", event_id: str) -> None:
        """Confirm the alert of a message."""
        ack = Ack(event_id=event_id, by=self._by, at=iso(time.time()))
        topic = f"{message.topic.rsplit('/', 1)[0]}/ack"
        self._under_way[client.publish(topic, msgspec.json.encode(ack), qos=1).mid] = message

    def came(self, client: "Client", mid: int) -> None:
        """The broker has a confirmation, or refuses it; either way the message is done with."""
        message = self._under_way.pop(mid, None)
        if message is not None:
            client.ack(message.mid, message.qos)

    def forget(self) -> None:
        """The connection is gone; the broker sends the messages again."""
        self._under_way.clear()
