"""A command of the user's that is run for each alert."""

import os
import signal
import subprocess
import sys
from typing import Any

import msgspec

NAMES = ("event_id", "episode_id", "label", "phase", "priority", "node", "stream", "event_time")


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

    def run(self, content: dict[str, Any]) -> str:
        """Run it and wait; "" or what went wrong, in words."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", self.command],
            stdin=subprocess.PIPE,
            stdout=sys.stderr.fileno(),
            env=os.environ | _environment(content),
            start_new_session=True,
        )
        try:
            process.communicate(msgspec.json.encode(content) + b"\n", timeout=self.limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"killed after {self.limit_s:.0f} s"
        if process.returncode < 0:
            return f"ended by {signal.Signals(-process.returncode).name}"
        return f"exit status {process.returncode}" if process.returncode else ""


def _environment(content: dict[str, Any]) -> dict[str, str]:
    known = {name: content.get(name) for name in NAMES}
    return {f"HOLDOVER_{k.upper()}": str(v).replace("\0", "") for k, v in known.items() if v is not None}
