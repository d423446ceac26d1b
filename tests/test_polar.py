"""A Polar strap: frames byte by byte, and sessions with a simulated one behind the interface of bleak."""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("bleak", reason="bleak is not installed (pip install holdover[polar])")

from bleak.exc import BleakError

from holdover.devices.simulators.impair import Impairments, impair
from holdover.devices.simulators.polar import SimulatedStrap, Word, packets, play, touching
from holdover.devices.sources import polar
from holdover.devices.sources import polar_frame as pmd
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.polar import PolarStrap
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError
from tests.brokers import wait_until
from tests.collecting import Collector, collecting

FAST = 200.0
FOREVER: list[Word] = [Word(3600.0, b"")]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdover.devices.sources.polar.WAIT_S", 0.02)
    monkeypatch.setattr("holdover.devices.sources.device.BACKOFF_S", (0.01, 0.05))


def ramp(n: int) -> NDArray[np.int32]:
    return np.arange(n, dtype=np.int32) - n // 2


def frames(n: int, **options: Any) -> list[Word]:
    return [word for word in play(ramp(n), speed=FAST, **options) if word.data]


def a_strap(*sends: Iterable[Word], **options: Any) -> SimulatedStrap:
    return SimulatedStrap(chain(*sends, FOREVER), **options)


def a_driver(strap: Any, device: str | None = None, **options: Any) -> PolarStrap:
    return PolarStrap(device, Scale.of("polar", "ECG", "uV", **options), strap)


def heard(driver: PolarStrap, enough: Callable[[list[Packet]], bool]) -> list[Packet]:
    """The packets that hold something, until there are enough; the driver is closed after that."""
    packets: list[Packet] = []
    for packet in driver.packets(Event()):
        if len(packet) or packet.fault or packet.garbage:
            packets.append(packet)
        if enough(packets):
            driver.close()
    return packets


def samples(n: int) -> Callable[[list[Packet]], bool]:
    return lambda packets: sum(map(len, packets)) >= n


def values(packets: list[Packet]) -> list[float]:
    return [float(v) for packet in packets for v in packet.x[:, 0]]


# Frames


def test_a_frame_is_read_as_the_specification_writes_it() -> None:
    frame = pmd.parse(bytes.fromhex("00 38f98a2b3e3b5208 00 0c0000 f4ffff ffff7f 000080"))
    assert frame is not None
    assert frame.ns == 0x08523B3E2B8AF938
    assert frame.uv.tolist() == [12, -12, 8388607, -8388608]


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(-(2**23), 2**23 - 1), min_size=1, max_size=100))
def test_every_frame_is_read_as_it_was_built(ns: int, uv: list[int]) -> None:
    frame = pmd.parse(pmd.build(ns, np.array(uv, np.int32)))
    assert frame is not None
    assert (frame.ns, frame.uv.tolist()) == (ns, uv)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0",
        bytes(10),
        bytes(12),
        bytes(14),
        bytes([2]) + bytes(12),
        bytes(9) + b"\x80" + bytes(3),
        bytes(9) + b"\1" + bytes(3),
    ],
    ids=["empty", "a byte", "no samples", "cut off", "a byte too many", "acceleration", "compressed", "other type"],
)
def test_what_is_no_raw_ecg_frame_is_refused(frame: bytes) -> None:
    assert pmd.parse(frame) is None


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(frame: bytes) -> None:
    parsed = pmd.parse(frame)
    assert parsed is None or 10 + 3 * len(parsed.uv) == len(frame)


# Sessions


def test_a_strap_is_started_read_and_stopped() -> None:
    strap = a_strap(play(ramp(500), speed=FAST))
    packets = heard(a_driver(strap), samples(500))
    assert values(packets) == ramp(500).tolist()
    assert [len(packet) for packet in packets] == [73] * 6 + [62]
    assert [packet.fault for packet in packets] == [""] * 7
    times = np.array([packet.time for packet in packets])
    np.testing.assert_allclose(times, 599_616_000 + np.arange(7) * 73 / 130, atol=1e-6)
    assert strap.connections == 1
    assert not strap.running


