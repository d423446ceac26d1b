"""The daemon as a service sees it: signs of life, status, metrics, logs, credentials, the walls of its unit."""

import ctypes
import ctypes.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdover.apps.metrics import Report, StreamReport, exposition
from holdover.apps.status import SYSTEM_SOCKET, Beacon, socket_beside
from tests.brokers import any_broker, mosquitto, wait_until
from tests.processes import (
    PATIENCE_S,
    Caller,
    Daemon,
    Sensor,
    a_recording,
    configure,
    free_port,
    from_file,
    from_tcp,
    holdover,
    labels,
    lines_of,
    signal_mv,
)

# A source as anybody could bring it, which does what a broken driver does.
BROKEN = """
import ctypes, threading, time
import numpy as np
from holdover.runtime.chunk import Chunk

class Broken:
    name, rate_hz, channels, units, epoch, length = "broken", 360.0, ("MLII",), ("mV",), None, None

    def __init__(self, how): self.how, self.open = how, True
    def seek(self, sample): return False
    def close(self): self.open = False

    def chunks(self):
        for i in range(20):
            yield Chunk(i * 36, np.random.rand(36, 1).astype(np.float32), None, time.time())
            time.sleep(0.1)
        if self.how == "dies":
            raise SystemExit
        if self.how == "kills the link":
            (link,) = [thread for thread in threading.enumerate() if thread.name.startswith("mqtt-")]
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(link.ident), ctypes.py_object(SystemExit))
        while self.open:
            time.sleep(0.1)
            if self.how != "hangs":
                yield Chunk(720, np.zeros((0, 1), np.float32), None, time.time())

def open(how): return Broken(how)
"""


@pytest.fixture
def plugged(tmp_path: Path) -> dict[str, str]:
    """An environment in which the source `broken` is installed."""
    place = tmp_path / "plugins"
    (place / "broken-1.dist-info").mkdir(parents=True)
    (place / "broken_source.py").write_text(BROKEN)
    (place / "broken-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (place / "broken-1.dist-info" / "entry_points.txt").write_text("[holdover.sources]\nbroken = broken_source:open\n")
    return {"PYTHONPATH": str(place)}


# paho waits for the broker in select(): here it never comes back, as in a deadlock of its locks.
FROZEN = """
import select, threading, time
import holdover.runtime.mqtt as mqtt
mqtt.LOOP_LIMIT_S = 2.0
real = select.select
def stuck(*args):
    if {freeze} and threading.current_thread().name.startswith("mqtt-"):
        time.sleep(600)
    return real(*args)
threading.Timer(4.0, lambda: setattr(select, "select", stuck)).start()
"""


class Manager:
    """A service manager's end of NOTIFY_SOCKET."""

    def __init__(self, place: Path) -> None:
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.line.bind(str(place))
        self.line.settimeout(0.1)
        self.environment = {"NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "1000000"}

    def heard(self, seconds: float) -> list[str]:
        """What came within a time."""
        said, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                said.append(self.line.recv(4096).decode())
            except TimeoutError:
                continue
        return said

    def pings(self, seconds: float) -> int:
        return sum("WATCHDOG=1" in said for said in self.heard(seconds))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(tmp_path / "n")
    yield found
    found.line.close()


@contextmanager
def running(config: Path, **environment: str) -> Iterator[Daemon]:
    with Daemon(config, env=os.environ | environment) as daemon:
        yield daemon.ready()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("hangs", "the reader of bed has been stuck for"),
        ("dies", "the reader of bed has died"),
        ("kills the link", "the thread of the broker's connection has ended"),
    ],
)
def test_a_thread_that_is_stuck_or_dead_stops_the_pings(
    how: str, words: str, tmp_path: Path, manager: Manager, plugged: dict[str, str]
) -> None:
    config = configure(tmp_path, free_port(), f'id = "bed"\nsource = {{ kind = "broken", how = "{how}" }}')
    with running(config, **manager.environment, **plugged) as daemon:
        assert manager.pings(1.5) >= 1, "it lives"
        daemon.hear(words)
        manager.heard(0.6)
        said = manager.heard(3)
        assert any(words in status for status in said), "the manager is told why"
        assert not any("WATCHDOG=1" in status for status in said)
        assert daemon.talk().count("is not told that the daemon lives") == 1
        assert words in holdover("status", config).stdout
        assert holdover("status", config).returncode == 1


