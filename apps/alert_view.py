"""How the subscriber shows alerts: a table on a terminal, JSON lines in a pipe."""

import importlib.util
import math
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (("time", 8), ("priority", 8), ("phase", 6), ("label", 25), ("from", 21), ("score", 5))
LONGEST_CELL = 100
COLOURS = {"high": "bold red", "medium": "yellow", "low": "cyan", "info": "dim"}


class View(Protocol):
    """Where alerts and talk are shown."""

    def alert(self, content: dict[str, Any], received: float) -> None:
        """Show an alert that came at `received`, Unix time in seconds."""

    def say(self, text: str) -> None:
        """Show a line of talk."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class JsonView:
    """One JSON object a line on standard output, with `received_time`; talk on standard error."""

    def alert(self, content: dict[str, Any], received: float) -> None:
        """Write one line."""
        line = msgspec.json.encode(content | {"received_time": _iso(received)})
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Write one line to standard error."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing."""


class PlainView(JsonView):
    """One line of 80 columns for each alert."""

    def alert(self, content: dict[str, Any], received: float) -> None:
        """Write one line."""
        cells = _cells(content, received)
        widths = [width for _, width in COLUMNS]
        print(*(cell[:width].ljust(width) for cell, width in zip(cells, widths, strict=True)), flush=True)


class TableView:
    """A table of the last alerts that stays in place, with talk above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._rows: deque[tuple[str, ...]] = deque(maxlen=max(3, self._console.height - 6))
        self._count = 0
        self._live = Live(self._table(), console=self._console, auto_refresh=False)
        self._live.start()

    def alert(self, content: dict[str, Any], received: float) -> None:
        """Add a row at the bottom."""
        self._count += 1
        self._rows.append(_cells(content, received))
        self._live.update(self._table(), refresh=True)

    def say(self, text: str) -> None:
        """Print above the table."""
        self._console.print(text, markup=False, highlight=False)
        self._live.refresh()

    def close(self) -> None:
        """Leave the table where it is, and the cursor below."""
        self._live.stop()

    def _table(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 1, 0, 0), caption=f"{self._count} alerts", caption_justify="left")
        for name, width in COLUMNS:
            table.add_column(name, width=width, no_wrap=True)
        for row in self._rows:
            table.add_row(*(Text(cell) for cell in row), style=COLOURS.get(row[1], ""))
        return table


def choose_view(json: bool) -> View:
    """JSON where it is asked for or nobody looks; else a table, or lines where `rich` is not installed."""
    if json or not sys.stdout.isatty():
        return JsonView()
    if importlib.util.find_spec("rich"):
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


def _cells(content: dict[str, Any], received: float) -> tuple[str, ...]:
    return (
        time.strftime("%H:%M:%S", time.localtime(received)),
        _text(content.get("priority", "")),
        _text(content.get("phase", "")),
        _text(content.get("label", "")),
        f"{_text(content.get('node'))}/{_text(content.get('stream'))}",
        _score(content.get("score")),
    )


def _text(value: object) -> str:
    """A field that should be text, and may be anything."""
    return plain(value[:LONGEST_CELL]) if isinstance(value, str) else "?"


def _score(value: object) -> str:
    """A number that fits its column, "?" for one that does not, and nothing for what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    try:
        number = float(value)
    except OverflowError:
        return "?"
    return f"{number:.2f}" if math.isfinite(number) and -10 < number < 99.99 else "?"


def _iso(when: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when))
    return f"{whole}.{int(when % 1 * 1000):03d}Z"
