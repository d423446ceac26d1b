"""The subscriber's store: every alert that came, once, what is still to be done for it, and which did not come."""

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from holdover.apps.subscriber.inbox_file import default_store, explained, open_to_write
from holdover.apps.subscriber.numbering import Account, Balance, Numbering
from holdover.runtime.errors import LedgerError
from holdover.runtime.ledger_file import hold, transaction

__all__ = ["Errand", "Inbox", "Letter", "Notice", "Stored", "default_store"]

INSERT = """
INSERT OR IGNORE INTO alert (event_id, node, stream, stream_seq, received, payload) VALUES (?, ?, ?, ?, ?, ?)
"""
KEEP_ACCOUNT = "INSERT OR IGNORE INTO account (node, stream, received, account) VALUES (?, ?, ?, ?)"
KEEP_NUMBERING = "INSERT OR REPLACE INTO numbering (node, stream, state) VALUES (?, ?, ?)"
ERRANDS = "SELECT e.hook, a.node, a.stream, a.id FROM errand e JOIN alert a ON a.id = e.alert ORDER BY a.id"


class Letter(NamedTuple):
    """An alert as it came in: `content` is the payload read as JSON, `stream_seq` None where it has none."""

    event_id: str
    node: str
    stream: str
    stream_seq: int | None
    content: dict[str, Any]


class Notice(NamedTuple):
    """What a node says that it gave up: `identity` is the same when it is said again, `text` is for people."""

    node: str
    stream: str
    account: Account
    identity: bytes
    text: str


class Errand(NamedTuple):
    """Something that a hook is still to do for an alert."""

    hook: str
    node: str
    stream: str
    alert: int


class Stored(NamedTuple):
    """What became of a letter or a notice.

    Attributes
    ----------
    is_new
        It had not come before.
    change
        How many more (or fewer) alerts of the stream are missing, and known to be given up, than before it.
    began_anew
        Its number shows that the node counts from another ledger.
    errands
        What is to be done for it.
    """

    is_new: bool
    change: Balance
    began_anew: bool = False
    errands: tuple[Errand, ...] = ()


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
            self._db = open_to_write(self.path)
            self._numbering = self._read_numbering()
        except BaseException:
            os.close(self._lock)
            raise

    def store(
        self,
        letters: "Sequence[Letter | Notice]",
        received: float,
        hooks: Callable[[Letter], Collection[str]] = lambda _: (),
    ) -> list[Stored]:
        """Keep letters and notices in one transaction; what became of each.

        Parameters
        ----------
        received
            Unix time in seconds.
        hooks
            Which hooks have something to do for a letter, if it is new.
        """
        with self._transaction():
            keys = [self._insert(letter, received) for letter in letters]
            stored = [
                self._count(letter, key)._replace(errands=self._assign(letter, key, hooks))
                for letter, key in zip(letters, keys, strict=True)
            ]
            for node, stream in {(letter.node, letter.stream) for letter in letters}:
                state = msgspec.json.encode(self._numbering[node, stream])
                self._db.execute(KEEP_NUMBERING, (node, stream, state))
        return stored

    def errands(self) -> list[Errand]:
        """What is still to be done, in the order in which the alerts came."""
        with explained(self.path):
            return [Errand(*row) for row in self._db.execute(ERRANDS)]

    def finish(self, errands: Iterable[Errand]) -> None:
        """Note that these are done."""
        rows = [(errand.alert, errand.hook) for errand in errands]
        if rows:
            with self._transaction():
                self._db.executemany("DELETE FROM errand WHERE alert = ? AND hook = ?", rows)

    def give_up(self, errand: Errand, at: float, why: str) -> None:
        """Note that a hook is not run for this alert any more: when, Unix time in seconds, and what went wrong."""
        with self._transaction():
            self._db.execute("DELETE FROM errand WHERE alert = ? AND hook = ?", (errand.alert, errand.hook))
            self._db.execute(
                "INSERT OR REPLACE INTO failure (alert, hook, at, why) VALUES (?, ?, ?, ?)",
                (errand.alert, errand.hook, at, why.encode(errors="replace").decode()),
            )

    def content(self, alert: int) -> dict[str, Any]:
        """An alert by its number in this file."""
        with explained(self.path):
            (payload,) = self._db.execute("SELECT payload FROM alert WHERE id = ?", (alert,)).fetchone()
        content: dict[str, Any] = msgspec.json.decode(payload)
        return content

    @property
    def db(self) -> sqlite3.Connection:
        """The open file, for what only reads."""
        return self._db

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._db.close()
        os.close(self._lock)

    def _insert(self, letter: "Letter | Notice", received: float) -> int | None:
        """Its row's number, None where it was there."""
        if isinstance(letter, Letter):
            row: tuple[Any, ...] = (*letter[:4], received, msgspec.json.encode(letter.content))
            done = self._db.execute(INSERT, row)
        else:
            done = self._db.execute(KEEP_ACCOUNT, (letter.node, letter.stream, received, letter.identity))
        return done.lastrowid if done.rowcount else None

    def _count(self, letter: "Letter | Notice", key: int | None) -> Stored:
        numbering = self._numbering.setdefault((letter.node, letter.stream), Numbering())
        is_new, began_anew = key is not None, False
        if isinstance(letter, Letter) and letter.stream_seq in (None, numbering.latest + 1):
            if letter.stream_seq:
                numbering.take(letter.stream_seq, is_new=is_new)
            return Stored(is_new, Balance(0, 0))
        before = numbering.balance()
        if isinstance(letter, Notice):
            if is_new:
                numbering.account(letter.account)
        elif letter.stream_seq is not None:
            began_anew = numbering.take(letter.stream_seq, is_new=is_new)
        after = before if began_anew else numbering.balance()
        return Stored(is_new, Balance(*(b - a for a, b in zip(before, after, strict=True))), began_anew)

    def _assign(
        self, letter: "Letter | Notice", key: int | None, hooks: Callable[[Letter], Collection[str]]
    ) -> tuple[Errand, ...]:
        if key is None or isinstance(letter, Notice):
            return ()
        errands = tuple(Errand(hook, letter.node, letter.stream, key) for hook in hooks(letter))
        self._db.executemany("INSERT INTO errand (alert, hook) VALUES (?, ?)", [(key, e.hook) for e in errands])
        return errands

    def _read_numbering(self) -> dict[tuple[str, str], Numbering]:
        with explained(self.path):
            rows = self._db.execute("SELECT node, stream, state FROM numbering").fetchall()
        return {(node, stream): msgspec.json.decode(state, type=Numbering) for node, stream, state in rows}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explained(self.path), transaction(self._db):
            yield
