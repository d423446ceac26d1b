"""How the subscriber shows alerts: a table on a terminal, JSON lines in a pipe."""

import importlib.util
import math
import sys
import time
from typing import Any, Protocol

import msgspec

from holdover.runtime.wire import iso

COLUMNS = (("time", 14), ("priority", 8), ("phase", 6), ("label", 26), ("from", 16), ("score", 5))
LONGEST_CELL = 100


class View(Protocol):
    """Where alerts and talk are shown."""

    def alert(self, node: str, stream: str, content: dict[str, Any], received: float) -> None:
        """Show an alert of a stream that came at `received`, Unix time in seconds."""

    def hook_failed(self, node: str, stream: str, content: dict[str, Any]) -> None:
        """A hook was given up for an alert that was shown."""

    def status(self, node: str | None, online: bool) -> None:
        """A node is there or not; None: the broker."""

    def say(self, text: str) -> None:
        """Show a line of talk."""

    def tick(self) -> None:
        """Time has passed."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class JsonView:
    """One JSON object a line on standard output, with `received_time`; talk on standard error."""

    def alert(self, _node: str, _stream: str, content: dict[str, Any], received: float) -> None:
        """Write one line."""
        line = msgspec.json.encode(content | {"received_time": iso(received)})
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.flush()

    def hook_failed(self, _node: str, _stream: str, _content: dict[str, Any]) -> None:
        """Do nothing: it is also said."""

    def status(self, _node: str | None, _online: bool) -> None:
        """Do nothing: it is also said."""

    def say(self, text: str) -> None:
        """Write one line to standard error."""
        print(text, file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class PlainView(JsonView):
    """One line of 80 columns for each alert."""

    def alert(self, node: str, stream: str, content: dict[str, Any], received: float) -> None:
        """Write one line."""
        cells = (
            time.strftime("%m-%d %H:%M:%S", time.localtime(received)),
            text_of(content.get("priority", "")),
            text_of(content.get("phase", "")),
            text_of(content.get("label", "")),
            plain(f"{node}/{stream}"),
            score_of(content.get("score")),
        )
        widths = [width for _, width in COLUMNS]
        print(*(cell[:width].ljust(width) for cell, width in zip(cells, widths, strict=True)), flush=True)


def choose_view(json: bool, *, live: bool = True) -> View:
    """JSON where it is asked for or nobody looks; else a live table, or lines where that cannot be."""
    if json or not sys.stdout.isatty():
        return JsonView()
    if live and importlib.util.find_spec("rich"):
        from holdover.apps.subscriber.alert_table import TableView

        return TableView()
    return PlainView()


def plain(text: str) -> str:
    """Text from outside, without what would steer the terminal.

    Examples
    --------
    >>> plain("af" + chr(27) + "[2J")
    'af?[2J'
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def text_of(value: object) -> str:
    """A field that should be text, and may be anything."""
    return plain(value[:LONGEST_CELL]) if isinstance(value, str) else "?"


def score_of(value: object) -> str:
    """A number that fits its column, "?" for one that does not, and nothing for what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    try:
        number = float(value)
    except OverflowError:
        return "?"
    return f"{number:.2f}" if math.isfinite(number) and -10 < number < 99.99 else "?"
