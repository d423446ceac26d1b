"""BrainFlow: its synthetic and its playback board, and the counters of others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("brainflow", reason="brainflow is not installed (pip install holdover[brainflow])")

from holdover.devices.simulators.brainflow import MODULUS, RATE_HZ, write_playback
from holdover.devices.simulators.impair import Impairments, impair
from holdover.devices.sources import brainflow
from holdover.devices.sources.counter import BACK, Counter
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.runtime.errors import SourceError
from tests.brokers import wait_until
from tests.collecting import Collector, collecting


@pytest.fixture
def collect() -> Iterator[Callable[[Live], Collector]]:
    with collecting() as start:
        yield start


def signal(n: int, leads: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(1).integers(-5000, 5000, (n, leads)).astype(np.float32)


def a_file(folder: Path, x: NDArray[np.float32], how: Impairments, speed: float = 10.0) -> str:
    packets = [Packet(x[at : at + 25], count=at) for at in range(0, len(x), 25)]
    write_playback(folder / "played.csv", impair(packets, RATE_HZ, how), speed)
    return str(folder / "played.csv")


def playback(path: str, channels: list[int], **options: Any) -> Live:
    return brainflow.open(board="playback_file", path=path, master_board="synthetic", channels=channels, **options)


def test_the_synthetic_board_streams_at_its_rate_without_a_loss(collect: Callable[[Live], Collector]) -> None:
    source = brainflow.open(board="synthetic", channels=[1, 2], leads="I,II")
    assert (source.rate_hz, source.channels, source.units) == (250.0, ("I", "II"), ("uV", "uV"))
    collector = collect(source)
    x = collector.until(700)
    assert source.facts.lost == source.facts.duplicated == 0
    assert np.ptp(x[:, 0]) > 0
    collector.stop()


def test_a_board_can_be_opened_again_after_it_was_closed(collect: Callable[[Live], Collector]) -> None:
    for _ in range(2):
        collector = collect(brainflow.open(board=-1))
        collector.until(50)
        collector.stop()


def test_a_recording_is_played_back_whole(tmp_path: Path, collect: Callable[[Live], Collector]) -> None:
    x = signal(2000, 3)
    collector = collect(playback(a_file(tmp_path, x, Impairments()), [1, 2, 3], gain=0.001, unit="mV"))
    np.testing.assert_array_equal(collector.until(2000), (x.astype(np.float64) * 0.001).astype(np.float32))
    assert collector.source.units == ("mV",) * 3
    collector.stop()


def test_losses_are_found_by_the_package_number_to_the_sample(
    tmp_path: Path, collect: Callable[[Live], Collector]
) -> None:
    x = signal(4000)
    how = Impairments(loss=0.05, burst=2, seed=4)
    packets = [Packet(x[at : at + 25], count=at) for at in range(0, len(x), 25)]
    there = [item.packet.count or 0 for item in impair(packets, RATE_HZ, how) if item.packet]
    first, last = there[0], there[-1] + 25
    collector = collect(playback(a_file(tmp_path, x, how), [1]))
    wait_until(lambda: collector.end >= last - first, "the last came")
    collector.stop()
    assert collector.source.facts.lost == sum(at not in there for at in range(first, last, 25)) * 25
    for chunk in collector.chunks:
        np.testing.assert_array_equal(chunk.x, x[chunk.at + first : chunk.end + first])


def test_a_board_that_is_not_there_is_tried_again_and_said(
    collect: Callable[[Live], Collector], caplog: pytest.LogCaptureFixture
) -> None:
    collector = collect(brainflow.open(board="cyton", serial_port="/dev/ttyNOWHERE"))
    wait_until(lambda: "trying again" in caplog.text, "it is said")
    assert "BrainFlow says" in caplog.text
    collector.stop()


def test_a_board_that_falls_silent_is_opened_anew(
    tmp_path: Path,
    collect: Callable[[Live], Collector],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(brainflow, "SILENT_S", 0.5)
    collector = collect(playback(a_file(tmp_path, signal(250), Impairments()), [1]))
    wait_until(lambda: "reconnected" in collector.faults, "the file is played a second time")
    assert "gave nothing" in caplog.text
    collector.stop()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"board": "cytton"}, r"did you mean one of .*cyton"),
        ({"board": 9999}, "no board 9999"),
        ({"board": "cyton", "channels": "ppg"}, r"it has ecg \[1, 2"),
        ({"board": "cyton", "channels": [99]}, "no channels"),
        ({"board": "cyton", "channels": []}, "no channels"),
        ({"board": "cyton", "channels": ["1"]}, "no channels"),
        ({"board": "cyton", "leads": "A,B"}, "8 channels"),
        ({"board": "cyton", "gain": 0}, "gain = 0"),
        ({"board": "cyton", "serial_port": 5}, "serial_port = 5"),
        ({"board": "cyton", "ip_port": "x"}, "ip_port"),
        ({"board": "cyton", "counter": -1}, "counter"),
        ({"board": "playback_file"}, "no board None"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        brainflow.open(**options)


# Counters


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.data())
def test_holes_below_the_modulus_are_found_however_the_samples_are_cut(steps: list[int], data: st.DataObject) -> None:
    counts = np.cumsum(steps)
    cuts = sorted(set(data.draw(st.lists(st.integers(1, len(counts)), max_size=5))) | {len(counts)})
    counter, start, got = Counter(MODULUS, RATE_HZ), 0, []
    for stop in cuts:
        got += counter.push(counts[start:stop] % MODULUS, float(counts[stop - 1]) / RATE_HZ).tolist()
        start = stop
    np.testing.assert_array_equal(np.array(got) - got[0], counts - counts[0])


@given(st.integers(1, 20_000), st.integers(1, 50))
def test_a_hole_of_any_length_is_found_by_how_long_it_took(hole: int, batch: int) -> None:
    counter = Counter(MODULUS, RATE_HZ)
    before = counter.push(np.arange(batch) % MODULUS, 100.0)
    later = np.arange(batch + hole, 2 * batch + hole)
    after = counter.push(later % MODULUS, 100.0 + (batch + hole) / RATE_HZ)
    assert after[0] - before[-1] == hole + 1


def test_samples_that_were_held_up_are_not_taken_for_a_hole() -> None:
    counter = Counter(MODULUS, RATE_HZ)
    first = counter.push(np.arange(10), 1.0)
    backlog = counter.push(np.arange(10, 60), 1.9)
    rest = counter.push(np.arange(60, 250), 1.95)
    np.testing.assert_array_equal(np.concatenate([first, backlog, rest]) - first[0], np.arange(250))


@pytest.mark.parametrize("back", [0, 1, BACK - 1])
def test_a_number_a_little_lower_came_twice_or_late(back: int) -> None:
    counter = Counter(MODULUS, RATE_HZ)
    counts = counter.push(np.array([100, 101, 101 - back, 102]), 1.0)
    assert (counts - counts[0]).tolist() == [0, 1, 1 - back, 2]
