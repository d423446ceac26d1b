"""Receiving alerts: stored once, then acknowledged, then shown and handled."""

import queue
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from holdover.apps.alert_view import View, plain
from holdover.apps.hook import Hook
from holdover.apps.inbox import Inbox, Letter
from holdover.runtime.errors import BrokerError
from holdover.runtime.mqtt import Event, Link

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

BATCH = 64
LONGEST_ID = 200
DEEPEST = 100


class Reception:
    """Reads a link's events, in the thread that owns it.

    Parameters
    ----------
    base
        First levels of the topics.
    count
        Stop after so many new alerts; None: never.

    Attributes
    ----------
    tally
        How many were "new", "repeated", "unreadable" or "retained"; "missing" is what holes in `stream_seq` tell,
        "failed" counts runs of the hook that failed.
    """

    def __init__(
        self, link: Link, inbox: Inbox, view: View, *, base: str, hook: Hook | None = None, count: int | None = None
    ) -> None:
        self.link, self.inbox, self.view, self.hook, self.count = link, inbox, view, hook, count
        self.tally: Counter[str] = Counter()
        self.stopped = False
        self._base = base
        self._topics = (f"{base}/+/streams/+/alert", f"{base}/+/status")
        self._client: Client | None = None
        self._was_up = False
        self._latest = inbox.latest()
        self._online: dict[str, bool] = {}
        self._noted: set[str] = set()
        self._last = ""

    def run(self, until: float) -> None:
        """Receive until `count` is reached, `stopped` is set, or `time.monotonic` passes `until`.

        Raises
        ------
        BrokerError
            The broker refuses us from the start.
        LedgerError
            The store cannot be written; what is not stored stays with the broker.
        """
        self._catch_up()
        self.link.start()
        while not self._is_done() and time.monotonic() < until:
            messages: list[MQTTMessage] = []
            for event in self._events(min(0.2, max(0.0, until - time.monotonic()))):
                if event.message is not None:
                    messages += [event.message] if event.client is self._client else []
                else:
                    self._take(event)
            self._receive(messages)

    def close(self) -> None:
        """Take leave of the broker, which keeps the session."""
        self.link.stop(self._client, 2.0)

    def _is_done(self) -> bool:
        return self.stopped or (self.count is not None and self.tally["new"] >= self.count)

    def _events(self, wait_s: float) -> list[Event]:
        most = BATCH if self.count is None else max(1, min(BATCH, self.count - self.tally["new"]))
        found: list[Event] = []
        with suppress(queue.Empty):
            found.append(self.link.events.get(timeout=wait_s))
            while len(found) < most:
                found.append(self.link.events.get_nowait())
        return found

    def _take(self, event: Event) -> None:
        if event.kind == "up":
            self._client, self._was_up = event.client, True
            for topic in self._topics:
                event.client.subscribe(topic, qos=1)
        elif event.kind == "subscribed":
            self._subscribed(event)
        elif event.kind == "down":
            self._client = None
            if event.failed and not self._was_up:
                raise BrokerError(event.text)
            self._say_once(f"{event.text}; trying again")

    def _subscribed(self, event: Event) -> None:
        if event.failed:
            raise BrokerError(
                f"the broker at {self.link.options.address} refuses the subscription to {self._base} ({event.text}): "
                "give this user the right to read there, or correct base"
            )
        self._say_once(f"listening at {self.link.options.address} to {self._topics[0]}; stored in {self.inbox.path}")

    def _receive(self, messages: "list[MQTTMessage]") -> None:
        letters = [letter for message in messages if (letter := self._read(message))]
        received = time.time()
        new = self.inbox.store(letters, received, handled=self.hook is None) if letters else []
        if self._client is not None:
            for message in messages:
                self._client.ack(message.mid, message.qos)
        for letter, is_new in zip(letters, new, strict=True):
            self.tally["new" if is_new else "repeated"] += 1
            if is_new:
                self._check_sequence(letter)
                self.view.alert(letter.content, received)
        for letter, is_new in zip(letters, new, strict=True):
            if is_new:
                self._handle(letter)

    def _read(self, message: "MQTTMessage") -> Letter | None:
        levels = message.topic[len(self._base) + 1 :].split("/")
        if len(levels) == 2:
            self._hear_status(levels[0], bytes(message.payload))
            return None
        if message.retain:
            self._note("retained", f"ignored a retained alert on {message.topic}: alerts are events, clear it there")
            return None
        content = _decode(bytes(message.payload))
        if content is None:
            self._note("unreadable", f"what comes on {message.topic} is no alert (JSON with event_id): not stored")
            return None
        return Letter(content["event_id"], levels[0], levels[2], _sequence_number(content), content)

    def _check_sequence(self, letter: Letter) -> None:
        if letter.stream_seq is None:
            return
        place = (letter.node, letter.stream)
        missing = letter.stream_seq - self._latest.get(place, letter.stream_seq) - 1
        if missing > 0:
            self.tally["missing"] += missing
            self._say(f"{missing} alerts of {'/'.join(place)} before number {letter.stream_seq} did not come")
        self._latest[place] = letter.stream_seq

    def _handle(self, letter: Letter) -> None:
        if self.hook is None or self.stopped:
            return
        failure = self.hook.run(letter.content)
        if failure:
            self.tally["failed"] += 1
            self._say(f"the hook failed for {letter.event_id}: {failure}; tried again at the next start")
        else:
            self.inbox.handle(letter.event_id)

    def _catch_up(self) -> None:
        for letter in self.inbox.unhandled() if self.hook else []:
            self._handle(letter)

    def _hear_status(self, node: str, payload: bytes) -> None:
        online = payload.strip() == b"online"
        before = self._online.get(node)
        self._online[node] = online
        if before is online:
            return
        if online:
            self._say(f"monitor {'back' if before is False else 'online'}: {node}")
        else:
            self._say(f"monitor lost: {node} is offline, and its silence says nothing")

    def _note(self, kind: str, text: str) -> None:
        self.tally[kind] += 1
        if text not in self._noted:
            self._noted.add(text)
            self._say(text)

    def _say_once(self, text: str) -> None:
        if text != self._last:
            self._last = text
            self._say(text)

    def _say(self, text: str) -> None:
        self.view.say(plain(text))


def _decode(payload: bytes) -> dict[str, Any] | None:
    try:
        content = msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        return None
    key = content.get("event_id") if isinstance(content, dict) else None
    return content if isinstance(key, str) and 0 < len(key) <= LONGEST_ID and _is_shallow(content) else None


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
    return seq if type(seq) is int and 0 < seq < 2**63 else None
