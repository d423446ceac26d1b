"""Thresholds from the tail of a stream: as the reference program has them, and where a law is known, as it is."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdover.runtime.detect.drift_spot import DriftSpot
from holdover.runtime.detect.escape import Escape
from holdover.runtime.detect.spot import Spot
from holdover.runtime.detect.tail import Tail, fit
from tests.signals import examples

Array = NDArray[np.float64]

LAWS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "t3": lambda rng, n: np.abs(rng.standard_t(3, n)),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
}


def learned(spot: Spot | DriftSpot, x: Array) -> int:
    """Alarms while a threshold takes a stream, as algorithm 2 of the paper has it: what is alarmed is left out."""
    alarms = 0
    for value in x.tolist():
        if not spot.calibrating and value > spot.limit:
            alarms += 1
        else:
            spot.learn(value)
    return alarms


@pytest.mark.parametrize("risk", [1e-4, 1e-5])
@pytest.mark.parametrize("name", LAWS)
def test_the_first_threshold_is_that_of_libspot_within_15_percent(name: str, risk: float) -> None:
    libspot = pytest.importorskip("libspot")
    x = LAWS[name](np.random.default_rng(0), 4000)
    theirs, ours = libspot.Spot(q=risk, level=0.98, max_excess=500), Spot(risk, len(x))
    theirs.fit(x)
    learned(ours, x)
    assert ours.limit == pytest.approx(theirs.anomaly_threshold, rel=0.15)


@pytest.mark.parametrize("name", LAWS)
def test_the_threshold_of_a_stream_is_that_of_libspot_within_15_percent(name: str) -> None:
    libspot = pytest.importorskip("libspot")
    x = LAWS[name](np.random.default_rng(1), 20_000)
    theirs, ours = libspot.Spot(q=1e-5, level=0.98, max_excess=500), Spot(1e-5, 2000)
    theirs.fit(x[:2000])
    for value in x[2000:].tolist():
        theirs.step(value)
    learned(ours, x)
    assert ours.limit == pytest.approx(theirs.anomaly_threshold, rel=0.15)


def test_what_was_alarmed_is_counted_so_that_the_rate_is_the_one_asked_for() -> None:
    x = np.random.default_rng(2).normal(size=60_000)
    spot, alarms = Spot(1e-3, 1000), 0
    for value in x.tolist():
        if not spot.calibrating and value > spot.limit:
            alarms += 1
            spot.exceeded()
        else:
            spot.learn(value)
    assert 30 < alarms < 120
    assert spot.limit == pytest.approx(3.09, rel=0.15)
    assert learned(Spot(1e-3, 1000), x) > alarms


def test_drift_spot_follows_a_level_that_spot_takes_for_one_long_anomaly() -> None:
    x = np.random.default_rng(3).normal(size=20_000) + np.linspace(0, 40, 20_000)
    assert learned(DriftSpot(1e-4, 2000, depth=200), x) < 20
    assert learned(Spot(1e-4, 2000), x) > 1000


def test_drift_spot_is_spot_of_what_is_above_the_mean() -> None:
    x = np.random.default_rng(4).exponential(size=3000)
    drift, plain = DriftSpot(1e-9, 1000, depth=50), Spot(1e-9, 950)
    learned(drift, x)
    learned(plain, np.array([x[i] - x[i - 50 : i].mean() for i in range(50, len(x))]))
    assert drift.spot.limit == pytest.approx(plain.limit, rel=1e-9)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3])
def test_a_tail_is_found_again(shape: float) -> None:
    u = np.random.default_rng(5).random(20_000)
    y = np.array([Tail(shape, 2.0).excess(p) for p in u[:5000].tolist()])
    found = fit(y[y > 0])
    assert found.shape == pytest.approx(shape, abs=0.05)
    assert found.scale == pytest.approx(2.0, rel=0.06)


def test_a_tail_of_which_the_greatest_are_only_known_to_be_greater_is_found_again() -> None:
    u = np.random.default_rng(6).random(5000)
    y = np.array([Tail(0.2, 1.0).excess(p) for p in u.tolist()])
    found = fit(y[y < 2], np.full(int((y >= 2).sum()), 2.0))
    assert found.shape == pytest.approx(0.2, abs=0.1)
    assert fit(y[y < 2]).shape < 0


@examples(50)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60), st.floats(1e-6, 0.9))
def test_a_tail_of_any_excesses_is_finite_and_its_excess_is_its_survival(y: list[float], p: float) -> None:
    tail = fit(np.array(y), np.array(y[:3]), (-0.5, 0.9))
    assert -0.5 <= tail.shape <= 0.9
    assert tail.scale > 0
    assert tail.survival(tail.excess(p)) == pytest.approx(p, rel=1e-6)


@examples(30)
@given(st.lists(st.floats(-1e9, 1e9), min_size=60, max_size=300))
def test_a_threshold_of_any_stream_is_a_number(x: list[float]) -> None:
    spot = Spot(1e-3, 50, hold=3)
    for value in x:
        if value > spot.limit:
            spot.exceeded()
        else:
            spot.learn(value)
    assert np.isfinite(spot.limit)
    assert spot.limit >= spot.over


@examples(30)
@given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=300))
def test_a_surprise_is_a_number_and_none_within_what_has_been(x: list[float]) -> None:
    escape = Escape(64, 3)
    for value in x:
        assert 0 <= escape.surprise(value) < np.inf
        escape.learn(value)
        assert escape.surprise(value) == 0


def test_records_of_values_that_can_be_exchanged_are_as_rare_as_is_said() -> None:
    escape, alarms = Escape(4000, 1), 0
    x = np.random.default_rng(7).normal(size=200_000)
    for value in x.tolist():
        alarms += escape.n > 1000 and escape.surprise(value) > -np.log(2e-4)
        escape.learn(value)
    assert 20 < alarms < 80
