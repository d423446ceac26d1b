"""A simulated ADS1292R: commands and registers as the data sheet SBAS502C has them."""

from threading import Event

import numpy as np
from numpy.typing import NDArray

from holdover.devices.simulators.virtual_clock import VirtualClock, WrongSequence
from holdover.devices.sources import ads1292r as chip

RESET_VALUES = {
    chip.ID: 0x73, chip.CONFIG1: 0x02, chip.CONFIG2: 0x80, chip.LOFF: 0x10, chip.CH1SET: 0, chip.CH2SET: 0,
    chip.RLD_SENS: 0, chip.LOFF_SENS: 0, chip.LOFF_STAT: 0, chip.RESP1: 0, chip.RESP2: 0x02, chip.GPIO: 0x0C,
}  # fmt: skip
MUST = {
    chip.CONFIG1: (0x78, 0), chip.CONFIG2: (0x84, 0x80), chip.LOFF: (0x12, 0x10), chip.LOFF_SENS: (0xC0, 0),
    chip.RESP1: (0x02, 0x02), chip.RESP2: (0x79, 0x01),
}  # fmt: skip
"""Bits of a register that must have one value: which, and the value."""
READ_ONLY = (chip.ID, chip.LOFF_STAT)
SHORTED, POWERED_DOWN = 0x01, 0x80


class SimulatedAds1292r:
    """A `Spi` with one chip, which measures a signal at one of its channels.

    Parameters
    ----------
    codes
        (n,) what the converter gives, 24 bits; time ends after the last.
    rate_hz
        Of the signal. It begins with the first START, and goes on whatever happens to the chip.
    channel
        Where it is.

    Attributes
    ----------
    off
        (n,) the lead-off bits, as LOFF_STAT has them; those that LOFF_SENS does not ask for are not told.
    gone
        Whether the chip does not answer: all that is read is 0.
    """

    def __init__(self, codes: NDArray[np.int32], rate_hz: float, clock: VirtualClock, channel: int = 2) -> None:
        self.codes, self.rate_hz, self.clock, self.channel = codes, rate_hz, clock, channel
        self.off = np.zeros(len(codes), np.int64)
        self.registers = dict(RESET_VALUES)
        self.gone = self.closed = False
        self._continuous, self._began, self._first = True, -1.0, -1.0

    def transfer(self, data: bytes) -> bytes:
        """What the chip answers to one transaction."""
        if self.closed:
            raise WrongSequence("the bus was used after it was closed")
        if self.gone:
            return bytes(len(data))
        answer = bytes(1) + self._command(data[0], data[1:]) if data[0] else self._data(len(data))
        if len(answer) != len(data):
            raise WrongSequence(f"{len(data)} bytes of a transaction of {len(answer)}: {data.hex(' ')}")
        return answer

    def close(self) -> None:
        """Let go of the bus."""
        self.closed = True

    @property
    def converting(self) -> bool:
        """Whether it was started."""
        return self._began >= 0

    def taken(self) -> int:
        """How many samples it has taken since it was started."""
        return int((self.clock.now() - self._began) * self.rate_hz + 1e-6) if self.converting else 0

    def _command(self, command: int, rest: bytes) -> bytes:
        if command & 0xE0 in (chip.RREG, chip.WREG):
            return self._register(command, rest)
        if command == chip.RDATA and self._continuous:
            raise WrongSequence("RDATA in continuous mode; send SDATAC first")
        if command == chip.RDATA:
            return self._frame()
        if command == chip.RESET:
            self.registers, self._continuous, self._began = dict(RESET_VALUES), True, -1.0
        elif command in (chip.RDATAC, chip.SDATAC):
            self._continuous = command == chip.RDATAC
        elif command in (chip.START, chip.STOP):
            self._began = self.clock.now() if command == chip.START else -1.0
            self._first = self._began if self._first < 0 else self._first
        else:
            raise WrongSequence(f"there is no command 0x{command:02x}")
        return b""

    def _register(self, command: int, rest: bytes) -> bytes:
        address = command & 0x1F
        if self._continuous:
            raise WrongSequence("a register was asked for in continuous mode; send SDATAC first")
        if len(rest) != 2 or rest[0] != 0 or address not in self.registers:
            raise WrongSequence(f"register {address}, then {rest.hex(' ')}; expected one register, 0 to 11")
        if command & 0xE0 == chip.RREG:
            return bytes([0, self.registers[address]])
        must, value = MUST.get(address, (0, 0))
        if address in READ_ONLY or rest[1] & must != value:
            raise WrongSequence(f"0x{rest[1]:02x} to register {address}, whose bits 0x{must:02x} must be 0x{value:02x}")
        if address in (chip.CH1SET, chip.CH2SET) and rest[1] & POWERED_DOWN and not rest[1] & SHORTED:
            raise WrongSequence("a channel that is off must have its input shorted")
        self.registers[address] = rest[1]
        return bytes(2)

    def _data(self, n: int) -> bytes:
        if not self._continuous or not self.converting:
            raise WrongSequence("data was clocked out without START and RDATAC")
        return self._frame() if n == chip.FRAME else bytes(n + 1)

    def _frame(self) -> bytes:
        if not self.converting:
            raise WrongSequence("RDATA without START")
        before = int((self._began - self._first) * self.rate_hz + 1e-6)
        last = min(before + max(self.taken() - 1, 0), len(self.codes) - 1)
        self.clock.ended = last >= len(self.codes) - 1
        told = int(self.off[last]) & self.registers[chip.LOFF_SENS] if self.registers[chip.CONFIG2] & 0x40 else 0
        status = chip.STATUS_MARK << 20 | told << 15
        is_on = not self.registers[chip.CH1SET if self.channel == 1 else chip.CH2SET] & POWERED_DOWN
        codes = [0, 0]
        codes[self.channel - 1] = int(self.codes[last]) if is_on else 0
        return status.to_bytes(3, "big") + b"".join(code.to_bytes(3, "big", signed=True) for code in codes)


class SimulatedReady:
    """The line of its pin DRDY."""

    def __init__(self, of: SimulatedAds1292r) -> None:
        self.chip = of
        self._seen = 0

    def wait(self, timeout_s: float) -> int:
        """Let time pass until the next sample; how many were ready since the last call."""
        clock, chip = self.chip.clock, self.chip
        self._seen = min(self._seen, chip.taken())  # it was started anew
        if not chip.converting:
            clock.wait(timeout_s, Event())
            return 0
        if chip.taken() == self._seen:
            clock.wait((self._seen + 1) / chip.rate_hz - (clock.now() - chip._began), Event())
        seen, self._seen = self._seen, chip.taken()
        return self._seen - seen

    def close(self) -> None:
        """Let go of the line."""
