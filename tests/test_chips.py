"""Converters on I2C and SPI: what is written to them, byte by byte, and what comes of what they say."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from holdover.devices.simulators.ads1115 import SimulatedAds1115
from holdover.devices.simulators.ads1292r import SimulatedAds1292r, SimulatedReady
from holdover.devices.simulators.max30003 import SimulatedMax30003
from holdover.devices.simulators.virtual_clock import VirtualClock, WrongSequence
from holdover.devices.sources import ads1115, ads1292r, bus, max30003
from holdover.devices.sources.ads1115 import Ads1115
from holdover.devices.sources.ads1292r import Ads1292r
from holdover.devices.sources.chip import Chip
from holdover.devices.sources.live import Live
from holdover.devices.sources.max30003 import Max30003
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError
from tests.brokers import wait_until
from tests.collecting import Collector, collecting

SCALE = Scale.of("chip", "ECG", "mV")


class Busy(VirtualClock):
    """A machine that is busy with something else for `late_s`, once, when it is `at_s`."""

    def __init__(self, at_s: float = float("inf"), late_s: float = 0.0) -> None:
        super().__init__()
        self.at_s, self.late_s = at_s, late_s

    def wait(self, seconds: float, stop: Event) -> None:
        super().wait(seconds, stop)
        if self.now() >= self.at_s:
            self.at_s = float("inf")
            self.pass_by(self.late_s)


class Bench(NamedTuple):
    """A driver, the chip at the other end, and what the driver should make of it: (n,) mV."""

    driver: Chip
    chip: Any
    mv: NDArray[np.float32]


def codes(n: int, bits: int) -> NDArray[np.int32]:
    return np.random.default_rng(1).integers(-(1 << bits - 1), 1 << bits - 1, n).astype(np.int32)


def at_ads1115(n: int = 1200, clock: VirtualClock | None = None) -> Bench:
    clock = clock or VirtualClock()
    mv = codes(n, 16) * (4096 / 32768)
    chip = SimulatedAds1115(mv, 250.0, clock)
    config = ads1115.configuration("A0", 4096)
    return Bench(Ads1115(chip, config, 4096, 250.0, SCALE, "0x48", clock), chip, mv.astype(np.float32))


def at_ads1292r(n: int = 1200, clock: VirtualClock | None = None, line: bool = False, channel: int = 2) -> Bench:
    clock = clock or VirtualClock()
    signal = codes(n, 24)
    taken = signal if line else np.repeat(signal, 2)[1:-1]  # read first as it starts, then after every second
    chip = SimulatedAds1292r(taken, 250.0 if line else 500.0, clock, channel)
    table = ads1292r.registers(channel, 250, 6, line)
    ready = SimulatedReady(chip) if line else None
    driver = Ads1292r(chip, table, channel, 250.0, 6, SCALE, ready, clock)
    return Bench(driver, chip, (signal * (2420.0 / 6 / (2**23 - 1))).astype(np.float32))


def at_ads1292r_with_drdy(n: int = 1200, clock: VirtualClock | None = None) -> Bench:
    return at_ads1292r(n, clock, line=True)


def at_max30003(n: int = 1300, clock: VirtualClock | None = None) -> Bench:
    clock = clock or VirtualClock()
    signal = codes(n, 18)
    chip = SimulatedMax30003(signal, 256.0, clock)
    driver = Max30003(chip, max30003.registers(256, 20, True), 256.0, 20, True, SCALE, clock)
    return Bench(driver, chip, (signal * (1000 / 2**17 / 20)).astype(np.float32))


BENCHES = {
    "ads1115": at_ads1115, "ads1292r": at_ads1292r, "ads1292r+drdy": at_ads1292r_with_drdy, "max30003": at_max30003,
}  # fmt: skip
every_chip = pytest.mark.parametrize("make", BENCHES.values(), ids=BENCHES)


@pytest.fixture
def collect() -> Iterator[Callable[[Live], Collector]]:
    with collecting() as start:
        yield start


@every_chip
def test_every_sample_comes_whole_and_the_wires_are_let_go_of(
    make: Callable[..., Bench], collect: Callable[[Live], Collector]
) -> None:
    bench = make()
    collector = collect(Live(bench.driver))
    np.testing.assert_array_equal(collector.until(len(bench.mv))[:, 0], bench.mv)
    collector.stop()
    assert collector.failure is None
    assert collector.source.facts.lost == 0
    assert bench.chip.closed


@every_chip
def test_wires_are_let_go_of_also_if_nobody_has_read(make: Callable[..., Bench]) -> None:
    bench = make()
    Live(bench.driver).close()
    assert bench.chip.closed


@every_chip
def test_what_was_not_read_in_time_is_lost_and_counted(
    make: Callable[..., Bench], collect: Callable[[Live], Collector]
) -> None:
    bench = make(clock=Busy(2.0, 0.5))
    collector = collect(Live(bench.driver))
    wait_until(lambda: collector.end >= len(bench.mv) - 15 or collector.failure, "the end")
    collector.stop()
    assert collector.failure is None
    unsure, unread = (2, 6) if make is at_max30003 else (0, 1)  # all that the FIFO held is lost with it
    assert abs(collector.source.facts.lost - 0.5 * bench.driver.rate_hz) <= unread
    for chunk in collector.chunks:
        shifted = [bench.mv[chunk.at + off : chunk.end + off] for off in range(-unsure, unsure + 1)]
        assert any(np.array_equal(chunk.x[:, 0], mv) for mv in shifted)


@every_chip
def test_a_chip_that_is_pulled_out_and_put_back_is_configured_anew(
    make: Callable[..., Bench], collect: Callable[[Live], Collector], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(26000)

    class Pulled(VirtualClock):
        def wait(self, seconds: float, stop: Event) -> None:
            super().wait(seconds, stop)
            bench.chip.gone = bench.chip.gone or (self.now() > 5.0 and "trying again" not in caplog.text)

    bench.driver.clock = bench.chip.clock = Pulled()
    collector = collect(Live(bench.driver))
    wait_until(lambda: "trying again" in caplog.text or collector.failure, "it is said")
    bench.chip.gone = False
    wait_until(lambda: "reconnected" in collector.faults or collector.failure, "it is back")
    collector.stop()
    assert collector.failure is None
    assert caplog.text.count("trying again") <= 2, "once, and once more when the simulated signal has ended"


# What is written


def written(bench: Bench) -> dict[int, int]:
    packets = bench.driver.packets(Event())
    assert len(next(packets))
    held = dict(bench.chip.registers)
    bench.driver.close()
    list(packets)
    return held


def test_the_registers_of_an_ads1292r_are_those_of_its_data_sheet() -> None:
    held = written(at_ads1292r(line=True))
    assert [held[i] for i in range(12)] == [
        0x73, 0x01, 0xE0, 0x10, 0x81, 0x00, 0x2C, 0x0C, 0x00, 0x02, 0x03, 0x0C
    ]  # fmt: skip
    other = written(at_ads1292r(channel=1))
    assert [other[i] for i in range(1, 8)] == [0x02, 0xE0, 0x10, 0x00, 0x81, 0x23, 0x03]


def test_the_registers_of_a_max30003_are_those_of_its_data_sheet() -> None:
    held = written(at_max30003())
    assert held == {max30003.CNFG_GEN: 0x081217, max30003.CNFG_EMUX: 0, max30003.CNFG_ECG: 0x406000}
    assert [r.value for r in max30003.registers(128, 160, False)] == [0x080017, 0, 0x835000]


@pytest.mark.parametrize(
    ("input", "range_mv", "value"), [("A0", 4096, 0x42E3), ("A0-A1", 256, 0x0AE3), ("A3", 6144, 0x70E3)]
)
def test_the_configuration_of_an_ads1115_is_that_of_its_data_sheet(input: str, range_mv: int, value: int) -> None:
    assert ads1115.configuration(input, range_mv).value == value


@pytest.mark.parametrize("change", [{"CONFIG2": 0x60}, {"LOFF": 0x00}, {"RESP2": 0x02}, {"CH1SET": 0x80}])
def test_a_register_that_the_data_sheet_forbids_fails_here(change: dict[str, int]) -> None:
    bench = at_ads1292r()
    assert isinstance(bench.driver, Ads1292r)
    bench.driver.table = [r._replace(value=change.get(r.name, r.value)) for r in bench.driver.table]
    with pytest.raises(WrongSequence):
        next(bench.driver.packets(Event()))


@pytest.mark.parametrize(
    "sequence",
    [
        [b"\x41\0\1"],
        [b"\x11", b"\x40\0\1"],
        [b"\x11", b"\x12" + bytes(9)],
        [b"\x10", bytes(9)],
        [b"\x08", b"\x12" + bytes(9)],
        [b"\x77"],
    ],
    ids=["register in continuous mode", "read-only", "RDATA, no START", "data, no START", "RDATA, RDATAC", "unknown"],
)
def test_the_simulated_ads1292r_refuses_what_a_real_one_ignores(sequence: list[bytes]) -> None:
    chip = SimulatedAds1292r(codes(10, 24), 250.0, VirtualClock())
    with pytest.raises(WrongSequence):
        list(map(chip.transfer, sequence))


# What the chips say


@pytest.mark.parametrize(("channel", "bits"), [(2, 0b0100), (2, 0b1000), (1, 0b0001), (1, 0b0010)])
def test_the_lead_off_bits_of_an_ads1292r_are_told(channel: int, bits: int) -> None:
    bench = at_ads1292r(24, line=True, channel=channel)
    bench.chip.off[12:] = bits
    packets = [packet for packet in _taken(bench, 24) if len(packet)]
    off = np.concatenate([packet.lead_off for packet in packets if packet.lead_off is not None])
    assert off.tolist() == [False] * 12 + [True] * 12


def test_the_lead_off_bits_of_the_other_channel_do_not_matter() -> None:
    bench = at_ads1292r(24, line=True)
    bench.chip.off[:] = 0b10011
    assert not any(p.lead_off.any() for p in _taken(bench, 24) if p.lead_off is not None)


def test_lead_off_and_fast_recovery_of_a_max30003_are_told() -> None:
    bench = at_max30003(130)
    bench.chip.off[65:] = 0b0010
    bench.chip.fast[20:26] = True
    packets = _taken(bench, 130)
    x = np.concatenate([packet.x[:, 0] for packet in packets])
    off = np.concatenate([packet.lead_off for packet in packets if packet.lead_off is not None])
    assert np.flatnonzero(np.isnan(x)).tolist() == list(range(20, 26))
    assert not off[:55].any()
    assert off[75:].all()


def test_a_sample_that_does_not_begin_as_it_must_is_missing() -> None:
    bench = at_ads1292r(24, line=True)
    transfer = bench.chip.transfer
    frames = iter(range(100))
    noisy = lambda data: bytes(9) if len(data) == 9 and next(frames) == 5 else transfer(data)  # noqa: E731
    bench.chip.transfer = noisy
    packets = _taken(bench, 24)
    x = np.concatenate([packet.x[:, 0] for packet in packets])
    assert np.flatnonzero(np.isnan(x)).tolist() == [5]
    assert sum(packet.garbage for packet in packets) == 9


@pytest.mark.parametrize(
    ("make", "says"), [(at_ads1292r, "it is 0x00"), (at_max30003, "it is 0x000000"), (at_ads1115, "no chip answers")]
)
def test_a_chip_that_is_not_there_is_said_with_what_to_look_at(
    make: Callable[..., Bench], says: str, caplog: pytest.LogCaptureFixture, collect: Callable[[Live], Collector]
) -> None:
    bench = make()
    bench.chip.gone = True
    with caplog.at_level(logging.WARNING, "holdover.source"):
        collector = collect(Live(bench.driver))
        wait_until(lambda: says in caplog.text, "it is said")
        collector.stop()
    assert "power" in caplog.text
    assert len(caplog.records) == 1


def test_a_register_that_does_not_keep_what_was_written_is_said(
    caplog: pytest.LogCaptureFixture, collect: Callable[[Live], Collector]
) -> None:
    bench = at_ads1292r()
    bench.chip.transfer, right = (
        (lambda data: bytes(len(data)) if data[0] == 0x42 else right(data)),
        bench.chip.transfer,
    )
    collector = collect(Live(bench.driver))
    wait_until(lambda: "CONFIG2 reads 0x80 after 0xe0 was written" in caplog.text, "it is said")
    collector.stop()


def test_another_chip_at_the_address_is_not_taken_for_an_ads1115(
    caplog: pytest.LogCaptureFixture, collect: Callable[[Live], Collector]
) -> None:
    bench = at_ads1115()
    bench.chip.read_i2c = lambda *_: b"\x12\x34"
    collector = collect(Live(bench.driver))
    wait_until(lambda: "or is no ADS1115" in caplog.text, "it is said")
    collector.stop()


# Options and buses


@pytest.mark.parametrize(
    ("opener", "options", "says"),
    [
        (ads1115.open, {"address": 0x50}, r"0x48 \(ADDR at GND\)"),
        (ads1115.open, {"address": "0x48"}, "out of range"),
        (ads1115.open, {"input": "A4"}, "A0-A1"),
        (ads1115.open, {"input": ["A0"]}, "A0-A1"),
        (ads1115.open, {"range_mv": 5000}, "4096"),
        (ads1115.open, {"rate_hz": 860}, "at most 400"),
        (ads1115.open, {"rate_hz": float("nan")}, "rate_hz"),
        (ads1115.open, {"gain": 0}, "gain = 0"),
        (ads1115.open, {"leads": "A,B"}, "2 names"),
        (ads1115.open, {"bus": -1}, "bus = -1"),
        (ads1292r.open, {"rate_hz": 300}, "one of 125, 250"),
        (ads1292r.open, {"rate_hz": 1000}, "ready_line"),
        (ads1292r.open, {"pga": 5}, "pga"),
        (ads1292r.open, {"channel": 3}, "channel"),
        (ads1292r.open, {"channel": True}, "channel"),
        (ads1292r.open, {"ready_line": "x"}, "ready_line"),
        (ads1292r.open, {"leads": "A,B"}, "2 names"),
        (max30003.open, {"rate_hz": 250}, "128"),
        (max30003.open, {"pga": 6}, "160"),
        (max30003.open, {"lead_off": "yes"}, "lead_off"),
        (max30003.open, {"lead_off": 1}, "lead_off"),
        (max30003.open, {"device": 1.5}, "device"),
    ],
)
def test_options_that_cannot_be_are_refused(opener: Callable[..., Live], options: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        opener(**options)


def test_a_choice_may_be_written_with_a_decimal_point() -> None:
    for channel in (1, 2):
        assert ads1292r.registers(float(channel), 250.0, 6.0, True) == ads1292r.registers(channel, 250, 6, True)


@pytest.mark.parametrize(
    ("opener", "library", "says"),
    [
        (lambda: ads1115.open(bus=97), "smbus2", "there is no /dev/i2c-97: .*raspi-config nonint do_i2c 0"),
        (lambda: ads1292r.open(bus=97), "spidev", r"there is no /dev/spidev97.0: .*raspi-config nonint do_spi 0"),
        (lambda: max30003.open(bus=97), "spidev", r"there is no /dev/spidev97.0"),
        (lambda: ads1292r.open(ready_line=4, gpio_chip=97), "gpiod", "there is no /dev/gpiochip97: .*gpiodetect"),
    ],
)
def test_a_bus_that_is_not_there_is_said_with_how_to_switch_it_on(
    opener: Callable[[], Live], library: str, says: str
) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed (pip install holdover[board])")
    with pytest.raises(SourceError, match=says):
        opener()


def test_a_bus_without_permission_names_the_group_to_join() -> None:
    error = bus.refusal("i2c", "/dev/i2c-97", PermissionError(13, "Permission denied"))
    assert "sudo usermod -aG i2c $USER" in str(error)
    assert "cannot be opened" in str(bus.refusal("spi", "/dev/spidev0.0", OSError(16, "busy")))


def test_a_chip_that_another_stream_reads_is_refused_and_its_wires_are_let_go_of() -> None:
    first, second = at_ads1115().chip, at_ads1115().chip
    claim = bus.claimed("0x48 of /dev/i2c-test", first)
    with pytest.raises(SourceError, match="read by another stream"):
        bus.claimed("0x48 of /dev/i2c-test", second)
    assert (first.closed, second.closed) == (False, True)
    claim.close()
    bus.claimed("0x48 of /dev/i2c-test", first).close()


def test_buses_are_listed_as_they_are_switched_on(tmp_path: Path) -> None:
    for name in ("i2c-1", "i2c-20", "i2c-x", "spidev0.0", "spidev0.1", "spidev1"):
        (tmp_path / name).touch()
    assert bus.i2c_buses(tmp_path) == [1, 20]
    assert [found.options for found in bus.spi_places(tmp_path)] == [{"bus": 0, "device": 0}, {"bus": 0, "device": 1}]


def _taken(bench: Bench, n: int) -> list[Any]:
    packets: list[Any] = []
    for packet in bench.driver.packets(Event()):
        packets.append(packet)
        if sum(map(len, packets)) >= n:
            bench.driver.close()
    return packets
