"""A MAX30003 ECG front end on SPI, whose FIFO lets a busy machine come late.

Source: Maxim Integrated (Analog Devices), MAX30003 data sheet 19-8558, sections "Register Map" and "ECG FIFO".
"""

import math
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

from holdover.devices.sources import Found
from holdover.devices.sources.bus import Clock, LinuxSpi, Register, Spi, checked_choice, checked_index, spi_places
from holdover.devices.sources.chip import SILENT_S, Chip, Sample, check_kept
from holdover.devices.sources.device import LinkLost
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError

STATUS, SW_RST, SYNCH, FIFO_RST, INFO, CNFG_GEN, CNFG_EMUX, CNFG_ECG = 0x01, 0x08, 0x09, 0x0A, 0x0F, 0x10, 0x14, 0x15
ECG_FIFO_BURST = 0x20
READ = 1
"""Bit 0 of a command; the address is above it."""
WORD, DEPTH = 3, 32
"""Bytes of a register or sample, samples in the FIFO."""
REVISION_MARK = 0b0101
"""The first four bits of INFO."""

VALID, FAST, LAST, LAST_FAST, EMPTY, OVERFLOW = 0, 1, 2, 3, 6, 7
"""ETAG, bits 5 to 3 of a sample: what it is worth."""
ENDS = (LAST, LAST_FAST, EMPTY, OVERFLOW)
"""Nothing comes after these."""
OFF_BITS = 0b1111
"""LDOFF_PH, PL, NH and NL of STATUS: an input is above or below the threshold."""

RATES_HZ = {512: 0, 256: 1, 128: 2}
"""Samples a second at a master clock of 32768 Hz, and RATE (bits 23 and 22 of CNFG_ECG)."""
GAINS = {20: 0, 40: 1, 80: 2, 160: 3}
"""Amplification, and GAIN (bits 17 and 16)."""
ECG_ON, LEAD_OFF_10_NA, BIAS_100_MOHM = 1 << 19, 1 << 12 | 0b010 << 8, 0b01 << 4 | 0b01 << 2 | 0b11
"""Bits of CNFG_GEN: EN_ECG; EN_DCLOFF, IMAG, with a threshold of 300 mV; EN_RBIAS, RBIASV, RBIASP and RBIASN."""
HIGH_PASS, LOW_PASS_40_HZ, LOW_PASS_100_HZ = 1 << 14, 1 << 12, 2 << 12
REFERENCE_MV, FULL_SCALE = 1000.0, 1 << 17

SPI_MODE, SPEED_HZ = 0, 1_000_000
RESET_S, SETTLE_S, POLL_S = 0.01, 0.1, 0.02


def open(
    *,
    bus: int = 0,
    device: int = 0,
    rate_hz: int = 256,
    pga: int = 20,
    lead_off: bool = True,
    leads: Sequence[str] | str = "ECG",
    unit: str = "mV",
    gain: float = 1.0,
    offset: float = 0.0,
) -> Live:
    """Open a MAX30003 on /dev/spidev`bus`.`device`.

    Parameters
    ----------
    rate_hz
        128, 256 or 512.
    pga
        Amplification in the chip: 20, 40, 80 or 160.
    lead_off
        Whether the chip sends 10 nA through the electrodes to tell whether they are on.
    unit, gain, offset
        A value is (mV at the electrodes - offset) * gain, in `unit`.

    Raises
    ------
    SourceError
        An option that cannot be, no bus, or no right to use it. A chip that does not answer is asked again.
    """
    scale = Scale.of("max30003", leads, unit, gain, offset)
    if len(scale.channels) != 1:
        raise SourceError(f"max30003: the chip has one channel and {len(scale.channels)} names were given")
    table = registers(rate_hz, pga, lead_off)
    where = (checked_index(bus, "bus", 255, "max30003"), checked_index(device, "device", 255, "max30003"))
    return Live(Max30003(LinuxSpi(*where, SPI_MODE, SPEED_HZ), table, rate_hz, pga, lead_off, scale))


def find() -> list[Found]:
    """Where the chip can be; it is not asked, as another may be there."""
    return spi_places()


