"""Which alerts are shown, and from when on."""

import fnmatch
import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from holdover.runtime.errors import UsageError
from holdover.runtime.wire import PRIORITIES

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
AGE = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)


class AlertFilter(NamedTuple):
    """Lets pass what is of this priority or a graver one and comes from one of these streams; all that is None passes.

    An alert whose priority is none of the known words passes: what cannot be judged is not hidden.

    Examples
    --------
    >>> only = AlertFilter("medium", (("pi-*", "ecg"),))
    >>> only.passes("pi-2", "ecg", {"priority": "high"}), only.passes("pi-2", "ecg", {"priority": "low"})
    (True, False)
    """

    priority: str | None = None
    streams: tuple[tuple[str, str], ...] = ()

    def passes(self, node: str, stream: str, content: dict[str, Any]) -> bool:
        """Whether an alert is shown."""
        return self.passes_stream(node, stream) and self._passes_priority(content.get("priority"))

    def passes_stream(self, node: str, stream: str) -> bool:
        """Whether alerts of a stream are shown."""
        match = fnmatch.fnmatchcase
        return not self.streams or any(match(node, n) and match(stream, s) for n, s in self.streams)

    def _passes_priority(self, priority: object) -> bool:
        if self.priority is None or priority not in PRIORITIES:
            return True
        return PRIORITIES.index(priority) <= PRIORITIES.index(self.priority)


def make_filter(priority: str | None, patterns: Sequence[str]) -> AlertFilter:
    """A filter from what was written on the command line.

    Raises
    ------
    UsageError
        A pattern that is not NODE/STREAM.
    """
    streams = []
    for pattern in patterns:
        node, slash, stream = pattern.partition("/")
        if not (node and slash and stream) or "/" in stream:
            raise UsageError(f"--stream {pattern!r}: expected NODE/STREAM, such as 'pi/ecg' or '*/ecg'")
        streams.append((node, stream))
    return AlertFilter(priority, tuple(streams))


def moment(text: str, now: float | None = None) -> float:
    """Unix time in seconds of an ISO 8601 time (of this machine's zone, unless it says which) or of an age.

    Raises
    ------
    UsageError
        It is neither.

    Examples
    --------
    >>> moment("2h", now=10_000.0), moment("1970-01-02T00:00Z")
    (2800.0, 86400.0)
    """
    age = AGE.fullmatch(text)
    if age:
        return (time.time() if now is None else now) - int(age[1]) * UNITS_S[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"--since {text!r}: expected a time such as 2026-11-23 or 2026-11-23T06:00, or an age such as 90s, 30m, "
            "2h, 7d"
        ) from error
