"""The subscriber stores each alert once, before it says that it has it."""

import json
import os
import pty
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.apps.broker import Broker
from holdover.apps.subscriber.alert_table import TableView
from holdover.apps.subscriber.alert_view import JsonView, PlainView
from holdover.apps.subscriber.hook import NAMES, _environment
from holdover.apps.subscriber.inbox import Inbox, Letter, default_store
from holdover.apps.subscriber.inbox_file import open_to_read
from holdover.apps.subscriber.reception import Reception
from holdover.runtime.ledger import Ledger
from holdover.runtime.mqtt import Event, Link
from holdover.runtime.mqtt_options import MqttOptions
from holdover.runtime.sinks.mqtt import MqttSink
from tests.brokers import Subscriber, an_alert, drain, fill, mosquitto, publish, publisher, wait_until

TOPIC = "holdover/pi/streams/ecg/alert"


@pytest.fixture
def broker() -> Iterator[Broker]:
    with mosquitto() as running:
        yield running


def send(broker: Broker, folder: Path, *numbers: int) -> None:
    """Alerts of these numbers, from a ledger of their own."""
    with _sending(broker, folder) as (ledger, sink):
        fill(ledger, *numbers)
        drain(ledger, sink)


@contextmanager
def _sending(broker: Broker, folder: Path) -> Iterator[tuple[Ledger, MqttSink]]:
    sink = MqttSink(MqttOptions(port=broker.port), "pi", "boot-1")
    sink.start()
    try:
        with Ledger(folder / "sender.db") as ledger:
            yield ledger, sink
    finally:
        sink.close()


def ids(*numbers: int) -> list[str]:
    return [an_alert(number).body()["event_id"] for number in numbers]


def stored(folder: Path) -> list[str]:
    with closing(open_to_read(folder / "alerts.db")) as db:
        return [key for (key,) in db.execute("SELECT event_id FROM alert ORDER BY id")]


def waiting(folder: Path) -> int:
    with closing(Inbox(folder / "alerts.db")) as inbox:
        return len(inbox.errands())


def test_a_pipe_gets_one_json_object_a_line(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path) as subscriber:
        subscriber.listening()
        send(broker, tmp_path, 1, 2, 3)
        wait_until(lambda: len(subscriber.alerts()) == 3, "three alerts")
        assert subscriber.stop() == 0
        assert [alert["event_id"] for alert in subscriber.alerts()] == ids(1, 2, 3)
        assert all(alert["received_time"] >= alert["published_time"] for alert in subscriber.alerts())
        assert subscriber.talk().splitlines()[-1] == "3 alerts"


