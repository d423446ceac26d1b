"""What Home Assistant is told of a node and its streams (MQTT device discovery).

The form is that of its documentation, "MQTT Discovery", device payload: one retained message a device, `dev`, `o` and
`cmps`. `default_entity_id` took the place of `object_id` in 2026.4.
"""

from typing import Any, NamedTuple

from holdover import __version__

ORIGIN = {"name": "holdover", "sw": __version__}
PHASES = ["start", "update", "end"]


class Place(NamedTuple):
    """Whose topics, and where Home Assistant listens."""

    base: str
    node: str
    prefix: str

    @property
    def key(self) -> str:
        """Of the node, in identifiers."""
        return f"{self.base.replace('/', '_')}_{self.node}"


def stream_device(place: Place, stream: str) -> tuple[str, dict[str, Any]]:
    """Topic and message that announce a stream: alarm, alert events, heart rate, signal quality.

    The alarm is known as long as the node is there: that a lead is off is itself an alarm. The heart rate is known
    only while there is a signal.

    >>> topic, device = stream_device(Place("holdover", "pi", "homeassistant"), "bed-3")
    >>> topic, sorted(device["cmps"])
    ('homeassistant/device/holdover_pi_bed-3/config', ['alarm', 'alert', 'quality', 'rate'])
    """
    key, root = f"{place.key}_{stream}", f"{place.base}/{place.node}"
    topics = f"{root}/streams/{stream}"
    node, signal = {"topic": f"{root}/status"}, {"topic": f"{topics}/status"}
    state = {"state_topic": f"{topics}/state", "availability": [node]}
    parts: dict[str, dict[str, Any]] = {
        "alarm": state | {
            "p": "binary_sensor", "name": "Alarm", "device_class": "problem",
            "value_template": "{{ value_json.alarm }}", "json_attributes_topic": f"{topics}/state",
        },
        "alert": {
            "p": "event", "name": "Alert", "event_types": PHASES, "state_topic": f"{topics}/alert",
            "availability": [node],
        },
        "rate": state | {
            "p": "sensor", "name": "Heart rate", "unit_of_measurement": "bpm", "state_class": "measurement",
            "icon": "mdi:heart-pulse", "value_template": "{{ value_json.rate_bpm }}",
            "availability": [node, signal], "availability_mode": "all",
        },
        "quality": state | {
            "p": "sensor", "name": "Signal quality", "device_class": "enum", "options": ["good", "doubtful", "lost"],
            "entity_category": "diagnostic", "value_template": "{{ value_json.quality }}",
        },
    }  # fmt: skip
    device = {"ids": [key], "name": f"{place.node} {stream}", "mf": "holdover", "sw": __version__,
              "via_device": place.key}  # fmt: skip
    return f"{place.prefix}/device/{key}/config", _message(key, device, parts)


def node_device(place: Place) -> tuple[str, dict[str, Any]]:
    """Topic and message that announce a node: whether it is there, and what its health says.

    >>> sorted(node_device(Place("holdover", "pi", "homeassistant"))[1]["cmps"])
    ['dropped', 'oldest', 'online', 'outbox', 'temperature']
    """
    root = f"{place.base}/{place.node}"
    health = {"p": "sensor", "state_topic": f"{root}/health", "entity_category": "diagnostic",
              "availability": [{"topic": f"{root}/status"}], "expire_after": 120}  # fmt: skip
    parts: dict[str, dict[str, Any]] = {
        "online": {
            "p": "binary_sensor", "name": "Online", "device_class": "connectivity", "state_topic": f"{root}/status",
            "payload_on": "online", "payload_off": "offline", "entity_category": "diagnostic",
        },
        "outbox": health | {"name": "Alerts waiting", "value_template": "{{ value_json.outbox }}"},
        "oldest": health | {"name": "Oldest alert waiting", "device_class": "duration", "unit_of_measurement": "s",
                            "value_template": "{{ value_json.oldest_s }}"},
        "dropped": health | {"name": "Alerts dropped", "value_template": "{{ value_json.dropped }}"},
        "temperature": health | {"name": "Processor", "device_class": "temperature", "unit_of_measurement": "°C",
                                 "value_template": "{{ value_json.temperature_c }}"},
    }  # fmt: skip
    device = {"ids": [place.key], "name": f"holdover {place.node}", "mf": "holdover", "sw": __version__}
    return f"{place.prefix}/device/{place.key}/config", _message(place.key, device, parts)


def _message(key: str, device: dict[str, Any], parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    named = {
        name: part | {"unique_id": f"{key}_{name}", "default_entity_id": f"{part['p']}.{key.lower()}_{name}"}
        for name, part in parts.items()
    }
    return {"dev": device, "o": ORIGIN, "cmps": named, "qos": 1}
