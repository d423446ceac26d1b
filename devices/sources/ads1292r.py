"""An ADS1292R (or ADS1292, ADS1291) ECG front end on SPI.

Source: Texas Instruments, ADS1291/ADS1292/ADS1292R data sheet SBAS502C, sections "SPI Command Definitions" and
"Register Map".
"""

import math
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

from holdover.devices.sources import Found
from holdover.devices.sources.bus import (
    Clock,
    LinuxLine,
    LinuxSpi,
    ReadyLine,
    Register,
    Spi,
    checked_choice,
    checked_index,
    spi_places,
)
from holdover.devices.sources.chip import SILENT_S, Chip, Sample, Slots, check_kept
from holdover.devices.sources.device import WAIT_S, LinkLost
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError

RESET, START, STOP, RDATAC, SDATAC, RDATA = 0x06, 0x08, 0x0A, 0x10, 0x11, 0x12
RREG, WREG = 0x20, 0x40
"""Read and write registers: or'ed with the first one's address; then comes how many, less one."""
ID, CONFIG1, CONFIG2, LOFF, CH1SET, CH2SET, RLD_SENS, LOFF_SENS, LOFF_STAT, RESP1, RESP2, GPIO = range(12)
CHIPS = {0x73: "ADS1292R", 0x53: "ADS1292", 0x52: "ADS1291"}
"""By what register ID reads."""
RATES_HZ = {125: 0, 250: 1, 500: 2, 1000: 3, 2000: 4, 4000: 5, 8000: 6}
"""Samples a second, and DR (bits 2 to 0 of CONFIG1)."""
GAINS = {6: 0, 1: 1, 2: 2, 3: 3, 4: 4, 8: 5, 12: 6}
"""Amplification, and GAIN (bits 6 to 4 of CHnSET)."""
SHORTED_AND_OFF = 0x81
REFERENCE_MV, FULL_SCALE = 2420.0, (1 << 23) - 1
FRAME = 9
"""Bytes of a sample: 24 bits of status, then 24 bits for each channel."""
STATUS_MARK = 0b1100
"""The first four bits of a status."""

SPI_MODE, SPEED_HZ = 1, 500_000
"""A byte takes 16 us then: twice the 4 t_CLK that the chip needs for a byte of a command of several."""
RESET_S, SETTLE_S = 0.001, 0.15
"""After RESET 18 t_CLK are needed (35 us); the reference takes longer after it was switched on."""
POLLED = 2
"""Without a line that says when a sample is ready, the chip takes so many for each that is read."""
POLLED_HZ = 500
"""The most that can be read on time without that line."""


def open(
    *,
    bus: int = 0,
    device: int = 0,
    channel: int = 2,
    rate_hz: int = 250,
    pga: int = 6,
    ready_line: int | None = None,
    gpio_chip: int = 0,
    leads: Sequence[str] | str = "ECG",
    unit: str = "mV",
    gain: float = 1.0,
    offset: float = 0.0,
) -> Live:
    """Open an ADS1292R on /dev/spidev`bus`.`device`.

    Parameters
    ----------
    channel
        1 or 2; on most boards 2 has the ECG, and 1 respiration, which is left off.
    rate_hz
        125, 250, 500, 1000, 2000, 4000 or 8000; with `ready_line` alone above 500.
    pga
        Amplification in the chip: 1, 2, 3, 4, 6, 8 or 12.
    ready_line, gpio_chip
        The line of /dev/gpiochip`gpio_chip` that pin DRDY is wired to; None: the chip is read by this machine's clock.
    unit, gain, offset
        A value is (mV at the electrodes - offset) * gain, in `unit`.

    Raises
    ------
    SourceError
        An option that cannot be, no bus, or no right to use it. A chip that does not answer is asked again.
    """
    scale = Scale.of("ads1292r", leads, unit, gain, offset)
    if len(scale.channels) != 1:
        raise SourceError(f"ads1292r: one channel is read and {len(scale.channels)} names were given")
    table = registers(channel, rate_hz, pga, ready_line is not None)
    where = (checked_index(bus, "bus", 255, "ads1292r"), checked_index(device, "device", 255, "ads1292r"))
    line = None if ready_line is None else _line(gpio_chip, ready_line)
    try:
        wire = LinuxSpi(*where, SPI_MODE, SPEED_HZ)
    except SourceError:
        if line:
            line.close()
        raise
    return Live(Ads1292r(wire, table, int(channel), rate_hz, pga, scale, line))


def find() -> list[Found]:
    """Where the chip can be; it is not asked, as another may be there."""
    return spi_places()


