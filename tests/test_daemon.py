"""`holdover run` as a process: several streams, signals, brokers and disks that fail, sensors that talk nonsense."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest

from holdover.apps.broker import Broker
from holdover.runtime.ledger import Ledger, LedgerFull
from tests.brokers import POSITION, Subscriber, an_alert, any_broker, mosquitto, wait_until
from tests.processes import (
    HOLDOVER,
    PATIENCE_S,
    Caller,
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
    holdover,
    labels,
    lines_of,
    position,
    replayed,
    rows,
    signal_mv,
)

HEAVY = ("scipy", "onnx", "pandas", "matplotlib", "wfdb", "edfio", "rich", "torch")

DRIVER = """
import os, sys
from holdover.apps.cli import main

code = main(["run", sys.argv[1]])
there = sorted({name.partition(".")[0] for name in sys.modules})
open(sys.argv[2], "w").write("\\n".join([str(code), *there]))
"""


@pytest.fixture
def broker() -> Iterator[Broker]:
    with any_broker() as running:
        yield running


def test_two_streams_share_an_engine_a_ledger_and_a_broker(broker: Broker, tmp_path: Path) -> None:
    one = a_recording(tmp_path / "one.npz")
    other = a_recording(tmp_path / "other.npz", signal_mv()[::-1].copy())
    config = configure(tmp_path, broker.port, from_file("bed-1", one, 150), from_file("bed-2", other, 120))
    with Subscriber(broker, tmp_path) as subscriber:
        subscriber.listening()
        with Daemon(config) as daemon:
            assert daemon.end() == 0, daemon.talk()
        total = len(rows(tmp_path / "ledger.db"))
        wait_until(lambda: len(subscriber.alerts()) >= total, "all alerts have come")
        for name, record in (("bed-1", one), ("bed-2", other)):
            expected = replayed(record, name)
            assert len(expected) > 5
            assert bare(bodies(tmp_path / "ledger.db"), name) == expected
            assert bare(subscriber.alerts(), name) == expected


def test_sigterm_saves_and_the_next_start_goes_on_there(tmp_path: Path) -> None:
    record = a_recording(tmp_path / "208.npz")
    ledger = tmp_path / "ledger.db"
    with Daemon(configure(tmp_path, free_port(), from_file("bed", record, 60))) as daemon:
        daemon.ready()
        wait_until(lambda: len(rows(ledger)) >= 3, "three alerts")
        began = time.monotonic()
        assert daemon.stop() == 0, daemon.talk()
        print(f"ended {time.monotonic() - began:.1f} s after SIGTERM")
        assert "wait in" in daemon.talk().splitlines()[-1], "it says that alerts wait for the broker"
    stopped_at = position(ledger, "bed")
    assert 0 < stopped_at < len(signal_mv())
    with any_broker() as broker:
        config = configure(tmp_path, broker.port, from_file("bed", record, 100))
        with Daemon(config) as daemon:
            daemon.hear(f"bed: going on at sample {stopped_at}")
            assert daemon.end() == 0, daemon.talk()
    assert bare(bodies(ledger)) == replayed(record, "bed")
    assert delivered(ledger)


def test_sigterm_ends_a_live_stream_at_once_and_keeps_its_last_samples(broker: Broker, tmp_path: Path) -> None:
    port = free_port()
    config = configure(tmp_path, broker.port, from_tcp("bed", port))
    with Daemon(config) as daemon:
        daemon.ready()
        with Sensor(port, lines_of(signal_mv()), speed=10):
            wait_until(lambda: labels(tmp_path / "ledger.db"), "an alert")
            began = time.monotonic()
            assert daemon.stop() == 0, daemon.talk()
            print(f"ended {time.monotonic() - began:.1f} s after SIGTERM")
    with Daemon(config) as daemon:
        daemon.hear("bed: 0 journaled blocks taken up")
        assert daemon.stop() == 0, daemon.talk()


def test_sighup_reads_the_limits_again(broker: Broker, tmp_path: Path) -> None:
    port, ledger = free_port(), tmp_path / "ledger.db"

    def write(limits: str) -> Path:
        return configure(tmp_path, broker.port, from_tcp("bed", port), more=limits)

    with Daemon(write("[limits]\ntachycardia_bpm = 300")) as daemon:
        daemon.ready()
        with Sensor(port, lines_of(signal_mv()[20 * 360 :]), speed=8):
            wait_until(lambda: ("frequent_ventricular_beats", "start") in labels(ledger), "an alert", PATIENCE_S)
            assert ("tachycardia", "start") not in labels(ledger)
            write("[limits]\ntachicardia_bpm = 90")
            daemon.send(signal.SIGHUP)
            daemon.hear("the limits stay as they were").hear("did you mean 'tachycardia_bpm'?")
            write("[limits]\nflat_s = 10")
            daemon.send(signal.SIGHUP)
            daemon.hear("are too long for asystole_s 4: a dead ECG would be called an asystole")
            write("[limits]\ntachycardia_bpm = 80\nbradycardia_bpm = 30\n")
            daemon.send(signal.SIGHUP)
            daemon.hear("limits read again")
            wait_until(lambda: ("tachycardia", "start") in labels(ledger), "an alert by the new limit", PATIENCE_S)
        assert daemon.stop() == 0, daemon.talk()


def test_a_sensor_that_sends_more_than_can_be_judged_is_an_overrun(broker: Broker, tmp_path: Path) -> None:
    port, ledger = free_port(), tmp_path / "ledger.db"
    flood = b"".join(lines_of(signal_mv()[:3600])) * 10
    with Daemon(configure(tmp_path, broker.port, from_tcp("bed", port))) as daemon:
        daemon.ready()
        with Caller(port) as caller:
            caller.line.settimeout(PATIENCE_S)
            until = time.monotonic() + PATIENCE_S
            while ("overrun", "start") not in labels(ledger):
                caller.say([flood])
                assert time.monotonic() < until, labels(ledger)[-5:]
        assert daemon.is_up()
    assert all(body["kind"] == "technical" for body in bodies(ledger) if body["label"] == "overrun")


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        config = configure(tmp_path, free_port(), from_tcp("bed", free_port()))
        with Daemon(config, env=environment) as daemon:
            assert manager.recv(1000) == b"READY=1"
            for _ in range(2):
                watchdog, _, status = manager.recv(1000).decode().partition("\n")
                assert watchdog == "WATCHDOG=1"
                assert status.startswith("STATUS=0 of 1 streams running, 0 alerts waiting")
            daemon.send(signal.SIGTERM)
            while (told := manager.recv(1000)) != b"STOPPING=1":
                assert told.startswith(b"WATCHDOG=1")
            assert daemon.end() == 0, daemon.talk()


def _subscribed(folder: Path) -> int:
    """Leave a subscriber's session in a broker's folder, so that nothing is sent to nobody; the broker's port."""
    (folder / "broker").mkdir()
    with mosquitto(folder=folder / "broker", port=free_port()) as broker, Subscriber(broker, folder) as subscriber:
        subscriber.listening()
        assert subscriber.stop() == 0
        return broker.port


