"""Samples that other nodes publish over MQTT, one topic for each stream."""

import queue
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import msgspec

from holdover.devices.sources.block import BadBlock, parse
from holdover.devices.sources.device import WAIT_S, Device
from holdover.devices.sources.live import Live
from holdover.devices.sources.mqtt_exchange import Exchange, Heard
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.recording import checked_rate
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError
from holdover.runtime.mqtt_options import MqttOptions

STREAM = "{stream}"


def open(
    *,
    topic: str = "holdover/samples/{stream}",
    stream: str | None = None,
    rate_hz: float | None = None,
    leads: Sequence[str] | str = "ECG",
    unit: str = "mV",
    gain: float = 1.0,
    offset: float = 0.0,
    host: str = "localhost",
    port: int = 1883,
    username: str | None = None,
    password_file: str | None = None,
    tls: bool | None = None,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
    version: str = "5",
    allow_plain_password: bool = False,
) -> Live:
    """Open a topic on which a node publishes samples; streams of the same broker share one connection.

    Parameters
    ----------
    topic, stream
        Where the samples come; `{stream}` stands for the stream's name.
    rate_hz
        Samples a second; must be given.
    leads
        One name for each number of a row.
    unit, gain, offset
        A value is (number - offset) * gain, in `unit`.
    host, port, username, password_file, tls, ca_file, cert_file, key_file, version, allow_plain_password
        The broker, as under [mqtt].

    Raises
    ------
    SourceError
        If an option cannot be. A broker that is not there is waited for.
    """
    said = dict(locals())
    if rate_hz is None:
        raise SourceError("mqtt: messages need not say their rate; give rate_hz")
    options = broker({name: said[name] for name in MqttOptions.__struct_fields__ if name in said})
    scale = Scale.of("mqtt", leads, unit, gain, offset)
    return Live(MqttSamples(options, topic_of(topic, stream), checked_rate(rate_hz, "mqtt"), scale))


class MqttSamples(Device):
    """The driver: messages on one topic, in any of the forms of `holdover.devices.sources.block`.

    A message that cannot be understood is thrown away, counted and said; one that the broker had kept (retained) is old
    and thrown away too.
    """

    def __init__(self, options: MqttOptions, topic: str, rate_hz: float, scale: Scale) -> None:
        super().__init__("mqtt", rate_hz, scale)
        self.options = options
        self.topic = topic

    def session(self, stop: Event) -> Iterator[Packet]:
        """Listen until told to stop; a connection that was lost is mended behind this."""
        with Exchange.listening(self.options, self.topic) as inbox:
            fault = ""
            while not stop.is_set():
                try:
                    heard = inbox.waiting.get(timeout=WAIT_S)
                except queue.Empty:
                    yield self.nothing()
                    continue
                dropped, inbox.dropped = inbox.dropped, 0
                fault = "overrun" if dropped else fault
                packet = self._packet(heard, fault)
                fault = ("reconnected" if heard.payload is None else fault) if packet is None else ""
                yield self.nothing() if packet is None else packet

    def _packet(self, heard: Heard, fault: str) -> Packet | None:
        """The samples of a message; None if there are none."""
        if heard.payload is None:
            return None
        if heard.old:
            self.refuse(len(heard.payload), "a message that the broker had kept; publish samples without retain")
            return None
        try:
            block = parse(heard.payload, len(self.channels), self.rate_hz)
        except BadBlock as bad:
            self.refuse(len(heard.payload), f"{self.topic}: {bad}")
            return None
        return Packet(self.scale.apply(block.values), block.lead_off, block.count, block.time, fault)


def topic_of(topic: Any, stream: Any) -> str:
    """The topic of one stream: `{stream}` in it stands for the stream's name.

    Raises
    ------
    SourceError
        It has wildcards, cannot be a topic, or one of the two is missing.

    Examples
    --------
    >>> topic_of("ward/{stream}/ecg", "bed-3")
    'ward/bed-3/ecg'
    """
    if not isinstance(topic, str) or not isinstance(stream, str | None):
        raise SourceError(f'mqtt: topic = {topic!r}, stream = {stream!r} cannot be; expected e.g. "ward/{STREAM}/ecg"')
    if STREAM in topic and not stream:
        raise SourceError(f'mqtt: the topic {topic} stands for many streams; name this one, as in stream = "bed-3"')
    full = topic.replace(STREAM, stream or "")
    if not full or set(full) & set("+#\0") or len(full.encode()) > 65535:
        raise SourceError(f"mqtt: {full!r} is no topic of one stream; expected names and slashes, without + and #")
    return full


def broker(options: dict[str, Any]) -> MqttOptions:
    """Which broker, and how to speak to it.

    Raises
    ------
    SourceError
        An option of the wrong type.
    ConfigError
        An option that cannot be.
    """
    try:
        checked = msgspec.convert(options, MqttOptions)
    except msgspec.ValidationError as error:
        raise SourceError(f"mqtt: {error}") from None
    checked.check()
    return checked
