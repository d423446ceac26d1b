"""Room in the outbox: what goes first when there is none, and the account of what went."""

import sqlite3
from collections import Counter
from collections.abc import Collection

import msgspec

from holdover.runtime.alert import Phase

RANKS = ("update", "low", "medium", "high")
"""In which order alerts go: updates first, whatever their priority; the start and the end of a high alarm never."""
KEPT = RANKS.index("high")

VICTIMS = """
SELECT id, stream, stream_seq, rank FROM outbox
WHERE state = 0 AND rank < ? AND created < ? ORDER BY rank, id LIMIT ?
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
    db: sqlite3.Connection, most: int, reason: str, *, before: float = float("inf"), on_the_way: Collection[int] = ()
) -> int:
    """Delete up to `most` unsent alerts in the order of `RANKS`, oldest first, and note it; returns how many.

    Parameters
    ----------
    db
        In a transaction.
    before
        Only those stored before this Unix time in seconds.
    on_the_way
        Ids that are being sent, and so are left.
    """
    found = db.execute(VICTIMS, (KEPT, before, most + len(on_the_way))).fetchall()
    victims = [row for row in found if row[0] not in on_the_way][:most]
    db.executemany("DELETE FROM outbox WHERE id = ?", [(key,) for key, *_ in victims])
    for name in {stream for _, stream, _, _ in victims}:
        rows = [(seq, level) for _, stream, seq, level in victims if stream == name]
        numbers = [seq for seq, _ in rows]
        note(db, Dropped(name, reason, min(numbers), max(numbers), Counter(RANKS[level] for _, level in rows)))
    return len(victims)


def note(db: sqlite3.Connection, new: Dropped) -> None:
    """Add to the account of its stream and reason that has not been handed out, or begin one."""
    query = "SELECT id, first, last, counts FROM dropped WHERE stream = ? AND reason = ? AND handed = 0"
    old = db.execute(query, (new.stream, new.reason)).fetchone()
    db.execute("UPDATE stream SET dropped = dropped + ? WHERE name = ?", (sum(new.of.values()), new.stream))
    if old is None:
        fresh = (new.stream, new.reason, new.first, new.last, msgspec.json.encode(new.of))
        db.execute("INSERT INTO dropped (stream, reason, first, last, counts) VALUES (?, ?, ?, ?, ?)", fresh)
        return
    key, first, last, counts = old
    of = Counter(msgspec.json.decode(counts, type=dict[str, int])) + Counter(new.of)
    values = (min(first, new.first), max(last, new.last), msgspec.json.encode(of), key)
    db.execute("UPDATE dropped SET first = ?, last = ?, counts = ? WHERE id = ?", values)


def hand_out(db: sqlite3.Connection) -> list[Dropped]:
    """All accounts, oldest first; what is dropped from now on begins others."""
    db.execute("UPDATE dropped SET handed = 1 WHERE handed = 0")
    rows = db.execute("SELECT stream, reason, first, last, counts, id FROM dropped ORDER BY id")
    return [
        Dropped(stream, reason, first, last, msgspec.json.decode(counts, type=dict[str, int]), key)
        for stream, reason, first, last, counts, key in rows
    ]