class Max30003(Chip):
    """The driver: sets the registers and empties the FIFO on time.

    A FIFO that ran over is begun anew; how many samples were lost is told by this machine's clock, to a sample or two.
    """

    def __init__(
        self,
        wire: Spi,
        table: Sequence[Register],
        rate_hz: float,
        pga: int,
        lead_off: bool,
        scale: Scale,
        clock: Clock | None = None,
    ) -> None:
        super().__init__("max30003", rate_hz, scale, clock or Clock(), wire)
        self.wire, self.table, self.lead_off = wire, table, lead_off
        self.mv_per_count = REFERENCE_MV / FULL_SCALE / pga

    def session(self, stop: Event) -> Iterator[Packet]:
        """Configure the chip and yield what it converts; its ECG channel is switched off in the end."""
        self._configure(stop)
        try:
            yield from self.gathered(self._samples(stop))
        finally:
            self._write(SW_RST, 0)

    def _configure(self, stop: Event) -> None:
        self._write(SW_RST, 0)
        self.clock.wait(RESET_S, stop)
        info = self._read(INFO)
        if info >> 20 != REVISION_MARK:
            raise LinkLost(f"the chip says it is 0x{info:06x}; expected 0x5..... of a MAX30003: see MISO, MOSI, SCLK, "
                           "CS, power, and the clock at FCLK")  # fmt: skip
        for register in self.table:
            self._write(register.address, register.value)
            check_kept(register, self._read(register.address), WORD)
        self.clock.wait(SETTLE_S, stop)
        self._write(SYNCH, 0)

    def _samples(self, stop: Event) -> Iterator[Sample]:
        number, emptied_at, emptied_s = 0, 0, self.clock.now()
        heard_s = emptied_s
        while not stop.is_set():
            self.clock.wait(POLL_S, stop)
            off = bool(self._read(STATUS) & OFF_BITS) if self.lead_off else None
            now_s = self.clock.now()
            words, ran_over = self._emptied()
            heard_s = now_s if words else heard_s
            if now_s - heard_s > SILENT_S:
                raise LinkLost(f"the chip gave nothing for {SILENT_S:.0f} s; see its power, and the clock at FCLK")
            for word in words:
                yield Sample(number, self._mv(word), off)
                number += 1
            if ran_over:
                self._write(FIFO_RST, 0)
                number = max(number, emptied_at + round((now_s - emptied_s) * self.rate_hz))
            emptied_at, emptied_s = number, now_s

    def _emptied(self) -> tuple[list[int], bool]:
        """The samples in the FIFO, as words, and whether it has run over."""
        said = self.wire.transfer(bytes([ECG_FIFO_BURST << 1 | READ]) + bytes(WORD * DEPTH))[1:]
        words = [int.from_bytes(said[i : i + WORD], "big") for i in range(0, len(said), WORD)]
        for n, tag in enumerate(map(_tag, words)):
            if tag in ENDS:
                return words[: n + (tag in (LAST, LAST_FAST))], tag == OVERFLOW
        raise LinkLost(f"the FIFO has more than {DEPTH} samples, which cannot be; see the wires and the power")

    def _mv(self, word: int) -> float:
        """mV of a sample; NaN in fast recovery, in which the voltage means nothing."""
        code = word >> 6
        return math.nan if _tag(word) in (FAST, LAST_FAST) else (code - (code >> 17 << 18)) * self.mv_per_count

    def _read(self, address: int) -> int:
        return int.from_bytes(self.wire.transfer(bytes([address << 1 | READ, 0, 0, 0]))[1:], "big")

    def _write(self, address: int, value: int) -> None:
        self.wire.transfer(bytes([address << 1]) + value.to_bytes(WORD, "big"))


def _tag(word: int) -> int:
    return word >> 3 & 7


def registers(rate_hz: Any, pga: Any, lead_off: Any) -> list[Register]:
    """What is written before the chip measures.

    Raises
    ------
    SourceError
        An option that cannot be.

    Examples
    --------
    >>> [f"{r.name} {r.value:06x}" for r in registers(128, 20, False)]
    ['CNFG_GEN 080017', 'CNFG_EMUX 000000', 'CNFG_ECG 805000']
    """
    for name, value, known in (
        ("rate_hz", rate_hz, RATES_HZ),
        ("pga", pga, GAINS),
        ("lead_off", lead_off, (True, False)),
    ):
        checked_choice(value, name, tuple(known), "max30003")
    low_pass = LOW_PASS_40_HZ if rate_hz == 128 else LOW_PASS_100_HZ
    general = ECG_ON | BIAS_100_MOHM | (LEAD_OFF_10_NA if lead_off else 0)
    rate = RATES_HZ[rate_hz] << 22 | GAINS[pga] << 16 | HIGH_PASS | low_pass
    return [
        Register("CNFG_GEN", CNFG_GEN, general, "32768 Hz; the ECG, lead-off, and a bias on both inputs"),
        Register("CNFG_EMUX", CNFG_EMUX, 0, "both inputs to their pins, no calibration, which hides lead-off"),
        Register("CNFG_ECG", CNFG_ECG, rate, "the rate, the amplification; 0.5 Hz to 40 Hz at 128 Hz, else to 100 Hz"),
    ]
