"""What is stored is shown again, filtered; and what cannot be is refused in words."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdover.apps.broker import Broker
from holdover.apps.subscribe import main
from holdover.apps.subscriber.alert_filter import AlertFilter, make_filter, moment
from holdover.apps.subscriber.inbox import Inbox, Letter, Notice
from holdover.apps.subscriber.inbox_file import open_to_read
from holdover.apps.subscriber.numbering import Account
from holdover.runtime.errors import LedgerError, UsageError
from holdover.runtime.ledger import Ledger
from tests.brokers import Subscriber, mosquitto, publish

PRIORITIES = ("high", "medium", "low", "info")


@pytest.fixture
def broker() -> Iterator[Broker]:
    with mosquitto() as running:
        yield running


def letter(number: int, stream: str = "ecg", node: str = "pi", **more: Any) -> Letter:
    key = f"{node}/{stream} {number}"
    content = {"event_id": key, "label": "pause", "phase": "start", "priority": PRIORITIES[number % 4]} | more
    return Letter(key, node, stream, number, content)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two days of alerts of two streams: one an hour, numbers 1 to 48, of which 7 and 8 were given up and 9 is lost."""
    now = time.time()
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        for number in (n for n in range(1, 49) if n not in (7, 8, 9)):
            inbox.store([letter(number), letter(number, "bed", "pi-2")], now - 3600 * (48.5 - number))
        inbox.store([Notice("pi", "ecg", Account(5, 9, 2), b"{}", "")], now)
    return tmp_path / "alerts.db"


def looked_back(store: Path, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[list[dict[str, Any]], list[str]]:
    assert main(["--no-follow", "--store", str(store), *args]) == 0
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err.splitlines()


def test_the_history_needs_no_broker_and_tells_what_did_not_come(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, said = looked_back(store, capsys)
    assert len(shown) == 90
    received = [alert["received_time"] for alert in shown]
    assert received == sorted(received)
    assert said == [
        "pi/ecg: of the alerts 7-9 1 did not come, which nothing explains, 2 were given up by the node, which said so",
        "pi-2/bed: of the alerts 7-9 3 did not come, which nothing explains",
        "90 alerts, 4 missing, 2 given up",
    ]


def test_the_history_begins_where_it_is_asked_to(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(looked_back(store, capsys, "--since", "3h")[0]) == 6
    assert len(looked_back(store, capsys, "--since", "90m")[0]) == 2
    then = datetime.now(UTC) - timedelta(hours=5)
    assert len(looked_back(store, capsys, "--since", then.isoformat())[0]) == 10
    assert len(looked_back(store, capsys, "--since", then.astimezone().replace(tzinfo=None).isoformat())[0]) == 10
    assert looked_back(store, capsys, "--since", "2999-01-01")[0] == []


def test_the_history_is_filtered(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown, said = looked_back(store, capsys, "--stream", "pi/*", "--priority", "medium")
    assert {alert["priority"] for alert in shown} == {"high", "medium"}
    assert {alert["event_id"].split()[0] for alert in shown} == {"pi/ecg"}
    assert len(shown) == 22
    assert [line for line in said if "pi-2" in line] == []
    assert len(looked_back(store, capsys, "--stream", "*/bed", "--stream", "pi/ecg")[0]) == 90
    assert len(looked_back(store, capsys, "--priority", "info")[0]) == 90
    assert looked_back(store, capsys, "--stream", "pi/ecg2")[0] == []


def test_a_filter_hides_nothing_that_it_cannot_judge() -> None:
    only = AlertFilter("high")
    for odd in (None, "grave", 7, ["high"], {"high": 1}):
        assert only.passes("pi", "ecg", {"priority": odd})
    assert only.passes("pi", "ecg", {})
    assert not only.passes("pi", "ecg", {"priority": "medium"})


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2", "2y", "-2h", "2 h", "1e3s", "2026-13-01", "0001-01-01T00:00", "9" * 30 + "d"]
)
def test_times_that_are_none_are_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time such as"):
        moment(text)


@pytest.mark.parametrize("pattern", ["", "ecg", "/ecg", "pi/", "a/b/c"])
def test_patterns_that_are_none_are_refused_in_words(pattern: str) -> None:
    with pytest.raises(UsageError, match="expected NODE/STREAM"):
        make_filter(None, [pattern])


def test_the_history_is_read_beside_the_process_that_receives(
    broker: Broker, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Subscriber(
        broker, store.parent, "--since", "90m", "--stream", "pi/ecg", "--count", "1", "--wait", "20"
    ) as live:
        live.listening()
        assert len(looked_back(store, capsys)[0]) == 90
        publish(broker, "holdover/pi/streams/ecg/alert", json.dumps(letter(49).content).encode())
        assert live.end() == 0
        assert [alert["event_id"] for alert in live.alerts()] == ["pi/ecg 48", "pi/ecg 49"]
    assert len(looked_back(store, capsys)[0]) == 91


def test_looking_back_changes_nothing(tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = store.read_bytes()
    looked_back(store, capsys)
    assert store.read_bytes() == before
    missing = tmp_path / "none" / "alerts.db"
    assert main(["--no-follow", "--store", str(missing)]) == LedgerError.exit_code
    assert "no alert store" in capsys.readouterr().err
    assert not missing.parent.exists()


def test_options_about_new_alerts_are_refused_without_a_broker(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, name in ((["--exec", "true"], "--exec"), (["--confirm"], "--confirm"), (["--count", "2"], "--count")):
        assert main(["--no-follow", "--store", str(store), *args]) == UsageError.exit_code
        assert f"{name} is about new alerts" in capsys.readouterr().err


OTHERS = {
    "newer": ("PRAGMA application_id = 0x484F4C41; PRAGMA user_version = 4; CREATE TABLE alert (x)", "has schema 4"),
    "version unknown": ("PRAGMA user_version = 7; CREATE TABLE alert (x)", "another program's"),
    "of others": ("CREATE TABLE bookmarks (x)", "another program's"),
    "of others, as old": ("PRAGMA user_version = 1; CREATE TABLE bookmarks (x)", "another program's"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_store_of_another_version_or_program_is_refused_and_left_alone(kind: str, tmp_path: Path) -> None:
    path, (script, words) = tmp_path / "alerts.db", OTHERS[kind]
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)
    before = path.read_bytes()
    for opened in (Inbox, open_to_read):
        with pytest.raises(LedgerError, match=words):
            opened(path)
    assert path.read_bytes() == before


def test_a_ledger_of_the_daemon_is_no_store(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db"):
        pass
    with pytest.raises(LedgerError, match="another program's SQLite file: choose another --store"):
        Inbox(tmp_path / "ledger.db")


@pytest.mark.parametrize(
    "data", [b"no database, but long enough to be one" * 200, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_database_is_refused_in_words(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "alerts.db").write_bytes(data)
    for opened in (Inbox, open_to_read):
        with pytest.raises(LedgerError, match="cannot be used"):
            opened(tmp_path / "alerts.db")


def test_a_store_that_nothing_was_received_in_is_told_from_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "alerts.db").touch()
    with pytest.raises(LedgerError, match="is empty: receive alerts first"):
        open_to_read(tmp_path / "alerts.db")
