"""Room in the outbox: what goes first when there is none, and the account of what went."""

import sqlite3
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from holdover.runtime.alert import Phase

ACCOUNT = "stream, reason, first, last, counts, id"
RANKS = ("update", "low", "medium", "high")
"""In which order alerts go: updates first, whatever their priority; the start and the end of a high alarm never."""
KEPT = RANKS.index("high")

NEARLY = 8
"""Pages, of 4 KiB: what a commit may want at once."""

VICTIMS = """
SELECT id, stream, stream_seq, rank FROM outbox
WHERE state < ? AND rank < ? AND created < ? ORDER BY rank, id LIMIT ?
"""


class Dropped(msgspec.Struct, frozen=True):
    """Alerts of a stream that were given up before the broker had them.

    Attributes
    ----------
    id
        Of this account; 0 before it is stored.
    reason
        "full": rows or bytes; "age": waited too long; "damaged": the ledger was, and they could not be read.
    first, last
        Their numbers (`stream_seq`) lie between these, with both.
    of
        How many, by the words of `RANKS`; empty where it cannot be known.
    """

    stream: str
    reason: str
    first: int
    last: int
    of: dict[str, int]
    id: int = 0


def rank(phase: Phase) -> int:
    """Place in `RANKS`.

    >>> rank(Phase(label="couplet", phase="start", onset=0, at=9, priority="info"))
    1
    """
    if phase.phase == "update":
        return 0
    return RANKS.index("low" if phase.priority == "info" else phase.priority)


def give_up(
    db: sqlite3.Connection,
    most: int,
    reason: str,
    *,
    done: int,
    before: float,
    spared: Collection[int],
    told: int,
) -> int:
    """Delete up to `most` alerts that are not done, in the order of `RANKS`, oldest first, and note it; how many.

    Parameters
    ----------
    db
        In a transaction.
    done
        From which state on an alert is.
    before
        Only those stored before this Unix time in seconds.
    spared
        Ids that are left, since they are being sent.
    told
        As for `note`.
    """
    found = db.execute(VICTIMS, (done, KEPT, before, most + len(spared))).fetchall()
    victims = [row for row in found if row[0] not in spared][:most]
    db.executemany("DELETE FROM outbox WHERE id = ?", [(key,) for key, *_ in victims])
    for name in {stream for _, stream, _, _ in victims}:
        rows = [(seq, level) for _, stream, seq, level in victims if stream == name]
        numbers = [seq for seq, _ in rows]
        note(db, Dropped(name, reason, min(numbers), max(numbers), Counter(RANKS[level] for _, level in rows)), told)
    return len(victims)


def at_its_bound(db: sqlite3.Connection) -> bool:
    """Whether it is our own bound that was met, not the disk's."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (most,) = db.execute("PRAGMA max_page_count").fetchone()
    return bool(pages >= most - NEARLY)


def shorten_log(db: sqlite3.Connection) -> bool:
    """Write the log into the ledger, and so give back what it takes; whether that could be done."""
    with suppress(sqlite3.OperationalError):
        is_busy, pages, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return pages > 0 and not is_busy
    return False


def note(db: sqlite3.Connection, new: Dropped, told: int = 0) -> None:
    """Add to the account of its stream and reason, or begin one where that may have been told: it is `told` or less."""
    query = f"SELECT {ACCOUNT} FROM dropped WHERE stream = ? AND reason = ? AND id > ?"
    found = db.execute(query, (new.stream, new.reason, told)).fetchone()
    db.execute("UPDATE stream SET dropped = dropped + ? WHERE name = ?", (sum(new.of.values()), new.stream))
    if found is None:
        fresh = (new.stream, new.reason, new.first, new.last, msgspec.json.encode(new.of))
        db.execute("INSERT INTO dropped (stream, reason, first, last, counts) VALUES (?, ?, ?, ?, ?)", fresh)
        return
    old = account(found)
    of = msgspec.json.encode(Counter(old.of) + Counter(new.of))
    values = (min(old.first, new.first), max(old.last, new.last), of, old.id)
    db.execute("UPDATE dropped SET first = ?, last = ?, counts = ? WHERE id = ?", values)


def account(row: Sequence[Any]) -> Dropped:
    """A row of `ACCOUNT`.

    Raises
    ------
    msgspec.MsgspecError
        It is none.
    """
    stream, reason, first, last, counts, key = row
    of = msgspec.json.decode(counts)
    return msgspec.convert(
        {"stream": stream, "reason": reason, "first": first, "last": last, "of": of, "id": key}, Dropped
    )