@pytest.mark.parametrize("freeze", [True, False])
def test_a_link_that_is_frozen_stops_the_pings_and_a_broker_that_is_frozen_does_not(
    freeze: bool, tmp_path: Path, manager: Manager, plugged: dict[str, str]
) -> None:
    source = Path(plugged["PYTHONPATH"]) / "broken_source.py"
    source.write_text(BROKEN + FROZEN.format(freeze=freeze))
    words = "the thread of the broker's connection has been stuck for"
    with mosquitto() as broker:
        stream = 'id = "bed"\nsource = { kind = "broken", how = "goes on" }'
        config = configure(tmp_path, broker.port, stream, mqtt="keepalive_s = 1")
        with running(config, **manager.environment, **plugged) as daemon:
            daemon.hear("connected to")
            assert manager.pings(1.5) >= 1, "it lives"
            if freeze:
                daemon.hear(words)
                manager.heard(0.6)
                assert manager.pings(3) == 0
            else:
                broker.process.send_signal(signal.SIGSTOP)
                daemon.hear("was lost")
                manager.heard(6)
                assert manager.pings(3) >= 2, daemon.talk()
                assert not daemon.said(words)
                broker.process.send_signal(signal.SIGCONT)


def test_a_cable_that_is_pulled_is_an_alarm_and_no_reason_to_be_killed(tmp_path: Path, manager: Manager) -> None:
    port = free_port()
    with running(configure(tmp_path, free_port(), from_tcp("bed", port)), **manager.environment) as daemon:
        with Caller(port) as caller:
            caller.say(lines_of(signal_mv()[:1800]))
            assert manager.pings(2) >= 2
        wait_until(lambda: ("signal_missing", "start") in labels(tmp_path / "ledger.db"), "the alarm", PATIENCE_S)
        manager.heard(15)
        assert manager.pings(4) >= 4, daemon.talk()
        assert daemon.stop() == 0


def test_samples_that_flow_and_files_that_are_slow_keep_it_alive(tmp_path: Path, manager: Manager) -> None:
    port = free_port()
    streams = from_tcp("bed", port), from_file("slow", a_recording(tmp_path / "208.npz"), 0.01)
    with (
        running(configure(tmp_path, free_port(), *streams), **manager.environment) as daemon,
        Sensor(port, lines_of(signal_mv()), speed=2),
    ):
        manager.heard(8)
        assert manager.pings(4) >= 4, daemon.talk()


def test_a_loop_that_is_stopped_says_nothing(tmp_path: Path, manager: Manager) -> None:
    config = configure(tmp_path, free_port(), from_tcp("bed", free_port()))
    with running(config, **manager.environment) as daemon:
        assert manager.pings(2) >= 1
        daemon.send(signal.SIGSTOP)
        manager.heard(0.3)
        assert manager.heard(2) == []
        done = holdover("status", config)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "gives no answer within 3 s: it is stopped or stuck" in done.stderr
        daemon.send(signal.SIGCONT)
        assert manager.pings(2) >= 1


def test_status_tells_how_a_running_daemon_stands(tmp_path: Path) -> None:
    port = free_port()
    deep = tmp_path / ("deep" * 12) / ("deeper" * 8)  # no socket could be called so
    deep.mkdir(parents=True)
    with any_broker() as broker:
        config = configure(deep, broker.port, from_tcp("bed", port), from_tcp("idle", free_port()))
        with running(config) as daemon, Sensor(port, lines_of(signal_mv()), speed=20):
            wait_until(lambda: len(labels(deep / "ledger.db")) > 3, "some alerts", PATIENCE_S)
            time.sleep(1.5)
            done = holdover("status", config, "--json")
            assert done.returncode == 0, done.stderr
            said = json.loads(done.stdout)
            assert (said["schema"], said["running"], said["pid"]) == ("status/1", True, daemon.process.pid)
            assert (said["node"], said["connected"], said["trouble"]) == ("pi", True, "")
            bed, idle = said["streams"]
            assert (bed["id"], bed["quality"], idle["quality"]) == ("bed", "good", "lost")
            assert bed["samples"] > 3600
            assert 0 <= bed["lag_s"] < 10
            assert idle["labels"] == ["signal_missing"]
            assert said["last_alert"]["stream"] in ("bed", "idle")
            words = holdover("status", config)
            assert words.returncode == 0
            assert max(map(len, words.stdout.splitlines()[:2])) <= 80
            for text in ("pi, model ecg-rhythm", "connected", "signal_missing", "last     "):
                assert text in words.stdout
            assert daemon.stop() == 0, daemon.talk()
    assert not list(deep.glob("*.sock"))
    done = holdover("status", config)
    assert done.returncode == 1
    assert done.stderr.startswith("no daemon runs with ")
    assert json.loads(holdover("status", config, "--json").stdout) == {"schema": "status/1", "running": False}


@pytest.mark.skipif(SYSTEM_SOCKET.exists(), reason="a daemon runs as a service here")
def test_status_without_a_configuration_asks_the_service() -> None:
    done = holdover("status")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "no daemon runs as a service; name the configuration of one that runs otherwise (nobody answers at " in (
        done.stderr
    )


