"""What must not be lost: alerts on their way out, and where each stream goes on."""

import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from holdover.runtime.alert import Alert
from holdover.runtime.ledger_file import (
    CHECKPOINT,
    ROW,
    WHOLE_ROW,
    LedgerFull,
    check_place,
    checksum,
    explained,
    hold,
    transaction,
)
from holdover.runtime.ledger_rescue import open_or_set_aside
from holdover.runtime.ledger_room import ACCOUNT, Dropped, account, at_its_bound, give_up, rank, shorten_log

__all__ = ["Checkpoint", "Ledger", "LedgerFull", "Row"]

KEEP_ROWS = 10_000
PRUNE_EVERY = 256
AT_ONCE = 256
"""So many alerts are given up at a time, since looking for them costs more than deleting them."""
SAVED, BROKER, CONFIRMED = range(3)
"""How far an alert has come: it is stored here, the broker has it, a subscriber has stored it."""
STORE = f"""
INSERT INTO stream (name, {CHECKPOINT}, crc) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET model_sha256 = excluded.model_sha256, at = excluded.at,
epoch = excluded.epoch, memory = excluded.memory, crc = excluded.crc
"""
INSERT = f"INSERT OR IGNORE INTO outbox ({WHOLE_ROW}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, {SAVED})"
PRUNE = """
DELETE FROM outbox WHERE state >= ?1 AND id <= (
    SELECT id FROM outbox WHERE state >= ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)
"""
DEPTH = """
SELECT count(*), (SELECT created FROM outbox WHERE id = (SELECT min(id) FROM outbox WHERE state < ?1))
FROM outbox WHERE state < ?1
"""


class Checkpoint(msgspec.Struct, frozen=True):
    """Where a stream goes on, and with what memory.

    Attributes
    ----------
    model_sha256
        The model whose memory it is; another model must not take it.
    at
        What to read next: a place on the source's sample clock, or for a source behind a `Journal` the number of a
        record.
    epoch
        Unix time of sample 0, or None.
    memory
        What `holdover.runtime.snapshot.pack` wrote.
    """

    model_sha256: str
    at: int
    epoch: float | None
    memory: bytes


class Row(msgspec.Struct, frozen=True):
    """An alert in the outbox.

    Attributes
    ----------
    id
        Place in the order of sending.
    body
        The alert in canonical JSON.
    stream_seq
        Counts the alerts of the stream from 1.
    arrived
        Unix time in seconds at which the sample that decided came, or None.
    created
        Unix time in seconds of the commit.
    resumed
        Decided from input that was read again after a restart.
    """

    id: int
    stream: str
    event_id: str
    body: bytes
    stream_seq: int
    arrived: float | None
    resumed: bool
    created: float