def test_a_broker_that_comes_late_and_goes_away_for_a_while_gets_all(tmp_path: Path) -> None:
    record, ledger = a_recording(tmp_path / "208.npz"), tmp_path / "ledger.db"
    port = _subscribed(tmp_path)
    with Daemon(configure(tmp_path, port, from_file("bed", record, 35))) as daemon:
        daemon.ready().hear("start it, or correct host and port")
        wait_until(lambda: len(rows(ledger)) >= 2, "two alerts wait")
        broker = mosquitto(folder=tmp_path / "broker", port=port)
        try:
            with Subscriber(broker, tmp_path) as subscriber:
                subscriber.listening()
                wait_until(lambda: len(subscriber.alerts()) >= 3, "alerts come", PATIENCE_S)
                broker.stop()
                daemon.hear("was lost")
                before = len(rows(ledger))
                wait_until(lambda: len(rows(ledger)) >= before + 2, "alerts wait again", PATIENCE_S)
                time.sleep(2)
                assert daemon.is_up()
                broker = mosquitto(folder=tmp_path / "broker", port=port)
                assert daemon.end() == 0, daemon.talk()
                expected = replayed(record, "bed")
                wait_until(lambda: len(subscriber.alerts()) >= len(expected), "all alerts have come", PATIENCE_S)
                assert bare(subscriber.alerts()) == expected
        finally:
            broker.stop()
    assert delivered(ledger)
    warnings = [line for line in daemon.talk().splitlines() if "WARNING" in line]
    assert len(warnings) == 2, warnings