@pytest.mark.parametrize("said", [b"no json", b'{"schema": "status/9"}', b"\xff"])
def test_what_answers_in_another_version_is_said_in_a_line(said: bytes, tmp_path: Path) -> None:
    config = configure(tmp_path, free_port(), from_tcp("bed", free_port()))
    beacon = Beacon(socket_beside(tmp_path / "ledger.db"), lambda: said)
    beacon.start()
    done = holdover("status", config, cwd=tmp_path)
    beacon.close()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is no report of this version" in done.stderr


def test_a_socket_that_a_killed_daemon_left_behind_is_taken_over(tmp_path: Path) -> None:
    config = configure(tmp_path, free_port(), from_tcp("bed", free_port()))
    with running(config) as daemon:
        daemon.kill()
    (place,) = tmp_path.glob("*.sock")
    assert place.stat().st_mode & 0o777 == 0o600, "others may not ask"
    assert holdover("status", config).returncode == 1
    with running(config) as daemon:
        wait_until(lambda: holdover("status", config).returncode == 0, "it answers")
        assert daemon.stop() == 0


def test_where_the_socket_cannot_be_the_daemon_runs(tmp_path: Path) -> None:
    config = configure(tmp_path, free_port(), from_tcp("bed", free_port()))
    (tmp_path / "ledger.db.sock").mkdir()
    with running(config) as daemon:
        assert daemon.said("'holdover status' will find nobody")
        assert daemon.stop() == 0


def _scrape(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())


LINE = re.compile(r'holdover_[a-z_]+(\{([a-z_0-9]+="([^"\\\n]|\\.)*",?)+\})? -?[0-9.e+-]+')


def test_metrics_are_what_prometheus_reads_and_on_this_machine_alone(tmp_path: Path) -> None:
    port, metrics = free_port(), free_port()
    config = configure(tmp_path, free_port(), from_tcp("bed", port))
    log = tmp_path / "daemon.log"
    command = [sys.executable, "-m", "holdover", "run", str(config), "--metrics", str(metrics), "--log", "json"]
    with log.open("wb") as talk, subprocess.Popen(command, stderr=talk, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: b'"ready:' in log.read_bytes(), "it is ready", PATIENCE_S)
            with Sensor(port, lines_of(signal_mv()), speed=20):
                wait_until(lambda: 'signal{stream="bed"} 1' in _scrape(metrics), "the signal", PATIENCE_S)
                text = _scrape(metrics)
            with pytest.raises(urllib.error.HTTPError, match="404"):
                _scrape(metrics, "/")
            idle = socket.create_connection(("127.0.0.1", metrics))
            bound = subprocess.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True).stdout
            taken = holdover("run", _elsewhere(tmp_path), "--metrics", str(metrics))
            idle.close()
        finally:
            process.terminate()
        assert process.wait(20) == 0
    assert [line for line in text.splitlines() if line[0] != "#" and not LINE.fullmatch(line)] == []
    families = re.findall(r"# TYPE (\S+) (gauge|counter)\n", text)
    assert len(families) == len(dict(families)) == text.count("# HELP ")
    assert "holdover_healthy 1\n" in text
    assert "holdover_broker_connected 0\n" in text
    mine = [line.split()[1] for line in bound.splitlines() if f":{metrics:04X} " in line and " 0A " in line]
    assert mine == [f"0100007F:{metrics:04X}"], "127.0.0.1 and nowhere else"
    assert taken.returncode == 2
    assert f"metrics port {metrics} on 127.0.0.1 cannot be had" in taken.stderr
    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} == set(said[0])
    assert any(line["level"] == "warning" and "cannot reach a broker" in line["message"] for line in said)


def test_the_configuration_may_say_the_port_of_the_metrics(tmp_path: Path) -> None:
    metrics = free_port()
    config = configure(tmp_path, free_port(), from_tcp("bed", free_port()), more=f"[metrics]\nport = {metrics}")
    with running(config):
        wait_until(lambda: "holdover_healthy 1" in _scrape(metrics), "it answers")


def _elsewhere(folder: Path) -> Path:
    (folder / "other").mkdir()
    return configure(folder / "other", free_port(), from_tcp("bed", free_port()))


def test_what_is_not_known_is_left_out_and_labels_are_quoted() -> None:
    stream = StreamReport(
        id='a"b\\c\nd', ended=False, quality=None, labels=["pause", "pause"], rate_bpm=None, lag_s=None, samples=0,
        unsaved=0,
    )  # fmt: skip
    report: dict[str, Any] = dict.fromkeys(("version", "config", "node", "boot_id", "model", "model_sha256"), "x")
    numbers = dict.fromkeys(("pid", "time", "uptime_s", "outbox", "oldest_s", "dropped", "ledger_mb"), 0)
    text = exposition(
        Report(**report, **numbers, broker="b", connected=True, ledger="l", rss_mb=None, streams=[stream], trouble="x")
    )
    assert 'holdover_stream_open_episodes{stream="a\\"b\\\\c\\nd",label="pause"} 2\n' in text
    assert "holdover_stream_lag_seconds{" not in text
    assert "\nholdover_resident_bytes " not in text
    assert "holdover_healthy 0\n" in text