class Ledger:
    """One SQLite file (WAL, synced at each commit), used by one process and one thread.

    Parameters
    ----------
    path
        The file; its folder must exist.
    max_mb
        Bound of the file in MiB.
    max_rows, max_age_s
        Bounds of what waits. Beyond any of the three alerts are given up: updates, then low ones, then
        medium ones, oldest first, never the start or the end of a high alarm. Where nothing is left that may go, and
        on a full disk, commits raise `LedgerFull`.
    confirm
        An alert waits until a subscriber has confirmed it, and not only until the broker has it.

    Attributes
    ----------
    set_aside
        Where a damaged ledger that was found is now, or None. Its whole alerts are in the new one; its checkpoints
        are not, so that what was lost of the alerts is decided again from what can be read again of the input.

    Raises
    ------
    LedgerError
        Another process holds the ledger, or the path cannot be one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_mb: float = 256,
        *,
        max_rows: int = 100_000,
        max_age_s: float = float("inf"),
        confirm: bool = False,
    ) -> None:
        self.path = Path(path)
        self.max_rows, self.max_age_s = max_rows, max_age_s
        self._done = CONFIRMED if confirm else BROKER
        self._on_the_way: frozenset[int] = frozenset()
        check_place(self.path)
        self._lock = hold(self.path)
        self._commits = 0
        try:
            self._db, self.set_aside = open_or_set_aside(self.path, max_mb)
            # An earlier start may have told these.
            (self._told,) = self._db.execute("SELECT coalesce(max(id), 0) FROM dropped").fetchone()
        except BaseException:
            os.close(self._lock)
            raise

    def checkpoint(self, stream: str) -> Checkpoint | None:
        """Where the stream goes on, or None if it was never here."""
        query = f"SELECT {CHECKPOINT} FROM stream WHERE name = ? AND memory IS NOT NULL"
        with self._explained():
            found = self._db.execute(query, (stream,)).fetchone()
        return Checkpoint(*found) if found else None

    def commit(
        self,
        stream: str,
        checkpoint: Checkpoint,
        entries: Sequence[tuple[Alert, float | None]] = (),
        *,
        resumed: bool = False,
    ) -> list[Row]:
        """Store alerts together with the state that follows them: all of it or nothing.

        Parameters
        ----------
        entries
            Alerts, each with the Unix time in seconds at which the sample that decided came, or None.
        resumed
            They were decided from input that was read again after a restart.

        Returns
        -------
        list of Row
            Those that were not here already; only these took a `stream_seq`.

        Raises
        ------
        LedgerFull
            No room even after forgetting what was sent and giving up what may go, or the disk refuses for now;
            nothing is stored.
        """
        self._commits += 1
        if self._commits % PRUNE_EVERY == 0:
            self.prune(KEEP_ROWS)
            self.expire()
        while True:
            try:
                stored = self._commit(stream, checkpoint, entries, resumed)
            except LedgerFull:
                if not self._make_room():
                    raise
            else:
                break
        if stored and (waiting := self.depth()[0]) > self.max_rows:
            self._give_up(waiting - self.max_rows, "full")
        return stored

    def unsent(self, limit: int = 100) -> list[Row]:
        """Alerts that the broker does not have yet, oldest first; until the next call, they are not given up."""
        query = f"SELECT {ROW} FROM outbox WHERE state = {SAVED} ORDER BY id LIMIT ?"
        with self._explained():
            found = self._db.execute(query, (limit,)).fetchall()
        self._on_the_way = frozenset(row[0] for row in found)
        return [_row(*row) for row in found]

    def expire(self) -> int:
        """Give up what has waited for longer than `max_age_s`; returns how many."""
        if math.isinf(self.max_age_s):
            return 0
        return self._give_up(self.max_rows, "age", time.time() - self.max_age_s)

    def dropped(self) -> list[Dropped]:
        """What was given up and is still to be told, oldest first; the same again until it is `forgotten`."""
        with self._explained():
            rows = self._db.execute(f"SELECT {ACCOUNT} FROM dropped ORDER BY id").fetchall()
        accounts = [account(row) for row in rows]
        self._told = max((told.id for told in accounts), default=self._told)
        return accounts

    def forget_dropped(self, ids: Iterable[int]) -> None:
        """It was told."""
        rows = [(key,) for key in ids]
        if rows:
            with self._transaction():
                self._db.executemany("DELETE FROM dropped WHERE id = ?", rows)

    def count_dropped(self) -> int:
        """How many alerts were ever given up."""
        with self._explained():
            return int(self._db.execute("SELECT coalesce(sum(dropped), 0) FROM stream").fetchone()[0])

    def acknowledge(self, ids: Iterable[int]) -> None:
        """Note that the broker has these rows; unknown ids are passed over."""
        rows = [(key,) for key in ids]
        if rows:
            with self._transaction():
                self._db.executemany(f"UPDATE outbox SET state = {BROKER} WHERE id = ? AND state = {SAVED}", rows)

    def confirm(self, event_ids: Iterable[str]) -> None:
        """Note that a subscriber has stored these; unknown ids are passed over."""
        rows = [(key,) for key in event_ids]
        if rows:
            with self._transaction():
                self._db.executemany(f"UPDATE outbox SET state = {CONFIRMED} WHERE event_id = ?", rows)

    def send_again(self) -> int:
        """Take back what the broker has and is not done: nobody confirmed it; returns how many alerts."""
        with self._transaction():
            query = f"UPDATE outbox SET state = {SAVED} WHERE state > {SAVED} AND state < ?"
            return self._db.execute(query, (self._done,)).rowcount

    def depth(self) -> tuple[int, float]:
        """How many alerts wait, and the age of the oldest in seconds (0 if none)."""
        with self._explained():
            count, oldest = self._db.execute(DEPTH, (self._done,)).fetchone()
        return count, max(0.0, time.time() - oldest) if count else 0.0

    def prune(self, keep_rows: int) -> int:
        """Forget alerts that are done beyond the newest `keep_rows`; returns how many."""
        with self._transaction():
            return self._db.execute(PRUNE, (self._done, keep_rows)).rowcount

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._db.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _commit(
        self, stream: str, checkpoint: Checkpoint, entries: Sequence[tuple[Alert, float | None]], resumed: bool
    ) -> list[Row]:
        c = checkpoint
        with self._transaction():
            kept = (stream, c.model_sha256, int(c.at), _real(c.epoch), c.memory)
            self._db.execute(STORE, (*kept, checksum(*kept)))
            (seq,) = self._db.execute("SELECT stream_seq FROM stream WHERE name = ?", (stream,)).fetchone()
            stored: list[Row] = []
            for alert, arrived in entries:
                row = self._insert(stream, alert, arrived, seq + len(stored) + 1, resumed)
                stored += [row] if row else []
            if stored:
                self._db.execute("UPDATE stream SET stream_seq = ? WHERE name = ?", (stored[-1].stream_seq, stream))
        return stored

    def _insert(self, stream: str, alert: Alert, arrived: float | None, seq: int, resumed: bool) -> Row | None:
        event_id = alert.body()["event_id"]
        fields = (stream, event_id, alert.body_json(), seq, _real(arrived), int(resumed), time.time())
        values = (*fields, rank(alert.phase))
        done = self._db.execute(INSERT, (*values, checksum(*values)))
        if not done.rowcount or done.lastrowid is None:
            return None
        return _row(done.lastrowid, *fields)

    def _make_room(self) -> bool:
        with self._explained():
            return bool(
                shorten_log(self._db) or self.prune(0) or (at_its_bound(self._db) and self._give_up(AT_ONCE, "full"))
            )

    def _give_up(self, most: int, reason: str, before: float = math.inf) -> int:
        with self._transaction():
            return give_up(
                self._db, most, reason, done=self._done, before=before, spared=self._on_the_way, told=self._told
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained(), transaction(self._db):
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise explained(error, self.path) from error


def _real(value: float | None) -> float | None:
    """As SQLite gives it back, so that its checksum holds: a float, without NaN and without the sign of zero."""
    return None if value is None or math.isnan(value) else float(value) + 0.0


def _row(key: int, stream: str, event_id: str, body: bytes, stream_seq: int, *rest: Any) -> Row:
    arrived, resumed, created = rest
    return Row(key, stream, event_id, body, stream_seq, arrived, bool(resumed), created)
