"""What is said over MQTT: each message against its schema, and Home Assistant's form."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from holdover.apps.asyncapi import CHANNELS, asyncapi, message_schema
from holdover.runtime.delivery import Delivery
from holdover.runtime.ledger import Ledger
from holdover.runtime.mqtt_options import MqttOptions
from holdover.runtime.sinks.mqtt import MqttSink
from holdover.runtime.wire import Ack, iso
from tests.brokers import Heard, Listener, an_alert, fill, mosquitto, publish, wait_until
from tests.processes import Daemon, Sensor, a_recording, configure, free_port, from_file, from_tcp, lines_of, signal_mv

AT_HOME = "[home_assistant]\nenabled = true"


def channel_of(topic: str) -> str:
    found = [
        name for name, channel in CHANNELS.items()
        if re.fullmatch(r"holdover/pi/" + channel.suffix.replace("{stream}", "[a-z0-9-]+"), topic)
    ]  # fmt: skip
    assert len(found) == 1, topic
    return found[0]


def check(heard: Heard) -> str:
    """Hold a message against its schema; the channel's name."""
    name = channel_of(heard.topic)
    content: Any = heard.payload.decode()
    if getattr(heard.properties, "ContentType", "") == "application/json":
        content = json.loads(heard.payload)
    Draft202012Validator(message_schema(name)).validate(content)
    return name


def test_every_message_of_a_daemon_fits_its_schema_and_says_what_mqtt_5_can(tmp_path: Path) -> None:
    record = a_recording(tmp_path / "208.npz")
    with mosquitto() as broker, Listener(broker, "holdover/#") as listener:
        config = configure(tmp_path, broker.port, from_file("bed-1", record, 60))
        with Daemon(config) as daemon:
            assert daemon.end() == 0, daemon.talk()
        wait_until(lambda: listener.on("pi/status")[-1:] and listener.on("pi/status")[-1].payload == b"offline", "end")
        seen = {check(heard) for heard in listener.heard if heard.payload}
        assert seen == {"alert", "state", "streamStatus", "status", "info", "health"}
        states = [json.loads(heard.payload) for heard in listener.on("/state")]
        assert {state["alarm"] for state in states} == {"ON", "OFF"}
        assert any(40 < (state["rate_bpm"] or 0) < 200 for state in states)
        assert states[-1]["alarm"] == "OFF"
        for heard in listener.on("/alert"):
            body, said = json.loads(heard.payload), dict(heard.properties.UserProperty)
            assert (said["id"], said["subject"]) == (body["event_id"], body["label"])
            assert said["type"] == f"io.holdover.alert.{body['phase']}"
            assert heard.properties.CorrelationData.decode() == body["episode_id"]
            assert heard.properties.ResponseTopic == "holdover/pi/streams/bed-1/ack"
            assert hasattr(heard.properties, "MessageExpiryInterval") == (body["phase"] == "update")


@pytest.mark.parametrize("streams", [["#"], ["a/b", "+"], ["bed"] * 1001, "bed", None])
def test_what_another_program_left_as_our_info_stops_nothing(streams: object, tmp_path: Path) -> None:
    left: dict[str, Any] = {"schema": "info/1", "version": "1", "boot_id": "b", "models": [], "home_assistant": True}
    left["streams"] = streams
    with mosquitto() as broker:
        publish(broker, "holdover/pi/info", json.dumps(left).encode(), retain=True)
        with Daemon(configure(tmp_path, broker.port, from_tcp("bed", free_port()))) as daemon:
            daemon.hear("connected to")
            time.sleep(0.5)
            assert daemon.stop() == 0, daemon.talk()
        assert "Traceback" not in daemon.talk()


def test_the_state_names_the_open_episodes_also_after_a_kill(tmp_path: Path) -> None:
    port = free_port()
    with mosquitto() as broker:
        config = configure(tmp_path, broker.port, from_tcp("bed", port), mqtt="will_delay_s = 0")
        with Daemon(config) as daemon:
            daemon.ready()
            with Sensor(port, lines_of(signal_mv()[: 360 * 20]), speed=30) as sensor, Listener(broker) as listener:
                wait_until(lambda: sensor.done, "all is sent")
                wait_until(lambda: "signal_missing" in _labels(listener), "the silence is an open episode", 30)
            daemon.kill()
        with Listener(broker) as listener, Daemon(config) as daemon:
            daemon.ready()
            wait_until(lambda: "signal_missing" in _labels(listener), "it is still open")
            assert daemon.stop() == 0


def _labels(listener: Listener) -> list[str]:
    states = listener.on("/state")
    return list(json.loads(states[-1].payload)["labels"]) if states else []


def test_what_was_dropped_is_told_before_any_later_alert_and_each_hole_lies_in_it(tmp_path: Path) -> None:
    with mosquitto() as broker, Ledger(tmp_path / "ledger.db", max_rows=5) as ledger:
        for number in range(20):
            ledger.commit("ecg", _position(), [(an_alert(number, priority="low"), None)])
        sink = MqttSink(MqttOptions(port=broker.port, will_delay_s=0), "pi", "boot-1")
        delivery = Delivery(ledger, sink)
        with Listener(broker, "holdover/#") as listener:
            sink.start()
            wait_until(lambda: delivery.turn() or len(listener.on("/alert")) == 5, "five alerts")
            delivery.close()
            (told,) = listener.on("/dropped")
            assert check(told) == "dropped"
            note = json.loads(told.payload)
            assert (note["first"], note["last"], note["count"], note["of"]) == (1, 15, 15, {"low": 15})
            order = [heard.topic.rsplit("/", 1)[1] for heard in listener.heard if "/streams/" in heard.topic]
            assert order == ["dropped"] + ["alert"] * 5
        assert ledger.dropped() == []


