"""Mutated MQTT messages through the subscriber's reading path, against an oracle that shares none of its code.

What is accepted must be a JSON object with an `event_id`, stored once and as it came, shown, and shown again from the
store; what is refused must be none. The same seed makes the same messages.
"""

import io
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jsonschema

from holdover.apps.asyncapi import message_schema
from holdover.apps.subscriber.alert_filter import AlertFilter
from holdover.apps.subscriber.alert_view import PlainView
from holdover.apps.subscriber.history import kept
from holdover.apps.subscriber.hook import _environment
from holdover.apps.subscriber.inbox import Inbox
from holdover.apps.subscriber.inbox_file import open_to_read
from holdover.apps.subscriber.letter_reader import DEEPEST, LONGEST_ID
from holdover.apps.subscriber.reception import Reception
from holdover.runtime.alert import Envelope
from holdover.runtime.ledger_room import Dropped
from holdover.runtime.sinks.envelope import enclose
from holdover.runtime.wire import dropped_note
from tests.brokers import Subscriber, an_alert, mosquitto, wait_until

NODES, STREAMS = ("pi", "pi-2"), ("ecg", "bed")
ODD = (
    b"null", b"true", b"-1", b"0", b"1e999", b"-0.0", b"1e-400", b"NaN", b"Infinity", b"9" * 30, b"9" * 5000,
    b"18446744073709551616", b"9223372036854775807", b"9223372036854775808", b'""', b'"\\u0000"', b'"\\ud800"',
    b'"\\ud83d\\ude00"', b'"\\u001b[2J"', b"[]", b"{}", b"[[[[]]]]", b'"' + b"x" * 300 + b'"', b'"end"', b'"start"',
)  # fmt: skip
TOKENS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\\",
    b"\x00",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
)
MUTATIONS: dict[str, Callable[[random.Random, bytes], bytes]] = {}


class Message(NamedTuple):
    """What a broker hands over."""

    topic: str
    payload: bytes
    retain: bool
    mid: int = 1
    qos: int = 1


@dataclass
class Tally:
    """What came of a run.

    Attributes
    ----------
    accepted, repeated, refused, notices
        Alerts stored; alerts that were there; what is neither alert nor account; accounts stored.
    other
        Status, retained, of another base, and accounts that were there.
    wrong
        Acceptances and refusals that the oracle contradicts, and what was not kept as it came.
    """

    messages: int = 0
    accepted: int = 0
    repeated: int = 0
    refused: int = 0
    notices: int = 0
    other: int = 0
    by_mutation: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    crashes: int = 0
    shown_again: int = 0
    seconds: float = 0.0


def mutation(change: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, bytes], bytes]:
    """Enter a mutation by its name."""
    MUTATIONS[change.__name__.strip("_")] = change
    return change


