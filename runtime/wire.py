"""What is said over MQTT beside an alert's body, one struct a message; the schemas are made from these."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from holdover.runtime.alert import Alert, Priority
from holdover.runtime.ledger_room import Dropped
from holdover.runtime.link import Count, LinkFacts

Quality = Literal["good", "doubtful", "lost"]
StreamName = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
"""As it can stand in a topic."""
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""The gravest first."""


class Ack(msgspec.Struct, kw_only=True, omit_defaults=False):
    """A subscriber has stored an alert; `at` in ISO 8601."""

    schema: Literal["ack/1"] = "ack/1"
    event_id: Annotated[str, Meta(min_length=1, max_length=200)]
    by: str
    at: str


class DroppedNote(msgspec.Struct, kw_only=True):
    """Alerts of a stream that were given up before the broker had them: what explains holes in `stream_seq`.

    Attributes
    ----------
    id
        Of this account, within the node's ledger; the same when it is sent again.
    reason
        "full" outbox, "age", or "damaged": the ledger was, and which are lost is not known.
    first, last
        The holes lie between these numbers, with both; other alerts between them may still come.
    count
        How many holes; null where that cannot be known.
    of
        How many were updates, whatever their priority, and how many starts and ends, by priority.
    """

    schema: Literal["dropped/1"] = "dropped/1"
    node: str
    boot_id: str
    stream: str
    id: int
    reason: str
    first: Count
    last: Count
    count: Count | None
    of: dict[str, Count]
    published_time: str


class StreamState(msgspec.Struct, kw_only=True):
    """How a stream stands.

    Attributes
    ----------
    alarm
        "ON" while an episode is open.
    labels
        Of the open episodes, the gravest first.
    priority, episode_id
        Of the gravest; null while none is open.
    rate_bpm
        The heart rate, null while it is not known.
    quality
        Of the signal: "good", "doubtful" (it is judged, but beats may be wrong) or "lost".
    sample, time
        Up to where all is known.
    calibrating
        Whether the detector of anomalies does not know enough of the signal yet to raise an alert.
    """

    schema: Literal["state/1"] = "state/1"
    alarm: Literal["ON", "OFF"]
    labels: list[str]
    priority: Priority | None
    episode_id: str | None
    rate_bpm: float | None
    quality: Quality
    sample: Count
    time: str | None
    calibrating: bool = False


class Health(msgspec.Struct, kw_only=True):
    """How a node is.

    Attributes
    ----------
    outbox, oldest_s
        Alerts that wait for the broker, or with confirmation for a subscriber, and for how long the oldest has.
    dropped
        Alerts ever given up, of all streams.
    lag_s
        By stream: how far what was judged lies behind what came, in seconds; null before the first sample.
    ledger_mb, rss_mb
        On disk, and in memory.
    temperature_c, throttled
        Of the processor, null where the machine does not tell.
    ledger_set_aside
        Name of a damaged ledger that this start found, or null.
    links
        By stream that comes from a device: what its link has lost, repaired and measured.
    """

    schema: Literal["health/1"] = "health/1"
    time: str
    uptime_s: float
    outbox: Count
    oldest_s: float
    dropped: Count
    lag_s: dict[str, float | None]
    ledger_mb: float
    rss_mb: float | None
    temperature_c: float | None
    throttled: bool | None
    ledger_set_aside: str | None
    links: dict[str, LinkFacts] = {}


class ModelInfo(msgspec.Struct, kw_only=True):
    """A model that runs: shipped with the program, a file, installed, or installed and on probation.

    `notice` is what became of one that should run (rolled back, and why), or "".
    """

    name: str
    version: str
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    standing: Literal["shipped", "file", "installed", "probation"] = "file"
    notice: str = ""


class Info(msgspec.Struct, kw_only=True):
    """What a node is: version, which start of it, models, streams; and whether it has told Home Assistant of itself."""

    schema: Literal["info/1"] = "info/1"
    version: str
    boot_id: str
    models: list[ModelInfo]
    streams: Annotated[list[StreamName], Meta(max_length=1000)]
    home_assistant: bool = False


def iso(unix_s: float) -> str:
    """A time in ISO 8601 (UTC, milliseconds).

    >>> iso(1.7e9)
    '2023-11-14T22:13:20.000Z'
    """
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dropped_note(account: Dropped, node: str, boot_id: str, now: float) -> bytes:
    """An account of the ledger as it is told at `now`, Unix time in seconds."""
    count = sum(account.of.values()) if account.of else None
    return msgspec.json.encode(
        DroppedNote(
            node=node,
            boot_id=boot_id,
            stream=account.stream,
            id=account.id,
            reason=account.reason,
            first=account.first,
            last=account.last,
            count=count,
            of=account.of,
            published_time=iso(now),
        )
    )


class Open(msgspec.Struct, frozen=True):
    """An episode that has begun and not ended."""

    episode_id: str
    label: str
    priority: Priority
    kind: str


def still_open(before: Iterable[Open], alerts: Iterable[Alert]) -> list[Open]:
    """The open episodes after these alerts, in order of their beginning."""
    found = {episode.episode_id: episode for episode in before}
    for alert in alerts:
        p, key = alert.phase, alert.episode_id
        if p.phase == "end":
            found.pop(key, None)
        else:
            found[key] = Open(key, p.label, p.priority, p.kind)
    return list(found.values())


def stream_state(episodes: Iterable[Open], **more: Any) -> StreamState:
    """How a stream stands, by its open episodes; `more` is what else a `StreamState` has.

    >>> more = {"rate_bpm": 61.0, "quality": "good", "sample": 720, "time": None}
    >>> state = stream_state([Open("u", "pause", "low", "physiological"), Open("v", "asystole", "high", "")], **more)
    >>> state.alarm, state.labels, state.priority, state.episode_id
    ('ON', ['asystole', 'pause'], 'high', 'v')
    """
    worst = sorted(episodes, key=lambda episode: PRIORITIES.index(episode.priority))
    return StreamState(
        alarm="ON" if worst else "OFF", labels=[episode.label for episode in worst],
        priority=worst[0].priority if worst else None, episode_id=worst[0].episode_id if worst else None, **more,
    )  # fmt: skip
