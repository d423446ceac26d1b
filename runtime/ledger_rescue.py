"""A damaged ledger: set aside, and a new one in its place with all that can still be read of it."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from holdover.runtime.errors import LedgerError
from holdover.runtime.ledger_file import WHOLE_ROW, cannot_open, is_damage, is_whole, open_ledger, transaction
from holdover.runtime.ledger_room import Dropped, note

SIDE_FILES = ("-wal", "-shm")
PAGE = 4096
"""Bytes of a page: SQLite's default, and so that of every ledger."""
PAGES_AT = slice(28, 32)
"""Where the first page says how many there are (SQLite's file format, 1.3)."""


class Salvage(NamedTuple):
    """Of a damaged ledger: its whole rows, by id, and how far each stream had counted."""

    rows: dict[int, tuple[Any, ...]]
    counts: dict[str, int]


def open_or_set_aside(path: Path, max_mb: float) -> tuple[sqlite3.Connection, Path | None]:
    """Open the ledger, or where it is damaged a new one with the rows that could be saved.

    Of a damaged one it cannot be known which alerts are lost: any up to the last number may be, and that is noted. The
    new one is whole before the damaged one is moved, so that no moment, and no full disk, leaves neither.

    Returns
    -------
    sqlite3.Connection, Path or None
        The open database, and where the damaged one is now.

    Raises
    ------
    LedgerError
        The file belongs to another program or version, or the system refuses it.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        if fresh.exists() and not path.exists():
            _take_its_place(fresh, path)
        return open_ledger(path, max_mb), None
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise cannot_open(error, path) from error
    try:
        _build(fresh, path, max_mb)
        aside = _set_aside(path)
        _take_its_place(fresh, path)
        return open_ledger(path, max_mb), aside
    except sqlite3.Error as error:
        raise cannot_open(error, path) from error
    except LedgerError:
        raise
    except OSError as error:
        raise LedgerError(f"the ledger {path} is damaged, and cannot be set aside: {error}") from error


def _build(fresh: Path, damaged: Path, max_mb: float) -> None:
    for name in ("", *SIDE_FILES):
        fresh.with_name(fresh.name + name).unlink(missing_ok=True)
    open_ledger(fresh, max_mb).close()
    saved = _salvage(damaged, fresh)
    with closing(open_ledger(fresh, max_mb)) as db, transaction(db):
        marks = ", ".join("?" * (WHOLE_ROW.count(",") + 1))
        rows = [saved.rows[key] for key in sorted(saved.rows)]
        db.executemany(f"INSERT OR IGNORE INTO outbox ({WHOLE_ROW}) VALUES ({marks})", rows)
        db.executemany("INSERT INTO stream (name, stream_seq) VALUES (?, ?)", saved.counts.items())
        for stream, last in saved.counts.items():
            note(db, Dropped(stream, "damaged", 1, last, {}))


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


def _take_its_place(fresh: Path, path: Path) -> None:
    # A log that a kill left between the two moves is the damaged ledger's, and would be played into the new one.
    for side in SIDE_FILES:
        path.with_name(path.name + side).unlink(missing_ok=True)
    fresh.rename(path)


def _salvage(damaged: Path, fresh: Path) -> Salvage:
    saved = _read(damaged)
    if saved.rows or saved.counts:
        return saved
    copy = fresh.with_name(fresh.name + ".copy")
    try:
        _copy_with_its_head(damaged, fresh, copy)
        return _read(copy)
    finally:
        for name in ("", *SIDE_FILES):
            copy.with_name(copy.name + name).unlink(missing_ok=True)


def _copy_with_its_head(damaged: Path, fresh: Path, copy: Path) -> None:
    """A copy that begins with the first page of a new ledger: the tables lie in the same places in each."""
    copy.touch(0o600)
    shutil.copyfile(damaged, copy)
    if (log := damaged.with_name(damaged.name + "-wal")).exists():
        shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
    with fresh.open("rb") as new, copy.open("r+b") as file:
        head = bytearray(new.read(PAGE))
        head[PAGES_AT] = (damaged.stat().st_size // PAGE).to_bytes(4, "big")
        file.write(head)


def _read(path: Path) -> Salvage:
    """From both ends, since nothing behind a page that cannot be read is reached."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)) as db:
        db.text_factory = lambda text: text.decode("utf-8", "replace")
        rows = {
            row[0]: row
            for order in ("ASC", "DESC")
            for row in _readable(db, f"SELECT {WHOLE_ROW} FROM outbox NOT INDEXED ORDER BY id {order}")
            if is_whole(row)
        }
        found = dict(_readable(db, "SELECT name, stream_seq FROM stream NOT INDEXED"))
    counts = {name: seq for name, seq in found.items() if isinstance(name, str) and isinstance(seq, int)}
    for row in rows.values():
        counts[row[1]] = max(counts.get(row[1], 0), row[4])
    return Salvage(rows, counts)


def _readable(db: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    try:
        yield from db.execute(query)
    except (sqlite3.Error, UnicodeDecodeError):
        return
