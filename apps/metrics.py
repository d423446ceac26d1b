"""What a running daemon reports of itself, and the same for Prometheus, on this machine alone."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from holdover import __version__
from holdover.devices.boards.host import resident_mb
from holdover.runtime.errors import ConfigError
from holdover.runtime.link import LinkFacts

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

    from holdover.apps.config import Config
    from holdover.apps.notify import Pulse
    from holdover.apps.post import Post
    from holdover.runtime.engine import Engine
    from holdover.runtime.ledger import Ledger
    from holdover.runtime.sinks.mqtt import MqttSink

HOST = "127.0.0.1"
TYPE = "text/plain; version=0.0.4; charset=utf-8"
REPORT_S = 1.0
PATIENCE_S = 5.0
"""A caller that is slower is hung up on."""


class LastAlert(msgspec.Struct, kw_only=True):
    """The alert that was decided last; `time` in Unix seconds."""

    stream: str
    label: str
    phase: str
    priority: str
    time: float


class StreamReport(msgspec.Struct, kw_only=True):
    """How a stream stands.

    Attributes
    ----------
    quality
        "good", "doubtful" or "lost"; null before the first sample.
    labels
        Of the open episodes, the gravest first.
    lag_s
        How far what was judged lies behind what came, in seconds of signal.
    samples
        How many came since the start.
    unsaved
        Alerts that wait in memory, because the ledger takes nothing now.
    link
        What the link to a device has lost, repaired and measured; null for a file.
    """

    id: str
    ended: bool
    quality: str | None
    labels: list[str]
    rate_bpm: float | None
    lag_s: float | None
    samples: int
    unsaved: int
    link: LinkFacts | None = None


class Report(msgspec.Struct, kw_only=True):
    """How a daemon stands.

    Attributes
    ----------
    time
        Unix seconds at which the main loop made it.
    config, ledger
        Paths.
    outbox, oldest_s, dropped
        Alerts that wait for the broker, the age of the oldest, and how many were ever given up.
    trouble
        Why the service manager is not told that the daemon lives, or "".
    """

    schema: Literal["status/1"] = "status/1"
    running: bool = True
    version: str
    pid: int
    config: str
    node: str
    boot_id: str
    model: str
    model_sha256: str
    time: float
    uptime_s: float
    broker: str
    connected: bool
    outbox: int
    oldest_s: float
    dropped: int
    ledger: str
    ledger_mb: float
    rss_mb: float | None
    streams: list[StreamReport]
    trouble: str
    last_alert: LastAlert | None = None


class Board:
    """The newest report: the main loop puts it up every second, other threads read it."""

    def __init__(
        self, config: "Config", path: Path, engine: "Engine", ledger: "Ledger", sink: "MqttSink",
        posts: "Sequence[Post]", pulse: "Pulse",
    ) -> None:  # fmt: skip
        self._ledger, self._sink, self._posts, self._pulse = ledger, sink, posts, pulse
        self._began, self._due = time.monotonic(), 0.0
        self._report: Report | None = None
        contract = engine.contract
        self._fixed: dict[str, Any] = {
            "version": __version__, "pid": os.getpid(), "config": str(path.resolve()), "node": config.node,
            "boot_id": sink.boot_id, "model": f"{contract.name} {contract.model_version}",
            "model_sha256": engine.sha256, "broker": config.mqtt.address, "ledger": str(ledger.path.absolute()),
        }  # fmt: skip

    def turn(self, now: float) -> None:
        """Put up a new report, if it is time; for the thread that owns the ledger."""
        if now < self._due:
            return
        self._due = now + REPORT_S
        rows, oldest_s = self._ledger.depth()
        self._report = Report(
            time=time.time(), uptime_s=now - self._began, connected=self._sink.connected, outbox=rows,
            oldest_s=oldest_s, dropped=self._ledger.count_dropped(), ledger_mb=_megabytes(self._ledger.path),
            rss_mb=resident_mb(), trouble=self._pulse.trouble(), streams=[self._stream(post) for post in self._posts],
            **self._fixed,
        )  # fmt: skip

    def _stream(self, post: "Post") -> StreamReport:
        state = post.state
        return StreamReport(
            id=post.id, ended=post.ended, quality=state.quality if state else None,
            labels=state.labels if state else [], rate_bpm=state.rate_bpm if state else None, lag_s=post.lag_s,
            samples=self._pulse.samples(post.id), unsaved=post.waiting, link=post.link,
        )  # fmt: skip

    def answer(self) -> bytes:
        """The report with the last alert, as JSON; b"" before the first."""
        report = self._report
        if report is None:
            return b""
        return msgspec.json.encode(msgspec.structs.replace(report, last_alert=last_alert(Path(report.ledger))))

    def exposition(self) -> str:
        """The report for Prometheus; "" before the first."""
        return exposition(self._report) if self._report else ""


def _megabytes(ledger: Path) -> float:
    files = (ledger, ledger.with_name(ledger.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists()) / 2**20


def last_alert(ledger: Path) -> LastAlert | None:
    """The alert that a ledger took last, read beside whoever writes it; None if there is none, or it cannot be read."""
    query = "SELECT body, created FROM outbox ORDER BY id DESC LIMIT 1"
    try:
        with contextlib.closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as db:
            found = db.execute(query).fetchone()
        if not found:
            return None
        return msgspec.convert({**msgspec.json.decode(found[0]), "time": found[1]}, LastAlert)
    except (sqlite3.Error, msgspec.MsgspecError, TypeError):
        return None


class _Family(NamedTuple):
    """A metric: its name after `holdover_`, kind, meaning, and its values by labels."""

    name: str
    kind: Literal["gauge", "counter"]
    what: str
    values: Callable[[Report], Iterator[tuple[Mapping[str, str], float | None]]]


def _one(value: Callable[[Report], float | None]) -> Callable[[Report], Any]:
    return lambda report: iter([({}, value(report))])


def _each(value: Callable[[StreamReport], float | None]) -> Callable[[Report], Any]:
    return lambda report: (({"stream": stream.id}, value(stream)) for stream in report.streams)


def _link(value: Callable[[LinkFacts], float | None]) -> Callable[[Report], Any]:
    return _each(lambda stream: None if stream.link is None else value(stream.link))


def _info(report: Report) -> Iterator[tuple[Mapping[str, str], float]]:
    keys = ("version", "node", "boot_id", "model", "model_sha256")
    yield {key: getattr(report, key) for key in keys}, 1


def _alarms(report: Report) -> Iterator[tuple[Mapping[str, str], float]]:
    for stream in report.streams:
        for label in sorted(set(stream.labels)):
            yield {"stream": stream.id, "label": label}, stream.labels.count(label)


FAMILIES = (
    _Family("info", "gauge", "What runs; always 1.", _info),
    _Family("healthy", "gauge", "1 while all threads live and samples flow, or their absence was told.",
            _one(lambda r: not r.trouble)),
    _Family("report_time_seconds", "gauge", "Unix time at which the main loop made this.", _one(lambda r: r.time)),
    _Family("uptime_seconds", "gauge", "Since the start.", _one(lambda r: r.uptime_s)),
    _Family("resident_bytes", "gauge", "Memory that the process holds.",
            _one(lambda r: None if r.rss_mb is None else r.rss_mb * 2**20)),
    _Family("broker_connected", "gauge", "1 while the broker is there.", _one(lambda r: r.connected)),
    _Family("outbox_alerts", "gauge", "Alerts that wait for the broker.", _one(lambda r: r.outbox)),
    _Family("outbox_oldest_seconds", "gauge", "For how long the oldest has waited.", _one(lambda r: r.oldest_s)),
    _Family("dropped_alerts_total", "counter", "Alerts ever given up before the broker had them.",
            _one(lambda r: r.dropped)),
    _Family("ledger_bytes", "gauge", "Size of the ledger on disk.", _one(lambda r: r.ledger_mb * 2**20)),
    _Family("stream_samples_total", "counter", "Samples that came since the start.", _each(lambda s: s.samples)),
    _Family("stream_signal", "gauge", "1 while there is a signal that is judged.",
            _each(lambda s: s.quality in ("good", "doubtful"))),
    _Family("stream_lag_seconds", "gauge", "How far what was judged lies behind what came, in signal time.",
            _each(lambda s: s.lag_s)),
    _Family("stream_heart_rate_bpm", "gauge", "The heart rate, while it is known.", _each(lambda s: s.rate_bpm)),
    _Family("stream_unsaved_alerts", "gauge", "Alerts that wait in memory, because the ledger takes nothing.",
            _each(lambda s: s.unsaved)),
    _Family("stream_rate_hz", "gauge", "Samples a second that a device gives, by this machine's clock.",
            _link(lambda link: link.rate_hz)),
    _Family("stream_lost_samples_total", "counter", "Samples that a device's link has lost.",
            _link(lambda link: link.lost)),
    _Family("stream_reconnects_total", "counter", "How often a device's link was lost and found again.",
            _link(lambda link: link.reconnects)),
    _Family("stream_open_episodes", "gauge", "Alarms that are open, by label.", _alarms),
)  # fmt: skip


def exposition(report: Report) -> str:
    """A report in the text format 0.0.4 of Prometheus; a value that is not known is left out."""
    said = []
    for name, kind, what, values in FAMILIES:
        said += [f"# HELP holdover_{name} {what}", f"# TYPE holdover_{name} {kind}"]
        said += [f"holdover_{name}{_labels(labels)} {float(v):.17g}" for labels, v in values(report) if v is not None]
    return "\n".join(said) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    pairs = (f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return f"{{{','.join(pairs)}}}" if labels else ""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class MetricsServer:
    """Answers `GET /metrics` on 127.0.0.1 with what `tell` returns, one caller at a time, in a thread of its own.

    Raises
    ------
    ConfigError
        The port cannot be had.
    """

    def __init__(self, port: int, tell: Callable[[], str]) -> None:
        from http.server import HTTPServer

        try:
            self._server = HTTPServer((HOST, port), _handler(tell))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"metrics port {port} on {HOST} cannot be had ({why}): choose another") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to answer; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


def _handler(tell: Callable[[], str]) -> "type[BaseHTTPRequestHandler]":
    """The class that http.server makes of each request."""
    from http.server import BaseHTTPRequestHandler

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S
        server_version, sys_version = "holdover", ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "there is /metrics alone")
                return
            body = tell().encode()
            self.send_response(200)
            self.send_header("Content-Type", TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: a scrape every few seconds is no news."""

    return Handler
