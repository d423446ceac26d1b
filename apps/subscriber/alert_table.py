"""The live table of episodes on a terminal: age, priority, how each stands, and which monitor is lost."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdover.apps.subscriber.alert_view import plain, score_of, text_of
from holdover.runtime.wire import PRIORITIES

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (("age", 4), ("priority", 8), ("state", 12), ("label", 26), ("from", 18), ("score", 5))
LABEL = dict(COLUMNS)["label"]
SPARE = 80 - sum(width + 1 for _, width in COLUMNS)
COLOURS = {"high": "bold red", "medium": "yellow", "low": "cyan", "info": "dim"}
KEPT = 1000
AROUND = 6
REFRESH_S = 1.0
STEPS = ((60, 1, "s"), (3600, 60, "m"), (86_400, 3600, "h"), (86_400_000, 86_400, "d"))


@dataclass
class Episode:
    """A row: `began` and `ended` are when its first alert and its end were received, Unix time in seconds."""

    node: str
    stream: str
    began: float
    priority: str = ""
    label: str = ""
    score: str = ""
    ended: float | None = None
    how: str = ""
    latched: bool = False
    hook_failed: bool = False

    @property
    def weight(self) -> tuple[bool, int, float]:
        """What leaves the table first: the ended before the ongoing, the lesser before the graver, the older first."""
        rank = PRIORITIES.index(self.priority) if self.priority in PRIORITIES else 0
        return self.ended is None, -rank, self.began


class TableView:
    """A table of episodes that stays in place, the newest below, with talk above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._episodes: dict[tuple[str, str, str], Episode] = {}
        self._lost: dict[str | None, float] = {}
        self._count = self._failures = 0
        self._drawn = time.monotonic()
        self._live = Live(self._table(), console=self._console, auto_refresh=False)
        self._live.start()

    def alert(self, node: str, stream: str, content: dict[str, Any], received: float) -> None:
        """Begin or change a row."""
        self._count += 1
        episode = self._episodes.setdefault(_key(node, stream, content), Episode(node, stream, received))
        episode.priority, episode.label = text_of(content.get("priority", "")), text_of(content.get("label", ""))
        episode.score = score_of(content.get("score"))
        episode.latched = content.get("latched") is True
        if content.get("phase") == "end" and episode.ended is None:
            episode.ended, episode.how = received, text_of(content.get("end_reason", "ended"))
        if len(self._episodes) > KEPT:
            del self._episodes[min(self._episodes, key=lambda key: self._episodes[key].weight)]
        self._draw()

    def hook_failed(self, node: str, stream: str, content: dict[str, Any]) -> None:
        """Mark the row."""
        self._failures += 1
        if episode := self._episodes.get(_key(node, stream, content)):
            episode.hook_failed = True
        self._draw()

    def status(self, node: str | None, online: bool) -> None:
        """Mark what is not known while a node, or the broker, is away."""
        if online:
            self._lost.pop(node, None)
        else:
            self._lost.setdefault(node, time.time())
        self._draw()

    def say(self, text: str) -> None:
        """Print above the table."""
        self._console.print(text, markup=False, highlight=False)
        self._live.refresh()

    def tick(self) -> None:
        """Let the ages grow."""
        if time.monotonic() - self._drawn >= REFRESH_S:
            self._draw()

    def close(self) -> None:
        """Leave the table where it is, and the cursor below."""
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.update(self._table(), refresh=True)

    def _table(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        now = time.time()
        table = Table(box=None, padding=(0, 1, 0, 0), caption=Text(self._caption(now)), caption_justify="left")
        for name, width in COLUMNS:
            spare = max(0, self._console.width - 80) + SPARE if name == "from" else 0
            table.add_column(name, width=width + min(spare, 60), no_wrap=True)
        for episode in self._shown():
            style = COLOURS.get(episode.priority, "")
            quiet = episode.ended is not None and not episode.latched
            table.add_row(*(Text(cell) for cell in self._cells(episode, now)), style="dim" if quiet else style)
        return table

    def _shown(self) -> list[Episode]:
        """As many as fit, in the order of their beginning; the lesser ones are left out."""
        room = max(3, self._console.height - AROUND)
        worth = sorted(self._episodes.values(), key=lambda episode: episode.weight, reverse=True)[:room]
        return sorted(worth, key=lambda episode: episode.began)

    def _cells(self, episode: Episode, now: float) -> tuple[str, ...]:
        return (
            age(now - (episode.began if episode.ended is None else episode.ended)),
            episode.priority,
            self._state(episode),
            f"{episode.label[: LABEL - 2]} !" if episode.hook_failed else episode.label,
            plain(f"{episode.node}/{episode.stream}"),
            episode.score,
        )

    def _state(self, episode: Episode) -> str:
        if episode.ended is not None:
            return episode.how
        if episode.node in self._lost:
            return "monitor lost"
        return "no broker" if None in self._lost else "ongoing"

    def _caption(self, now: float) -> str:
        ongoing = sum(episode.ended is None for episode in self._episodes.values())
        hidden = len(self._episodes) - len(self._shown())
        parts = [f"{self._count} alerts, {ongoing} ongoing" + (f", {hidden} rows not shown" if hidden else "")]
        parts += [f"{self._failures} hook failed (!)"] if self._failures else []
        for who, since in self._lost.items():
            name = "no broker" if who is None else f"monitor lost: {plain(who)}"
            parts.append(f"{name} ({age(now - since).strip()})")
        return "; ".join(parts)


def _key(node: str, stream: str, content: dict[str, Any]) -> tuple[str, str, str]:
    return node, stream, text_of(content.get("episode_id", content.get("event_id")))


def age(seconds: float) -> str:
    """A span in at most four columns.

    >>> age(7), age(600), age(100_000)
    ('  7s', ' 10m', '  1d')
    """
    seconds = max(0.0, seconds)
    for limit, unit_s, name in STEPS:
        if seconds < limit:
            return f"{int(seconds // unit_s)}{name}".rjust(4)
    return "  ??"