@mutation
def _flip_bits(dice: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        out[dice.randrange(len(out))] ^= 1 << dice.randrange(8)
    return bytes(out)


@mutation
def _cut(dice: random.Random, data: bytes) -> bytes:
    return data[: dice.randrange(len(data))]


@mutation
def _remove(dice: random.Random, data: bytes) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + data[at + dice.randrange(1, 40) :]


@mutation
def _insert_token(dice: random.Random, data: bytes) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.choice(TOKENS) * dice.choice((1, 1, 3)) + data[at:]


@mutation
def _repeat_part(dice: random.Random, data: bytes) -> bytes:
    at = dice.randrange(len(data))
    part = data[at : at + dice.randrange(1, 200)]
    return data[:at] + part * dice.choice((2, 3, 50)) + data[at:]


@mutation
def _odd_value(dice: random.Random, data: bytes) -> bytes:
    values = json.loads(data)
    key = dice.choice(list(values))
    mark = "\u0001mark\u0001"
    return json.dumps(values | {key: mark}, separators=(",", ":")).encode().replace(
        json.dumps(mark).encode(), dice.choice(ODD)
    )  # fmt: skip


@mutation
def _without_key(dice: random.Random, data: bytes) -> bytes:
    values = json.loads(data)
    values.pop(dice.choice(list(values)))
    return json.dumps(values).encode()


@mutation
def _key_twice(dice: random.Random, data: bytes) -> bytes:
    key = dice.choice(list(json.loads(data)))
    return data[:-1] + b"," + json.dumps(key).encode() + b":" + dice.choice(ODD) + b"}"


@mutation
def _nested(dice: random.Random, data: bytes) -> bytes:
    deep = dice.choice((5, DEEPEST - 2, DEEPEST, DEEPEST + 1, 1000, 50_000))
    opened, closed = dice.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return data[:-1] + b',"x":' + opened * deep + b"0" + closed * deep + b"}"


@mutation
def _other_id(dice: random.Random, data: bytes) -> bytes:
    values = json.loads(data)
    word = dice.choice(
        ("x" * (LONGEST_ID + 1), "x" * LONGEST_ID, "\U0001f600", " ", "a\nb", "%s", "'; DROP TABLE alert; --")
    )
    return json.dumps(values | {"event_id": word}, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")


@mutation
def _other_number(dice: random.Random, data: bytes) -> bytes:
    values = json.loads(data)
    number = dice.choice((0, -1, 1, 2, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**300, 1.5, True, "7", None))
    names = ("stream_seq", "first", "last", "count", "id")
    return json.dumps(values | {name: number for name in names if name in values}).encode()


@mutation
def _other_coding(dice: random.Random, data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode(dice.choice(("utf-16", "utf-32", "utf-8-sig")), "replace")


@mutation
def _noise(dice: random.Random, data: bytes) -> bytes:
    return dice.randbytes(dice.randrange(len(data)))


@mutation
def _unchanged(_dice: random.Random, data: bytes) -> bytes:
    return data


def messages(seed: int) -> Iterator[tuple[str, Message]]:
    """Mutated messages without end: the name of the mutation, and what comes; some on other topics, some retained."""
    dice = random.Random(seed)
    while True:
        number = dice.randrange(1, 4000)
        node, stream = dice.choice(NODES), dice.choice(STREAMS)
        leaf = dice.choices(("alert", "dropped", "status"), (8, 2, 0.2))[0]
        name = dice.choice(list(MUTATIONS))
        data = MUTATIONS[name](dice, _original(dice, leaf, node, stream, number))
        if dice.random() < 0.2:
            data = dice.choice(list(MUTATIONS.values()))(dice, data) if _is_object(data) else data
        place = f"{node}/status" if leaf == "status" else f"{node}/streams/{stream}/{leaf}"
        base = "holdover" if dice.random() < 0.99 else dice.choice(("lab", "holdove", "holdover2", "holdover/x"))
        yield name, Message(f"{base}/{place}", data, dice.random() < 0.02)


@dataclass
class Expected:
    """What must have been stored: alerts by their id, in the order in which they came; and accounts."""

    alerts: dict[str, Any] = field(default_factory=dict)
    accounts: set[str] = field(default_factory=set)

    def take(self, message: Message) -> str:
        """What must become of a message."""
        base, _, rest = message.topic.partition("/")
        leaf = rest.rsplit("/", 1)[-1]
        if base != "holdover" or rest.startswith("x/"):
            return "foreign"
        if leaf == "status":
            return "status"
        if message.retain:
            return "retained"
        content = oracle(message.payload, leaf)
        if content is None:
            return "unreadable"
        if leaf == "dropped":
            return self._account(rest, content)
        key = content["event_id"]
        if key in self.alerts:
            return "repeated"
        self.alerts[key] = content
        return "new"

    def _account(self, place: str, content: dict[str, Any]) -> str:
        names = ("id", "reason", "first", "last", "count", "of", "node", "stream")
        key = json.dumps([place, *(content[name] for name in names)])
        known = key in self.accounts
        self.accounts.add(key)
        return "account again" if known else "account"


def run(seed: int, count: int, folder: Path, *, tell: bool = False) -> Tally:
    """Let `count` messages be received, and hold what was kept against the oracle."""
    tally, expected, began = Tally(), Expected(), time.monotonic()
    path = folder / "alerts.db"
    shown = _Shown()
    with closing(Inbox(path)) as inbox, redirect_stderr(io.StringIO()):
        inbox.db.execute("PRAGMA synchronous = OFF")
        reception = _reception(inbox, shown)
        source = messages(seed)
        while tally.messages < count:
            batch = [next(source) for _ in range(min(64, count - tally.messages))]
            _receive(reception, batch, tally, expected, f"seed {seed} number {tally.messages}")
            if tell and tally.messages % 10_048 < 64:
                print(tally.messages, tally.accepted, len(tally.wrong), file=sys.__stdout__, flush=True)
    _check_store(path, expected, shown.ids, tally)
    tally.seconds = time.monotonic() - began
    return tally


def run_process(seed: int, count: int, folder: Path, *, chunk: int = 500) -> Tally:
    """The same through a real broker and a `holdover alerts` of its own, which must go on to the end."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    tally, expected, began, source = Tally(), Expected(), time.monotonic(), messages(seed)
    with mosquitto() as broker, Subscriber(broker, folder) as subscriber:
        subscriber.listening()
        client = Client(CallbackAPIVersion.VERSION2)
        client.max_inflight_messages_set(100)
        client.connect(broker.host, broker.port)
        client.loop_start()
        for begin in range(0, count, chunk):
            for name, message in (next(source) for _ in range(min(chunk, count - begin))):
                client.publish(message.topic, message.payload, 1)
                fate = expected.take(message._replace(retain=False))
                tally.by_mutation.setdefault(name, Counter())[fate] += 1
                tally.messages += 1
            # A broker drops what a slow client has not fetched; so it is waited for.
            mark = b'{"event_id":"mark %d"}' % begin
            client.publish("holdover/pi/streams/mark/alert", mark, 1)
            fate = expected.take(Message("holdover/pi/streams/mark/alert", mark, False))
            tally.by_mutation.setdefault("mark", Counter())[fate] += 1
            tally.messages += 1
            _await_line(subscriber, b'"mark %d"' % begin)
        client.disconnect()
        client.loop_stop()
        tally.crashes += subscriber.stop() != 0 or "Traceback" in subscriber.talk()
        lines = [alert["event_id"] for alert in subscriber.alerts()]
    if lines != list(expected.alerts):
        tally.wrong.append(f"{len(lines)} lines, the oracle accepts {len(expected.alerts)}")
    _check_store(folder / "alerts.db", expected, lines, tally)
    tally.seconds = time.monotonic() - began
    return tally


def _await_line(subscriber: Subscriber, mark: bytes) -> None:
    def is_there() -> bool:
        assert subscriber.process.poll() is None, subscriber.talk()[-2000:]
        with subscriber.out.open("rb") as out:
            out.seek(max(0, subscriber.out.stat().st_size - 4000))
            return mark in out.read()

    wait_until(is_there, f"{mark!r} is shown", 60)


def oracle(payload: bytes, leaf: str = "alert") -> dict[str, Any] | None:
    """The alert or account that a payload is, by Python's own reader made strict and the schema; None: it is none."""
    try:
        content = json.loads(payload.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not _is_sound(content):
        return None
    if leaf == "dropped":
        return content if _is_account(content) else None
    key = content.get("event_id")
    is_alert = isinstance(key, str) and 0 < len(key) <= LONGEST_ID and _depth(content) <= DEEPEST
    return content if is_alert else None


ACCOUNT = jsonschema.Draft202012Validator(message_schema("dropped"))


def _is_account(content: dict[str, Any]) -> bool:
    if not ACCOUNT.is_valid(content):
        return False
    count = 0 if content["count"] is None else content["count"]
    counts = [content["first"], content["last"], count, *content["of"].values(), content["id"]]
    # The schema's word integer means 1.0 too.
    if not all(type(count) is int for count in counts):
        return False
    return content["first"] <= content["last"] and max(map(abs, counts)) < 2**63


class _Shown:
    """A view that writes what the real ones write, into memory."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._plain = PlainView()

    def alert(self, node: str, stream: str, content: dict[str, Any], received: float) -> None:
        out = io.StringIO()
        before, sys.stdout = sys.stdout, out
        try:
            self._plain.alert(node, stream, content, received)
        finally:
            sys.stdout = before
        line = out.getvalue()
        assert line.endswith("\n")
        assert line[:-1].isprintable(), line
        assert len(line) <= 81, line
        self.ids.append(content["event_id"])

    def status(self, _node: str | None, _online: bool) -> None: ...

    def say(self, text: str) -> None:
        assert text.isprintable(), text

    def tick(self) -> None: ...

    def close(self) -> None: ...


def _reception(inbox: Inbox, view: _Shown) -> Reception:
    link: Any = SimpleNamespace(client_id="fuzz")
    reception = Reception(link, inbox, view, base="holdover", only=AlertFilter(None, (("*", "*"),)))
    reception._client = SimpleNamespace(ack=lambda *_: None)  # type: ignore[assignment]
    return reception


def _receive(
    reception: Reception, batch: list[tuple[str, Message]], tally: Tally, expected: Expected, where: str
) -> None:
    before = Counter(reception.tally)
    try:
        reception._receive([message for _, message in batch])  # type: ignore[misc]
    except Exception as error:  # whatever ends the reading is a finding
        tally.crashes += 1
        tally.wrong.append(f"{where}: {type(error).__name__}: {error}")
    fates = Counter[str]()
    for name, message in batch:
        fate = expected.take(message)
        fates[fate] += 1
        tally.by_mutation.setdefault(name, Counter())[fate] += 1
    tally.messages += len(batch)
    for fate in ("new", "repeated", "unreadable", "retained", "foreign"):
        if reception.tally[fate] - before[fate] != fates[fate]:
            tally.wrong.append(f"{where}: {reception.tally[fate] - before[fate]} {fate}, the oracle says {fates[fate]}")


def _check_store(path: Path, expected: Expected, shown: list[str], tally: Tally) -> None:
    """Every accepted one is stored once and as it came, and can be shown again; nothing else is."""
    with closing(open_to_read(path)) as db:
        found = list(kept(db, float("-inf")))
        (tally.notices,) = db.execute("SELECT count(*) FROM account").fetchone()
    keys = [alert.content["event_id"] for alert in found]
    if keys != list(expected.alerts) or keys != shown or tally.notices != len(expected.accounts):
        tally.wrong.append(f"stored {len(keys)} alerts and {tally.notices} accounts, shown {len(shown)}; the oracle "
                           f"accepts {len(expected.alerts)} and {len(expected.accounts)}")  # fmt: skip
    again = _Shown()
    for alert in found:
        if json.dumps(alert.content) != json.dumps(expected.alerts.get(alert.content["event_id"])):
            tally.wrong.append(f"kept otherwise than it came: {alert.content['event_id']!r}")
        again.alert(alert.node, alert.stream, alert.content, alert.received)
        for value in _environment(alert.content).values():
            assert b"\0" not in value
            value.decode()
    fates = sum(tally.by_mutation.values(), Counter[str]())
    tally.accepted, tally.repeated, tally.refused = (fates[fate] for fate in ("new", "repeated", "unreadable"))
    tally.other = tally.messages - tally.accepted - tally.repeated - tally.refused - tally.notices
    tally.shown_again = len(again.ids)


def _original(dice: random.Random, leaf: str, node: str, stream: str, number: int) -> bytes:
    if leaf == "status":
        return dice.choice((b'{"a":"online"}', b'{"a":1}'))
    if leaf == "dropped":
        account = Dropped(stream, "full", number, number + dice.randrange(9), {"update": 1, "low": 2}, number)
        return dropped_note(account, node, "boot-1", 1.7e9)
    envelope = Envelope(node=node, boot_id="boot-1", version="0.1.0", stream_seq=number)
    return enclose(an_alert(number, stream).body_json(), envelope)


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict) and len(json.loads(data)) > 0
    except (ValueError, RecursionError):
        return False


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(text)
    return value


def _depth(content: Any) -> int:
    level, depth = [content], 0
    while level:
        depth += 1
        inside = [part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole)]
        level = [part for part in inside if isinstance(part, (dict, list))]
    return depth


def _is_sound(content: Any) -> bool:
    """Without halves of surrogate pairs, which no UTF-8 can hold."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
