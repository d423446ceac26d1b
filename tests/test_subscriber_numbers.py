"""Which alerts did not come is told from their numbers, and explained by what the node says that it gave up."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.apps.broker import Broker
from holdover.apps.subscriber.history import kept
from holdover.apps.subscriber.inbox import Inbox, Letter, Notice
from holdover.apps.subscriber.inbox_file import open_to_read
from holdover.apps.subscriber.letter_reader import read_notice
from holdover.apps.subscriber.numbering import MOST, Account, Balance, Numbering, covered
from holdover.runtime.delivery import Delivery
from holdover.runtime.ledger import Ledger
from holdover.runtime.ledger_room import Dropped
from holdover.runtime.mqtt_options import MqttOptions
from holdover.runtime.sinks.mqtt import MqttSink
from holdover.runtime.wire import dropped_note
from tests.brokers import POSITION, Subscriber, an_alert, drain, mosquitto, publish, wait_until

PLACE = "holdover/pi/streams/ecg"


@pytest.fixture
def broker() -> Iterator[Broker]:
    with mosquitto() as running:
        yield running


def tell(broker: Broker, *numbers: int, boot: str = "boot-1", name: str = "") -> None:
    for number in numbers:
        content = {"event_id": f"{boot} {name}{number}", "stream_seq": number, "boot_id": boot}
        publish(broker, f"{PLACE}/alert", json.dumps(content).encode())


def account_for(broker: Broker, first: int, last: int, of: dict[str, int], key: int = 1, boot: str = "boot-1") -> None:
    account = Dropped("ecg", "full" if of else "damaged", first, last, of, key)
    publish(broker, f"{PLACE}/dropped", dropped_note(account, "pi", boot, 1.7e9))


def numbered(*numbers: int) -> Numbering:
    found = Numbering()
    for number in numbers:
        found.take(number, is_new=True)
    return found


def matched(missing: Sequence[int], accounts: Sequence[Account]) -> int:
    """The most numbers that accounts can cover, by augmenting paths: slow, and of another kind than `covered`."""
    places = [account for account in accounts for _ in range(len(missing) if account.count is None else account.count)]
    taken: dict[int, int] = {}

    def place(number: int, seen: set[int]) -> bool:
        for k, account in enumerate(places):
            if k not in seen and account.first <= number <= account.last:
                seen.add(k)
                if k not in taken or place(taken[k], seen):
                    taken[k] = number
                    return True
        return False

    return sum(place(number, set()) for number in missing)


spans = st.tuples(st.integers(1, 20), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
accounts = st.lists(st.builds(lambda span, n: Account(*span, n), spans, st.none() | st.integers(0, 4)), max_size=6)


@settings(max_examples=400)
@given(st.sets(st.integers(1, 24), max_size=14), accounts)
def test_as_much_is_explained_as_can_be(missing: set[int], accounts: list[Account]) -> None:
    holes: list[tuple[int, int]] = []
    for number in sorted(missing):
        if holes and holes[-1][1] == number - 1:
            holes[-1] = (holes[-1][0], number)
        else:
            holes.append((number, number))
    assert covered(holes, accounts) == matched(sorted(missing), accounts)


@given(st.permutations(range(1, 12)), st.sets(st.integers(2, 10)))
def test_the_order_in_which_late_ones_come_does_not_matter(order: list[int], lost: set[int]) -> None:
    found = numbered(1, 11)
    for number in order:
        if number not in lost and number not in (1, 11):
            assert not found.take(number, is_new=True)
    assert found.balance() == Balance(len(lost), 0)
    assert {n for first, last in found.holes for n in range(first, last + 1)} == lost


def test_a_node_that_counts_anew_is_no_loss() -> None:
    found = numbered(1, 2, 5)
    found.account(Account(3, 3, 1))
    assert found.balance() == Balance(1, 1)
    assert found.take(5, is_new=False) is False, "a repeated one is no new counting"
    found.account(Account(2, 2, 1))
    assert found.take(1, is_new=True) is True
    assert found.take(3, is_new=True) is False
    assert found.balance() == Balance(0, 1), "the account that came before the new counting belongs to it"


def test_a_subscriber_that_comes_late_misses_nothing_of_before() -> None:
    found = numbered(500, 499, 501)
    assert (found.first, found.latest, found.holes) == (499, 501, [])


def test_what_is_kept_of_a_stream_is_bounded() -> None:
    found = numbered(*range(1, 4 * MOST, 2))
    for number in range(3 * MOST):
        found.account(Account(number, number, 1))
    assert len(found.holes) == len(found.accounts) == MOST
    assert numbered(1, 2**63 - 1).balance() == Balance(2**63 - 3, 0)


def test_a_hole_is_shown_and_counted(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--count", "3", "--wait", "20") as subscriber:
        subscriber.listening()
        tell(broker, 3, 6, 4)
        assert subscriber.end() == 0
        assert "2 alerts of pi/ecg before number 6 did not come, and nothing explains it" in subscriber.talk()
        assert "number 4 of pi/ecg, which had not come, is here now" in subscriber.talk()
        assert subscriber.talk().splitlines()[-1] == "3 alerts, 1 missing"


def test_a_hole_that_the_node_accounts_for_is_explained(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--count", "3", "--wait", "20") as subscriber:
        subscriber.listening()
        tell(broker, 1)
        account_for(broker, 2, 5, {"update": 2, "low": 1})
        account_for(broker, 2, 5, {"update": 2, "low": 1}, boot="boot-2")
        tell(broker, 3, 6)
        assert subscriber.end() == 0
        said = subscriber.talk()
        assert said.count("pi/ecg gave up 3 alerts between the numbers 2 and 5 (full: 2 update, 1 low)") == 1
        assert "1 alerts of pi/ecg before number 3 were given up by the node, which said so" in said
        assert "did not come" not in said
        assert said.splitlines()[-1] == "3 alerts, 3 given up"
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        (kept,) = inbox.db.execute("SELECT account FROM account").fetchall()
    assert json.loads(kept[0])["of"] == {"update": 2, "low": 1}


def test_an_account_that_comes_late_explains_after_all_also_after_a_restart(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--count", "2", "--wait", "20") as subscriber:
        subscriber.listening()
        tell(broker, 1, 9)
        assert subscriber.end() == 0
        assert subscriber.talk().splitlines()[-1] == "2 alerts, 7 missing"
    account_for(broker, 1, 4, {"low": 3}, key=1)
    account_for(broker, 1, 8, {}, key=2)
    tell(broker, 10)
    with Subscriber(broker, tmp_path, "--count", "1", "--wait", "20") as subscriber:
        assert subscriber.end() == 0
        assert "3 alerts of pi/ecg that did not come are explained by that" in subscriber.talk()
        assert "gave up some alerts between the numbers 1 and 8 (damaged)" in subscriber.talk()
        assert "4 alerts of pi/ecg that did not come are explained by that" in subscriber.talk()


def test_what_a_full_outbox_gave_up_is_explained_to_the_subscriber(broker: Broker, tmp_path: Path) -> None:
    def commit(ledger: Ledger, *numbers: int, **more: Any) -> None:
        for number in numbers:
            ledger.commit("ecg", POSITION, [(an_alert(number, **more), 1.7e9)])

    sink = MqttSink(MqttOptions(port=broker.port), "pi", "boot-1")
    with Ledger(tmp_path / "ledger.db", max_rows=4) as ledger, Subscriber(broker, tmp_path) as subscriber:
        subscriber.listening()
        sink.start()
        commit(ledger, 1)
        drain(ledger, sink)
        commit(ledger, 2, 3, 4, phase="update")
        commit(ledger, 5, 6, priority="low")
        commit(ledger, 7, 8, 9)
        delivery = Delivery(ledger, sink)
        wait_until(lambda: delivery.turn() or len(subscriber.alerts()) >= 5, "what is left has come")
        sink.close()
        assert subscriber.stop() == 0
        assert [alert["stream_seq"] for alert in subscriber.alerts()] == [1, 6, 7, 8, 9]
        assert "3 update, 1 low" in subscriber.talk()
        assert subscriber.talk().splitlines()[-1] == "5 alerts, 4 given up"


def test_two_nodes_of_one_name_are_noticed(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--count", "6", "--wait", "20") as subscriber:
        subscriber.listening()
        tell(broker, 1, 2, boot="one")
        tell(broker, 1, boot="two")
        assert "two nodes" not in subscriber.talk()
        tell(broker, 3, boot="one")
        tell(broker, 2, 30, boot="two")
        assert subscriber.end() == 0
        assert subscriber.talk().count("two nodes call themselves pi (boot ids two and one take turns)") == 1
        assert subscriber.talk().splitlines()[-1] == "6 alerts"
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        assert inbox.db.execute("SELECT count(*) FROM alert").fetchone() == (6,), "all are kept"


def test_a_node_that_is_started_again_is_not_taken_for_two(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--count", "4", "--wait", "20") as subscriber:
        subscriber.listening()
        for number, boot in enumerate(("one", "two", "three", "four"), 1):
            tell(broker, number, boot=boot)
        assert subscriber.end() == 0
        assert "two nodes" not in subscriber.talk()
        assert "missing" not in subscriber.talk()


def test_what_is_no_account_is_refused_and_counted(broker: Broker, tmp_path: Path) -> None:
    sound = json.loads(dropped_note(Dropped("ecg", "full", 2, 5, {"low": 1}, 1), "pi", "b", 1.7e9))
    bad = [sound | change for change in ({"first": 6}, {"count": -1}, {"schema": "dropped/2"}, {"last": 2**63})]
    with Subscriber(broker, tmp_path, "--count", "1", "--wait", "20") as subscriber:
        subscriber.listening()
        for payload in (b"", b"no json", b"[]", b"[" * 90_000, *(json.dumps(note).encode() for note in bad)):
            publish(broker, f"{PLACE}/dropped", payload)
        tell(broker, 1)
        assert subscriber.end() == 0
        assert subscriber.talk().count("is no account of dropped alerts: not stored") == 1
        assert subscriber.talk().splitlines()[-1] == "1 alerts, 8 unreadable"
    assert read_notice("pi", "ecg", json.dumps(sound).encode())
    invalid = json.dumps(sound).encode()[:-1] + b',"x\xff": 1}'
    assert read_notice("pi", "ecg", invalid) is None, "invalid UTF-8 in a key that is not known"


def test_numbers_survive_with_the_alerts_or_not_at_all(tmp_path: Path) -> None:
    """A repeated alert under a number that is new, as after a ledger was set aside, leaves no hole behind."""
    letters = [Letter(f"a{n}", "pi", "ecg", n, {"event_id": f"a{n}"}) for n in (1, 2, 3)]
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        inbox.store(letters, 0.0)
        again = [Letter(f"a{n}", "pi", "ecg", n + 3, {"event_id": f"a{n}"}) for n in (1, 2, 3)]
        assert [fate.is_new for fate in inbox.store(again, 1.0)] == [False] * 3
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        (fate,) = inbox.store([Letter("b", "pi", "ecg", 7, {"event_id": "b"})], 2.0)
        assert fate.change == Balance(0, 0)
        notice = Notice("pi", "ecg", Account(1, 2, 2), b"{}", "")
        assert [fate.is_new for fate in inbox.store([notice, notice], 3.0)] == [True, False]


OLD = """
CREATE TABLE alert (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, node TEXT NOT NULL, stream TEXT NOT NULL,
    stream_seq INTEGER, received REAL NOT NULL, payload BLOB NOT NULL, handled INTEGER NOT NULL);
