"""The forms of the log: text for people, JSON for machines, and what the journal of systemd takes."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Literal

LogForm = Literal["text", "json", "journal"]
LEVELS = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
"""Levels of Python's log, and the priorities of syslog(3) from each on."""


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
