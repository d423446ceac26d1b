"""`holdover status`: how a running daemon stands: streams, signal, lag, what waits, the last alert."""

import argparse
import contextlib
import os
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdover.apps.metrics import Report
    from holdover.runtime.link import LinkFacts

SYSTEM_SOCKET = Path("/run/holdover/status.sock")
"""Of a daemon that 'holdover service install' has set up."""
ANSWER_S = 3.0
STALE_S = 10.0
"""The main loop makes a report every second; one that is so old tells of a loop that is stuck, or busy."""
LIMIT = 1 << 22
COUNTED = ("lost", "late", "duplicated", "reordered", "garbage", "reconnects", "clock_jumps", "overruns")
"""What is shown of a link where it is not 0."""

EPILOG = """\
exit status: 0 it runs, 1 it does not run or is in trouble.

A daemon answers on a socket beside its ledger, or in the runtime folder of its
service, to its own user and to root alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover status`."""
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG.toml", help="that it runs with (default: that of the installed service)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon, and print what it says; 0, or 1 if none runs or it is in trouble.

    Raises
    ------
    ConfigError
        The configuration cannot be read.
    UsageError
        The daemon is another user's.
    HoldoverError
        It does not answer.
    """
    import msgspec

    places = _places(args.config)
    answers = [_read(said, place) for place in places if (said := ask(place))]
    wanted = str(Path(args.config).resolve()) if args.config else None
    report = next((answer for answer in answers if wanted in (None, answer.config)), None)
    if report is None:
        return _say_none(places, args)
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
    late_s = time.time() - report.time
    if not args.json:
        print("\n".join(lines(report, late_s)))
    return 1 if report.trouble or late_s > STALE_S else 0


def _read(said: bytes, place: Path) -> "Report":
    import msgspec

    from holdover.apps.metrics import Report
    from holdover.runtime.errors import HoldoverError

    try:
        return msgspec.json.decode(said, type=Report)
    except msgspec.MsgspecError as error:
        raise HoldoverError(
            f"what answers at {place} is no report of this version ({error}): ask with the holdover that runs there, "
            "or start the daemon again"
        ) from error


def _places(config: str | None) -> list[Path]:
    """The sockets where the daemon of a configuration may answer."""
    if config is None:
        return [SYSTEM_SOCKET]
    from holdover.apps.config import read_config

    return [socket_beside(Path(read_config(config).ledger.path)), SYSTEM_SOCKET]


def _say_none(places: list[Path], args: argparse.Namespace) -> int:
    if args.json:
        print('{"schema": "status/1", "running": false}')
    what = f"with {args.config}" if args.config else "as a service; name the configuration of one that runs otherwise"
    print(f"no daemon runs {what} (nobody answers at {' or '.join(map(str, places))})", file=sys.stderr)
    return 1


def socket_beside(ledger: Path) -> Path:
    """Where the daemon that holds a ledger answers; in the runtime folder of its service, if it has one."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(folder) / SYSTEM_SOCKET.name if folder else ledger.with_name(ledger.name + ".sock")


def ask(place: Path) -> bytes:
    """What a daemon answers, JSON; b"" if nobody does.

    Raises
    ------
    UsageError
        It answers to others.
    HoldoverError
        It is there, and says nothing.
    """
    from holdover.runtime.errors import HoldoverError, UsageError

    try:
        with _folder(place) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(ANSWER_S)
            line.connect(name)
            answer = bytearray()
            while (piece := line.recv(1 << 16)) and len(answer) < LIMIT:
                answer += piece
    except PermissionError:
        raise UsageError(f"the daemon at {place} is another user's: ask as that user, or with sudo") from None
    except TimeoutError:
        raise HoldoverError(
            f"a daemon at {place} gives no answer within {ANSWER_S:g} s: it is stopped or stuck"
        ) from None
    except OSError:
        return b""
    return bytes(answer)


