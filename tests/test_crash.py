"""Killed at any moment and started again: no alert is missing, none comes twice, each is what it would have been."""

import json
import random
from itertools import pairwise
from pathlib import Path
from time import sleep

import pytest

from holdover.apps.model.shipped import find_model
from holdover.runtime.alert import Scene
from holdover.runtime.engine import load
from holdover.runtime.journal import Journal
from holdover.runtime.ledger import Ledger
from holdover.runtime.watch import Watch, model_id
from tests.brokers import Subscriber, any_broker, mosquitto, wait_until
from tests.processes import (
    LONG,
    PATIENCE_S,
    RATE_HZ,
    Daemon,
    Sensor,
    a_recording,
    bare,
    bodies,
    configure,
    delivered,
    free_port,
    from_file,
    from_tcp,
    lines_of,
    replayed,
    signal_mv,
)

SEEDS = range(8) if LONG else range(1)
KILLS = 5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_killed_at_any_moment_gives_the_same_alerts(seed: int, tmp_path: Path) -> None:
    moments = random.Random(seed)
    record = a_recording(tmp_path / "208.npz")
    with any_broker() as broker, Subscriber(broker, tmp_path) as subscriber:
        subscriber.listening()
        config = configure(tmp_path, broker.port, from_file("bed", record, 45), ledger="checkpoint_s = 0.3")
        for _ in range(KILLS):
            with Daemon(config) as daemon:
                sleep(moments.uniform(0.1, 1.4))
                assert daemon.is_up(), f"it ended before it was killed:\n{daemon.talk()}"
        with Daemon(config) as daemon:
            assert daemon.end() == 0, daemon.talk()
        expected = replayed(record, "bed")
        assert bare(bodies(tmp_path / "ledger.db")) == expected
        wait_until(lambda: len(subscriber.alerts()) >= len(expected), "all alerts have come", PATIENCE_S)
        assert bare(subscriber.alerts()) == expected
        sequence = [alert["stream_seq"] for alert in subscriber.alerts()]
        assert sequence == list(range(1, len(expected) + 1))
        with Daemon(config) as daemon:
            assert daemon.end() == 0, daemon.talk()
        assert bare(bodies(tmp_path / "ledger.db")) == expected, "an input that has ended says nothing more"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_live_stream_killed_at_any_moment_gives_the_alerts_of_its_journal(seed: int, tmp_path: Path) -> None:
    moments = random.Random(100 + seed)
    port = free_port()
    (tmp_path / "broker").mkdir()
    broker = mosquitto(folder=tmp_path / "broker")
    try:
        config = configure(tmp_path, broker.port, from_tcp("bed", port), ledger="checkpoint_s = 0.5")
        lines = lines_of(signal_mv())
        with Subscriber(broker, tmp_path) as subscriber:
            subscriber.listening()
            sleep(1.5)  # the broker has put the session on its disk
            with Sensor(port, lines, speed=22) as sensor:
                for number in range(KILLS):
                    with Daemon(config) as daemon:
                        sleep(moments.uniform(0.3, 2.0))
                        if number == 2:
                            broker.kill()
                            sleep(0.5)
                            broker = mosquitto(folder=tmp_path / "broker", port=broker.port)
                        assert daemon.is_up(), daemon.talk()
                assert not sensor.done, "the kills came after the end"
                with Daemon(config) as daemon:
                    wait_until(lambda: sensor.done, "all is sent", PATIENCE_S)
                    sleep(1)
                    assert daemon.stop() == 0, daemon.talk()
            with Daemon(config) as daemon:  # what may still wait for the broker
                daemon.ready()
                wait_until(lambda: delivered(tmp_path / "ledger.db"), "the ledger is empty", PATIENCE_S)
                assert daemon.stop() == 0, daemon.talk()
            expected, records = _by_the_journal(tmp_path)
            assert records > 50
            labels = [(alert["label"], alert["phase"]) for alert in map(json.loads, expected)]
            assert labels.count(("signal_missing", "start")) >= 2, "what the sensor sent to nobody is announced"
            assert ("ventricular_couplet", "start") in labels
            assert bare(bodies(tmp_path / "ledger.db")) == expected
            wait_until(lambda: len(subscriber.alerts()) >= len(expected), "all alerts have come", PATIENCE_S)
            assert bare(subscriber.alerts()) == expected
    finally:
        broker.stop()


def _by_the_journal(folder: Path) -> tuple[list[str], int]:
    """What one uninterrupted watch says of all that the journal holds, as sorted JSON; and how many records."""
    engine = load(find_model())
    with Ledger(folder / "ledger.db") as ledger:
        saved = ledger.checkpoint("bed")
    journal = Journal(folder / "ledger.journal", "bed", rate_hz=RATE_HZ, channels=("MLII",), units=("mV",))
    try:
        assert saved is not None
        assert journal.epoch == saved.epoch
        scene = Scene(stream="bed", lead="MLII", rate_hz=RATE_HZ, epoch=journal.epoch, model=model_id(engine))
        watch, said, numbers = Watch(engine, scene, live=True), [], []
        for number, chunk in journal.read(0):
            said += watch.push(chunk).alerts
            numbers.append(number)
        assert (numbers[0], journal.damaged) == (0, 0), "the ring still holds it all"
        assert all(b == a + 1 for a, b in pairwise(numbers))
        assert saved.at == numbers[-1] + 1, "the last checkpoint has taken the last record"
    finally:
        journal.close()
    return bare(alert.body() for alert in said), len(numbers)
