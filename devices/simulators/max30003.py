"""A simulated MAX30003: registers and FIFO as its data sheet has them."""

import numpy as np
from numpy.typing import NDArray

from holdover.devices.simulators.virtual_clock import VirtualClock, WrongSequence
from holdover.devices.sources import max30003 as chip

INFO_VALUE = 0x518000
WRITABLE = {chip.CNFG_GEN: 0xF83FFF, chip.CNFG_EMUX: 0xBF0000, chip.CNFG_ECG: 0xC37000}
"""Registers that can be written, and their bits that mean something; the others must be 0."""
RESET_VALUES = {chip.CNFG_GEN: 0x080004, chip.CNFG_EMUX: 0, chip.CNFG_ECG: 0x805000}
COMMANDS = (chip.SW_RST, chip.SYNCH, chip.FIFO_RST)
OVERFLOW_BIT = 1 << 22


class SimulatedMax30003:
    """A `Spi` with one chip, which measures a signal.

    Parameters
    ----------
    codes
        (n,) what the converter gives, 18 bits; time ends when the last was read.
    rate_hz
        Of the signal. It begins with the first SYNCH, and goes on whatever happens to the chip.

    Attributes
    ----------
    off
        (n,) the lead-off bits of STATUS.
    fast
        (n,) whether a sample falls in fast recovery.
    gone
        Whether the chip does not answer: all that is read is 0.
    """

    def __init__(self, codes: NDArray[np.int32], rate_hz: float, clock: VirtualClock) -> None:
        self.codes, self.rate_hz, self.clock = codes, rate_hz, clock
        self.off, self.fast = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.bool_)
        self.registers = dict(RESET_VALUES)
        self.gone = self.closed = False
        self._began, self._first = -1.0, -1.0
        self._read = 0
        self._ran_over = False

    def transfer(self, data: bytes) -> bytes:
        """What the chip answers to one transaction."""
        if self.closed:
            raise WrongSequence("the bus was used after it was closed")
        if self.gone:
            return bytes(len(data))
        address, read, body = data[0] >> 1, data[0] & 1, data[1:]
        if read and address == chip.ECG_FIFO_BURST and len(body) % chip.WORD == 0:
            return bytes(1) + b"".join(self._sample().to_bytes(3, "big") for _ in range(len(body) // chip.WORD))
        if len(body) != chip.WORD:
            raise WrongSequence(f"{len(body)} bytes of register 0x{address:02x}; expected {chip.WORD}")
        if read:
            return bytes(1) + self._value(address).to_bytes(3, "big")
        self._write(address, int.from_bytes(body, "big"))
        return bytes(4)

    def close(self) -> None:
        """Let go of the bus."""
        self.closed = True

    def taken(self) -> int:
        """How many samples it has taken since SYNCH."""
        if self._began < 0 or not self.registers[chip.CNFG_GEN] & chip.ECG_ON:
            return 0
        return min(int((self.clock.now() - self._began) * self.rate_hz + 1e-6), len(self.codes) - self._before)

    @property
    def _before(self) -> int:
        """How much of the signal went by before the last SYNCH."""
        return min(int((self._began - self._first) * self.rate_hz + 1e-6), len(self.codes))

    def _value(self, address: int) -> int:
        if address == chip.INFO:
            return INFO_VALUE
        if address == chip.STATUS:
            return self._status()
        if address not in self.registers:
            raise WrongSequence(f"register 0x{address:02x} cannot be read")
        return self.registers[address]

    def _status(self) -> int:
        told = self.registers[chip.CNFG_GEN] & 3 << 12 and self.taken()
        return (int(self.off[self._before + self.taken() - 1]) if told else 0) | OVERFLOW_BIT * self._over()

    def _write(self, address: int, value: int) -> None:
        if address in COMMANDS and value == 0:
            self._command(address)
        elif address in WRITABLE and not value & ~WRITABLE[address]:
            self.registers[address] = value
        else:
            raise WrongSequence(f"0x{value:06x} cannot be written to register 0x{address:02x}")

    def _command(self, address: int) -> None:
        if address == chip.SW_RST:
            self.registers, self._began = dict(RESET_VALUES), -1.0
        elif address == chip.SYNCH:
            self._began, self._read, self._ran_over = self.clock.now(), 0, False
            self._first = self._began if self._first < 0 else self._first
        else:
            self._read, self._ran_over = self.taken(), False

    def _over(self) -> bool:
        self._ran_over = self._ran_over or self.taken() - self._read > chip.DEPTH
        return self._ran_over

    def _sample(self) -> int:
        """The next word of the FIFO."""
        if self._over():
            return chip.OVERFLOW << 3
        if self._read >= self.taken():
            return chip.EMPTY << 3
        at, self._read = self._before + self._read, self._read + 1
        self.clock.ended = at + 1 == len(self.codes)
        tag = chip.LAST * (self._read == self.taken()) + chip.FAST * bool(self.fast[at])
        return (int(self.codes[at]) & 0x3FFFF) << 6 | tag << 3
