"""The ledger's file: locked for one process, its tables, and opened once all that is in it is sound."""

import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from holdover.runtime.errors import LedgerError
from holdover.runtime.ledger_room import ACCOUNT, account

MAGIC = b"SQLite format 3\x00"
APPLICATION_ID = 0x484F4C44
VERSION = 3
LOG_PAGES = 256
NO_ROOM = (
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
)

TABLES = (
    """CREATE TABLE stream (
        name TEXT PRIMARY KEY, stream_seq INTEGER NOT NULL DEFAULT 0, dropped INTEGER NOT NULL DEFAULT 0,
        model_sha256 TEXT, at INTEGER, epoch REAL, memory BLOB, crc INTEGER)""",
    """CREATE TABLE outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, event_id TEXT NOT NULL UNIQUE, body BLOB NOT NULL,
        stream_seq INTEGER NOT NULL, arrived REAL, resumed INTEGER NOT NULL, created REAL NOT NULL,
        rank INTEGER NOT NULL, crc INTEGER NOT NULL, state INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE dropped (
        id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, reason TEXT NOT NULL, first INTEGER NOT NULL,
        last INTEGER NOT NULL, counts BLOB NOT NULL)""",
    "CREATE INDEX outbox_state ON outbox (state, id)",
)
MARKS = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION}")
ROW = "id, stream, event_id, body, stream_seq, arrived, resumed, created"
"""What an alert is sent from."""
WHOLE_ROW = f"{ROW}, rank, crc, state"
CHECKPOINT = "model_sha256, at, epoch, memory"


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


def checksum(*values: object) -> int:
    """CRC-32 of what SQLite is to keep as it is: it has none of its own, so that a bit that flips on a disk passes."""
    return zlib.crc32(msgspec.msgpack.encode(values))


def is_whole(row: Sequence[Any]) -> bool:
    """Whether a `WHOLE_ROW` is as it was written."""
    *values, crc, state = row
    return checksum(*values[1:]) == crc and state in (0, 1, 2) and isinstance(values[0], int)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def explained(error: sqlite3.Error, path: Path) -> LedgerError:
    """An error at run time in our words: no room, a disk that refuses for now, or what else SQLite found."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF == sqlite3.SQLITE_FULL or code in NO_ROOM:
        return LedgerFull(
            f"the ledger {path} has no room ({error}): nothing was stored; make room on the disk, "
            "bring the broker back so that alerts leave, or raise its limit"
        )
    if is_damage(error):
        return LedgerError(f"the ledger {path} is damaged ({error}): start again, it is then set aside by itself")
    if _is_refusal(error):
        return LedgerFull(
            f"the ledger {path} cannot be written now ({error}): nothing was stored, and it is tried again; "
            "see whether its disk fails, or its file system turned read-only"
        )
    return LedgerError(f"the ledger {path} cannot be used: {error}")


def cannot_open(error: sqlite3.Error, path: Path) -> LedgerError:
    """An error at the start in our words."""
    known = explained(error, path)
    if isinstance(known, LedgerFull) and _is_refusal(error):
        return LedgerError(f"the ledger {path} cannot be opened: {error}; expected a disk that can be written")
    return known


def _is_refusal(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code not in NO_ROOM and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether it is what stands in the file that is at fault."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_foreign(path: Path) -> bool:
    """Not SQLite, and with no lock file to say that it once was a ledger of ours."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC))
    was_ours = path.with_name(path.name + ".lock").exists()
    return bool(head.strip(b"\0")) and head != MAGIC and not was_ours


def open_ledger(path: Path, max_mb: float) -> sqlite3.Connection:
    """Open a ledger, made where it is missing, and hold all that is in it against what it should be.

    Raises
    ------
    sqlite3.DatabaseError
        It is damaged, or the system refuses it.
    LedgerError
        It belongs to another program or version.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise LedgerError(f"the ledger {path} cannot be opened: {error.strerror}") from error
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        # The log may hold what a small disk has, and then not even be emptied; the default is 4 MB.
        db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        db.execute("PRAGMA journal_size_limit = 1048576")
        # The default, 2 MB, fills as the ledger ages; the system caches the file anyway.
        db.execute("PRAGMA cache_size = -256")
        (page,) = db.execute("PRAGMA page_size").fetchone()
        db.execute(f"PRAGMA max_page_count = {max(int(max_mb * 2**20 / page), 16)}")
        _check(db, path)
    except UnicodeDecodeError as error:  # what SQLite quotes of the file in its own words
        db.close()
        raise damage(str(error)) from error
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, path: Path) -> None:
    """What could not be read later must be found now, or each start would end as the one before."""
    try:
        said = [str(line) for (line,) in db.execute("PRAGMA integrity_check(1)")]
        if said != ["ok"]:
            raise damage("; ".join(said))
        _check_schema(db, path)
        _check_content(db)
    except msgspec.MsgspecError as error:
        raise damage(str(error)) from error
    except sqlite3.OperationalError as error:
        # Text that is none has no code of its own, and tables that are not as they were made have this one.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
            raise damage(str(error)) from error
        raise


def damage(what: str) -> sqlite3.DatabaseError:
    """An error as SQLite itself raises it for a file that is damaged."""
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    made = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")]
    if (version, owner, made) == (0, 0, []):
        with transaction(db):
            for statement in (*TABLES, *MARKS):
                db.execute(statement)
    elif owner != APPLICATION_ID:
        raise LedgerError(f"{path} is a database of another program: choose another path for the ledger")
    elif version != VERSION:
        raise LedgerError(
            f"the ledger {path} has schema {version}, this holdover reads {VERSION}: "
            "run the holdover that wrote it until it is empty, or move it away"
        )
    elif made != list(TABLES):
        raise damage("its tables are not those that were made")


def _check_content(db: sqlite3.Connection) -> None:
    highest: dict[str, int] = {}
    for row in db.execute(f"SELECT {WHOLE_ROW} FROM outbox"):
        if not is_whole(row):
            raise damage(f"alert {row[0]} is not what was written")
        highest[row[1]] = max(row[4], highest.get(row[1], 0))
    query = f"SELECT name, stream_seq, dropped, crc, {CHECKPOINT} FROM stream"
    for name, seq, dropped, crc, *values in db.execute(query):
        whole = crc is None or checksum(name, *values) == crc
        if not whole or not isinstance(dropped, int) or not isinstance(seq, int) or seq < highest.get(name, 0):
            raise damage(f"the checkpoint of {name} is not what was written")
    for row in db.execute(f"SELECT {ACCOUNT} FROM dropped"):
        account(row)