def test_under_the_journal_a_line_carries_its_priority(tmp_path: Path) -> None:
    config = configure(tmp_path, free_port(), from_tcp("bed", free_port()))
    with (tmp_path / "journal").open("wb") as journal:
        found = os.fstat(journal.fileno())
        environment = os.environ | {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        command = [sys.executable, "-m", "holdover", "run", str(config)]
        with subprocess.Popen(command, stderr=journal, stdin=subprocess.DEVNULL, env=environment) as process:
            wait_until(lambda: b"<4>" in (tmp_path / "journal").read_bytes(), "a warning", PATIENCE_S)
            process.terminate()
    lines = (tmp_path / "journal").read_text().splitlines()
    assert all(re.match("<[3467]>", line) for line in lines), lines
    assert any(line.startswith("<6>ready: ") for line in lines)


def test_a_service_keeps_its_ledger_where_systemd_says(tmp_path: Path) -> None:
    state, runtime = tmp_path / "state", tmp_path / "runtime"
    state.mkdir()
    runtime.mkdir()
    config = configure(tmp_path, free_port(), from_tcp("bed", free_port()))
    with running(config, STATE_DIRECTORY=str(state), RUNTIME_DIRECTORY=str(runtime)) as daemon:
        assert (state / "ledger.db").exists()
        assert (runtime / "status.sock").is_socket()
        assert daemon.stop() == 0
    assert not list(tmp_path.glob("ledger.db*"))


# What the unit's SystemCallFilter does, by the same library that systemd uses.
FILTERED = """
import ctypes, os, sys
lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(lib.seccomp_init(0x00050001))  # SCMP_ACT_ERRNO(EPERM)
for name in sys.argv[1].split():
    number = lib.seccomp_syscall_resolve_name(name.encode())
    if number != -1:
        lib.seccomp_rule_add(context, 0x7fff0000, number, 0)
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # NoNewPrivileges
assert lib.seccomp_load(context) == 0
if libc.prctl(65, 1, 0, 0, 0) != 0:  # MemoryDenyWriteExecute, where the kernel has it (6.3)
    print("no PR_SET_MDWE", file=sys.stderr)
os.execv(sys.argv[2], sys.argv[2:])
"""


def _allowed() -> str:
    """The system calls that the unit leaves."""

    def members(group: str) -> set[str]:
        done = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=False)
        names = {line.strip() for line in done.stdout.splitlines()[1:] if line.strip() and "#" not in line}
        return {n for n in names if n[0] != "@"}.union(*(members(n) for n in names if n[0] == "@"))

    try:
        found = members("@default") | members("@system-service") - members("@privileged") - members("@resources")
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not installed (apt install systemd)")
    return " ".join(sorted(found))


@pytest.mark.skipif(not ctypes.util.find_library("seccomp"), reason="libseccomp is not installed")
def test_the_daemon_runs_under_the_filter_of_its_unit(tmp_path: Path) -> None:
    record = a_recording(tmp_path / "208.npz", signal_mv()[: 60 * 360])
    allowed = _allowed()
    assert 200 < len(allowed.split()) < 400
    filtered = [sys.executable, "-c", FILTERED, allowed, sys.executable]
    sure = subprocess.run([*filtered, "-c", "import os; os.nice(1)"], capture_output=True, text=True, check=False)
    assert "PermissionError" in sure.stderr, "the filter is there"
    port = free_port()
    with any_broker() as broker:
        config = configure(tmp_path, broker.port, from_file("bed", record, 30), from_tcp("live", port))
        command = [*filtered, "-I", "-m", "holdover", "run", str(config), "--metrics", str(free_port())]
        with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
            with Sensor(port, lines_of(signal_mv()), speed=10) if _ready(tmp_path / "log") else Caller(port):
                wait_until(lambda: b"bed: the input has ended" in (tmp_path / "log").read_bytes(), "it ran", PATIENCE_S)
            process.terminate()
            assert process.wait(20) == 0
    talk = (tmp_path / "log").read_text()
    assert "connected to" in talk
    assert "Operation not permitted" not in talk
    assert len(labels(tmp_path / "ledger.db")) > 2


def _ready(log: Path) -> bool:
    wait_until(lambda: "ready:" in log.read_text(), "it is ready", PATIENCE_S)
    return True
