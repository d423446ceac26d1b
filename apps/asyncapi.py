"""The messages as JSON Schema 2020-12, and the topics as an AsyncAPI 3 document, both made from the code."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from holdover import __version__
from holdover.apps.bulletin import HEALTH_EXPIRY_S, HEALTH_S, STATE_EXPIRY_S
from holdover.runtime.alert import NOTICE, EndReason, Kind, PhaseName, Priority
from holdover.runtime.link import Count
from holdover.runtime.sinks.mqtt import UPDATE_EXPIRY_S
from holdover.runtime.wire import Ack, DroppedNote, Health, Info, ModelInfo, StreamState

Id = Annotated[str, Meta(min_length=1, max_length=200)]
Moment = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]


class SignalSource(msgspec.Struct, kw_only=True):
    """Which lead of what rate was judged."""

    rate_hz: Annotated[float, Meta(gt=0)]
    lead: str


class AlertMessage(msgspec.Struct, kw_only=True):
    """One phase of one episode, in its envelope; docs/alerts.md says what each key means."""

    schema: Literal["alert/1"]
    event_id: Id
    episode_id: Id
    phase: PhaseName
    event_type: PhaseName
    seq: Count
    label: str
    kind: Kind
    priority: Priority
    present: bool
    latched: bool
    onset_sample: Count
    event_sample: Count
    end_sample: Count | None
    onset_time: Moment | None
    event_time: Moment | None
    end_time: Moment | None
    end_reason: EndReason | None
    score: float | None
    evidence: dict[str, Any]
    signal: SignalSource
    stream: str
    model: ModelInfo
    notice: str
    node: str
    boot_id: str
    version: str
    stream_seq: Annotated[int, Meta(ge=1)]
    arrived_time: float | None
    latency_ms: float | None
    published_time: Moment | None
    resumed: bool
    historical: bool


class Channel(msgspec.Struct, frozen=True):
    """A topic: its suffix below base and node, what comes on it, and how."""

    suffix: str
    message: Any
    summary: str
    qos: int
    retain: bool
    expiry_s: int | None = None


CHANNELS = {
    "alert": Channel("streams/{stream}/alert", AlertMessage, "a phase of an episode", 1, False),
    "dropped": Channel("streams/{stream}/dropped", DroppedNote, "what was given up, before any later alert", 1, False),
    "state": Channel("streams/{stream}/state", StreamState, "how the stream stands", 1, True, STATE_EXPIRY_S),
    "streamStatus": Channel("streams/{stream}/status", Literal["online", "offline"],
                            "whether there is a signal that is judged", 1, True),
    "status": Channel("status", Literal["online", "offline"], "whether the node is there; also its will", 1, True),
    "info": Channel("info", Info, "what the node is", 1, True),
    "health": Channel("health", Health, f"how the node is, every {HEALTH_S:g} s", 0, False, HEALTH_EXPIRY_S),
    "ack": Channel("streams/{stream}/ack", Ack, "a subscriber has stored an alert", 1, False),
}  # fmt: skip
HEARD = ("ack",)
"""What the node receives; all else it sends."""


def message_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of what comes on one of `CHANNELS`.

    >>> message_schema("status")["enum"]
    ['offline', 'online']
    """
    schema = msgspec.json.schema(CHANNELS[name].message)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of all topics."""
    messages = [channel.message for channel in CHANNELS.values()]
    schemas, components = msgspec.json.schema_components(messages, ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "holdover", "version": __version__,
            "description": f"Alerts of a streaming runtime for ECG and other sensors. It is {NOTICE}.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"broker": {"host": "localhost:1883", "protocol": "mqtt5"}},
        "channels": {name: _channel(name, channel) for name, channel in CHANNELS.items()},
        "operations": {
            f"{_action(name)}_{name}": {
                "action": _action(name), "channel": {"$ref": f"#/channels/{name}"}, "bindings": {"mqtt": _binding(c)},
            }
            for name, c in CHANNELS.items()
        },
        "components": {
            "messages": {name: _message(name, schema) for name, schema in zip(CHANNELS, schemas, strict=True)},
            "schemas": components,
        },
    }  # fmt: skip


def _action(name: str) -> str:
    return "receive" if name in HEARD else "send"


def _channel(name: str, channel: Channel) -> dict[str, Any]:
    says = {"base": "holdover, or what [mqtt] base says", "node": "the node's name", "stream": "the stream's name"}
    address = "{base}/{node}/" + channel.suffix
    return {
        "address": address, "summary": channel.summary,
        "parameters": {word: {"description": text} for word, text in says.items() if f"{{{word}}}" in address},
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }  # fmt: skip


def _binding(channel: Channel) -> dict[str, Any]:
    expiry = {} if channel.expiry_s is None else {"messageExpiryInterval": channel.expiry_s}
    return {"bindingVersion": "0.2.0", "qos": channel.qos, "retain": channel.retain, **expiry}


def _message(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"name": name, "payload": schema}
    if "enum" in schema:
        message["contentType"] = "text/plain"
    if name == "alert":
        message["summary"] = (
            "With MQTT 5 the CloudEvents attributes (specversion, id, source, type, time, subject) are user "
            "properties, the correlation data are the episode_id, the response topic is where to acknowledge, "
            f"and an update expires after {UPDATE_EXPIRY_S} s."
        )
    return message
