"""An outbox that is full gives up what matters least, never a high alarm, and can account for each hole."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.runtime.ledger import Ledger, LedgerFull
from tests.brokers import POSITION, an_alert, fill

PHASES = ("start", "update", "end")
PRIORITIES = ("high", "medium", "low", "info")


def put(ledger: Ledger, number: int, stream: str = "ecg", **said: Any) -> None:
    ledger.commit(stream, POSITION, [(an_alert(number, stream, **said), None)])


def kept(ledger: Ledger) -> list[int]:
    rows = ledger._db.execute("SELECT stream_seq FROM outbox WHERE state = 0 ORDER BY id")
    return [seq for (seq,) in rows]


def test_updates_go_first_then_low_then_medium_and_never_the_start_or_end_of_a_high_alarm(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", max_rows=4) as ledger:
        put(ledger, 1, phase="start", priority="high")
        put(ledger, 2, phase="update", priority="high")
        put(ledger, 3, phase="start", priority="medium")
        put(ledger, 4, phase="start", priority="low")
        for number, left in (5, [1, 3, 4, 5]), (6, [1, 3, 5, 6]), (7, [1, 5, 6, 7]), (8, [1, 5, 6, 7, 8]):
            put(ledger, number, phase="end", priority="high")
            assert kept(ledger) == left
        assert ledger.count_dropped() == 3
        (told,) = ledger.dropped()
        assert (told.stream, told.reason, told.first, told.last) == ("ecg", "full", 2, 4)
        assert told.of == {"update": 1, "low": 1, "medium": 1}


def test_what_is_on_its_way_is_not_given_up(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", max_rows=4) as ledger:
        for number in range(4):
            put(ledger, number, phase="update")
        assert [row.stream_seq for row in ledger.unsent(limit=2)] == [1, 2]
        put(ledger, 5)
        assert kept(ledger) == [1, 2, 4, 5]


def test_an_account_is_told_again_until_it_is_taken_and_later_drops_begin_another(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", max_rows=2) as ledger:
        for number in range(4):
            put(ledger, number, priority="low")
        (first,) = ledger.dropped()
        assert (first.first, first.last, first.of) == (1, 2, {"low": 2})
        put(ledger, 4, priority="low")
        again, second = ledger.dropped()
        assert again == first
        assert (second.first, second.last) == (3, 3)
        ledger.forget_dropped([first.id])
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert ledger.dropped() == [second]
        ledger.forget_dropped([second.id])
        assert ledger.dropped() == []
        assert ledger.count_dropped() == 3


def test_what_waited_too_long_is_given_up_but_for_high_alarms(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", max_age_s=3600) as ledger:
        put(ledger, 1, priority="medium")
        put(ledger, 2, priority="high")
        ledger._db.execute("UPDATE outbox SET created = created - 4000")
        put(ledger, 3, priority="medium")
        assert ledger.expire() == 1
        assert kept(ledger) == [2, 3]
        (told,) = ledger.dropped()
        assert (told.reason, told.of) == ("age", {"medium": 1})


@settings(max_examples=40, deadline=None)
@given(said=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(PHASES), st.sampled_from(PRIORITIES))))
def test_every_hole_lies_in_an_account_and_the_accounts_add_up(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("room") / "ledger.db"
    with Ledger(path, max_rows=3) as ledger:
        last = {"a": 0, "b": 0}
        for number, (stream, phase, priority) in enumerate(said):
            put(ledger, number, stream, phase=phase, priority=priority)
            last[stream] += 1
        rows, told = ledger.unsent(limit=10**6), ledger.dropped()
    for stream, count in last.items():
        holes = set(range(1, count + 1)) - {row.stream_seq for row in rows if row.stream == stream}
        accounts = [t for t in told if t.stream == stream]
        assert all(any(t.first <= hole <= t.last for t in accounts) for hole in holes)
        assert sum(sum(t.of.values()) for t in accounts) == len(holes)
    vital = [n for n, (_, phase, priority) in enumerate(said) if priority == "high" and phase != "update"]
    assert sum(row.body.count(b'"priority":"high"') for row in rows if b'"phase":"update"' not in row.body) == len(
        vital
    )


def test_a_week_without_a_broker_stays_within_the_bounds_and_the_newest_are_there(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, max_mb=1, max_rows=400) as ledger:
        for number in range(5000):
            put(ledger, number, priority="low")
        assert ledger.depth()[0] <= 400
        assert kept(ledger)[-1] == 5000
        assert len(ledger.dropped()) == 1
    assert path.stat().st_size <= 2**20


def test_bytes_are_a_bound_too_and_only_high_alarms_can_fill_it(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", max_mb=0.5) as ledger:
        for number in range(1000):
            put(ledger, number, priority="medium")
        assert ledger.count_dropped() > 500
        with pytest.raises(LedgerFull, match="no room"):
            fill(ledger, *range(1000, 3000))
        assert all(b'"priority":"high"' in row.body for row in ledger.unsent(limit=10**6))


def test_a_confirmed_alert_is_not_sent_again_and_one_that_only_the_broker_has_is(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", confirm=True) as ledger:
        fill(ledger, 1, 2, 3)
        first, second, _ = ledger.unsent()
        ledger.acknowledge([first.id, second.id])
        ledger.confirm([first.event_id, "of another"])
        assert ledger.send_again() == 1
        assert kept(ledger) == [2, 3]


@pytest.mark.parametrize(("confirm", "left"), [(False, 2), (True, 5)])
def test_what_nobody_has_confirmed_waits_where_that_is_asked_for(confirm: bool, left: int, tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", confirm=confirm) as ledger:
        fill(ledger, *range(6))
        rows = ledger.unsent()
        ledger.acknowledge(row.id for row in rows[:4])
        ledger.confirm([rows[0].event_id])
        assert ledger.depth()[0] == left
        ledger.prune(0)
        assert ledger.send_again() == (3 if confirm else 0)
        assert ledger.depth()[0] == left
        assert len(ledger.unsent()) == left


def test_what_nobody_confirms_is_bounded_too_and_accounted_for(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", max_rows=3, confirm=True) as ledger:
        for number in range(6):
            put(ledger, number, priority="low")
            ledger.acknowledge(row.id for row in ledger.unsent())
        assert ledger.depth()[0] <= 4
        assert sum(sum(told.of.values()) for told in ledger.dropped()) == ledger.count_dropped() >= 2


def test_of_a_damaged_ledger_is_told_that_any_number_may_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        fill(ledger, *range(300))
    data = bytearray(path.read_bytes())
    data[4096 * 20 : 4096 * 24] = b"\xff" * 4096 * 4
    path.write_bytes(data)
    with Ledger(path) as ledger:
        (told,) = ledger.dropped()
        assert (told.stream, told.reason, told.first, told.last, told.of) == ("ecg", "damaged", 1, 300, {})


def test_rows_and_their_account_are_on_disk_together(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, max_rows=3) as ledger:
        for number in range(9):
            put(ledger, number, priority="low")
        with closing(sqlite3.connect(path)) as other:
            (rows,) = other.execute("SELECT count(*) FROM outbox").fetchone()
            (dropped,) = other.execute("SELECT sum(dropped) FROM stream").fetchone()
        assert (rows, dropped) == (3, 6)