@contextlib.contextmanager
def _folder(place: Path) -> Iterator[str]:
    """A name for a socket that is short enough (108 bytes, unix(7)), whatever its folder's."""
    fd = os.open(place.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{place.name}"
    finally:
        os.close(fd)


class Beacon:
    """Answers whoever connects with what `tell` returns; a thread of its own, which holds nothing of the daemon's.

    Raises
    ------
    OSError
        The socket cannot be made.
    """

    def __init__(self, place: Path, tell: Callable[[], bytes]) -> None:
        self.place, self._tell = place, tell
        self._closed = False
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            place.unlink(missing_ok=True)  # whoever holds the ledger is the only one
            with _folder(place) as name:
                mask = os.umask(0o177)
                try:
                    self._line.bind(name)
                finally:
                    os.umask(mask)
            self._line.listen(4)
        except OSError:
            self._line.close()
            raise
        self._thread = threading.Thread(target=self._answer, name="status", daemon=True)

    def start(self) -> None:
        """Begin to answer; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()
        self.place.unlink(missing_ok=True)

    def _answer(self) -> None:
        while not self._closed:
            try:
                caller, _ = self._line.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.2)
                continue
            with caller, contextlib.suppress(OSError):
                caller.settimeout(ANSWER_S)
                caller.sendall(self._tell())


def lines(report: "Report", late_s: float) -> list[str]:
    """A report in words, for people."""
    broker = f"{report.broker}, {'connected' if report.connected else 'not connected'}"
    waits = f"{report.outbox} alert(s) wait for the broker, the oldest for {_span(report.oldest_s)}"
    said = [
        f"holdover {report.version}, process {report.pid}, up {_span(report.uptime_s)}",
        f"node     {report.node}, model {report.model}",
        f"broker   {broker}",
        f"outbox   {waits if report.outbox else 'empty'}; {report.dropped} dropped ever",
        f"ledger   {report.ledger}, {report.ledger_mb:.1f} MB",
        f"memory   {report.rss_mb or 0:.0f} MB",
        "streams  " + f"{'':<16}{'signal':<10}{'rate':>6}{'lag':>8}  alarms",
    ]
    for s in report.streams:
        rate = "-" if s.rate_bpm is None else f"{s.rate_bpm:.0f}"
        lag = "-" if s.lag_s is None else f"{s.lag_s:.1f} s"
        signal = "ended" if s.ended else s.quality or "waiting"
        said.append(f"  {s.id:<23}{signal:<10}{rate:>6}{lag:>8}  {', '.join(s.labels) or '-'}")
        if s.link is not None:
            said += textwrap.wrap(f"link: {link_words(s.link)}", 79, initial_indent=" " * 4, subsequent_indent=" " * 6)
        if s.unsaved:
            said.append(f"    {s.unsaved} alert(s) wait in memory: the ledger takes nothing now")
    last = report.last_alert
    said.append(f"last     {last.label} {last.phase} of {last.stream}, {_span(time.time() - last.time)} ago" if last
                else "last     no alert yet")  # fmt: skip
    if report.trouble:
        said.append(f"TROUBLE  {report.trouble}")
    if late_s > STALE_S:
        said.append(f"TROUBLE  the main loop has not turned for {late_s:.0f} s")
    from holdover.apps.subscriber.alert_view import plain

    return [plain(line) for line in said]


def link_words(facts: "LinkFacts") -> str:
    """What a link has lost, repaired and measured; nothing of what has not happened.

    >>> from holdover.runtime.link import LinkFacts
    >>> link_words(LinkFacts(nominal_hz=130.0, rate_hz=129.04, drift_ppm=-7384.6, jitter_ms=12.0, lost=73))
    '129.04 of 130 Hz, jitter 12 ms, 73 lost'
    """
    rate = f"{facts.nominal_hz:g} Hz, not measured yet"
    if facts.rate_hz is not None and facts.jitter_ms is not None:
        rate = f"{facts.rate_hz:.6g} of {facts.nominal_hz:g} Hz, jitter {facts.jitter_ms:.0f} ms"
    counts = ((getattr(facts, name), name.replace("_", " ")) for name in COUNTED)
    return ", ".join([rate, *(f"{n} {what}" for n, what in counts if n)])


def _span(seconds: float) -> str:
    """A time span in the two units that matter.

    >>> _span(7), _span(190), _span(90000)
    ('7 s', '3 min 10 s', '1 d 1 h')
    """
    s = max(int(seconds), 0)
    for big, large, small, little in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if s >= big:
            return f"{s // big} {large} {s % big // small} {little}"
    return f"{s} s"
