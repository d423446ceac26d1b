"""A command of the user's that is run for each alert."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import msgspec

NAMES = ("event_id", "episode_id", "label", "phase", "priority", "node", "stream", "event_time")
LONGEST_VALUE = 1024


class Hook:
    """Runs a shell command with the alert as JSON on its standard input, and its main fields in the environment.

    Parameters
    ----------
    command
        For /bin/sh; what it prints goes to standard error.
    limit_s
        After so long it is killed, which counts as a failure.
    """

    def __init__(self, command: str, limit_s: float = 60.0) -> None:
        self.command, self.limit_s = command, limit_s
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, content: dict[str, Any]) -> str:
        """Run it and wait; "" or what went wrong, in words."""
        body = msgspec.json.encode(content) + b"\n"
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", self.command],
                stdin=subprocess.PIPE,
                stdout=sys.stderr.fileno(),
                env=os.environb | _environment(content),
                start_new_session=True,
            )
        except OSError as error:
            return f"cannot be started ({error.strerror})"
        self._running.add(process)
        try:
            process.communicate(body, timeout=self.limit_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            return f"killed after {self.limit_s:g} s"
        finally:
            self._running.discard(process)
        if process.returncode < 0:
            return f"ended by {signal.Signals(-process.returncode).name}"
        return f"exit status {process.returncode}" if process.returncode else ""

    def close(self) -> None:
        """Kill what is running."""
        for process in tuple(self._running):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End it with all that it started, and do not wait for a grandchild that has left the group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=1.0)


def _environment(content: dict[str, Any]) -> dict[bytes, bytes]:
    """The main fields as UTF-8, each cut to `LONGEST_VALUE` bytes; all of them are on standard input."""
    known = {name: _value(content.get(name)) for name in NAMES}
    return {f"HOLDOVER_{name.upper()}".encode(): value for name, value in known.items() if value is not None}


def _value(value: object) -> bytes | None:
    if not isinstance(value, (str, int, float)):
        return None
    try:
        text = str(value)[:LONGEST_VALUE].replace("\0", "")
    except ValueError:
        return None
    whole = text.encode("utf-8", "replace")[:LONGEST_VALUE].decode("utf-8", "ignore")
    return whole.encode()