def test_a_restart_repeats_nothing_and_misses_nothing(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--count", "2") as subscriber:
        subscriber.listening()
        send(broker, tmp_path, 1, 2)
        assert subscriber.end() == 0
    send(broker, tmp_path, 3, 4)
    (tmp_path / "sender.db").unlink()
    send(broker, tmp_path, 2, 1)
    with Subscriber(broker, tmp_path, "--wait", "1") as subscriber:
        assert subscriber.end() == 0
        assert [alert["event_id"] for alert in subscriber.alerts()] == ids(3, 4)
        assert subscriber.talk().splitlines()[-1] == "2 alerts, 2 repeated"
    assert stored(tmp_path) == ids(1, 2, 3, 4)


def test_a_subscriber_that_is_killed_has_each_alert_once_in_the_end(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path) as subscriber:
        subscriber.listening()
        sender = publisher(tmp_path / "ledger.db", broker, 150)
        _wait_for_lines(tmp_path, 20)
    with Subscriber(broker, tmp_path):
        _wait_for_lines(tmp_path, 80)
    with Subscriber(broker, tmp_path) as subscriber:
        assert sender.wait(20) == 0
        wait_until(lambda: '"stream_seq":150' in (tmp_path / "subscriber.out").read_text(), "the last alert")
        assert subscriber.stop() == 0
    assert stored(tmp_path) == ids(*range(1, 151))
    lines = [json.loads(line)["stream_seq"] for line in (tmp_path / "subscriber.out").read_text().splitlines()]
    assert lines == sorted(set(lines))


def _wait_for_lines(folder: Path, count: int) -> None:
    out = folder / "subscriber.out"
    wait_until(lambda: out.read_bytes().count(b"\n") >= count, f"{count} alerts")


def test_what_is_no_alert_is_counted_and_never_a_crash(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--count", "1", "--wait", "20") as subscriber:
        subscriber.listening()
        for payload in (
            b"",
            b"no json",
            b"[1]",
            b"{}",
            b'{"event_id": 7}',
            b'{"event_id": ""}',
            b"[" * 100_000,
            b"\xff",
        ):
            publish(broker, TOPIC, payload)
        publish(broker, TOPIC, b'{"event_id": "of others", "stream_seq": "x", "label": null}')
        assert subscriber.end() == 0
        assert [alert["event_id"] for alert in subscriber.alerts()] == ["of others"]
        assert subscriber.talk().count("is no alert") == 1
        assert subscriber.talk().splitlines()[-1] == "1 alerts, 8 unreadable"


HOSTILE = (
    b'{"event_id": "a", "stream_seq": 99999999999999999999999}',
    b'{"event_id": "b", "stream_seq": true, "score": ' + b"9" * 400 + b"}",
    b'{"event_id": "c", "stream_seq": -1, "label": "' + b"x" * 200_000 + b'", "priority": "\\u0000"}',
    b'{"event_id": "d", "score": "high", "label": {"a": [1]}, "phase": [], "node": 1e300}',
)


def test_hostile_alerts_are_taken_like_any_other(broker: Broker, tmp_path: Path) -> None:
    hook = ("--exec", f'echo "$HOLDOVER_EVENT_ID ${{#HOLDOVER_LABEL}}" >> {tmp_path}/hook.log')
    with Subscriber(broker, tmp_path, *hook, "--count", "4", "--wait", "20") as subscriber:
        subscriber.listening()
        for payload in HOSTILE:
            publish(broker, TOPIC, payload)
        publish(broker, TOPIC, b'{"event_id": "deep", "x": ' + b"[" * 900 + b"]" * 900 + b"}")
        assert subscriber.end() == 0
        assert [alert["event_id"] for alert in subscriber.alerts()] == ["a", "b", "c", "d"]
        assert "Traceback" not in subscriber.talk()
    assert stored(tmp_path) == ["a", "b", "c", "d"]
    assert waiting(tmp_path) == 0
    assert (tmp_path / "hook.log").read_text().splitlines() == ["a 0", "b 0", "c 1024", "d 0"]


def test_a_letter_that_cannot_be_stored_leaves_no_transaction_open(tmp_path: Path) -> None:
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        good = Letter("good", "pi", "ecg", 1, {"event_id": "good"})
        for bad in (good._replace(event_id="bad", stream_seq=2**63), good._replace(event_id="\ud800")):
            with pytest.raises((OverflowError, UnicodeEncodeError)):
                inbox.store([good, bad], 0.0)
            assert not inbox._db.in_transaction
        assert [fate.is_new for fate in inbox.store([good], 0.0)] == [True]


def _reception(inbox: Inbox, view: Any) -> Reception:
    reception = Reception(SimpleNamespace(), inbox, view, base="holdover")  # type: ignore[arg-type]
    reception._client = SimpleNamespace(ack=lambda *_: None)  # type: ignore[assignment]
    return reception


def _message(payload: bytes) -> Any:
    return SimpleNamespace(topic=TOPIC, payload=payload, retain=False, mid=1, qos=1)


words = st.text() | st.text("\0\ud800\x1b\u202e\u00e9\U0001f600", max_size=5) | st.just("\u00e9" * 3000)
numbers = st.integers() | st.sampled_from([10**400, -(10**4200), 2**63, 2**63 - 1, 0, True]) | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(words, inside, max_size=3),
    max_leaves=8,
)
fields = ("stream_seq", "score", "received_time", *NAMES[1:])
contents = st.builds(
    lambda known, other, key: other | known | {"event_id": key},
    st.dictionaries(st.sampled_from(fields), values),
    st.dictionaries(words, values, max_size=3),
    st.text(min_size=1, max_size=200) | words,
)


def _check_environment(content: dict[str, Any]) -> None:
    for name, value in _environment(content).items():
        assert name.startswith(b"HOLDOVER_")
        assert len(value) <= 1024
        assert b"\0" not in value
        value.decode()


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inbox]:
    with closing(Inbox(tmp_path_factory.mktemp("inbox") / "alerts.db")) as inbox:
        inbox._db.execute("PRAGMA synchronous = OFF")
        yield inbox


