"""The time of day of samples whose clock drifts: right to a second after a day, without a jump, and the same again."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.runtime.alert import Scene
from holdover.runtime.chunk import Chunk
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.wall_clock import WallClock
from holdover.runtime.watch import Watch, bodies, model_id
from tests.signals import RATE_HZ, TIGHT, full_engine, recording

T0 = 1.7e9
HZ = 100.0


def arrivals(rate_hz: float, seconds: int, jitter_s: float = 0.0, seed: int = 0) -> list[Chunk]:
    """A chunk for every half second of a device whose true rate this is."""
    random, chunks, at = Random(seed), [], 0
    for half in range(1, 2 * seconds + 1):
        end = round(half * rate_hz / 2)
        arrived = T0 + end / rate_hz + 0.05 + random.random() * jitter_s
        chunks.append(Chunk(at, np.zeros((end - at, 1), np.float32), arrived=arrived))
        at = end
    return chunks


def error_s(clock: WallClock, rate_hz: float, sample: int) -> float:
    return clock.time(sample) - T0 - sample / rate_hz


@pytest.mark.parametrize("drift", [-0.01, -1e-4, 0.0, 1e-4, 0.01, 0.05])
def test_after_a_day_of_drift_the_time_is_right(drift: float) -> None:
    rate_hz = HZ * (1 + drift)
    clock, errors, times = WallClock(HZ, T0), [], []
    for chunk in arrivals(rate_hz, 86400, jitter_s=0.2):
        clock.push(chunk)
        errors.append(error_s(clock, rate_hz, chunk.end))
        times.append(clock.time(chunk.end))
    assert max(map(abs, errors[1200:])) < 0.3, "after the first ten minutes"
    assert max(map(abs, errors)) < 95 * abs(drift) + 0.3, "before they have told"
    assert all(a < b for a, b in pairwise(times)), "it never goes back"


def test_what_was_said_of_a_sample_stays_true() -> None:
    clock, said = WallClock(HZ, T0), {}
    for chunk in arrivals(101.0, 600, jitter_s=0.2):
        clock.push(chunk)
        said[chunk.end - 1] = clock.time(chunk.end - 1)
    assert all(clock.time(sample) == when for sample, when in said.items())


def test_a_stall_and_its_rush_leave_the_time_alone() -> None:
    clock = WallClock(HZ, T0)
    for chunk in arrivals(HZ, 1200):
        held_up = T0 + 640 if T0 + 580 < chunk.arrived < T0 + 640 else chunk.arrived
        clock.push(Chunk(chunk.at, chunk.x, arrived=held_up))
        assert abs(error_s(clock, HZ, chunk.end)) < 0.2


def test_when_this_machines_clock_is_set_the_time_follows_within_minutes() -> None:
    clock = WallClock(HZ, T0)
    for chunk in arrivals(HZ, 900):
        set_by = 3 * 86400.0 if chunk.arrived > T0 + 300 else 0.0
        clock.push(Chunk(chunk.at, chunk.x, arrived=chunk.arrived + set_by))
    assert error_s(clock, HZ, 90000) == pytest.approx(3 * 86400.0, abs=0.2)
    assert error_s(clock, HZ, 25000) == pytest.approx(0.0, abs=0.2)


@pytest.mark.parametrize("speed", [0.5, 2.0, 22.0, 1000.0])
def test_a_recording_that_is_played_fast_keeps_its_own_time(speed: float) -> None:
    clock = WallClock(HZ, T0)
    for chunk in arrivals(HZ, 600):
        clock.push(Chunk(chunk.at, chunk.x, arrived=T0 + (chunk.arrived - T0) / speed))
    assert clock.time(60000) == T0 + 600


@given(
    st.lists(
        st.tuples(st.integers(0, 10000), st.one_of(st.floats(0, 4e9), st.just(float("nan")))), min_size=1, max_size=60
    )
)
def test_no_arrivals_at_all_can_break_it(steps: list[tuple[int, float]]) -> None:
    clock, at = WallClock(HZ, T0), 0
    for n, arrived in steps:
        clock.push(Chunk(at, np.zeros((n, 1), np.float32), arrived=arrived))
        at += n
        assert np.isfinite(clock.time(at))


def test_it_goes_on_from_a_snapshot() -> None:
    chunks = arrivals(101.0, 900, jitter_s=0.1)
    whole, first, second = WallClock(HZ, T0), WallClock(HZ, T0), WallClock(HZ, 0.0)
    for chunk in chunks:
        whole.push(chunk)
    for chunk in chunks[:777]:
        first.push(chunk)
    second.restore(unpack(pack(first.snapshot())))
    for chunk in chunks[777:]:
        second.push(chunk)
    assert [second.time(n) for n in range(0, 90000, 1000)] == [whole.time(n) for n in range(0, 90000, 1000)]


def a_live_watch() -> Watch:
    scene = Scene(stream="208", lead="MLII", rate_hz=RATE_HZ, epoch=T0, model=model_id(full_engine()))
    return Watch(full_engine(), scene, TIGHT, live=True)


def test_alerts_of_a_device_that_drifts_have_the_true_time_and_are_the_same_after_a_restart() -> None:
    x, true_hz, n = recording(), 1.01 * RATE_HZ, 72
    chunks = [Chunk(at, x[at : at + n], arrived=T0 + (at + n) / true_hz) for at in range(0, len(x), n)]
    whole, other = a_live_watch(), a_live_watch()
    expected = [alert for chunk in chunks for alert in whole.push(chunk).alerts]
    said = []
    for i, chunk in enumerate(chunks):
        said += other.push(chunk).alerts
        if i % 100 == 50:
            memory = unpack(pack(other.snapshot()))
            other = a_live_watch()
            other.restore(memory)
    assert bodies(said) == bodies(expected)
    late = [a for a in expected if a.phase.at > 150 * RATE_HZ]
    assert len(late) > 10
    for alert in late:
        assert alert.times is not None
        assert alert.times[1] == pytest.approx(T0 + alert.phase.at / true_hz, abs=0.1)
    onsets: dict[str, set[str]] = {}
    for alert in expected:
        onsets.setdefault(alert.episode_id, set()).add(alert.body()["onset_time"])
    assert all(len(times) == 1 for times in onsets.values()), "all phases of an episode say one onset"