class Ads1292r(Chip):
    """The driver: sets the registers, has the chip convert, and reads each sample with its lead-off bits.

    With a ready line, what it counted tells which samples came too fast for this machine; without, its clock does.
    """

    def __init__(
        self,
        wire: Spi,
        table: Sequence[Register],
        channel: int,
        rate_hz: float,
        pga: int,
        scale: Scale,
        line: ReadyLine | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__("ads1292r", rate_hz, scale, clock or Clock(), wire, *([line] if line else []))
        self.wire, self.table, self.line, self.channel = wire, table, line, channel
        self.mv_per_count = REFERENCE_MV / pga / FULL_SCALE
        self._bad = 0

    def session(self, stop: Event) -> Iterator[Packet]:
        """Configure the chip and yield what it converts; it is stopped in the end."""
        self._configure(stop)
        self._bad = 0
        try:
            self.wire.transfer(bytes([START]))
            if self.line:
                self.wire.transfer(bytes([RDATAC]))
            yield from self.gathered(self._counted(self.line, stop) if self.line else self._polled(stop))
        finally:
            self.wire.transfer(bytes([SDATAC]))
            self.wire.transfer(bytes([STOP]))

    def _configure(self, stop: Event) -> None:
        self.wire.transfer(bytes([RESET]))
        self.clock.wait(RESET_S, stop)
        self.wire.transfer(bytes([SDATAC]))
        chip = self._read(ID)
        if chip not in CHIPS:
            raise LinkLost(f"the chip says it is 0x{chip:02x}; expected 0x73 of an ADS1292R: see MISO, MOSI, SCLK, CS, "
                           "power, and that PWDN and CLKSEL are high")  # fmt: skip
        for register in self.table:
            self.wire.transfer(bytes([WREG | register.address, 0, register.value]))
            check_kept(register, self._read(register.address), 1)
        self.clock.wait(SETTLE_S, stop)

    def _read(self, address: int) -> int:
        return self.wire.transfer(bytes([RREG | address, 0, 0]))[2]

    def _counted(self, line: ReadyLine, stop: Event) -> Iterator[Sample]:
        ready, silent_s = 0, 0.0
        while not stop.is_set():
            fell = line.wait(WAIT_S)
            ready, silent_s = ready + fell, 0.0 if fell else silent_s + WAIT_S
            if silent_s > SILENT_S:
                raise LinkLost("DRDY does not fall; see its wire, and that it is on the line that ready_line names")
            if fell:
                yield self._sample(ready - 1, self.wire.transfer(bytes(FRAME)))

    def _polled(self, stop: Event) -> Iterator[Sample]:
        slots = Slots(self.rate_hz, self.clock)
        while not stop.is_set():
            slot = slots.next(stop)
            if stop.is_set():
                return
            yield self._sample(slot, self.wire.transfer(bytes([RDATA]) + bytes(FRAME))[1:])

    def _sample(self, number: int, frame: bytes) -> Sample:
        status = int.from_bytes(frame[:3], "big")
        self._bad = self._bad + 1 if status >> 20 != STATUS_MARK else 0
        if self._bad > SILENT_S * self.rate_hz:
            raise LinkLost("no sample begins with 1100; see the wires and the power")
        if self._bad:
            self.refuse(FRAME, f"a sample must begin with 1100, this one is {frame.hex(' ')}; see the wires")
            return Sample(number, math.nan, False)
        start = 3 * self.channel
        code = int.from_bytes(frame[start : start + 3], "big", signed=True)
        return Sample(number, code * self.mv_per_count, bool(status >> 15 & lead_off_bits(self.channel)))


def _line(chip: Any, line: Any) -> LinuxLine:
    place = checked_index(chip, "gpio_chip", 255, "ads1292r"), checked_index(line, "ready_line", 511, "ads1292r")
    return LinuxLine(*place)


def registers(channel: Any, rate_hz: Any, pga: Any, has_line: bool) -> list[Register]:
    """What is written before the chip measures.

    Raises
    ------
    SourceError
        An option that cannot be.

    Examples
    --------
    >>> [f"{r.name} {r.value:02x}" for r in registers(2, 250, 6, True)][:4]
    ['CONFIG1 01', 'CONFIG2 e0', 'LOFF 10', 'CH1SET 81']
    """
    for name, value, known in (("rate_hz", rate_hz, RATES_HZ), ("pga", pga, GAINS), ("channel", channel, (1, 2))):
        checked_choice(value, name, tuple(known), "ads1292r")
    if not has_line and rate_hz > POLLED_HZ:
        raise SourceError(f"ads1292r: {rate_hz} Hz is too fast to be read without DRDY; wire it and give ready_line")
    on, pair = GAINS[pga] << 4, lead_off_bits(channel)
    rate = RATES_HZ[rate_hz if has_line else POLLED * rate_hz]
    return [
        Register("CONFIG1", CONFIG1, rate, "without end; the rate"),
        Register("CONFIG2", CONFIG2, 0xE0, "bit 7 is 1; lead-off comparators and the 2.42 V reference on; no test"),
        Register("LOFF", LOFF, 0x10, "bit 4 is 1; 95 % and 5 % are off; 6 nA, direct current"),
        Register("CH1SET", CH1SET, on if channel == 1 else SHORTED_AND_OFF, "amplification, or off and shorted"),
        Register("CH2SET", CH2SET, on if channel == 2 else SHORTED_AND_OFF, "the same"),
        Register("RLD_SENS", RLD_SENS, 0x20 | pair, "the right leg is driven by both electrodes of the channel"),
        Register("LOFF_SENS", LOFF_SENS, pair, "both electrodes are watched"),
        Register("RESP1", RESP1, 0x02, "bit 1 is 1; no respiration, whose carrier blinds the lead-off comparators"),
        Register("RESP2", RESP2, 0x03, "bit 0 is 1; the right leg's reference is made inside"),
    ]


def lead_off_bits(channel: int) -> int:
    """Which bits of LOFF_STAT are of a channel, as the status has them from bit 15 on."""
    return 0b1100 if channel == 2 else 0b11