@pytest.mark.parametrize("kind", [JsonView, PlainView, TableView])
def test_no_payload_whatever_stops_the_subscriber(inbox: Inbox, kind: type[JsonView] | type[TableView]) -> None:
    if kind is TableView:
        pytest.importorskip("rich", reason="rich is not installed (pip install 'holdover[replay]')")
    view = kind()

    @settings(max_examples=300, deadline=None)
    @given(st.lists(contents, min_size=1, max_size=3))
    def check(several: list[dict[str, Any]]) -> None:
        inbox._db.execute("DELETE FROM alert")
        reception = _reception(inbox, view)
        for ascii_only in (True, False):
            texts = [json.dumps(content, ensure_ascii=ascii_only) for content in several]
            reception._receive([_message(text.encode("utf-8", "surrogatepass")) for text in texts])
        assert sum(reception.tally[kind] for kind in ("new", "repeated", "unreadable")) == 2 * len(several)
        for content in several:
            _check_environment(content)
            if kind is not JsonView:
                view.alert("pi", "ecg", content, 1.7e9)

    check()
    view.close()


def test_a_retained_alert_is_no_event(broker: Broker, tmp_path: Path) -> None:
    publish(broker, TOPIC, an_alert(1).body_json(), retain=True)
    with Subscriber(broker, tmp_path, "--wait", "1") as subscriber:
        assert subscriber.end() == 0
        assert subscriber.alerts() == []
        assert "ignored a retained alert" in subscriber.talk()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(broker: Broker, tmp_path: Path, number: signal.Signals) -> None:
    with Subscriber(broker, tmp_path) as subscriber:
        subscriber.listening()
        subscriber.process.send_signal(number)
        assert subscriber.end() == 0
        assert "Traceback" not in subscriber.talk()


def test_too_few_alerts_in_time_is_a_status_of_its_own(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--count", "1", "--wait", "0.3") as subscriber:
        assert subscriber.end() == 1


def test_a_broker_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    with mosquitto() as gone:
        pass
    with Subscriber(gone, tmp_path, "--wait", "1.5") as subscriber:
        assert subscriber.end() == 0
        assert subscriber.talk().count("cannot reach a broker") == 1


def test_a_reader_that_goes_away_is_no_error(broker: Broker, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "holdover.apps.subscribe", "--port", str(broker.port)]
    with subprocess.Popen([*command, "--store", tmp_path / "alerts.db"], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stderr.readline()
        process.stdout.close()
        send(broker, tmp_path, 1)
        talk = process.stderr.read()
        assert process.wait(10) == 0
    assert "Traceback" not in talk


def test_two_subscribers_on_one_store_are_kept_apart(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path) as first:
        first.listening()
        with Subscriber(broker, tmp_path) as second:
            assert second.end() == 5
            assert f"held by process {first.process.pid}" in second.talk()


def test_a_terminal_shows_a_table_of_80_columns(broker: Broker, tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="rich is not installed (pip install 'holdover[replay]')")
    main, side = pty.openpty()
    command = [sys.executable, "-m", "holdover.apps.subscribe", "--port", str(broker.port), "--count", "3"]
    env = os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen([*command, "--store", tmp_path / "alerts.db"], stdout=side, stderr=side, env=env) as process:
        os.close(side)
        shown = _read_until(main, b"stored in")
        send(broker, tmp_path, 1, 2)
        publish(broker, TOPIC, b'{"event_id": "x", "label": "\\u001b[2Jevil"}')
        shown += _read_until(main, b"never said")
        assert process.wait(20) == 0
    os.close(main)
    text = shown.decode()
    assert "ventricular_tachycardia" in text
    assert "pi/ecg" in text
    assert "?[2Jevil" in text


def _read_until(fd: int, words: bytes) -> bytes:
    """What a terminal gets, up to these words or its end."""
    data = b""
    with suppress(OSError):
        while words not in data and (part := os.read(fd, 65536)):
            data += part
    return data


def test_help_is_light(tmp_path: Path) -> None:
    script = """
import sys
from holdover.apps import subscribe
import argparse
parser = argparse.ArgumentParser()
subscribe.add_arguments(parser)
assert max(map(len, parser.format_help().splitlines())) <= 80
heavy = {"numpy", "onnxruntime", "paho", "rich", "msgspec", "sqlite3"} & set(sys.modules)
assert not heavy, heavy
"""
    env = os.environ | {"COLUMNS": "80", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=env)


def test_alerts_are_kept_in_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_store() == tmp_path / "holdover" / "alerts.db"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_store() == tmp_path / "home" / ".local" / "state" / "holdover" / "alerts.db"


def test_a_signal_that_outlasts_the_wait_for_events_does_not_hold_it_up() -> None:
    link = Link(MqttOptions(), "test")
    before = signal.signal(signal.SIGUSR1, lambda *_: time.sleep(0.1))
    try:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        rescue = threading.Timer(5, link.events.put, (Event("down", None),))  # type: ignore[arg-type]
        rescue.start()
        with pytest.raises(queue.Empty):
            link.events.get(timeout=0.05)
        rescue.cancel()
    finally:
        signal.signal(signal.SIGUSR1, before)
