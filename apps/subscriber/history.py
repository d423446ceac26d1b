"""What the subscriber's store holds, shown again."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from holdover.apps.subscriber.alert_filter import AlertFilter
from holdover.apps.subscriber.alert_view import View, plain
from holdover.apps.subscriber.inbox_file import explained
from holdover.apps.subscriber.numbering import Numbering

QUERY = "SELECT node, stream, received, payload, {failures} FROM alert WHERE received >= ? ORDER BY id"
FAILURES = "(SELECT group_concat(hook || ': ' || why, '; --') FROM failure WHERE alert = alert.id)"


class Kept(NamedTuple):
    """An alert of the store.

    `received` is Unix time in seconds, `failures` tells which hooks were given up for it, and why.
    """

    node: str
    stream: str
    received: float
    content: dict[str, Any]
    failures: str | None


def kept(db: sqlite3.Connection, since: float) -> Iterator[Kept]:
    """The alerts that came since then, in the order in which they came."""
    query = QUERY.format(failures=FAILURES if _has(db, "failure") else "NULL")
    for node, stream, received, payload, failures in db.execute(query, (since,)):
        yield Kept(node, stream, received, msgspec.json.decode(payload), failures)


def show(db: sqlite3.Connection, path: Path, view: View, only: AlertFilter, since: float) -> Counter[str]:
    """Show what was received since then, and what is known not to have come.

    Returns
    -------
    Counter
        How many alerts are "shown", "hook failed", "missing" and "given up" by their node.

    Raises
    ------
    LedgerError
        The store cannot be read.
    """
    tally: Counter[str] = Counter()
    with explained(path):
        for alert in kept(db, since):
            if only.passes(alert.node, alert.stream, alert.content):
                tally["shown"] += 1
                view.alert(alert.node, alert.stream, alert.content, alert.received)
                if alert.failures:
                    tally["hook failed"] += 1
                    view.hook_failed(alert.node, alert.stream, alert.content)
                    view.say(plain(f"given up for {alert.content['event_id']}: --{alert.failures}"))
        for node, stream, numbering in _numberings(db):
            if only.passes_stream(node, stream) and numbering.holes:
                balance = numbering.balance()
                tally.update({"missing": balance.missing, "given up": balance.given_up})
                view.say(plain(f"{node}/{stream}: {_told(numbering)}"))
    return tally


def _numberings(db: sqlite3.Connection) -> Iterator[tuple[str, str, Numbering]]:
    if not _has(db, "numbering"):
        return
    for node, stream, state in db.execute("SELECT node, stream, state FROM numbering ORDER BY node, stream"):
        yield node, stream, msgspec.json.decode(state, type=Numbering)


def _has(db: sqlite3.Connection, table: str) -> bool:
    """Whether a store has a table: one of an earlier version is only read, and has not all."""
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone())


def _told(numbering: Numbering) -> str:
    missing, given_up = numbering.balance()
    holes = [str(first) if first == last else f"{first}-{last}" for first, last in numbering.holes[-5:]]
    more = "..., " if len(numbering.holes) > 5 else ""
    parts = [f"{missing} did not come, which nothing explains"] if missing else []
    parts += [f"{given_up} were given up by the node, which said so"] if given_up else []
    return f"of the alerts {more}{', '.join(holes)} {', '.join(parts)}"