def test_a_wrong_password_is_one_clear_line_and_no_end(tmp_path: Path) -> None:
    users, secret = tmp_path / "users", tmp_path / "secret"
    try:
        subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "pi", "right"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no password file can be made: {error}")
    users.chmod(0o644)
    secret.write_text("wrong\n")
    ledger = tmp_path / "ledger.db"
    with mosquitto(password_file=str(users)) as broker:
        credentials = f'username = "pi"\npassword_file = "{secret}"'
        stream = from_file("bed", a_recording(tmp_path / "208.npz"), 60)
        with Daemon(configure(tmp_path, broker.port, stream, mqtt=credentials)) as daemon:
            daemon.hear("refuses us (Not authorized) as user 'pi'").hear("password_file")
            wait_until(lambda: len(rows(ledger)) >= 3, "alerts are kept meanwhile")
            assert not any(state for _, _, state in rows(ledger))
            assert daemon.talk().count("refuses us") == 1
            secret.write_text("right\n")
            daemon.hear("connected to")
            assert daemon.end() == 0, daemon.talk()
    assert delivered(ledger)


def test_a_second_daemon_on_one_ledger_is_refused(tmp_path: Path) -> None:
    config = configure(tmp_path, free_port(), from_tcp("bed", free_port()))
    with Daemon(config) as first:
        first.ready()
        other = tmp_path / "other.toml"
        other.write_text(config.read_text().replace(*_ports(config)))
        second = holdover("run", other)
        assert second.returncode == 5
        assert f"is held by process {first.process.pid}" in second.stderr
        assert first.is_up()
        assert first.stop() == 0, first.talk()


def _ports(config: Path) -> tuple[str, str]:
    """The port that a configuration listens on, and another, as they stand there."""
    (old,) = (word for word in config.read_text().split(",") if word.startswith(" port = "))
    return old, f" port = {free_port()}"


