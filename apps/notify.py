"""What a service manager and its journal are told: ready, alive, stopping (sd_notify(3)), and lines of log."""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from holdover.apps.post import Item, Post

log = logging.getLogger("holdover.daemon")

READER_S = 5.0
"""A source hands something over every 0.5 s, if only an empty chunk; a reader that is silent for longer is stuck."""
FLOW_S = 15.0
"""Samples come, or their absence has become an alarm, within this time: the clock of a source waits 2 s."""

LogForm = Literal["text", "json", "journal"]
LEVELS = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
"""Levels of Python's log, and the priorities of syslog(3) from each on."""


def notify(message: str) -> None:
    """Send "READY=1", "WATCHDOG=1", "STATUS=..." or "STOPPING=1" to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(message.encode(), address)
        except OSError:
            return


def watchdog_s() -> float | None:
    """How often systemd wants to hear that we live, half its limit, in seconds; None if it does not ask."""
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    return int(limit_us) / 2e6 if limit_us.isdigit() else None


class Pulse:
    """Whether a daemon lives: its readers hand over, its other threads run, samples flow or their absence was told.

    That the main loop turns is shown by its asking.

    Parameters
    ----------
    patience_s
        A live reader that hands nothing over for so long is stuck.
    """

    def __init__(self, posts: "Sequence[Post]", patience_s: float = READER_S) -> None:
        self._posts = posts
        self._patience_s = max(patience_s, READER_S)
        self._threads: dict[str, threading.Thread] = {}
        self._readers = {post.id: _Reader() for post in posts}

    def watch(self, name: str, start: Callable[[], None]) -> None:
        """Start something, and hold on to the thread that it begins."""
        before = set(threading.enumerate())
        start()
        for thread in set(threading.enumerate()) - before:
            self._threads[name] = thread

    def noted(self, put: "Callable[[Post, Item], None]") -> "Callable[[Post, Item], None]":
        """`put`, with a note of each call; for the reader threads."""

        def hand_over(post: "Post", item: "Item") -> None:
            with self._readers[post.id].handing(item):
                put(post, item)

        return hand_over

    def samples(self, stream: str) -> int:
        """How many came from a stream in this start."""
        return self._readers[stream].samples

    def trouble(self) -> str:
        """What does not live, in words; "" if all does."""
        found = [f"the thread of {name} has ended" for name, thread in self._threads.items() if not thread.is_alive()]
        now = time.monotonic()
        found += [said for post in self._posts if not post.ended and (said := self._trouble_of(post, now))]
        return "; ".join(found)

    def _trouble_of(self, post: "Post", now: float) -> str:
        reader = self._readers[post.id]
        if reader.thread is not None and not reader.thread.is_alive() and not reader.at_end:
            return f"the reader of {post.id} has died"
        # A reader that waits for room waits for the main loop, and a file may be played slowly.
        if reader.is_handing or reader.at_end or not post.is_live:
            return ""
        if now - reader.heard > self._patience_s:
            return f"the reader of {post.id} has been stuck for {now - reader.heard:.0f} s"
        state = post.state
        if now - reader.sampled > FLOW_S and (state is None or state.quality != "lost"):
            return f"{post.id} has had no sample for {now - reader.sampled:.0f} s, and no alarm says so"
        return ""


class _Reader:
    """What a reader thread was seen to do; times are monotonic."""

    def __init__(self) -> None:
        self.heard = self.sampled = time.monotonic()
        self.samples = 0
        self.is_handing = self.at_end = False
        self.thread: threading.Thread | None = None

    @contextmanager
    def handing(self, item: "Item") -> Iterator[None]:
        """Around the handing over of an item, by the reader's thread."""
        self.thread, self.is_handing = threading.current_thread(), True
        self.at_end = not hasattr(item, "x")
        count = 0 if self.at_end else len(item.x)  # type: ignore[union-attr]
        try:
            yield
        finally:
            self.heard = time.monotonic()
            if count:
                self.sampled = self.heard
                self.samples += count
            self.is_handing = False


def log_to_stderr(form: LogForm | None, verbose: bool) -> None:
    """Write the log to standard error.

    Parameters
    ----------
    form
        "text", "json" (one object a line) or "journal" (the level as <N>, no time); None: "journal" if standard error
        is the journal (`JOURNAL_STREAM`), else "text".
    """
    form = form or ("journal" if _is_journal() else "text")
    handler = logging.StreamHandler(sys.stderr)
    forms: dict[LogForm, Callable[[], logging.Formatter]] = {
        "text": lambda: logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"),
        "json": JsonLines,
        "journal": JournalLines,
    }
    handler.setFormatter(forms[form]())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])


class JsonLines(logging.Formatter):
    """A record as one JSON object: `time` in ISO 8601 (UTC), `level`, `logger`, `message`, and `error` with its trace.

    >>> record = logging.LogRecord("holdover.mqtt", logging.INFO, "", 0, "connected", None, None)
    >>> sorted(json.loads(JsonLines().format(record)))
    ['level', 'logger', 'message', 'time']
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said = {
            "time": f"{when}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(),
        }  # fmt: skip
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


class JournalLines(logging.Formatter):
    """A record as sd-daemon(3) has it: the priority in front of each line, no time, since the journal keeps it."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record, each with its priority."""
        priority = next(syslog for level, syslog in LEVELS if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines() or [""])


def _is_journal() -> bool:
    """Whether standard error is the stream that JOURNAL_STREAM names, as "device:inode" (systemd.exec(5))."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
