"""The lab streaming layer, on the loopback with the real library."""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("mne_lsl", reason="mne-lsl is not installed (pip install holdover[lsl])")

from holdover.devices.simulators.impair import Impairments, impair
from holdover.devices.simulators.lsl import Outlet
from holdover.devices.sources import lsl, open_source
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.runtime.errors import SourceError
from tests.brokers import wait_until
from tests.collecting import Collector, collecting

RATE_HZ = 250.0
PERFECT = Impairments()


@pytest.fixture(autouse=True, scope="module")
def library() -> Any:
    """The library; skips if its liblsl cannot start here."""
    try:
        import mne_lsl.lsl
    except (OSError, RuntimeError) as error:
        pytest.skip(f"liblsl cannot start: {error}")
    return mne_lsl.lsl


@pytest.fixture
def collect() -> Iterator[Callable[[Live], Collector]]:
    with collecting() as start:
        yield start


@contextmanager
def an_outlet(**options: Any) -> Iterator[Outlet]:
    """An outlet that nobody else on the network has the name of."""
    outlet = Outlet(f"test-{uuid.uuid4().hex}", RATE_HZ, options.pop("leads", ["II"]), **options)
    try:
        yield outlet
    finally:
        outlet.close()


def name_of(outlet: Outlet) -> str:
    return str(outlet._info.name)


def packets(x: NDArray[np.float32], n: int = 25) -> Iterator[Packet]:
    for at in range(0, len(x), n):
        yield Packet(x[at : at + n], count=at)


def signal(n: int, leads: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(1).integers(-1000, 1000, (n, leads)).astype(np.float32)


def playing(outlet: Outlet, x: NDArray[np.float32], how: Impairments = PERFECT, speed: float = 5.0) -> threading.Thread:
    wait_until(lambda: outlet.heard, "somebody listens")
    thread = threading.Thread(
        target=outlet.play, args=(list(impair(packets(x), RATE_HZ, how)), threading.Event(), speed)
    )
    thread.start()
    return thread


def test_what_is_pushed_comes_whole_with_its_names_and_units(collect: Callable[[Live], Collector]) -> None:
    x = signal(1000, 2)
    with an_outlet(leads=["II", "V1"]) as outlet:
        source = lsl.open(stream=name_of(outlet))
        assert (source.channels, source.units, source.rate_hz) == (("II", "V1"), ("uV", "uV"), RATE_HZ)
        collector = collect(source)
        playing(outlet, x).join()
        np.testing.assert_array_equal(collector.until(1000), x)
        assert source.facts.lost == 0
        collector.stop()


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_numbers_of_every_kind_become_the_unit(dtype: str, collect: Callable[[Live], Collector]) -> None:
    with an_outlet(dtype=dtype) as outlet:
        collector = collect(lsl.open(stream=name_of(outlet), unit="mV", gain=0.5, offset=2))
        playing(outlet, np.array([[4], [2]], np.float32)).join()
        assert collector.until(2)[:, 0].tolist() == [1, 0]
        collector.stop()


def test_losses_are_found_by_time_stamps_to_the_sample(collect: Callable[[Live], Collector]) -> None:
    x = signal(2500)
    with an_outlet() as outlet:
        collector = collect(lsl.open(stream=name_of(outlet)))
        how = Impairments(loss=0.1, duplicates=0.1, seed=5)
        sent = [item.packet.count for item in impair(packets(x), RATE_HZ, how) if item.packet is not None]
        playing(outlet, x, how).join()
        last = max(count or 0 for count in sent) + 25
        first = sent[0] or 0
        wait_until(lambda: collector.end >= last - first, "the last came")
        collector.stop()
    assert collector.source.facts.lost == sum(count not in sent for count in range(first, last, 25)) * 25
    for chunk in collector.chunks:
        np.testing.assert_array_equal(chunk.x, x[chunk.at + first : chunk.end + first])


def test_an_outlet_that_goes_and_comes_back_is_found_again(
    collect: Callable[[Live], Collector], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lsl, "SILENT_S", 2.0)
    x = signal(1500)
    with an_outlet(source_id="strap-7") as outlet:
        collector = collect(lsl.open(stream=name_of(outlet), source_id="strap-7"))
        playing(outlet, x[:500]).join()
        collector.until(500)
        outlet.close()
        wait_until(lambda: "trying again" in caplog.text, "the loss is told")
        outlet.plug()
        wait_until(lambda: outlet.heard, "it is found again")
        threading.Event().wait(0.2)
        outlet.play(list(impair(list(packets(x))[40:], RATE_HZ, PERFECT)), threading.Event(), 5.0)
        wait_until(lambda: collector.end == 1500, "the rest came")
        collector.stop()
    assert collector.faults == ["reconnected"]
    assert collector.source.facts.lost == 500
    assert collector.chunks[-1].end == 1500


def test_stamps_that_jump_within_a_pull_begin_a_packet_of_their_own() -> None:
    with an_outlet() as outlet:
        source = lsl.open(stream=name_of(outlet))
        driver = source.driver
        assert isinstance(driver, lsl.LslInlet)
        times = np.array([5.0, 5.004, 5.008, 9.0, 9.004, np.nan, 9.012])
        got = list(driver._packets(np.arange(7, dtype=np.float64)[:, np.newaxis], times))
    assert [(p.time, len(p)) for p in got] == [(5.0, 3), (9.0, 4)]
    assert [len(p) for p in driver._packets(np.empty((0, 1)), np.empty(0))] == [0]


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        ({}, {"leads": "A,B"}, "1 channels, 2 names"),
        ({"unit": "degrees"}, {}, "does not say its unit"),
        ({}, {"gain": 0}, "gain = 0"),
        ({}, {"type": "EEG", "timeout_s": 0.1}, "no stream of .*type 'EEG'"),
        ({}, {"timeout_s": "long"}, "timeout_s"),
        ({}, {"type": 5}, "expected texts"),
    ],
)
def test_what_cannot_be_is_refused(make: dict[str, Any], options: dict[str, Any], says: str) -> None:
    with an_outlet(**make) as outlet, pytest.raises(SourceError, match=says):
        lsl.open(stream=name_of(outlet), **options)


@pytest.mark.parametrize(
    ("rate_hz", "dtype", "says"), [(0, "float32", "no regular rate"), (0, "string", "carries texts")]
)
def test_streams_of_events_are_refused(rate_hz: float, dtype: str, says: str, library: Any) -> None:
    name = f"test-{uuid.uuid4().hex}"
    outlet = library.StreamOutlet(library.StreamInfo(name, "Markers", 1, rate_hz, dtype, "m"))
    with pytest.raises(SourceError, match=says):
        lsl.open(stream=name)
    del outlet


def test_of_two_streams_none_is_chosen() -> None:
    with an_outlet(source_id="a") as one:
        other = Outlet(name_of(one), RATE_HZ, ["II"], source_id="b")
        with pytest.raises(SourceError, match=r"2 streams of .*source_id"):
            lsl.open(stream=name_of(one), timeout_s=2)
        other.close()


def test_what_is_there_is_found() -> None:
    with an_outlet(source_id="here") as outlet:
        wait_until(lambda: any(f.options["stream"] == name_of(outlet) for f in lsl.find()), "it is found")


def test_a_stream_that_is_not_there_is_said_by_the_opener_of_sources() -> None:
    with pytest.raises(SourceError, match="no stream of name 'nobody'"):
        open_source("lsl", {"stream": "nobody", "timeout_s": 0.1})
