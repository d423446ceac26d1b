"""Resampling on the fly against scipy's resampling of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import resample_poly

from holdover.runtime.errors import UsageError
from holdover.runtime.resample import Array, Resampler
from holdover.runtime.snapshot import pack, unpack
from tests.graphs import signal

RATES_HZ = (100, 128, 130, 200, 250, 257, 360, 500, 512, 1000)
RATIOS = [(a, 120) for a in (*RATES_HZ, 120)] + [(120, 360), (250, 100), (100, 1000), (62.5, 100), (360, 128)]
every_ratio = pytest.mark.parametrize(("from_hz", "to_hz"), RATIOS)


def pushed(resampler: Resampler, x: Array, cuts: list[int]) -> Array:
    """What comes out of a resampler when x is cut there."""
    return np.concatenate([resampler.push(part) for part in np.split(x, cuts)])


@every_ratio
def test_it_resamples_as_scipy_does_with_the_whole(from_hz: float, to_hz: float) -> None:
    x = signal(3000, 2)
    resampler = Resampler(from_hz, to_hz, 2)
    found = resampler.push(x)
    wanted = resample_poly(x.astype(np.float64), resampler.up, resampler.down, padtype="edge")
    inner = slice(-(-resampler.delay * resampler.up // resampler.down), len(found))
    assert found.dtype == np.float32
    assert len(found) >= (3000 - resampler.delay - 1) * resampler.up // resampler.down
    assert np.abs(found[inner] - wanted[inner]).max() < 2e-6


@every_ratio
def test_a_sine_keeps_its_place_and_its_height(from_hz: float, to_hz: float) -> None:
    x = np.sin(2 * np.pi * 7 * np.arange(4000) / from_hz).astype(np.float32)[:, np.newaxis]
    found = Resampler(from_hz, to_hz).push(x)[:, 0]
    wanted = np.sin(2 * np.pi * 7 * np.arange(len(found)) / to_hz)
    inner = slice(len(found) // 4, None)
    assert np.abs(found[inner] - wanted[inner]).max() < 3e-3


@every_ratio
def test_an_output_comes_when_its_last_sample_has_come_and_not_before(from_hz: float, to_hz: float) -> None:
    resampler, said = Resampler(from_hz, to_hz), 0
    for n, sample in enumerate(signal(200), start=1):
        said += len(resampler.push(sample[np.newaxis]))
        known = n - 1 - resampler.delay
        assert said == (known * resampler.up // resampler.down + 1 if known >= 0 else 0) or (
            # between two inputs the window still ends at the earlier one
            said == ((known + 1) * resampler.up - 1) // resampler.down + 1
        )


@given(
    ratio=st.one_of(
        st.sampled_from(RATIOS), st.tuples(st.integers(100, 1000), st.sampled_from([100, 120, 125, 128, 250, 360]))
    ),
    channels=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 1500), max_size=12).map(sorted),
)
def test_how_samples_arrive_never_changes_a_bit(ratio: tuple[float, float], channels: int, cuts: list[int]) -> None:
    x = signal(1500, channels)
    whole = Resampler(*ratio, channels).push(x)
    assert pushed(Resampler(*ratio, channels), x, cuts).tobytes() == whole.tobytes()


@every_ratio
def test_sample_by_sample_gives_the_bits_of_the_whole(from_hz: float, to_hz: float) -> None:
    x = signal(400)
    whole = Resampler(from_hz, to_hz).push(x)
    assert pushed(Resampler(from_hz, to_hz), x, list(range(1, 400))).tobytes() == whole.tobytes()


@given(ratio=st.sampled_from(RATIOS), cut=st.integers(0, 600))
def test_a_restored_resampler_goes_on_to_the_bit(ratio: tuple[float, float], cut: int) -> None:
    x = signal(600)
    first, other = Resampler(*ratio), Resampler(*ratio)
    before = first.push(x[:cut])
    other.push(signal(77, seed=3))
    other.restore(unpack(pack(first.snapshot())))
    after = other.push(x[cut:])
    assert np.concatenate([before, after]).tobytes() == Resampler(*ratio).push(x).tobytes()


def test_a_reset_resampler_is_a_new_one() -> None:
    resampler, x = Resampler(360, 120), signal(500)
    resampler.push(signal(321, seed=4))
    resampler.reset()
    assert resampler.push(x).tobytes() == Resampler(360, 120).push(x).tobytes()


def test_before_the_first_sample_the_signal_had_its_value() -> None:
    x = np.full((300, 1), 3.25, np.float32)
    assert np.allclose(Resampler(250, 120).push(x), 3.25, atol=2e-3)


def test_each_channel_is_filtered_alone() -> None:
    x = signal(700, 3)
    found = Resampler(250, 120, 3).push(x)
    for i in range(3):
        assert np.allclose(found[:, i], Resampler(250, 120).push(x[:, i : i + 1])[:, 0], atol=1e-6)


def test_at_the_models_own_rate_nothing_is_done() -> None:
    resampler, x = Resampler(120, 120), signal(50)
    assert resampler.delay == 0
    assert resampler.push(x) is x


def test_what_it_gives_does_not_change_when_the_callers_array_does() -> None:
    resampler, x = Resampler(360, 120), signal(720)
    buffer, parts = np.empty((90, 1), np.float32), []
    for i in range(0, 720, 90):
        buffer[:] = x[i : i + 90]
        parts.append(resampler.push(buffer))
    assert np.concatenate(parts).tobytes() == Resampler(360, 120).push(x).tobytes()


def test_a_ratio_that_is_not_simple_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot resample 359\.987 Hz to 120 Hz"):
        Resampler(359.987, 120)
