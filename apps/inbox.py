"""The subscriber's store: every alert that came, once."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from holdover.runtime.errors import LedgerError
from holdover.runtime.ledger_file import hold

VERSION = 1
TABLES = """
CREATE TABLE IF NOT EXISTS alert (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, node TEXT NOT NULL, stream TEXT NOT NULL,
    stream_seq INTEGER, received REAL NOT NULL, payload BLOB NOT NULL, handled INTEGER NOT NULL)
"""
INDEX = "CREATE INDEX IF NOT EXISTS alert_unhandled ON alert (id) WHERE handled = 0"
INSERT = """
INSERT OR IGNORE INTO alert (event_id, node, stream, stream_seq, received, payload, handled)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
LATEST = "SELECT node, stream, stream_seq FROM alert WHERE id IN (SELECT max(id) FROM alert GROUP BY node, stream)"


class Letter(NamedTuple):
    """An alert as it came in: `content` is the payload read as JSON, `stream_seq` None where it has none."""

    event_id: str
    node: str
    stream: str
    stream_seq: int | None
    content: dict[str, Any]


class Inbox:
    """A SQLite file with one row for each `event_id`, for one process.

    Parameters
    ----------
    path
        Made if it is missing, with its folder.

    Raises
    ------
    LedgerError
        It cannot be opened, or another process has it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror
            raise LedgerError(f"cannot make the folder {self.path.parent} ({why}): choose another --store") from error
        self._lock = hold(self.path)
        try:
            self._db = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def store(self, letters: Sequence[Letter], received: float, *, handled: bool) -> list[bool]:
        """Keep letters in one transaction; which of them are new.

        Parameters
        ----------
        received
            Unix time in seconds.
        handled
            Nothing is left to do for them.
        """
        rows = [(*letter[:4], received, msgspec.json.encode(letter.content), handled) for letter in letters]
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                new = [self._db.execute(INSERT, row).rowcount for row in rows]
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        return [bool(count) for count in new]

    def unhandled(self) -> list[Letter]:
        """What still waits to be handled, oldest first."""
        query = "SELECT event_id, node, stream, stream_seq, payload FROM alert WHERE handled = 0 ORDER BY id"
        with self._explained():
            rows = self._db.execute(query).fetchall()
        return [Letter(key, node, stream, seq, msgspec.json.decode(body)) for key, node, stream, seq, body in rows]

    def handle(self, event_id: str) -> None:
        """Note that nothing is left to do for an alert."""
        with self._explained():
            self._db.execute("UPDATE alert SET handled = 1 WHERE event_id = ?", (event_id,))

    def latest(self) -> dict[tuple[str, str], int]:
        """The `stream_seq` that came last, for each node and stream."""
        with self._explained():
            return {(node, stream): seq for node, stream, seq in self._db.execute(LATEST) if seq is not None}

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._db.close()
        os.close(self._lock)

    def _open(self) -> sqlite3.Connection:
        with self._explained():
            db = sqlite3.connect(self.path, isolation_level=None)
            try:
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version not in (0, VERSION):
                    raise LedgerError(
                        f"the alert store {self.path} has schema {version}, this holdover reads {VERSION}: "
                        "choose another --store"
                    )
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.execute(TABLES)
                db.execute(INDEX)
                db.execute(f"PRAGMA user_version = {VERSION}")
            except BaseException:
                db.close()
                raise
        return db

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerError(
                f"the alert store {self.path} cannot be used ({error}): make room, or choose another --store; "
                "what is not stored stays with the broker"
            ) from error


def default_store() -> Path:
    """alerts.db in the user's state folder (XDG_STATE_HOME, usually ~/.local/state)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "holdover" / "alerts.db"
