"""A day without a broker: bounded on disk, then told oldest first, marked as historical, and without a storm."""

import json
import logging
import time
from collections import Counter
from pathlib import Path

import pytest

from holdover.runtime.delivery import Delivery
from holdover.runtime.ledger import Ledger
from holdover.runtime.mqtt_options import MqttOptions
from holdover.runtime.sinks.mqtt import WINDOW, MqttSink
from tests.brokers import POSITION, Listener, an_alert, mosquitto, wait_until

PER_HOUR = 120
KINDS = (
    {"phase": "start", "priority": "high"}, {"phase": "update", "priority": "high"},
    {"phase": "end", "priority": "high"}, {"phase": "start", "priority": "low"}, {"phase": "end", "priority": "low"},
)  # fmt: skip


def a_day(ledger: Ledger) -> Counter[str]:
    """Commit a day's alerts with the times that they would have had; how many of each kind."""
    said: Counter[str] = Counter()
    total, now = 24 * PER_HOUR, time.time()
    for number in range(total):
        kind = KINDS[number % len(KINDS)]
        ledger.commit("ecg", POSITION, [(an_alert(number, **kind), None)])
        created = now - 86400 * (total - number) / total
        ledger._db.execute("UPDATE outbox SET created = ? WHERE id = ?", (created, number + 1))
        said[f"{kind['priority']} {kind['phase']}"] += 1
    return said


def test_a_day_without_a_broker_is_bounded_and_told_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, max_mb=4, max_rows=1500) as ledger:
        said = a_day(ledger)
        assert ledger.depth()[0] <= 1500
        assert 86000 < ledger.depth()[1] < 86500
        assert path.stat().st_size <= 4 * 2**20
        with mosquitto() as broker, Listener(broker, "holdover/#") as listener:
            sink = MqttSink(MqttOptions(port=broker.port, will_delay_s=0), "pi", "boot-1")
            delivery = Delivery(ledger, sink)
            sink.start()
            most = 0
            while ledger.depth()[0] or ledger.dropped():
                delivery.turn()
                most = max(most, len(sink._in_flight))
                time.sleep(0.001)
            delivery.close()
            alerts = [json.loads(heard.payload) for heard in listener.on("/alert")]
            (note,) = [json.loads(heard.payload) for heard in listener.on("/dropped")]
    numbers = [alert["stream_seq"] for alert in alerts]
    assert numbers == sorted(numbers)
    assert most <= WINDOW
    assert all(alert["historical"] for alert in alerts[:-5])
    came = Counter(f"{alert['priority']} {alert['phase']}" for alert in alerts)
    assert (came["high start"], came["high end"]) == (said["high start"], said["high end"])
    assert came["high update"] == 0, "updates go first"
    assert len(alerts) + note["count"] == sum(said.values())
    assert note["of"] == {"update": said["high update"], "low": note["count"] - said["high update"]}


def test_a_broker_that_is_away_is_not_stormed(caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto() as broker:
        port = broker.port
    caplog.set_level(logging.DEBUG, "holdover.mqtt")
    sink = MqttSink(MqttOptions(port=port), "pi", "boot-1")
    sink.start()
    began = time.monotonic()
    wait_until(lambda: sink.poll() and len(caplog.records) >= 4, "four attempts", 30)
    assert time.monotonic() - began > 1.5, "each wait is up to twice as long as the one before"
    sink.close(1.0)
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1, "and it is said once"
