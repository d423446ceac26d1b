"""What comes in over MQTT, from whomever: read as an alert or as an account of dropped ones, or refused."""

from typing import Any

import msgspec

from holdover.apps.subscriber.inbox import Letter, Notice
from holdover.apps.subscriber.numbering import Account
from holdover.runtime.wire import DroppedNote

LONGEST_ID = 200
LONGEST_WORD = 30
DEEPEST = 100
HIGHEST = 2**63
"""Beyond what SQLite can hold."""


def read_alert(node: str, stream: str, payload: bytes) -> Letter | None:
    """An alert: a JSON object with a string `event_id`, not nested deeper than `DEEPEST`; None for all else.

    >>> read_alert("pi", "ecg", b'{"event_id": "a", "stream_seq": 7}').stream_seq
    7
    """
    try:
        content = msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        return None
    key = content.get("event_id") if isinstance(content, dict) else None
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_ID or not _is_shallow(content):
        return None
    return Letter(key, node, stream, _sequence_number(content), content)


def read_notice(node: str, stream: str, payload: bytes) -> Notice | None:
    """An account of what the node gave up; None for all else."""
    try:
        # In two steps: what a struct has no field for would be passed over without a look at its UTF-8.
        note = msgspec.convert(msgspec.json.decode(payload), DroppedNote)
    except (ValueError, RecursionError):
        return None
    counts = [note.first, note.last, note.count or 0, *note.of.values()]
    if note.first > note.last or max(counts) >= HIGHEST or abs(note.id) >= HIGHEST:
        return None
    # The same account may be told again, by a later start of the node and at another time.
    identity = msgspec.structs.replace(note, boot_id="", published_time="")
    return Notice(node, stream, Account(note.first, note.last, note.count), msgspec.json.encode(identity), _told(note))


def _told(note: DroppedNote) -> str:
    number = "some" if note.count is None else str(note.count)
    of = ", ".join(f"{count} {word[:LONGEST_WORD]}" for word, count in list(note.of.items())[:8])
    return (
        f"gave up {number} alerts between the numbers {note.first} and {note.last} "
        f"({note.reason[:LONGEST_WORD]}{': ' if of else ''}{of})"
    )


def _is_shallow(content: dict[str, Any]) -> bool:
    """Not nested so deep that writing it as JSON again could exhaust the stack."""
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        inside = (part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole))
        level = [part for part in inside if isinstance(part, (dict, list))]
        if not level:
            return True
    return False


def _sequence_number(content: dict[str, Any]) -> int | None:
    """`stream_seq`, if it is a count that SQLite can hold."""
    seq = content.get("stream_seq")
    return seq if type(seq) is int and 0 < seq < HIGHEST else None