@pytest.mark.parametrize("place", ["missing", "file", "read-only"])
def test_a_ledger_that_cannot_be_is_refused(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "place"
    if place == "file":
        folder.write_text("no folder")
    elif place == "read-only":
        if os.geteuid() == 0:
            pytest.skip("root may write anywhere")
        folder.mkdir(mode=0o500)
    config = configure(tmp_path, free_port(), from_tcp("bed", free_port()))
    config.write_text(config.read_text().replace("ledger.db", "place/ledger.db"))
    done = holdover("run", config)
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert str(folder) in done.stderr


def test_a_full_ledger_keeps_alerts_in_memory_and_delivers_all_once_there_is_room(tmp_path: Path) -> None:
    record, ledger = a_recording(tmp_path / "208.npz"), tmp_path / "ledger.db"
    port = _subscribed(tmp_path)
    _fill_ledger(ledger)
    stored = len(rows(ledger))
    with Daemon(configure(tmp_path, port, from_file("bed", record, 60), ledger="max_mb = 1")) as daemon:
        daemon.hear("has no room").hear("of bed wait in memory")
        time.sleep(2)
        assert daemon.is_up()
        assert len(bodies(ledger, "bed")) < 3, "no more than the last page took"
        with mosquitto(folder=tmp_path / "broker", port=port) as broker, Subscriber(broker, tmp_path) as subscriber:
            subscriber.listening()
            assert daemon.end() == 0, daemon.talk()
            expected = replayed(record, "bed")
            wait_until(lambda: len(subscriber.alerts()) >= stored + len(expected), "all have come", PATIENCE_S)
            got = [alert["event_id"] for alert in subscriber.alerts() if alert["stream"] == "ecg"]
            assert len(got) == len(set(got))
            assert bare(subscriber.alerts(), "bed") == expected


def test_a_daemon_that_must_end_with_alerts_in_memory_says_so_and_decides_them_again(tmp_path: Path) -> None:
    record, ledger = a_recording(tmp_path / "208.npz"), tmp_path / "ledger.db"
    _fill_ledger(ledger)
    port = free_port()
    config = configure(tmp_path, port, from_file("bed", record, 60), ledger="max_mb = 1")
    with Daemon(config) as daemon:
        daemon.hear("of bed wait in memory")
        assert daemon.stop() == 5, "so that the service manager starts it again"
    with mosquitto(port=port), Daemon(config) as daemon:
        assert daemon.end() == 0, daemon.talk()
    assert bare(bodies(ledger, "bed")) == replayed(record, "bed")


def _fill_ledger(path: Path) -> None:
    with Ledger(path, max_mb=1) as ledger, suppress(LedgerFull):
        for number in count(1):
            ledger.commit("ecg", POSITION, [(an_alert(number), None)])


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True, stderr=-3)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("a small disk can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_nothing_and_all_is_delivered_after_room_is_made(broker: Broker, tmp_path: Path) -> None:
    port = free_port()
    with _small_disk(tmp_path / "disk", "2m") as disk, Subscriber(broker, tmp_path) as subscriber:
        subscriber.listening()
        config = configure(tmp_path, broker.port, from_tcp("bed", port))
        config.write_text(config.read_text().replace('"ledger.db"', f'"{disk}/ledger.db"'))
        ballast = disk / "ballast"
        with Daemon(config) as daemon:
            daemon.ready()
            with Sensor(port, lines_of(signal_mv()), speed=22) as sensor:
                wait_until(lambda: subscriber.alerts(), "the first alert", PATIENCE_S)
                _fill(ballast)
                daemon.hear("of bed wait in memory")
                time.sleep(6)
                assert daemon.is_up(), daemon.talk()
                _complains_at_most_every_5_s(daemon.talk())
                ballast.unlink()
                wait_until(lambda: sensor.done, "all is sent", PATIENCE_S)
                wait_until(lambda: delivered(disk / "ledger.db"), "the ledger is empty", PATIENCE_S)
                wait_until(lambda: "signal_missing" in dict(labels(disk / "ledger.db")), "the end", PATIENCE_S)
            assert daemon.stop() == 0, daemon.talk()
        known = bodies(disk / "ledger.db")
        wait_until(lambda: len(subscriber.alerts()) >= len(known), "all alerts have come", PATIENCE_S)
        assert bare(subscriber.alerts()) == bare(known)
        assert len(known) > 15
    heard = {(alert["label"], alert["onset_sample"], alert["phase"]) for alert in known}
    expected = [alert for alert in _by_replay(tmp_path) if alert[2] == "start"]
    assert heard.issuperset(expected), "no sample was lost, whatever the disk did"


def test_what_the_broker_took_while_the_disk_was_full_is_not_sent_again(tmp_path: Path) -> None:
    record, port = a_recording(tmp_path / "208.npz"), _subscribed(tmp_path)
    with _small_disk(tmp_path / "disk", "2m") as disk:
        ledger = disk / "ledger.db"
        config = configure(tmp_path, port, from_file("bed", record, 60))
        config.write_text(config.read_text().replace('"ledger.db"', f'"{ledger}"'))
        with Daemon(config) as daemon:
            wait_until(lambda: len(rows(ledger)) >= 4, "alerts wait for the broker", PATIENCE_S)
            _fill(disk / "ballast")
            with mosquitto(folder=tmp_path / "broker", port=port) as broker, Subscriber(broker, tmp_path) as subscriber:
                subscriber.listening()
                wait_until(lambda: len(subscriber.alerts()) >= 4, "they have come", PATIENCE_S)
                time.sleep(1)
                (disk / "ballast").unlink()
                assert daemon.end() == 0, daemon.talk()
                expected = replayed(record, "bed")
                wait_until(lambda: len(subscriber.alerts()) >= len(expected), "all have come", PATIENCE_S)
                assert bare(subscriber.alerts()) == expected
                assert subscriber.stop() == 0
                assert subscriber.talk().splitlines()[-1] == f"{len(expected)} alerts", "none repeated, none missing"
        assert delivered(ledger)


def _fill(ballast: Path) -> None:
    """Leave not a byte on the disk."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break


def _complains_at_most_every_5_s(talk: str) -> None:
    times = [line.split()[0] for line in talk.splitlines() if "wait in memory" in line]
    seconds = [sum(int(part) * 60**i for i, part in enumerate(reversed(clock.split(":")))) for clock in times]
    assert len(seconds) >= 2, "it says so again"
    assert all((b - a) % 86400 >= 4 for a, b in pairwise(seconds)), times


def _by_replay(folder: Path) -> list[tuple[str, int, str]]:
    import json

    alerts = map(json.loads, replayed(a_recording(folder / "208.npz"), "bed"))
    return [(alert["label"], alert["onset_sample"], alert["phase"]) for alert in alerts]


def test_a_sensor_that_falls_silent_is_an_alarm(broker: Broker, tmp_path: Path) -> None:
    port, ledger = free_port(), tmp_path / "ledger.db"
    with Daemon(configure(tmp_path, broker.port, from_tcp("bed", port))) as daemon:
        daemon.ready()
        with Caller(port) as caller:
            caller.say(lines_of(signal_mv()[:3600]))
            began = time.monotonic()
            wait_until(lambda: ("signal_missing", "start") in labels(ledger), "the alarm", PATIENCE_S)
            print(f"announced after {time.monotonic() - began:.1f} s of silence")
            caller.say(lines_of(signal_mv()[3600:7200]))
            wait_until(lambda: ("signal_missing", "update") in labels(ledger), "the signal is back", PATIENCE_S)
        assert daemon.stop() == 0, daemon.talk()


def test_a_sensor_that_never_speaks_is_an_alarm_too(tmp_path: Path) -> None:
    with Daemon(configure(tmp_path, free_port(), from_tcp("bed", free_port()))) as daemon:
        daemon.ready()
        wait_until(lambda: ("signal_missing", "start") in labels(tmp_path / "ledger.db"), "the alarm", PATIENCE_S)
        assert daemon.stop() == 0, daemon.talk()


def test_garbage_nan_lead_off_and_a_sender_that_goes_away(broker: Broker, tmp_path: Path) -> None:
    port, ledger = free_port(), tmp_path / "ledger.db"
    good, x = lines_of(signal_mv()), 360
    with Daemon(configure(tmp_path, broker.port, from_tcp("bed", port))) as daemon:
        daemon.ready()
        with Caller(port) as caller:
            caller.say(good[: 20 * x])
            caller.say([b"\x00\xff\xfe garbage\n", b"1,2,3,4\n", b"1e999\n", b"-inf\n", b"x" * 9000 + b"\n"] * 2)
            caller.say(good[20 * x : 40 * x])
            caller.say([b"nan\n"] * x)
            caller.say(good[40 * x : 60 * x])
            caller.say([b"!\n"] * x)
            caller.say(good[60 * x : 80 * x])
            caller.say([b"0.5\n"] * (3 * x))
            caller.say(good[80 * x : 100 * x])
            wait_until(lambda: ("signal_flat", "end") in labels(ledger), "the alarm of the flat line", PATIENCE_S)
        daemon.hear("127.0.0.1 is gone").hear("bad line(s)")
        wait_until(lambda: labels(ledger).count(("signal_missing", "start")) >= 2, "the silence", PATIENCE_S)
        with Caller(port) as caller:
            caller.say(good[100 * x : 120 * x])
            wait_until(lambda: labels(ledger)[-1] == ("signal_missing", "end"), "the signal is back", PATIENCE_S)
        assert daemon.stop() == 0, daemon.talk()
    begun = [body for body in bodies(ledger) if body["kind"] == "technical" and body["phase"] == "start"]
    suspended = [body["label"] for body in begun if body["priority"] == "medium"]
    assert suspended[:3] == ["signal_missing", "lead_off", "signal_flat"]
    assert daemon.talk().count("bad line(s)") == 1, "it is told once a minute"


def test_a_device_clock_that_is_set_back_an_hour_is_told_and_survived(broker: Broker, tmp_path: Path) -> None:
    port, ledger = free_port(), tmp_path / "ledger.db"

    def stamped(first: int, last: int, shift_s: float) -> list[bytes]:
        x = signal_mv()
        return [b"%.6f,%.4f\n" % (1.7e9 + i / 360 + shift_s, float(x[i])) for i in range(first, last)]

    with Daemon(configure(tmp_path, broker.port, from_tcp("bed", port, ', time = "s"'))) as daemon:
        daemon.ready()
        with Caller(port) as caller:
            caller.say(stamped(0, 7200, 0))
            caller.say(stamped(7200, 14400, -3600))
            wait_until(lambda: ("clock_jump", "start") in labels(ledger), "the fault", PATIENCE_S)
            wait_until(lambda: ("tachycardia", "start") in labels(ledger), "detection goes on", PATIENCE_S)
        assert daemon.stop() == 0, daemon.talk()
    (fault,) = [b for b in bodies(ledger) if (b["label"], b["phase"]) == ("clock_jump", "start")]
    assert fault["event_sample"] == 7200


def test_the_end_of_standard_input_is_the_end(broker: Broker, tmp_path: Path) -> None:
    source = 'id = "bed"\nsource = { kind = "stdin", rate_hz = 360, leads = "MLII", unit = "mV" }'
    config = configure(tmp_path, broker.port, source)
    (tmp_path / "lines.txt").write_bytes(b"".join(lines_of(signal_mv()[:36000])))
    with (tmp_path / "lines.txt").open("rb") as lines:
        done = subprocess.run([*HOLDOVER, "run", str(config)], stdin=lines, capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr.decode()
    assert ("tachycardia", "start") in labels(tmp_path / "ledger.db")
    assert delivered(tmp_path / "ledger.db")


def test_lines_that_end_give_what_a_replay_gives(broker: Broker, tmp_path: Path) -> None:
    source = 'id = "bed"\nsource = { kind = "stdin", rate_hz = 360, leads = "MLII", unit = "mV" }'
    config = configure(tmp_path, broker.port, source)
    samples = np.array([float(line) for line in lines_of(signal_mv()[:36000])], np.float32)
    (tmp_path / "lines.txt").write_bytes(b"".join(lines_of(samples)))
    with (tmp_path / "lines.txt").open("rb") as lines:
        done = subprocess.run([*HOLDOVER, "run", str(config)], stdin=lines, capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr.decode()
    live = [(b["label"], b["phase"], b["event_sample"]) for b in bodies(tmp_path / "ledger.db")]
    whole = [json.loads(line) for line in replayed(a_recording(tmp_path / "whole.npz", samples), "bed")]
    assert live == [(b["label"], b["phase"], b["event_sample"]) for b in whole]


@pytest.mark.parametrize("stamp", ["1e15", "1e30", "-1e300", "nan", "1731535999.9"])
def test_one_impossible_stamp_neither_ends_the_daemon_nor_poisons_its_journal(stamp: str, tmp_path: Path) -> None:
    source = 'id = "bed"\nsource = { kind = "stdin", rate_hz = 360, leads = "MLII", time = "s" }'
    config = configure(tmp_path, free_port(), source, ledger="checkpoint_s = 3600")
    x = signal_mv()
    lines = [f"{1.7e9 + i / 360:.6f},{x[i]:.4f}\n" for i in range(7200)]
    for i in range(2):
        with Daemon(config, stdin=subprocess.PIPE) as daemon:
            daemon.ready()
            assert daemon.process.stdin is not None
            daemon.process.stdin.write("".join([*lines[:3600], f"{stamp},0.1\n", *lines[3600:]]).encode())
            daemon.process.stdin.flush()
            wait_until(lambda: daemon.is_up() and len(list(tmp_path.rglob("*.journal"))) > 0, "a journal")
            time.sleep(1)
            assert daemon.is_up(), daemon.talk()
            daemon.kill() if i == 0 else daemon.stop()
            assert "Traceback" not in daemon.talk()


def test_another_recording_under_the_same_name_begins_anew(tmp_path: Path) -> None:
    first = configure(tmp_path, free_port(), from_file("bed", a_recording(tmp_path / "one.npz"), 60))
    with Daemon(first) as daemon:
        wait_until(lambda: len(rows(tmp_path / "ledger.db")) >= 3, "three alerts")
        assert daemon.stop() == 0
    other = a_recording(tmp_path / "other.npz", signal_mv()[: 60 * 360][::-1].copy())
    with any_broker() as broker, Daemon(configure(tmp_path, broker.port, from_file("bed", other, 200))) as daemon:
        daemon.hear("another recording: beginning anew")
        assert daemon.end() == 0, daemon.talk()
    expected = replayed(other, "bed")
    assert bare(bodies(tmp_path / "ledger.db"))[-len(expected) :] == expected


def test_text_in_row_7_ends_the_daemon_with_3_and_its_place(broker: Broker, tmp_path: Path) -> None:
    samples = [f"{value:.4f}" for value in signal_mv()[:3600]]
    samples[5] = "broken"
    (tmp_path / "ecg.csv").write_text("MLII\n" + "\n".join(samples) + "\n")
    stream = f'id = "bed"\nspeed = 1000\nsource = {{ kind = "csv", path = "{tmp_path}/ecg.csv", rate_hz = 360 }}'
    with Daemon(configure(tmp_path, broker.port, stream)) as daemon:
        assert daemon.end() == 3, daemon.talk()
    assert "row 7" in daemon.talk()
    assert "column" in daemon.talk()
    assert "broken" in daemon.talk()
    assert "Traceback" not in daemon.talk()


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas
def test_a_stream_that_fails_does_not_end_its_neighbours(broker: Broker, tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb", reason="needs holdover[replay]")
    x = np.tile(np.rint(signal_mv() * 200).astype(np.int64), 3)[:, np.newaxis]
    wfdb.wrsamp(
        "bad", fs=360, units=["mV"], sig_name=["MLII"], d_signal=x, fmt=["16"], adc_gain=[200], baseline=[0],
        write_dir=str(tmp_path),
    )  # fmt: skip
    bad = f'id = "bad"\nspeed = 400\nsource = {{ kind = "wfdb", path = "{tmp_path}/bad" }}'
    record = a_recording(tmp_path / "208.npz")
    with Daemon(configure(tmp_path, broker.port, bad, from_file("good", record, 100))) as daemon:
        daemon.ready()
        os.truncate(tmp_path / "bad.dat", 1000)
        daemon.hear("bad: the source ended")
        assert daemon.is_up()
        assert daemon.end() == 3, "all have ended, and one of them failed"
    told = [body["label"] for body in bodies(tmp_path / "ledger.db", "bad")]
    assert told.count("source_failed") == 2, "a source that fails is an alarm"
    assert bare(bodies(tmp_path / "ledger.db"), "good") == replayed(record, "good")
    assert delivered(tmp_path / "ledger.db")


def test_the_daemon_loads_none_of_the_heavy_libraries(broker: Broker, tmp_path: Path) -> None:
    config = configure(tmp_path, broker.port, from_file("bed", a_recording(tmp_path / "208.npz"), 200))
    seen = tmp_path / "modules.txt"
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(config), str(seen)], capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr.decode()
    code, *modules = seen.read_text().split("\n")
    assert code == "0"
    assert "onnxruntime" in modules
    assert [name for name in HEAVY if name in modules] == []
    print(f"at most {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB resident")