def test_the_time_of_the_first_sample_comes_from_that_of_the_last() -> None:
    (packet,) = heard(a_driver(a_strap(play(ramp(66), speed=FAST, start_ns=10**10))), samples(66))
    assert packet.time == pytest.approx(10.0, abs=1e-6)


def test_gain_and_unit_apply_to_microvolts() -> None:
    packets = heard(a_driver(a_strap(play(ramp(4), speed=FAST)), gain=0.001), samples(4))
    assert values(packets) == pytest.approx([-0.002, -0.001, 0, 0.001])


def test_a_broken_connection_is_replaced_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    how = Impairments(unplugged=((1.2, 1.8),))
    strap = a_strap(play(ramp(73 * 4), how, speed=FAST))
    with caplog.at_level(logging.WARNING, "holdover.source"):
        packets = heard(a_driver(strap), samples(73 * 3))
    assert [packet.fault for packet in packets] == ["", "", "reconnected"]
    assert strap.connections == 2
    assert packets[2].time == pytest.approx(599_616_000 + 219 / 130)
    assert len([record for record in caplog.records if "45 s after it is taken off" in record.message]) == 1


def test_frames_come_as_they_were_sent_twice_late_and_with_a_clock_that_was_reset() -> None:
    signal = frames(73 * 3, start_ns=700 * 10**15)
    reset = frames(73)
    packets = heard(a_driver(a_strap([signal[0], signal[2], signal[2], signal[1]], reset)), samples(73 * 5))
    starts = np.array([packet.time for packet in packets]) - 700 * 10**6
    np.testing.assert_allclose(starts[:4], np.array([0, 146, 146, 73]) / 130, atol=1e-6)
    assert packets[4].time == pytest.approx(599_616_000)


def test_garbage_between_the_frames_is_counted_and_harms_nothing() -> None:
    first, second = frames(146)
    noise = [Word(0.0, b"\0" * 12), Word(0.0, b""), Word(0.0, b"\xff" * 400)]
    packets = heard(a_driver(a_strap([first], noise, [second])), samples(146))
    assert values(packets) == ramp(146).tolist()
    assert sum(packet.garbage for packet in packets) == 412


def test_skin_contact_is_told_as_lead_off() -> None:
    first, second, third = frames(219)
    strap = a_strap([touching(True), first, touching(False)], [second, Word(0.1, b"\0")], [touching(True), third])
    packets = heard(a_driver(strap), samples(219))
    off = [packet.lead_off for packet in packets if len(packet)]
    assert [None if o is None else bool(o.all()) for o in off] == [False, True, False]


def test_a_strap_without_heart_rate_does_not_tell_of_contact() -> None:
    strap = a_strap(play(ramp(73), speed=FAST))
    strap.has_heart_rate = False
    (packet,) = heard(a_driver(strap), samples(73))
    assert packet.lead_off is None


def test_a_strap_that_another_host_left_running_is_stopped_first() -> None:
    strap = a_strap(play(ramp(73), speed=FAST))
    strap.running = True
    assert values(heard(a_driver(strap), samples(73))) == ramp(73).tolist()
    assert not strap.running


def test_a_strap_that_stops_of_itself_or_falls_silent_is_connected_to_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polar, "SILENT_S", 0.1)
    a, b, c = frames(219)
    stops = Word(0.0, bytes([pmd.STOPPED, pmd.ECG]), pmd.CONTROL)
    strap = a_strap([a, stops, Word(0.3, b"")], [b, Word(0.3, b"")], [c])
    packets = heard(a_driver(strap), samples(219))
    assert [packet.fault for packet in packets if len(packet)] == ["", "reconnected", "reconnected"]
    assert not strap.running


