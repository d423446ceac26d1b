"""The clock policy of live devices: every sample in its place, and every one that is missing accounted for."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.devices.simulators.impair import Impairments, Sent, impair
from holdover.devices.sources.order import Order, Stamps
from holdover.devices.sources.packet import Packet, merged
from holdover.runtime.errors import UsageError
from holdover.runtime.link import LinkFacts
from holdover.runtime.pace import JUDGED_AFTER_S, Pace

HZ = 100.0
N = 10


def packets(count: int, n: int = N) -> list[Packet]:
    """Numbered packets, whose samples are their own numbers."""
    return [Packet(np.arange(i * n, (i + 1) * n, dtype=np.float32)[:, np.newaxis], count=i * n) for i in range(count)]


class Heard:
    """What an order made of packets: the value at each place."""

    def __init__(self, window_s: float = 0.5, rate_hz: float = HZ) -> None:
        self.facts = LinkFacts(nominal_hz=rate_hz)
        self.order = Order(rate_hz, self.facts, window_s)
        self.values: dict[int, float] = {}
        self.places: list[int] = []
        self.faults: list[tuple[int, str]] = []

    def push(self, packet: Packet, now_s: float) -> None:
        self._note(self.order.push(packet, now_s))

    def finish(self) -> "Heard":
        self._note(self.order.finish())
        return self

    def _note(self, placed: list[tuple[int, Packet]]) -> None:
        for at, packet in placed:
            assert at >= (self.places[-1] + 1 if self.places else 0), "places only ever go on"
            self.faults += [(at, packet.fault)] if packet.fault else []
            for i, value in enumerate(packet.x[:, 0].tolist()):
                self.places.append(at + i)
                self.values[at + i] = value


def heard(sent: list[tuple[float, Packet]], window_s: float = 0.5) -> Heard:
    out = Heard(window_s)
    for now_s, packet in sent:
        out.push(packet, now_s)
    return out.finish()


# By counters


def test_packets_in_order_follow_one_another() -> None:
    out = heard([(i / 10, p) for i, p in enumerate(packets(20))])
    assert out.places == list(range(200))
    assert out.facts == LinkFacts(nominal_hz=HZ)


def test_a_counter_may_begin_anywhere() -> None:
    assert heard([(i / 10, p) for i, p in enumerate(packets(20)[7:])]).places == list(range(130))


def test_a_lost_packet_leaves_its_place_empty() -> None:
    out = heard([(i / 10, p) for i, p in enumerate(packets(20)) if i not in (3, 4, 9)])
    assert [out.values[at] for at in out.places] == out.places
    assert sorted(set(range(200)) - set(out.places)) == [*range(30, 50), *range(90, 100)]
    assert out.facts.lost == 30


def test_without_a_window_a_loss_is_known_at_once() -> None:
    out = Heard(window_s=0)
    first, _, third = packets(3)
    out.push(first, 0.0)
    out.push(third, 0.1)
    assert out.places == [*range(10), *range(20, 30)]


def test_within_the_window_a_late_packet_still_gets_its_place() -> None:
    a, b, c, d = packets(4)
    out = heard([(0.0, a), (0.1, c), (0.2, d), (0.55, b)])
    assert out.places == list(range(40))
    assert (out.facts.reordered, out.facts.lost, out.facts.late) == (1, 0, 0)


def test_after_the_window_it_is_lost_and_late() -> None:
    a, b, c, d = packets(4)
    out = heard([(0.0, a), (0.1, c), (0.7, d), (0.8, b)])
    assert out.places == [*range(10), *range(20, 40)]
    assert (out.facts.lost, out.facts.late, out.facts.duplicated) == (10, 10, 0)


def test_what_comes_twice_is_dropped_and_counted_also_in_part() -> None:
    a, b, c, _ = packets(4)
    half = Packet(np.arange(15, 35, dtype=np.float32)[:, np.newaxis], count=15)
    out = heard([(0.0, a), (0.1, b), (0.15, b), (0.2, half), (0.3, c), (0.4, a)])
    assert [out.values[at] for at in range(35)] == list(range(35))
    assert out.facts.duplicated == 10 + 5 + 10 + 10
    assert out.facts.lost == 0


def test_a_device_that_begins_to_count_anew_goes_on_where_it_was() -> None:
    first = [(i / 10, p) for i, p in enumerate(packets(50))]
    again = [(5 + i / 10, p) for i, p in enumerate(packets(5))]
    out = heard(first + again)
    assert out.places == list(range(550))
    assert out.faults == [(500, "clock_jump")]
    assert out.facts.clock_jumps == 1


def test_a_link_that_was_away_leaves_a_hole_as_long_as_it_was() -> None:
    unnumbered = [replace(p, count=None) for p in packets(4)]
    sent = [(0.1, unnumbered[0]), (0.2, unnumbered[1]), (1.0, replace(unnumbered[2], fault="reconnected"))]
    out = heard([*sent, (1.1, unnumbered[3])])
    assert out.faults == [(90, "reconnected")], "samples 20 to 89 were taken between 0.2 s and 0.9 s"
    assert out.places == [*range(20), *range(90, 110)]
    assert (out.facts.lost, out.facts.reconnects) == (70, 1)


def test_a_counter_that_went_on_while_the_link_was_away_tells_the_hole_to_the_sample() -> None:
    sent = packets(40)
    out = heard([(0.1, sent[0]), (0.2, sent[1]), (3.9, replace(sent[37], fault="reconnected"))])
    assert out.places == [*range(20), *range(370, 380)]
    assert out.facts.lost == 350


def test_a_device_that_was_switched_off_and_counts_from_zero_loses_nothing_that_it_sends() -> None:
    sent = packets(9)
    begun = [(0.1, sent[0]), (0.2, sent[1]), (0.3, sent[2])]
    out = heard([*begun, (0.8, replace(sent[0], fault="reconnected")), (0.9, sent[1])])
    assert out.places == [*range(30), *range(70, 90)]
    assert out.faults == [(70, "reconnected")]


def test_a_fault_without_samples_is_handed_on() -> None:
    out = heard([(0.0, packets(1)[0]), (0.1, Packet(np.empty((0, 1), np.float32), fault="checksum", garbage=7))])
    assert out.faults == [(10, "checksum")]
    assert out.facts.garbage == 7


shares = st.floats(0, 0.6)


@given(shares, shares, shares, st.floats(0, 0.2), st.floats(1, 5), st.integers(0, 999))
def test_whatever_a_link_does_every_sample_is_in_its_place_once_and_the_rest_is_counted(
    loss: float, duplicates: float, reorder: float, jitter_s: float, burst: float, seed: int
) -> None:
    how = Impairments(
        loss=loss, burst=burst, duplicates=duplicates, reorder=reorder, jitter_s=jitter_s, seed=seed, reorder_s=0.3
    )
    sent = list(impair(packets(120), HZ, how))
    out = Heard()
    for one in sent:
        assert one.packet is not None
        out.push(one.packet, one.due_s)
    out.finish()
    came = {one.packet.count for one in sent if one.packet is not None}
    first = min(out.values.values(), default=0)
    assert all(value - at == first for at, value in out.values.items()), "a sample's place is its number"
    facts = out.facts
    assert len(out.places) + facts.lost == out.order.next
    assert len(out.places) + facts.late + facts.duplicated == N * len(sent), "all that came is accounted for"
    missed = N * len([count for count in came if count is not None and count - first not in out.values])
    assert missed <= facts.late, "what came and has no place came late"


# By the device's time


def timed(starts: list[float], n: int = N) -> list[Packet]:
    return [Packet(np.full((n, 1), i, np.float32), time=t) for i, t in enumerate(starts)]


@pytest.mark.parametrize("true_hz", [128.0, 129.0, 130.5, 131.0])
def test_a_device_whose_rate_is_not_the_nominal_one_loses_nothing(true_hz: float) -> None:
    out = Heard(rate_hz=130.0)
    for i, packet in enumerate(timed([1e9 + i * 73 / true_hz for i in range(2000)], 73)):
        out.push(packet, i * 73 / true_hz)
    assert out.places == list(range(2000 * 73))
    assert (out.facts.lost, out.facts.duplicated) == (0, 0)
    assert out.facts.rate_hz == pytest.approx(true_hz, rel=1e-4)


def test_jitter_of_stamps_is_absorbed() -> None:
    random = Random(1)
    starts = [i / 10 + random.uniform(-0.009, 0.009) for i in range(3000)]
    assert heard([(t, p) for t, p in zip(starts, timed(starts), strict=True)]).places == list(range(30000))


def test_stamps_tell_losses_repetitions_and_the_wrong_order() -> None:
    starts = [0.0, 0.1, 0.2, 0.2, 0.5, 0.4, 0.6]
    out = heard([(i / 10, p) for i, p in enumerate(timed(starts))])
    assert out.places == [*range(30), *range(40, 70)]
    assert (out.facts.lost, out.facts.duplicated, out.facts.reordered) == (10, 10, 1)


def test_a_clock_that_is_set_back_to_2019_loses_nothing() -> None:
    starts = [1.7e9 + i / 10 for i in range(50)] + [1.5e9 + i / 10 for i in range(50)]
    out = heard([(i / 10, p) for i, p in enumerate(timed(starts))])
    assert out.places == list(range(1000))
    assert out.faults == [(500, "clock_jump")]


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30), st.floats(0, 2))
def test_no_time_at_all_can_break_the_order(starts: list[float], step_s: float) -> None:
    out = heard([(i * step_s, p) for i, p in enumerate(timed(starts))])
    facts = out.facts
    assert len(out.places) + facts.late + facts.duplicated == N * len(starts)


def test_stamps_of_slow_signals_are_followed_too() -> None:
    stamps = Stamps(1 / 60)
    assert [stamps.count(60.0 * minute, 1) for minute in (0, 1, 2, 5)] == [0, 1, 2, 5]


# The rate


def paced(rate_hz: float, seconds: float, jitter_s: float = 0.0, nominal_hz: float = HZ) -> Pace:
    pace, random = Pace(nominal_hz), Random(3)
    for i in range(round(seconds * 10)):
        pace.push(round(rate_hz * (i + 1) / 10), (i + 1) / 10 + random.random() * jitter_s)
    return pace


def test_the_rate_is_measured_through_jitter() -> None:
    pace = paced(101.3, 120, jitter_s=0.2)
    assert pace.rate_hz == pytest.approx(101.3, rel=1e-3)
    assert pace.jitter_s == pytest.approx(0.2, abs=0.04)


def test_a_stall_does_not_change_the_rate() -> None:
    pace = Pace(HZ)
    for i in range(1000):
        now_s = i / 10
        pace.push(10 * i, 40.0 if 30 <= now_s < 40 else now_s)
    assert pace.rate_hz == pytest.approx(HZ, rel=1e-3)


@pytest.mark.parametrize(
    ("rate_hz", "wrong"), [(95.5, False), (104.5, False), (94.0, True), (106.0, True), (250, True)]
)
def test_a_rate_that_is_off_by_more_than_5_percent_is_a_mismatch(rate_hz: float, wrong: bool) -> None:
    assert paced(rate_hz, JUDGED_AFTER_S + 5).mismatch == wrong
    assert not paced(rate_hz, JUDGED_AFTER_S - 5).mismatch


def test_a_mismatch_is_said_once() -> None:
    out = Heard()
    for i, packet in enumerate(packets(2000)):
        out.push(packet, i * N / 120.0)
    assert [fault for _, fault in out.faults] == ["rate_mismatch"]
    assert out.facts.drift_ppm == pytest.approx(200_000, rel=0.01)


# Packets, and what a link does to them


def test_packets_are_joined_only_where_they_follow_on() -> None:
    a, b, c, d = packets(4)
    assert [p.count for p in merged([a, b, d])] == [0, 30]
    assert [len(p) for p in merged([a, replace(b, fault="x"), c])] == [10, 20]
    assert [len(p) for p in merged([a, replace(b, lead_off=np.ones(10, np.bool_))])] == [10, 10]
    assert [len(p) for p in merged([replace(p, count=None, garbage=2) for p in (a, b, c)])] == [30]
    assert merged([replace(p, count=None, garbage=2) for p in (a, b, c)])[0].garbage == 6
    assert merged([]) == []


def test_a_perfect_link_changes_nothing() -> None:
    sent = list(impair(packets(5), HZ, Impairments()))
    assert [(round(s.due_s, 9), s.packet.count) for s in sent if s.packet] == [
        (0.1, 0), (0.2, 10), (0.3, 20), (0.4, 30), (0.5, 40),
    ]  # fmt: skip


@given(shares, shares, shares, st.floats(0, 1), st.floats(-0.4, 0.4), st.integers(0, 99))
def test_what_is_sent_is_in_order_of_time_and_the_same_for_the_same_seed(
    loss: float, duplicates: float, reorder: float, jitter_s: float, drift: float, seed: int
) -> None:
    how = Impairments(
        loss=loss, duplicates=duplicates, reorder=reorder, jitter_s=jitter_s, drift=drift, seed=seed,
        unplugged=((3.0, 4.0),), garbage=0.5,
    )  # fmt: skip

    def sent() -> list[Sent]:
        return list(impair(packets(80), HZ, how))

    dues = [one.due_s for one in sent()]
    assert dues == sorted(dues)
    assert [(s.due_s, s.garbage, s.plugged) for s in sent()] == [(s.due_s, s.garbage, s.plugged) for s in sent()]
    assert [s.plugged for s in sent() if s.packet is None] == [False, True]


def test_loss_is_as_large_and_comes_in_bursts_as_long_as_was_asked_for() -> None:
    sent = {s.packet.count for s in impair(packets(20000), HZ, Impairments(loss=0.05, burst=4)) if s.packet}
    there = np.array([N * i in sent for i in range(20000)])
    edges = np.flatnonzero(np.diff(there.astype(int)) == -1)
    assert 1 - there.mean() == pytest.approx(0.05, abs=0.01)
    assert (~there).sum() / len(edges) == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(
    "wrong",
    [{"loss": 1.5}, {"loss": float("nan")}, {"burst": 0.5}, {"jitter_s": -1}, {"drift": 2}, {"lead_off": ((3, 2),)},
     {"garbage": "much"}, {"unplugged": ((1, 2, 3),)}],
)  # fmt: skip
def test_impairments_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Impairments(**wrong)  # type: ignore[arg-type]
