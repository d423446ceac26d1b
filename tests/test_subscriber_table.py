"""The live table on a terminal of 80 columns."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from holdover.apps.subscriber import alert_table
from holdover.apps.subscriber.inbox import Inbox, Letter
from holdover.runtime.mqtt_options import MqttOptions
from holdover.runtime.sinks.mqtt import MqttSink
from tests.brokers import mosquitto, publish, wait_until

pytest.importorskip("rich", reason="rich is not installed (pip install 'holdover[replay]')")
from rich.console import Console

STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
STYLE = re.compile(r"\x1b\[[0-9;?]*[mlh]")
MOVE = re.compile(r"\x1b\[[0-9;]*[A-Z]|[\r\n]")


@pytest.fixture
def view(monkeypatch: pytest.MonkeyPatch) -> Iterator[alert_table.TableView]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    table = alert_table.TableView()
    yield table
    table.close()


def drawn(view: alert_table.TableView) -> list[str]:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(view._table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def said(key: str, label: str = "asystole", phase: str = "start", **more: Any) -> dict[str, Any]:
    return {"event_id": f"{key} {phase}", "episode_id": key, "label": label, "phase": phase, "priority": "high"} | more


def test_an_episode_is_one_row_from_its_start_to_its_end(view: alert_table.TableView) -> None:
    now = time.time()
    view.alert("pi", "ecg", said("a", "frequent_ventricular_beats", priority="low", score=0.5), now - 130)
    view.alert("pi", "ecg", said("b"), now - 7)
    head, first, second, caption = drawn(view)
    assert head.split() == ["age", "priority", "state", "label", "from", "score"]
    assert first.split() == ["2m", "low", "ongoing", "frequent_ventricular_beats", "pi/ecg", "0.50"]
    assert second.split() == ["7s", "high", "ongoing", "asystole", "pi/ecg"]
    assert caption == "2 alerts, 2 ongoing"
    view.alert("pi", "ecg", said("b", phase="update"), now)
    view.alert("pi", "ecg", said("b", phase="end", end_reason="signal_lost"), now)
    _, first, second, caption = drawn(view)
    assert second.split() == ["0s", "high", "signal_lost", "asystole", "pi/ecg"]
    assert caption == "4 alerts, 1 ongoing"


def test_a_hook_that_was_given_up_is_marked_and_counted(view: alert_table.TableView) -> None:
    content = said("a", "frequent_ventricular_beats")
    view.alert("pi", "ecg", content, time.time())
    view.hook_failed("pi", "ecg", content)
    view.hook_failed("pi", "ecg", said("long gone"))
    _, row, caption = drawn(view)
    assert row.split()[3:5] == ["frequent_ventricular_bea", "!"]
    assert caption == "1 alerts, 1 ongoing; 2 hook failed (!)"
    assert len(row) <= 80


def test_what_is_open_on_a_lost_monitor_is_not_known_any_more(view: alert_table.TableView) -> None:
    view.alert("pi", "ecg", said("a"), time.time())
    view.alert("pi-2", "ecg", said("b"), time.time())
    view.alert("pi", "ecg", said("c", phase="end", end_reason="recovered"), time.time())
    view.status("pi", False)
    assert "monitor lost asystole" in drawn(view)[1]
    assert "ongoing" in drawn(view)[2]
    assert "recovered" in drawn(view)[3]
    assert "monitor lost: pi (0s)" in drawn(view)[-1]
    view.status(None, False)
    assert "no broker" in drawn(view)[2]
    assert "no broker (0s)" in drawn(view)[-1]
    view.status("pi", True)
    view.status(None, True)
    assert "lost" not in "".join(drawn(view))
    assert "no broker" not in "".join(drawn(view))


def test_what_is_open_and_grave_stays_when_there_is_no_room(view: alert_table.TableView) -> None:
    view.alert("pi", "ecg", said("grave"), 1.0)
    for number in range(40):
        view.alert("pi", "ecg", said(f"low {number}", "pause", priority="low"), 2.0 + number)
        view.alert("pi", "ecg", said(f"low {number}", "pause", "end", priority="low"), 2.5 + number)
    lines = drawn(view)
    assert len(lines) <= 24
    assert "asystole" in lines[1]
    assert lines[-1].endswith("rows not shown")


def test_what_the_table_keeps_is_bounded(view: alert_table.TableView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_table, "KEPT", 10)
    view.alert("pi", "ecg", said("grave"), 1.0)
    for number in range(30):
        view.alert("pi", "ecg", said(f"low {number}", "pause", priority="low"), 2.0 + number)
    assert len(view._episodes) == 10
    assert "asystole" in drawn(view)[1]


def test_no_row_is_wider_than_the_terminal(view: alert_table.TableView) -> None:
    long = "x" * 300
    view.alert(long, long, said(long, long, priority=long, score=-9.99), 1.0)
    view.alert("\x1b[2J", "\u4e2d\u6587" * 20, said("b", "\u202e\n\x1b[2J", "end", end_reason="\x07" * 50), 1.0)
    view.status("\x1b[31m", False)
    lines = drawn(view)
    assert all(len(line) <= 80 for line in lines)
    assert all(line.isprintable() for line in lines)


class Terminal:
    """A terminal of 80 columns, and what was written to it."""

    def __init__(self) -> None:
        self.main, self.side = pty.openpty()
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._data = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        return STEERING.sub("", bytes(self._data).decode(errors="replace"))

    @property
    def lines(self) -> list[str]:
        """Each line as often as it was drawn."""
        return MOVE.split(STYLE.sub("", bytes(self._data).decode(errors="replace")))

    def _read(self) -> None:
        with suppress(OSError):
            while part := os.read(self.main, 65536):
                self._data += part

    def close(self) -> None:
        os.close(self.side)
        self._thread.join(5)
        os.close(self.main)


def test_a_terminal_shows_ages_ends_and_a_lost_monitor(tmp_path: Path) -> None:
    terminal = Terminal()
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    with mosquitto() as broker:
        command = [sys.executable, "-m", "holdover.apps.subscribe", "--port", str(broker.port)]
        command += ["--store", str(tmp_path / "alerts.db")]
        side = terminal.side
        with subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, env=environment | {"TERM": "xterm"}
        ) as live:
            wait_until(lambda: "listening" in terminal.text, "it listens")
            sink = MqttSink(MqttOptions(port=broker.port, will_delay_s=0), "pi", "boot-1")
            sink.start()
            wait_until(lambda: sink.poll() and "monitor online: pi" in terminal.text, "the monitor is there")
            topic = "holdover/pi/streams/ecg/alert"
            publish(broker, topic, json.dumps(said("a")).encode())
            publish(broker, topic, json.dumps(said("b", "pause", priority="medium")).encode())
            wait_until(lambda: "1s high     ongoing" in terminal.text, "it grows older")
            publish(broker, topic, json.dumps(said("b", "pause", "end", end_reason="recovered")).encode())
            wait_until(lambda: "recovered    pause" in terminal.text, "the end is shown")
            sink.close()
            wait_until(lambda: "monitor lost asystole" in terminal.text, "what is open is not known")
            wait_until(lambda: "monitor lost: pi (1s)" in terminal.text, "since when")
            live.terminate()
            assert live.wait(10) == 0
    terminal.close()
    assert "3 alerts" in terminal.text.splitlines()[-1]
    assert max(map(len, terminal.lines)) == 80


def test_the_history_on_a_terminal_is_lines_of_80_columns(tmp_path: Path) -> None:

    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        for number in range(3):
            content = said(str(number), "frequent_ventricular_beats", score=0.123)
            inbox.store([Letter(content["event_id"], "a-node", "a-long-stream-name", number + 1, content)], 1.7e9)
    terminal = Terminal()
    command = [sys.executable, "-m", "holdover.apps.subscribe", "--no-follow", "--store", str(tmp_path / "alerts.db")]
    subprocess.run(command, stdin=terminal.side, stdout=terminal.side, stderr=terminal.side, check=True)
    wait_until(lambda: "3 alerts" in terminal.text, "it is all shown")
    terminal.close()
    lines = terminal.text.splitlines()
    assert lines[0].split()[2:] == ["high", "start", "frequent_ventricular_beats", "a-node/a-long-st", "0.12"]
    assert max(map(len, lines)) <= 80