@pytest.mark.parametrize(("status", "says"), [(13, "device in charger"), (12, "invalid state"), (77, "status 77")])
def test_a_refusal_is_said_in_words_and_tried_again(status: int, says: str, caplog: pytest.LogCaptureFixture) -> None:
    strap = a_strap(play(ramp(73), speed=FAST))
    strap.status = status
    driver = a_driver(strap)

    def relent() -> None:
        while strap.connections < 3:
            Event().wait(0.01)
        strap.status = pmd.SUCCESS

    helper = Thread(target=relent)
    helper.start()
    packets = heard(driver, samples(73))
    helper.join()
    assert values(packets) == ramp(73).tolist()
    assert says in caplog.text


def test_a_strap_that_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(polar, "ANSWER_S", 0.05)

    strap = a_strap()
    strap.answers = False
    driver = a_driver(strap)
    _closing_after(driver, lambda: strap.connections >= 2)
    assert heard(driver, lambda _: False) == []
    assert "did not answer" in caplog.text


@pytest.mark.parametrize(
    ("device", "finds"),
    [
        ("A1B2C3D4", True),
        ("a1b2c3d4", True),
        ("24:ac:ac:01:02:03", True),
        ("Polar H10 A1B2C3D4", True),
        ("FFFFFFFF", False),
    ],
)
def test_a_strap_is_found_by_what_stands_on_it(device: str, finds: bool, caplog: pytest.LogCaptureFixture) -> None:
    strap = a_strap(play(ramp(73), speed=FAST))
    driver = a_driver(strap, device)
    if not finds:
        _closing_after(driver, lambda: "not in range" in caplog.text)
    assert bool(heard(driver, samples(73))) is finds


