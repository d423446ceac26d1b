"""The ledger's file: locked for one process, opened, and set aside when it is damaged."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from holdover.runtime.errors import LedgerError
from holdover.runtime.ledger_room import RANKS, Dropped, note

MAGIC = b"SQLite format 3\x00"
APPLICATION_ID = 0x484F4C44
VERSION = 2
SIDE_FILES = ("-wal", "-shm")
NO_ROOM = (
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
)

TABLES = (
    """CREATE TABLE stream (
        name TEXT PRIMARY KEY, stream_seq INTEGER NOT NULL DEFAULT 0, dropped INTEGER NOT NULL DEFAULT 0,
        model_sha256 TEXT, at INTEGER, epoch REAL, memory BLOB)""",
    """CREATE TABLE outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, event_id TEXT NOT NULL UNIQUE, body BLOB NOT NULL,
        stream_seq INTEGER NOT NULL, arrived REAL, resumed INTEGER NOT NULL, created REAL NOT NULL,
        state INTEGER NOT NULL DEFAULT 0, rank INTEGER NOT NULL)""",
    """CREATE TABLE dropped (
        id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, reason TEXT NOT NULL, first INTEGER NOT NULL,
        last INTEGER NOT NULL, counts BLOB NOT NULL, handed INTEGER NOT NULL DEFAULT 0)""",
    "CREATE INDEX outbox_unsent ON outbox (id) WHERE state = 0",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
ROW = "id, stream, event_id, body, stream_seq, arrived, resumed, created, state, rank"
"""The columns of the outbox, in the order in which rows are read and salvaged."""


class LedgerFull(LedgerError):
    """The ledger has no room, or its disk refuses for now: nothing of what was asked is stored; ask again later."""


def hold(path: Path) -> int:
    """Lock a path for this process, by a file beside it; returns the descriptor that holds the lock.

    Raises
    ------
    LedgerError
        Another process holds it, or the lock file cannot be made.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LedgerError(
            f"cannot lock {path}: {error.strerror}; expected a folder that this user can write to"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        who = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise LedgerError(f"{path} is held by process {who}: stop it, or give this one a path of its own") from None
        raise LedgerError(f"cannot lock {path}: {error.strerror}") from error
    return fd


def check_place(path: Path) -> None:
    """Refuse a path that cannot be a ledger, before anything is written.

    Raises
    ------
    LedgerError
        The folder is missing or cannot be written, or the path is a folder or somebody else's file.
    """
    folder = path.parent
    if not folder.is_dir():
        raise LedgerError(f"the folder {folder} of the ledger {path.name} is missing: make it (mkdir -p {folder})")
    if path.is_dir():
        raise LedgerError(f"the ledger {path} is a folder, expected a file: add a file name, such as {path}/ledger.db")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LedgerError(f"the folder {folder} cannot be written by this user: change its owner, or choose another")
    if not path.exists():
        return
    if not os.access(path, os.R_OK | os.W_OK):
        raise LedgerError(f"the ledger {path} cannot be read and written by this user: change its owner or mode")
    if _is_foreign(path):
        raise LedgerError(f"{path} is not a ledger (it is not SQLite), and never was one: choose another path")


def open_or_set_aside(path: Path, max_mb: float) -> tuple[sqlite3.Connection, Path | None]:
    """Open the ledger, or start a new one where it is damaged, with the unsent rows that could be saved.

    Of a damaged one it cannot be known which alerts are lost: any up to the last number may be, and that is noted.

    Returns
    -------
    sqlite3.Connection, Path or None
        The open database, and where the damaged one is now.

    Raises
    ------
    LedgerError
        The file belongs to another program or version, or the system refuses it.
    """
    try:
        return _open(path, max_mb), None
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise _cannot_open(error, path) from error
    try:
        aside = _set_aside(path)
        db = _open(path, max_mb)
        _restore(db, *_salvage(aside))
    except sqlite3.Error as error:
        raise _cannot_open(error, path) from error
    except LedgerError:
        raise
    except OSError as error:
        raise LedgerError(f"the ledger {path} is damaged, and cannot be set aside: {error}") from error
    return db, aside


def explained(error: sqlite3.Error, path: Path) -> LedgerError:
    """An error at run time in our words: no room, a disk that refuses for now, or what else SQLite found."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF == sqlite3.SQLITE_FULL or code in NO_ROOM:
        return LedgerFull(
            f"the ledger {path} has no room ({error}): nothing was stored; make room on the disk, "
            "bring the broker back so that alerts leave, or raise its limit"
        )
    if _is_damage(error):
        return LedgerError(f"the ledger {path} is damaged ({error}): start again, it is then set aside by itself")
    if _is_refusal(error):
        return LedgerFull(
            f"the ledger {path} cannot be written now ({error}): nothing was stored, and it is tried again; "
            "see whether its disk fails, or its file system turned read-only"
        )
    return LedgerError(f"the ledger {path} cannot be used: {error}")


def _cannot_open(error: sqlite3.Error, path: Path) -> LedgerError:
    known = explained(error, path)
    if isinstance(known, LedgerFull) and _is_refusal(error):
        return LedgerError(f"the ledger {path} cannot be opened: {error}; expected a disk that can be written")
    return known


def _is_refusal(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code not in NO_ROOM and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_foreign(path: Path) -> bool:
    """Not SQLite, and with no lock file to say that it once was a ledger of ours."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC))
    was_ours = path.with_name(path.name + ".lock").exists()
    return bool(head.strip(b"\0")) and head != MAGIC and not was_ours


def _open(path: Path, max_mb: float) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise LedgerError(f"the ledger {path} cannot be opened: {error.strerror}") from error
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 4194304")
        # The default, 2 MB, fills as the ledger ages; the system caches the file anyway.
        db.execute("PRAGMA cache_size = -256")
        (page,) = db.execute("PRAGMA page_size").fetchone()
        db.execute(f"PRAGMA max_page_count = {max(int(max_mb * 2**20 / page), 16)}")
        _check_schema(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    said = [str(line) for (line,) in db.execute("PRAGMA quick_check(1)")]
    if said != ["ok"]:
        error = sqlite3.DatabaseError("; ".join(said))
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (version, owner, tables) == (0, 0, 0):
        _create(db)
    elif owner != APPLICATION_ID:
        raise LedgerError(f"{path} is a database of another program: choose another path for the ledger")
    elif version != VERSION:
        raise LedgerError(
            f"the ledger {path} has schema {version}, this holdover reads {VERSION}: "
            "run the holdover that wrote it until it is empty, or move it away"
        )


def _create(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    for statement in TABLES:
        db.execute(statement)
    db.execute("COMMIT")


def _set_aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    path.rename(aside)
    for side in SIDE_FILES:
        old = path.with_name(path.name + side)
        if old.exists():
            old.rename(aside.with_name(aside.name + side))
    return aside


def _salvage(path: Path) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """What can still be read of a damaged ledger: its unsent rows, and how far each stream had counted."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        found = {
            row[0]: row
            for order in ("ASC", "DESC")
            for row in _readable(db, f"SELECT {ROW} FROM outbox NOT INDEXED ORDER BY id {order}")
        }
        counts = dict(_readable(db, "SELECT name, stream_seq FROM stream NOT INDEXED"))
    rows = [found[key] for key in sorted(key for key in found if isinstance(key, int)) if _is_whole(found[key])]
    for row in rows:
        counts[row[1]] = max(_count(counts.get(row[1])), row[4])
    return [row for row in rows if row[8] == 0], {s: _count(n) for s, n in counts.items() if isinstance(s, str)}


def _readable(db: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    try:
        yield from db.execute(query)
    except sqlite3.Error:
        return


def _is_whole(row: Sequence[Any]) -> bool:
    _, stream, event_id, body, seq, arrived, resumed, created, state, rank = row
    if not (isinstance(stream, str) and isinstance(seq, int) and isinstance(created, float) and state in (0, 1, 2)):
        return False
    if rank not in range(len(RANKS)):
        return False
    if not (arrived is None or isinstance(arrived, float)) or resumed not in (0, 1):
        return False
    try:
        content = msgspec.json.decode(body)
    except (ValueError, TypeError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("event_id") == event_id


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _restore(db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], counts: dict[str, int]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany(f"INSERT OR IGNORE INTO outbox ({ROW}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    db.executemany("INSERT INTO stream (name, stream_seq) VALUES (?, ?)", counts.items())
    for stream, last in counts.items():
        note(db, Dropped(stream, "damaged", 1, last, {}))
    db.execute("COMMIT")
