"""The sample clock: stamps to places, however they come, and time that passes in silence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdover.runtime.chunk import Chunk
from holdover.runtime.clock import CLOCK_JUMP_S, Holdover, SampleClock
from tests.graphs import signal

T0 = 1_700_000_000.0
Run = tuple[list[int], int, str]


def placed(clock: SampleClock, t: NDArray[np.float64]) -> list[tuple[int, str]]:
    """The place of every stamp, and the fault named with it."""
    found: list[tuple[int, str]] = []
    for which, at, fault in clock.place(t):
        found += [(at + i, fault if i == 0 else "") for i in range(which.stop - which.start)]
    return found


def places(clock: SampleClock, t: NDArray[np.float64]) -> list[int]:
    """The place of every stamp."""
    return [at for at, _ in placed(clock, t)]


def stamps(*samples: float, rate_hz: float = 10.0) -> NDArray[np.float64]:
    """Stamps of samples, at 10 Hz: too slow for its jitter to hide a whole sample."""
    return T0 + np.array(samples) / rate_hz


def test_stamps_in_order_are_one_run() -> None:
    assert list(SampleClock(10.0).place(stamps(*range(8)))) == [(slice(0, 8), 0, "")]


def test_no_stamps_are_no_runs() -> None:
    assert list(SampleClock(10.0).place(np.empty(0))) == []


def test_the_first_stamp_is_sample_0() -> None:
    clock = SampleClock(10.0)
    places(clock, stamps(5, 6))
    assert clock.epoch == T0 + 0.5
    assert clock.next == 2


def test_jitter_is_absorbed() -> None:
    rng = np.random.default_rng(0)
    t = T0 + np.arange(5000) / 360 + rng.uniform(-0.009, 0.009, 5000)
    assert list(SampleClock(360.0).place(t)) == [(slice(0, 5000), 0, "")]


def test_a_hole_moves_the_places_on() -> None:
    assert places(SampleClock(10.0), stamps(0, 1, 2, 7, 8)) == [0, 1, 2, 7, 8]


def test_a_stamp_that_repeats_gets_the_place_it_had() -> None:
    assert placed(SampleClock(10.0), stamps(0, 1, 2, 2, 3, 4)) == [(n, "") for n in (0, 1, 2, 2, 3, 4)]


def test_stamps_that_go_back_get_the_places_that_were_there_before() -> None:
    clock = SampleClock(10.0)
    assert places(clock, stamps(0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7)) == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7]
    assert clock.next == 8


def test_samples_gone_over_again_one_by_one_do_not_catch_on_the_newest() -> None:
    t = stamps(*range(20), *range(14, 24), rate_hz=100.0)  # jitter of two samples is absorbed at this rate
    clock = SampleClock(100.0)
    assert [at for stamp in t for at in places(clock, np.array([stamp]))] == [*range(20), *range(14, 24)]


def test_a_clock_that_is_set_back_an_hour_counts_on_and_says_so() -> None:
    clock = SampleClock(10.0)
    t = np.concatenate([stamps(*range(50)), stamps(*range(50, 60)) - 3600])
    found = placed(clock, t)
    assert [at for at, _ in found] == list(range(60))
    assert [(at, fault) for at, fault in found if fault] == [(50, "clock_jump")]
    assert places(clock, stamps(60, 61) - 3600) == [60, 61]


def test_just_less_than_a_jump_is_still_going_back() -> None:
    whole = int(CLOCK_JUMP_S * 10)
    assert placed(SampleClock(10.0), stamps(*range(50), 50 - whole))[-1] == (50 - whole, "")
    assert placed(SampleClock(10.0), stamps(*range(50), 49 - whole))[-1] == (50, "clock_jump")


def test_a_stamp_before_the_first_is_a_clock_that_was_set() -> None:
    assert placed(SampleClock(10.0), stamps(5, 6, 2, 3)) == [(0, ""), (1, ""), (2, "clock_jump"), (3, "")]


steps = st.one_of(
    st.just(1.0),
    st.floats(0.8, 1.2),
    st.sampled_from([0.0, -3.0, 5.0, 40.0, -25.0, -36_000.0, 36_000.0, 1.75, 0.25, 2.0, -1.0]),
)


@given(
    rate_hz=st.sampled_from([10.0, 100.0, 360.0]),
    moves=st.lists(steps, min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=8).map(sorted),
)
def test_how_stamps_arrive_never_changes_their_places(rate_hz: float, moves: list[float], cuts: list[int]) -> None:
    t = T0 + np.cumsum(moves) / rate_hz
    whole, cut, single = SampleClock(rate_hz), SampleClock(rate_hz), SampleClock(rate_hz)
    wanted = placed(whole, t)
    assert [p for part in np.split(t, len(t)) for p in placed(single, part)] == wanted
    assert [p for part in np.split(t, cuts) for p in placed(cut, part)] == wanted
    assert (cut.next, cut.epoch) == (whole.next, whole.epoch)
    assert all(at >= 0 for at, _ in wanted)


def chunk(at: int, samples: int) -> Chunk:
    """Samples at a place."""
    return Chunk(at, signal(samples))


def test_a_source_that_speaks_keeps_its_own_places() -> None:
    holdover = Holdover(100.0)
    found = [holdover.push(chunk(at, 50), now) for at, now in ((0, 0.5), (50, 1.0), (100, 2.9))]
    assert [c.at for c in found] == [0, 50, 100]
    assert all(len(c) == 50 for c in found)


def test_a_silence_of_two_seconds_is_waited_for() -> None:
    holdover = Holdover(100.0)
    holdover.push(chunk(0, 50), 10.0)
    for now in (10.5, 11.0, 12.0):
        found = holdover.push(chunk(50, 0), now)
        assert (found.at, len(found)) == (50, 0)
    assert holdover.push(chunk(50, 50), 12.1).at == 50


def test_more_silence_is_declared_missing_as_it_passes() -> None:
    holdover = Holdover(100.0)
    holdover.push(chunk(0, 50), 10.0)
    assert holdover.push(chunk(50, 0), 12.5).at == 300
    assert holdover.push(chunk(50, 0), 14.0).at == 300
    assert holdover.push(chunk(50, 0), 15.0).at == 550
    assert holdover.push(chunk(50, 50), 15.5).at == 550
    assert holdover.push(chunk(100, 50), 16.0).at == 600


def test_a_source_that_never_spoke_is_missing_from_the_start() -> None:
    holdover = Holdover(100.0, start=1000)
    assert holdover.push(chunk(0, 0), 5.0).at == 1000
    assert holdover.push(chunk(0, 0), 8.0).at == 1300
    assert holdover.push(chunk(0, 10), 8.1).at == 1300


def test_a_fault_goes_through_with_its_chunk() -> None:
    found = Holdover(100.0, start=7).push(Chunk(3, signal(5), fault="clock_jump"), 0.0)
    assert (found.at, found.fault) == (10, "clock_jump")


@pytest.mark.parametrize("silence_s", [0.5, 2.0, 10.0])
def test_nothing_is_declared_twice(silence_s: float) -> None:
    holdover = Holdover(100.0, silence_s=silence_s)
    holdover.push(chunk(0, 100), 0.0)
    for k in range(1, 121):
        found = holdover.push(chunk(100, 0), k / 2)
    assert 100 + 100 * (60 - silence_s - 0.5) <= found.at <= 100 + 6000


def test_a_source_with_stamps_is_not_moved_twice_after_a_silence() -> None:
    holdover = Holdover(100.0)
    holdover.push(chunk(0, 50), 10.0)
    assert holdover.push(chunk(50, 0), 13.0).at == 350
    assert holdover.push(chunk(550, 50), 15.0).at == 550
    assert holdover.push(chunk(600, 50), 15.5).at == 600


def test_samples_that_were_only_late_follow_what_was_declared_missing() -> None:
    holdover = Holdover(100.0)
    holdover.push(chunk(0, 50), 10.0)
    assert holdover.push(chunk(50, 0), 13.0).at == 350
    assert holdover.push(chunk(50, 300), 13.1).at == 350
    assert holdover.push(chunk(350, 50), 13.6).at == 650
