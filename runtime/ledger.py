"""What must not be lost: alerts on their way out, and where each stream goes on."""

import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

from holdover.runtime.alert import Alert
from holdover.runtime.ledger_file import LedgerFull, check_place, explained, hold, open_or_set_aside
from holdover.runtime.ledger_room import Dropped, give_up, hand_out, rank

__all__ = ["Checkpoint", "Dropped", "Ledger", "LedgerFull", "Row", "RowState"]

KEEP_ROWS = 10_000
PRUNE_EVERY = 256
AT_ONCE = 256
"""So many alerts are given up at a time, since looking for them costs more than deleting them."""
NEARLY = 8
"""Pages, of 4 KiB: what a commit may want at once."""
SENT = "id, stream, event_id, body, stream_seq, arrived, resumed, created"
RowState = Literal["saved", "broker", "confirmed"]
STATES: tuple[RowState, ...] = ("saved", "broker", "confirmed")
STORE = """
INSERT INTO stream (name, model_sha256, at, epoch, memory) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET model_sha256 = excluded.model_sha256, at = excluded.at,
epoch = excluded.epoch, memory = excluded.memory
"""
INSERT = """
INSERT OR IGNORE INTO outbox (stream, event_id, body, stream_seq, arrived, resumed, created, rank)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
PRUNE = """
DELETE FROM outbox WHERE state > 0 AND id <= (SELECT id FROM outbox WHERE state > 0 ORDER BY id DESC LIMIT 1 OFFSET ?)
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
    state
        "saved" here, "broker" once the broker has it, "confirmed" once a subscriber has.
    """

    id: int
    stream: str
    event_id: str
    body: bytes
    stream_seq: int
    arrived: float | None
    resumed: bool
    created: float
    state: RowState


class Ledger:
    """One SQLite file (WAL, synced at each commit), used by one process and one thread.

    Parameters
    ----------
    path
        The file; its folder must exist.
    max_mb
        Bound of the file in MiB.
    max_rows, max_age_s
        Bounds of what waits for the broker. Beyond any of the three alerts are given up: updates, then low ones, then
        medium ones, oldest first, never the start or the end of a high alarm. Where nothing is left that may go, and
        on a full disk, commits raise `LedgerFull`.

    Attributes
    ----------
    set_aside
        Where a damaged ledger that was found is now, or None. Its readable unsent alerts are in the new one; its
        checkpoints are not, for a memory that may be damaged is none.

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
    ) -> None:
        self.path = Path(path)
        self.max_rows, self.max_age_s = max_rows, max_age_s
        self._on_the_way: frozenset[int] = frozenset()
        check_place(self.path)
        self._lock = hold(self.path)
        self._commits = 0
        try:
            self._db, self.set_aside = open_or_set_aside(self.path, max_mb)
        except BaseException:
            os.close(self._lock)
            raise

    def checkpoint(self, stream: str) -> Checkpoint | None:
        """Where the stream goes on, or None if it was never here."""
        query = "SELECT model_sha256, at, epoch, memory FROM stream WHERE name = ? AND memory IS NOT NULL"
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
                if not self.prune(0) and not (self._at_its_bound() and self._give_up(AT_ONCE, "full")):
                    raise
            else:
                break
        if stored and (waiting := self.depth()[0]) > self.max_rows:
            self._give_up(waiting - self.max_rows, "full")
        return stored

    def unsent(self, after_id: int = 0, limit: int = 100) -> list[Row]:
        """Alerts that the broker does not have yet, oldest first; until the next call, they are not given up."""
        query = f"SELECT {SENT} FROM outbox WHERE state = 0 AND id > ? ORDER BY id LIMIT ?"
        with self._explained():
            found = self._db.execute(query, (after_id, limit)).fetchall()
        self._on_the_way = frozenset(row[0] for row in found)
        return [
            Row(key, name, event_id, body, seq, arrived, bool(resumed), created, "saved")
            for key, name, event_id, body, seq, arrived, resumed, created in found
        ]

    def expire(self) -> int:
        """Give up what has waited for longer than `max_age_s`; returns how many."""
        if math.isinf(self.max_age_s):
            return 0
        return self._give_up(self.max_rows, "age", time.time() - self.max_age_s)

    def dropped(self) -> list[Dropped]:
        """What was given up and is still to be told, oldest first; the same again until it is `forgotten`."""
        with self._explained():
            if not self._db.execute("SELECT 1 FROM dropped LIMIT 1").fetchone():
                return []
        with self._transaction():
            return hand_out(self._db)

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

    def acknowledge(self, ids: Iterable[int], state: RowState = "broker") -> None:
        """Note how far rows have come; unknown ids are passed over, and no row goes back."""
        level = STATES.index(state)
        rows = [(level, key, level) for key in ids]
        if rows:
            with self._transaction():
                self._db.executemany("UPDATE outbox SET state = ? WHERE id = ? AND state < ?", rows)

    def confirm(self, event_ids: Iterable[str]) -> None:
        """Note that a subscriber has stored these; unknown ids are passed over."""
        rows = [(STATES.index("confirmed"), key) for key in event_ids]
        if rows:
            with self._transaction():
                self._db.executemany("UPDATE outbox SET state = ? WHERE event_id = ?", rows)

    def send_again(self) -> int:
        """Take back what the broker has and no subscriber confirmed; returns how many alerts."""
        with self._transaction():
            return self._db.execute("UPDATE outbox SET state = 0 WHERE state = 1").rowcount

    def depth(self) -> tuple[int, float]:
        """How many alerts wait for the broker, and the age of the oldest in seconds (0 if none)."""
        query = "SELECT count(*), (SELECT created FROM outbox WHERE state = 0 ORDER BY id LIMIT 1) FROM outbox"
        with self._explained():
            count, oldest = self._db.execute(query + " WHERE state = 0").fetchone()
        return count, max(0.0, time.time() - oldest) if count else 0.0

    def prune(self, keep_rows: int) -> int:
        """Forget sent alerts beyond the newest `keep_rows`; returns how many."""
        with self._transaction():
            return self._db.execute(PRUNE, (keep_rows,)).rowcount

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
            self._db.execute(STORE, (stream, c.model_sha256, c.at, c.epoch, c.memory))
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
        arrived = None if arrived is None or math.isnan(arrived) else float(arrived)
        values = (stream, event_id, alert.body_json(), seq, arrived, resumed, time.time())
        done = self._db.execute(INSERT, (*values, rank(alert.phase)))
        if not done.rowcount or done.lastrowid is None:
            return None
        return Row(done.lastrowid, *values, "saved")

    def _at_its_bound(self) -> bool:
        """Whether it is our own bound that was met, not the disk's."""
        with self._explained():
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            (most,) = self._db.execute("PRAGMA max_page_count").fetchone()
        return bool(pages >= most - NEARLY)

    def _give_up(self, most: int, reason: str, before: float = math.inf) -> int:
        with self._transaction():
            return give_up(self._db, most, reason, before=before, on_the_way=self._on_the_way)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise explained(error, self.path) from error
