"""An ADS1115 analogue-to-digital converter on I2C, as behind an AD8232.

Source: Texas Instruments, ADS111x data sheet SBAS444, section "Register Map".
"""

from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

from holdover.devices.sources import Found
from holdover.devices.sources.bus import Clock, I2c, LinuxI2c, Register, checked_choice, checked_index, i2c_buses
from holdover.devices.sources.chip import SILENT_S, Chip, Sample, Slots
from holdover.devices.sources.device import LinkLost
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.recording import checked_rate
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError

ADDRESSES = {0x48: "GND", 0x49: "VDD", 0x4A: "SDA", 0x4B: "SCL"}
"""Addresses, and what the pin ADDR is tied to for each."""
CONVERSION, CONFIG = 0, 1
INPUTS = {"A0-A1": 0, "A0-A3": 1, "A1-A3": 2, "A2-A3": 3, "A0": 4, "A1": 5, "A2": 6, "A3": 7}
"""What is measured, and MUX (bits 14 to 12 of the configuration)."""
RANGES_MV = {6144: 0, 4096: 1, 2048: 2, 1024: 3, 512: 4, 256: 5}
"""The largest voltage in mV, and PGA (bits 11 to 9)."""
FASTEST, FASTEST_HZ = 7, 860
"""DR (bits 7 to 5) of the highest rate."""
NO_COMPARATOR = 3
RESET_CONFIG = 0x0583
STATUS_BIT = 0x8000
"""Reads as whether a conversion is under way."""
MAX_RATE_HZ = 400.0
"""The converter's own clock is 10 % off at most; it must not be read twice in one conversion."""
SETTLE_S = 0.005
FULL_SCALE = 32768


def open(
    *,
    bus: int = 1,
    address: int = 0x48,
    input: str = "A0",
    range_mv: int = 4096,
    rate_hz: float = 250.0,
    leads: Sequence[str] | str = "ECG",
    unit: str = "mV",
    gain: float = 1.0,
    offset: float = 0.0,
) -> Live:
    """Open an ADS1115 on /dev/i2c-`bus`.

    Parameters
    ----------
    address
        0x48 to 0x4B, by what the pin ADDR is tied to.
    input
        "A0" to "A3", or a difference, such as "A0-A1".
    range_mv
        The largest voltage: 6144, 4096, 2048, 1024, 512 or 256 mV.
    rate_hz
        How often it is read; it converts 860 times a second, and what it has last is taken.
    unit, gain, offset
        A value is (mV at the pin - offset) * gain, in `unit`: for an AD8232 at 3.3 V, offset = 1650 and gain = 0.01
        (its amplification is 100).

    Raises
    ------
    SourceError
        An option that cannot be, no bus, or no right to use it. A chip that does not answer is asked again.
    """
    scale = Scale.of("ads1115", leads, unit, gain, offset)
    config = configuration(input, range_mv)
    rate = checked_rate(rate_hz, "ads1115")
    _check(address, rate, scale)
    wire = LinuxI2c(checked_index(bus, "bus", 255, "ads1115"), address)
    return Live(Ads1115(wire, config, range_mv, rate, scale, f"0x{address:02x} of /dev/i2c-{bus}"))


def find() -> list[Found]:
    """The chips on this machine's buses that are as they were switched on, or as this driver leaves them."""
    there = [(bus, address) for bus in i2c_buses() for address in ADDRESSES if _is_there(bus, address)]
    return [
        Found(f"ADS1115 at 0x{at:02x} of I2C bus {bus}", {"bus": bus, "address": f"0x{at:02x}"}) for bus, at in there
    ]


def _is_there(bus: int, address: int) -> bool:
    try:
        wire = LinuxI2c(bus, address)
    except SourceError:
        return False
    try:
        config = int.from_bytes(wire.read_i2c(CONFIG, 2), "big") & ~STATUS_BIT
    except OSError:
        return False
    finally:
        wire.close()
    return config == RESET_CONFIG or config & 0xFF == FASTEST << 5 | NO_COMPARATOR


class Ads1115(Chip):
    """The driver: has the chip convert without end, and reads it on time.

    The chip counts nothing, so a sample that this machine came too late for is told by its clock.
    """

    def __init__(
        self,
        wire: I2c,
        config: Register,
        range_mv: int,
        rate_hz: float,
        scale: Scale,
        where: str,
        clock: Clock | None = None,
    ) -> None:
        super().__init__("ads1115", rate_hz, scale, clock or Clock(), wire)
        self.wire, self.config, self.where = wire, config, where
        self.mv_per_count = range_mv / FULL_SCALE

    def session(self, stop: Event) -> Iterator[Packet]:
        """Configure the chip and yield what it converts."""
        try:
            self._configure()
            self.clock.wait(SETTLE_S, stop)
            yield from self.gathered(self._samples(stop))
        except OSError as error:
            raise LinkLost(
                f"no chip answers at {self.where} ({error.strerror}); see SDA, SCL, power and ADDR"
            ) from None

    def _configure(self) -> None:
        self.wire.write_i2c(CONFIG, self.config.value.to_bytes(2, "big"))
        self._check()

    def _check(self) -> None:
        """Whether the chip keeps its configuration; it would not if it were another, or had lost its power."""
        reads, wrote = int.from_bytes(self.wire.read_i2c(CONFIG, 2), "big") & ~STATUS_BIT, self.config.value
        if reads != wrote:
            raise LinkLost(
                f"{self.where} has the configuration 0x{reads:04x} after 0x{wrote:04x} was written: it lost its power, "
                "or is no ADS1115"
            )

    def _samples(self, stop: Event) -> Iterator[Sample]:
        slots = Slots(self.rate_hz, self.clock)
        while not stop.is_set():
            slot = slots.next(stop)
            if stop.is_set():
                return
            if slot % round(self.rate_hz * SILENT_S + 1) == 0:
                self._check()
            count = int.from_bytes(self.wire.read_i2c(CONVERSION, 2), "big", signed=True)
            yield Sample(slot, count * self.mv_per_count)


def configuration(input: Any, range_mv: Any) -> Register:
    """The configuration register for an input and a range.

    Raises
    ------
    SourceError
        There is no such input or range.

    Examples
    --------
    >>> hex(configuration("A0", 4096).value)
    '0x42e3'
    """
    checked_choice(input, "input", tuple(INPUTS), "ads1115")
    checked_choice(range_mv, "range_mv", tuple(RANGES_MV), "ads1115")
    value = INPUTS[input] << 12 | RANGES_MV[range_mv] << 9 | FASTEST << 5 | NO_COMPARATOR
    return Register("CONFIG", CONFIG, value, "the input, the range; without end (MODE 0), 860 Hz, no comparator")


def _check(address: Any, rate_hz: float, scale: Scale) -> None:
    if type(address) is not int or address not in ADDRESSES:
        pins = ", ".join(f"0x{known:02x} (ADDR at {pin})" for known, pin in ADDRESSES.items())
        shown = f"0x{address:02x}" if type(address) is int else repr(address)
        raise SourceError(f"ads1115: address = {shown} is out of range; expected {pins}")
    if rate_hz > MAX_RATE_HZ:
        raise SourceError(f"ads1115: rate_hz = {rate_hz:g} cannot be; expected at most {MAX_RATE_HZ:g}")
    if len(scale.channels) != 1:
        raise SourceError(f"ads1115: one input is measured and {len(scale.channels)} names were given")
