"""Receiving alerts: stored once, then acknowledged, then shown and handled."""

import queue
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from holdover.apps.subscriber.alert_filter import AlertFilter
from holdover.apps.subscriber.alert_view import View, plain
from holdover.apps.subscriber.confirmation import Confirmations
from holdover.apps.subscriber.errands import TRIES, Errands, Runner
from holdover.apps.subscriber.inbox import Inbox, Letter, Notice, Stored
from holdover.apps.subscriber.letter_reader import read_alert, read_notice
from holdover.runtime.errors import BrokerError
from holdover.runtime.mqtt import Event, Link, topic_of

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

BATCH = 64
LONELY_S = 3.0
PATIENCE_S = 2.0
MOST_NOTED = 1000


class Reception:
    """Reads a link's events, in the thread that owns it.

    Parameters
    ----------
    base
        First levels of the topics.
    hooks
        By name; each has something to do for every alert that passes the filter.
    only
        What is shown, counted and handled; all is stored.
    count
        Stop after so many new alerts that pass; None: never.
    confirm
        Tell the node of each alert that is stored.
    tries
        So often a hook may fail for an alert before it is given up; 0: without end.

    Attributes
    ----------
    tally
        How many were "new", "repeated", "unreadable", "retained" or "foreign" (of another base); "missing" and
        "given up" are what holes in `stream_seq` tell, the latter where the node said so; "hook failed" for how many a
        hook was given up.
    """

    def __init__(
        self,
        link: Link,
        inbox: Inbox,
        view: View,
        *,
        base: str,
        hooks: Mapping[str, Runner] | None = None,
        only: AlertFilter | None = None,
        count: int | None = None,
        confirm: bool = False,
        tries: int = TRIES,
    ) -> None:
        self.link, self.inbox, self.view, self.count = link, inbox, view, count
        self.only = only or AlertFilter()
        self.tally: Counter[str] = Counter()
        self.stopped = False
        self.errands = Errands(inbox, hooks or {}, self._say, tries)
        self._hooks = tuple(hooks or ())
        self._base = base
        self._topics = (f"{base}/+/streams/+/alert", f"{base}/+/streams/+/dropped", f"{base}/+/status")
        self._client: Client | None = None
        self._confirmations = Confirmations(link.client_id) if confirm else None
        self._was_up = False
        self._lonely = float("inf")
        self._online: dict[str, bool] = {}
        self._boots: dict[str, list[str]] = {}
        self._twins: set[str] = set()
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
        self.link.start()
        while not self._is_done() and time.monotonic() < until:
            self._turn(min(0.02 if self.errands.running else 0.2, max(0.0, until - time.monotonic())))
        while self.errands.untried and not self.stopped:
            self._do_errands()
            time.sleep(0.01)

    def close(self) -> None:
        """Take leave of the broker, which keeps the session; what hooks have not done waits in the store."""
        self.errands.close(PATIENCE_S)
        until = time.monotonic() + PATIENCE_S
        while self._confirmations and self._confirmations.under_way and time.monotonic() < until:
            for event in self._events(0.05):
                if event.message is None:
                    self._take(event)
        self.link.stop(self._client, 2.0)

    def _turn(self, wait_s: float) -> None:
        messages: list[MQTTMessage] = []
        for event in self._events(wait_s):
            if event.message is not None:
                messages += [event.message] if event.client is self._client else []
            else:
                self._take(event)
        self._receive(messages)
        self._do_errands()
        self.view.tick()
        if time.monotonic() > self._lonely:
            self._lonely = float("inf")
            self._say(f"no node has said anything below {self._base}/ at this broker yet: waiting for one")

    def _do_errands(self) -> None:
        for errand in self.errands.turn():
            self.tally["hook failed"] += 1
            self.view.hook_failed(errand.node, errand.stream, self.inbox.content(errand.alert))

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
            self.view.status(None, True)
            for topic in self._topics:
                event.client.subscribe(topic, qos=1)
        elif event.kind == "subscribed":
            self._subscribed(event)
        elif event.kind == "published" and self._confirmations and event.client is self._client:
            self._confirmations.came(event.client, event.mid)
            if event.failed:
                self._note(f"the broker refuses confirmations ({event.text}): give this user the right to write to "
                           f"{self._base}/+/streams/+/ack, or leave --confirm out")  # fmt: skip
        elif event.kind == "down":
            self._went_down(event)

    def _went_down(self, event: Event) -> None:
        self._client = None
        if self._confirmations:
            self._confirmations.forget()
        if event.failed and not self._was_up:
            raise BrokerError(event.text)
        self.view.status(None, False)
        self._say_once(f"{event.text}; trying again")

    def _subscribed(self, event: Event) -> None:
        if event.failed:
            raise BrokerError(
                f"the broker at {self.link.options.address} refuses the subscription to {self._base} ({event.text}): "
                "give this user the right to read there, or correct base"
            )
        self._say_once(f"listening at {self.link.options.address} to {self._topics[0]}; stored in {self.inbox.path}")
        if not self._online and not self._boots:
            self._lonely = time.monotonic() + LONELY_S

    def _receive(self, messages: "list[MQTTMessage]") -> None:
        if not messages:
            return
        letters = [self._read(message) for message in messages]
        known = [letter for letter in letters if letter is not None]
        received = time.time()
        stored = self.inbox.store(known, received, self._wanted) if known else []
        for message, letter in zip(messages, letters, strict=True):
            self._acknowledge(message, letter)
        for letter, fate in zip(known, stored, strict=True):
            if isinstance(letter, Letter):
                self._show(letter, fate, received)
            elif fate.is_new:
                self._say(f"{letter.node}/{letter.stream} {letter.text}")
            self._tell_change(letter, fate)
            self.errands.add(fate.errands)

    def _wanted(self, letter: Letter) -> tuple[str, ...]:
        return self._hooks if self.only.passes(letter.node, letter.stream, letter.content) else ()

    def _acknowledge(self, message: "MQTTMessage", letter: Letter | Notice | None) -> None:
        if self._client is None:
            return
        if self._confirmations and isinstance(letter, Letter):
            self._confirmations.send(self._client, message, letter.event_id)
        else:
            self._client.ack(message.mid, message.qos)

    def _show(self, letter: Letter, fate: Stored, received: float) -> None:
        if not fate.is_new:
            self.tally["repeated"] += 1
            return
        self._meet(letter)
        if self.only.passes(letter.node, letter.stream, letter.content):
            self.tally["new"] += 1
            self.view.alert(letter.node, letter.stream, letter.content, received)
        else:
            self.tally["not shown"] += 1

    def _read(self, message: "MQTTMessage") -> Letter | Notice | None:
        topic = topic_of(message)
        base, levels = topic[: len(self._base) + 1], topic[len(self._base) + 1 :].split("/")
        if base != f"{self._base}/" or (len(levels), levels[-1]) not in ((2, "status"), (4, "alert"), (4, "dropped")):
            self._note(f"ignored what came on {topic}, to which an earlier run subscribed", "foreign")
            return None
        payload = bytes(message.payload)
        if levels[-1] == "status":
            self._hear_status(levels[0], payload)
            return None
        if message.retain:
            self._note(f"ignored a retained alert on {topic}: alerts are events, clear it there", "retained")
            return None
        read = read_alert if levels[-1] == "alert" else read_notice
        letter = read(levels[0], levels[2], payload)
        if letter is None:
            wanted = "alert (JSON with event_id)" if levels[-1] == "alert" else "account of dropped alerts"
            self._note(f"what comes on {topic} is no {wanted}: not stored", "unreadable")
        return letter

    def _meet(self, letter: Letter) -> None:
        """Notice two nodes of one name: a boot id comes back after another has followed it."""
        boot = letter.content.get("boot_id")
        if not isinstance(boot, str) or letter.node in self._twins:
            return
        boots = self._boots.setdefault(letter.node, [])
        if boots and boots[-1] != boot and boot in boots:
            self._twins.add(letter.node)
            ids = f"boot ids {boots[-1][:32]} and {boot[:32]} take turns"
            self._say(f"two nodes call themselves {letter.node} ({ids}): give each a name of its own; what is "
                      "missing of them cannot be told")  # fmt: skip
        elif boot not in boots:
            boots.append(boot)
            del boots[:-2]

    def _tell_change(self, letter: Letter | Notice, fate: Stored) -> None:
        """Say which alerts did not come, or came after all."""
        place, (missing, given_up) = f"{letter.node}/{letter.stream}", fate.change
        if letter.node in self._twins:
            return
        if fate.began_anew and isinstance(letter, Letter):
            self._say(f"{place} counts anew, from number {letter.stream_seq}: its ledger is new, or another node has "
                      "its name")  # fmt: skip
        self.tally.update({"missing": missing, "given up": given_up})
        if not isinstance(letter, Letter):
            if missing < 0:
                self._say(f"{-missing} alerts of {place} that did not come are explained by that")
        elif missing + given_up < 0:
            self._say(f"number {letter.stream_seq} of {place}, which had not come, is here now")
        else:
            end = f"alerts of {place} before number {letter.stream_seq}"
            if missing > 0:
                self._say(f"{missing} {end} did not come, and nothing explains it")
            if given_up > 0:
                self._say(f"{given_up} {end} were given up by the node, which said so")

    def _hear_status(self, node: str, payload: bytes) -> None:
        self._lonely = float("inf")
        online = payload.strip() == b"online"
        before = self._online.get(node)
        self._online[node] = online
        if before is online:
            return
        self.view.status(node, online)
        if online:
            self._say(f"monitor {'back' if before is False else 'online'}: {node}")
        else:
            self._say(f"monitor lost: {node} is offline, and its silence says nothing")

    def _note(self, text: str, kind: str = "refused") -> None:
        self.tally[kind] += 1
        if text not in self._noted and len(self._noted) < MOST_NOTED:
            self._noted.add(text)
            self._say(text)

    def _say_once(self, text: str) -> None:
        if text != self._last:
            self._last = text
            self._say(text)

    def _say(self, text: str) -> None:
        self.view.say(plain(text))
