"""What the tests of delivery share: real brokers, a publisher and a subscriber in processes of their own."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from holdover.apps.broker import Broker, find_broker, start_broker
from holdover.runtime.alert import Alert, ModelId, Phase, Scene
from holdover.runtime.delivery import Delivery
from holdover.runtime.errors import BrokerError
from holdover.runtime.ledger import Checkpoint, Ledger
from holdover.runtime.mqtt_options import MqttOptions
from holdover.runtime.sinks.mqtt import MqttSink

MODEL = ModelId("ecg-beats", "1.0.0", "ab" * 32)
POSITION = Checkpoint(MODEL.sha256, 0, None, b"")

PUBLISHER = """
import logging, sys, time
sys.path.insert(0, sys.argv[1])
from brokers import an_alert
from holdover.runtime.delivery import Delivery
from holdover.runtime.ledger import Checkpoint, Ledger
from holdover.runtime.sinks.mqtt import MqttOptions, MqttSink

logging.basicConfig(level=logging.INFO)
path, port, total, version = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
with Ledger(path) as ledger:
    found = ledger.checkpoint("ecg")
    at = found.at if found else 0
    sink = MqttSink(MqttOptions(port=port, version=version, will_delay_s=0), "pi", f"boot-{at}")
    delivery = Delivery(ledger, sink)
    sink.start()
    while at < total or ledger.depth()[0]:
        if at < total:
            at += 1
            ledger.commit("ecg", Checkpoint("ab" * 32, at, None, b"memory"), [(an_alert(at), time.time())])
        delivery.turn()
        time.sleep(0.01)
    delivery.close()
"""


def an_alert(number: int, stream: str = "ecg", **more: Any) -> Alert:
    """The alert about sample 100 * number, always the same; of high priority, so that no ledger gives it up."""
    scene = Scene(stream=stream, lead="MLII", rate_hz=360.0, epoch=1.7e9, model=MODEL)
    said: dict[str, Any] = {"phase": "start", "priority": "high", "score": 0.9} | more
    phase = Phase(label="ventricular_tachycardia", onset=number * 100, at=number * 100 + 50, **said)
    return Alert(scene, phase, 0)


def any_broker(**options: Any) -> Broker:
    """A broker of whichever kind is here; skips if there is none."""
    try:
        find_broker()
    except BrokerError as error:
        pytest.skip(str(error))
    return start_broker(**options)


def mosquitto(**options: Any) -> Broker:
    """A mosquitto; skips if it is not installed."""
    broker = any_broker(**options) if _has_mosquitto() else None
    if broker is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    return broker


def _has_mosquitto() -> bool:
    try:
        return find_broker() != "iotcore"
    except BrokerError:
        return False


def fill(ledger: Ledger, *numbers: int) -> None:
    """Commit alerts of these numbers."""
    ledger.commit("ecg", POSITION, [(an_alert(number), time.time()) for number in numbers])


@contextmanager
def connecting(options: MqttOptions) -> Iterator[MqttSink]:
    """A sink that tries to connect, and is closed in the end."""
    sink = MqttSink(options, "pi", "boot-1")
    sink.start()
    try:
        yield sink
    finally:
        sink.close(2.0)


def drain(ledger: Ledger, sink: MqttSink, timeout_s: float = 15.0) -> None:
    """Send until nothing is left."""

    delivery = Delivery(ledger, sink)

    def is_empty() -> bool:
        delivery.turn()
        return ledger.depth()[0] == 0

    wait_until(is_empty, "the ledger is empty", timeout_s)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 15.0) -> None:
    """Wait until a condition holds, or fail saying what did not come."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"after {timeout_s:.0f} s still not: {what}"
        time.sleep(0.01)


def publish(broker: Broker, topic: str, payload: bytes, *, retain: bool = False) -> None:
    """Publish one message with QoS 1, as anybody could."""
    from paho.mqtt import publish as paho
    from paho.mqtt.client import MQTTv5

    paho.single(topic, payload, 1, retain, broker.host, broker.port, protocol=MQTTv5)


def publisher(ledger: Path, broker: Broker, total: int, version: str = "5") -> "subprocess.Popen[bytes]":
    """A process that commits and sends alerts 1 to `total`, and goes on where it was killed."""
    here = str(Path(__file__).parent)
    args = [here, str(ledger), str(broker.port), str(total), version]
    with ledger.with_suffix(".log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", PUBLISHER, *args], stderr=log)


class Heard(NamedTuple):
    """A message as anybody gets it."""

    topic: str
    payload: bytes
    retained: bool
    properties: Any


class Listener:
    """A client that keeps all that comes on a topic, with MQTT 5."""

    def __init__(self, broker: Broker, topic: str = "#") -> None:
        from paho.mqtt.client import Client, MQTTv5
        from paho.mqtt.enums import CallbackAPIVersion

        self.heard: list[Heard] = []
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self._client.on_message = lambda _c, _d, m: self.heard.append(
            Heard(m.topic, bytes(m.payload), m.retain, m.properties)
        )
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def on(self, end: str) -> list[Heard]:
        """What came on topics that end so."""
        return [heard for heard in list(self.heard) if heard.topic.endswith(end)]

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Subscriber:
    """`holdover alerts` in a process of its own, with what it wrote."""

    def __init__(self, broker: Broker, folder: Path, *args: str) -> None:
        self.out, self.err = folder / "subscriber.out", folder / "subscriber.err"
        self._from = (_size(self.out), _size(self.err))
        command = [sys.executable, "-m", "holdover.apps.subscribe", "--port", str(broker.port)]
        command += ["--store", str(folder / "alerts.db"), *args]
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)

    def listening(self) -> "Subscriber":
        """Wait until it has subscribed."""
        wait_until(lambda: "listening" in self.talk() or self.process.poll() is not None, "it listens")
        assert self.process.poll() is None, self.talk()
        return self

    def alerts(self) -> list[dict[str, Any]]:
        """What it wrote to standard output since it was started."""
        lines = self.out.read_bytes()[self._from[0] :].splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def talk(self) -> str:
        """What it wrote to standard error since it was started."""
        return self.err.read_bytes()[self._from[1] :].decode()

    def end(self, timeout_s: float = 10.0) -> int:
        """Wait for it; its exit status."""
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """End it with SIGTERM; its exit status."""
        self.process.terminate()
        return self.end()

    def __enter__(self) -> "Subscriber":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
