"""The file of the subscriber's store: opened, brought to this version, or refused in words."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec

from holdover.apps.subscriber.numbering import Numbering
from holdover.runtime.errors import LedgerError
from holdover.runtime.ledger_file import transaction

VERSION = 3
APPLICATION_ID = 0x484F4C41
ALERT = """
CREATE TABLE alert (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, node TEXT NOT NULL, stream TEXT NOT NULL,
    stream_seq INTEGER, received REAL NOT NULL, payload BLOB NOT NULL)
"""
FAILURE = """
CREATE TABLE failure (
    alert INTEGER NOT NULL, hook TEXT NOT NULL, at REAL NOT NULL, why TEXT NOT NULL, PRIMARY KEY (alert, hook)
) WITHOUT ROWID
"""
OTHERS = (
    "CREATE TABLE errand (alert INTEGER NOT NULL, hook TEXT NOT NULL, PRIMARY KEY (alert, hook)) WITHOUT ROWID",
    """CREATE TABLE account (
        id INTEGER PRIMARY KEY, node TEXT NOT NULL, stream TEXT NOT NULL, received REAL NOT NULL,
        account BLOB NOT NULL, UNIQUE (node, stream, account))""",
    """CREATE TABLE numbering (
        node TEXT NOT NULL, stream TEXT NOT NULL, state BLOB NOT NULL, PRIMARY KEY (node, stream)) WITHOUT ROWID""",
    "CREATE INDEX alert_received ON alert (received)",
)
STEPS = ((ALERT,), OTHERS, (FAILURE,))
"""What each version added to the one before."""
MARKS = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION}")
FROM_1 = (
    "INSERT INTO errand (alert, hook) SELECT id, 'exec' FROM alert WHERE handled = 0",
    "DROP INDEX IF EXISTS alert_unhandled",
    "ALTER TABLE alert DROP COLUMN handled",
)


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open the store, made or brought to this version where needed, for the one process that receives.

    Raises
    ------
    LedgerError
        It is another program's or of another version, or the system refuses it.
    """
    with explained(path):
        db = sqlite3.connect(path, isolation_level=None)
        try:
            version = _version(db, path)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            if version < VERSION:
                _make(db, version)
        except BaseException:
            db.close()
            raise
    return db


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a store beside the process that may be writing it; nothing is changed.

    Raises
    ------
    LedgerError
        There is none, it is another program's or of another version, or the system refuses it.
    """
    if not path.is_file():
        raise LedgerError(f"no alert store {path}: receive alerts first (holdover alerts), or correct --store")
    with explained(path):
        db = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, isolation_level=None)
        try:
            if _version(db, path) == 0:
                raise LedgerError(f"the alert store {path} is empty: receive alerts first, or correct --store")
        except BaseException:
            db.close()
            raise
    return db


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of SQLite into words."""
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerError(
            f"the alert store {path} cannot be used ({error}): make room, or choose another --store; "
            "what is not stored stays with the broker"
        ) from error


def default_store() -> Path:
    """alerts.db in the user's state folder (XDG_STATE_HOME, usually ~/.local/state)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "holdover" / "alerts.db"


def _version(db: sqlite3.Connection, path: Path) -> int:
    """Of the store, 0 where it is empty."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and not version:
        return 0
    # The first version did not say whose file it is.
    if application != APPLICATION_ID and (application, version, "alert" in tables) != (0, 1, True):
        raise LedgerError(f"{path} is no alert store, but another program's SQLite file: choose another --store")
    if not 1 <= version <= VERSION:
        raise LedgerError(
            f"the alert store {path} has schema {version}, this holdover reads 1 to {VERSION}: "
            "use a newer holdover, or choose another --store"
        )
    return int(version)


def _make(db: sqlite3.Connection, version: int) -> None:
    """The tables, in one transaction, out of what an earlier version left."""
    statements = [statement for step in STEPS[version:] for statement in step]
    with transaction(db):
        for statement in (*statements, *(FROM_1 if version == 1 else ()), *MARKS):
            db.execute(statement)
        if version == 1:
            _count(db)


def _count(db: sqlite3.Connection) -> None:
    """The numbering of each stream, from the alerts in the order in which they came."""
    found: dict[tuple[str, str], Numbering] = {}
    query = "SELECT node, stream, stream_seq FROM alert WHERE stream_seq IS NOT NULL ORDER BY id"
    for node, stream, number in db.execute(query):
        found.setdefault((node, stream), Numbering()).take(number, is_new=True)
    rows = [(*place, msgspec.json.encode(numbering)) for place, numbering in found.items()]
    db.executemany("INSERT INTO numbering (node, stream, state) VALUES (?, ?, ?)", rows)