CREATE INDEX alert_unhandled ON alert (id) WHERE handled = 0;
INSERT INTO alert VALUES (1, 'a', 'pi', 'ecg', 1, 10.0, '{"event_id":"a"}', 1);
INSERT INTO alert VALUES (2, 'b', 'pi', 'ecg', 4, 20.0, '{"event_id":"b"}', 0);
PRAGMA user_version = 1;
"""


def test_a_store_of_the_last_version_is_taken_over_and_can_be_read_before(tmp_path: Path) -> None:
    path = tmp_path / "alerts.db"
    with closing(Inbox(path)) as inbox:
        inbox.store([Letter("a", "pi", "ecg", 1, {"event_id": "a"})], 2.0, lambda _: ("exec",))
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE failure; PRAGMA user_version = 2")
    with closing(open_to_read(path)) as db:
        assert [alert.failures for alert in kept(db, 0.0)] == [None]
    with closing(Inbox(path)) as inbox:
        (errand,) = inbox.errands()
        inbox.give_up(errand, 3.0, "exit status 1 \udcff")
    with closing(open_to_read(path)) as db:
        assert [alert.failures for alert in kept(db, 0.0)] == ["exec: exit status 1 ?"]


def test_a_store_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "alerts.db")) as db:
        db.executescript(OLD)
    for _ in range(2):
        with closing(Inbox(tmp_path / "alerts.db")) as inbox:
            assert [(errand.hook, inbox.content(errand.alert)) for errand in inbox.errands()] == [
                ("exec", {"event_id": "b"})
            ]
            (fate,) = inbox.store([Letter("b", "pi", "ecg", 4, {"event_id": "b"})], 2.0)
            assert not fate.is_new
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        (fate,) = inbox.store([Letter("c", "pi", "ecg", 2, {"event_id": "c"})], 2.0)
        assert (fate.is_new, fate.change) == (True, Balance(-1, 0))