def _position() -> Any:
    from tests.brokers import POSITION

    return POSITION


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_with_confirmation_an_alert_is_sent_again_until_a_subscriber_has_stored_it(
    tmp_path: Path, version: Any
) -> None:
    broker = mosquitto()
    with Ledger(tmp_path / "ledger.db", confirm=True) as ledger:
        options = MqttOptions(port=broker.port, version=version, confirm=True, will_delay_s=0)
        sink = MqttSink(options, "pi", "boot-1")
        delivery = Delivery(ledger, sink)
        sink.start()
        fill(ledger, 1, 2)
        first, second = (row.event_id for row in ledger.unsent())
        wait_until(lambda: delivery.turn() or not ledger.unsent(), "the broker has both")
        ack = Ack(event_id=first, by="test", at=iso(time.time()))
        publish(broker, "holdover/pi/streams/ecg/ack", b"no json")
        publish(broker, "holdover/pi/streams/ecg/ack", msgspec.json.encode(ack))
        confirmed = "SELECT count(*) FROM outbox WHERE state = 2"
        wait_until(lambda: delivery.turn() or ledger._db.execute(confirmed).fetchone() == (1,), "one is confirmed")
        broker.kill()
        ledger._db.execute("PRAGMA query_only = 1")  # as a disk that is full for a while
        with Listener(again := mosquitto(port=broker.port)) as listener:
            wait_until(lambda: delivery.turn() or sink.connected, "it is connected again", 20)
            ledger._db.execute("PRAGMA query_only = 0")
            wait_until(lambda: delivery.turn() or listener.on("/alert"), "it comes again", 20)
            time.sleep(0.3)
            delivery.turn()
            assert [json.loads(heard.payload)["event_id"] for heard in listener.on("/alert")] == [second]
            delivery.close()
        again.stop()


def test_home_assistant_is_told_again_at_its_birth_and_forgotten_when_switched_off(tmp_path: Path) -> None:
    port = free_port()
    with mosquitto() as broker:
        config = configure(tmp_path, broker.port, from_tcp("bed-1", port), from_tcp("bed-2", free_port()), more=AT_HOME)
        with Listener(broker, "homeassistant/device/#") as listener, Daemon(config) as daemon:
            daemon.ready()
            wait_until(lambda: len(listener.heard) == 3, "node and streams are told")
            publish(broker, "homeassistant/status", b"online")
            wait_until(lambda: len(listener.heard) == 6, "told again")
            assert daemon.stop() == 0
        devices = {heard.topic: json.loads(heard.payload) for heard in listener.heard}
        assert sorted(devices) == [
            f"homeassistant/device/holdover_pi{name}/config" for name in ("", "_bed-1", "_bed-2")
        ]  # fmt: skip
        _check_devices(devices)
        config = configure(tmp_path, broker.port, from_tcp("bed-2", port), more=AT_HOME)
        _run_a_moment(config, lambda: _retained(broker, "homeassistant/#") == 2)
        configure(tmp_path, broker.port, from_tcp("bed-2", port))
        _run_a_moment(config, lambda: _retained(broker, "homeassistant/#") == 0)
        assert _retained(broker, "holdover/pi/streams/bed-1/#") == 0


def _run_a_moment(config: Path, reached: Any) -> None:
    with Daemon(config) as daemon:
        daemon.ready()
        wait_until(reached, "what is retained has changed")
        assert daemon.stop() == 0


def _retained(broker: Any, topic: str) -> int:
    with Listener(broker, topic) as listener:
        time.sleep(0.3)
        return sum(heard.retained for heard in listener.heard)


def _check_devices(devices: dict[str, Any]) -> None:
    """What Home Assistant's documentation asks of a device message."""
    unique = [part["unique_id"] for device in devices.values() for part in device["cmps"].values()]
    assert len(unique) == len(set(unique))
    keys = {key for device in devices.values() for key in device["dev"]["ids"]}
    for device in devices.values():
        assert device["o"]["name"] == "holdover"
        assert device["dev"].get("via_device", next(iter(keys))) in keys
        for part in device["cmps"].values():
            assert part["p"] in ("binary_sensor", "event", "sensor")
            assert part["default_entity_id"].startswith(part["p"] + ".")
            assert part["state_topic"].startswith("holdover/pi/")
            assert all(place["topic"].endswith("/status") for place in part.get("availability", []))


def test_the_asyncapi_document_in_the_docs_is_the_one_of_the_code() -> None:
    document = json.loads((Path(__file__).parent.parent / "docs" / "asyncapi.json").read_text())
    assert document == json.loads(msgspec.json.encode(asyncapi())), "holdover config asyncapi > docs/asyncapi.json"
    command = [sys.executable, "-m", "holdover", "config", "asyncapi"]
    said = subprocess.run(command, capture_output=True, check=True).stdout
    assert json.loads(said) == document
    for ref in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        place = document
        for step in ref.split("/"):
            place = place[step]
    assert document["asyncapi"].startswith("3.")


@pytest.mark.parametrize("name", sorted(CHANNELS))
def test_the_schemas_are_schemas(name: str) -> None:
    Draft202012Validator.check_schema(message_schema(name))