def test_of_two_straps_none_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    one, two = a_strap(), a_strap(name="Polar H10 11111111")
    one.BleakScanner.straps.append(two)
    driver = a_driver(one)
    _closing_after(driver, lambda: "2 straps" in caplog.text)
    assert heard(driver, lambda _: False) == []
    assert 'device = "' in caplog.text
    assert one.connections == two.connections == 0


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FileNotFoundError(2, "No such file or directory"), "sudo systemctl start bluetooth"),
        (TimeoutError(), "did not answer in time"),
        (BleakError("adapter is off"), "bluetoothctl power on"),
    ],
)
def test_bluetooth_that_is_not_there_is_said_with_what_to_do(
    error: Exception, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(**_: Any) -> None:
        raise error

    strap = a_strap()
    strap.BleakScanner.discover = fails  # type: ignore[method-assign, assignment]
    driver = a_driver(strap)
    _closing_after(driver, lambda: "trying again" in caplog.text)
    assert heard(driver, lambda _: False) == []
    assert says in caplog.text


def test_a_strap_that_another_stream_reads_is_left_to_it(caplog: pytest.LogCaptureFixture) -> None:
    strap = a_strap(play(ramp(73), speed=FAST))
    first = a_driver(strap)
    packets = first.packets(Event())
    assert len(next(packets)) == 73
    second = a_driver(strap)
    _closing_after(second, lambda: "read by another stream" in caplog.text)
    assert heard(second, lambda _: False) == []
    assert strap.connections == 1
    first.close()
    list(packets)


def test_other_devices_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    driver = a_driver(a_strap(name="Polar H9 A1B2C3D4"))
    _closing_after(driver, lambda: "no Polar H10 is in range" in caplog.text)
    assert heard(driver, lambda _: False) == []


# With the clock of all live sources


@pytest.fixture
def collect() -> Iterator[Callable[[Live], Collector]]:
    with collecting() as start:
        yield start


@pytest.mark.parametrize("rate_hz", [128.0, 129.3, 130.0, 131.0])
def test_the_true_rate_of_a_strap_costs_no_sample(rate_hz: float, collect: Callable[[Live], Collector]) -> None:
    collector = collect(Live(a_driver(a_strap(play(ramp(10_000), speed=FAST, rate_hz=rate_hz)))))
    assert collector.until(10_000)[:, 0].tolist() == ramp(10_000).tolist()
    assert (collector.end, collector.source.facts.lost, collector.source.facts.duplicated) == (10_000, 0, 0)


def test_a_bad_link_is_repaired_and_accounted_for_to_the_sample(collect: Callable[[Live], Collector]) -> None:
    uv, how = ramp(73 * 200), Impairments(loss=0.05, duplicates=0.2, reorder=0.1, reorder_s=0.8, jitter_s=0.2, seed=7)
    there = {sent.packet.count or 0 for sent in impair(packets(uv), 130.0, how) if sent.packet is not None}
    first, last = min(there), max(there) + 73
    collector = collect(Live(a_driver(a_strap(play(uv, how, speed=FAST)))))
    wait_until(lambda: collector.end >= last - first, "the last came")
    collector.stop()
    assert collector.source.facts.lost == sum(at not in there for at in range(first, last, 73)) * 73
    assert collector.source.facts.duplicated > 0
    assert collector.source.facts.reordered > 0
    for chunk in collector.chunks:
        assert chunk.x[:, 0].tolist() == uv[chunk.at + first : chunk.end + first].tolist()


def test_after_thirty_interruptions_each_hole_is_accounted_for_to_the_sample(
    collect: Callable[[Live], Collector],
) -> None:
    uv, how = ramp(73 * 130), Impairments(unplugged=tuple((2 + 2.3 * i, 3 + 2.3 * i) for i in range(30)))
    there = [sent.packet.count or 0 for sent in impair(packets(uv), 130.0, how) if sent.packet is not None]
    strap = a_strap(play(uv, how, speed=FAST))
    collector = collect(Live(a_driver(strap)))
    wait_until(lambda: collector.end >= there[-1] + 73, "the last came", 30)
    collector.stop()
    assert strap.connections == 31
    assert collector.source.facts.reconnects == 30
    assert collector.source.facts.lost == sum(at not in there for at in range(0, there[-1], 73)) * 73
    assert not strap.running


def test_a_clock_that_is_reset_is_said_and_costs_no_sample(collect: Callable[[Live], Collector]) -> None:
    before = play(ramp(730), speed=FAST, start_ns=700 * 10**15)
    collector = collect(Live(a_driver(a_strap(before, play(ramp(730), speed=FAST)))))
    collector.until(1460)
    assert collector.faults == ["clock_jump"]
    assert collector.source.facts.lost == 0


def test_straps_in_range_are_listed() -> None:
    one, other = a_strap(), a_strap(name="Fitbit")
    one.BleakScanner.straps.append(other)
    assert [found.options for found in polar.found_by(one)] == [{"device": "A1B2C3D4"}]
    one.back_at = float("inf")
    assert polar.found_by(one) == []


def test_closing_while_nothing_comes_ends_at_once_and_stops_the_strap() -> None:
    strap = a_strap(play(ramp(73), speed=FAST))
    driver = a_driver(strap)
    packets = driver.packets(Event())
    got = [len(packet) for packet in islice(packets, 3)]
    assert got[0] == 73
    assert strap.running
    driver.close()
    assert [len(packet) for packet in packets] == []
    assert not strap.running


def test_a_driver_that_is_closed_before_it_begins_gives_nothing() -> None:
    driver = a_driver(a_strap(play(ramp(73))))
    driver.close()
    assert list(driver.packets(Event())) == []


@pytest.mark.parametrize("device", ["", "  ", 5, True])
def test_a_device_that_cannot_be_is_refused(device: Any) -> None:
    with pytest.raises(SourceError, match="device"):
        a_driver(a_strap(), device)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"leads": "A,B"}, "one lead"),
        ({"gain": 0}, "gain = 0"),
        ({"gain": "big"}, "gain"),
        ({"offset": float("nan")}, "offset"),
        ({"leads": []}, "leads"),
        ({"unit": 3}, "unit"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        polar.open(**options)


def _closing_after(driver: PolarStrap, condition: Callable[[], bool]) -> None:
    def wait() -> None:
        while not condition():
            Event().wait(0.01)
        driver.close()

    Thread(target=wait, daemon=True).start()
