"""A simulated ADS1115: registers as the data sheet SBAS444 has them."""

import errno

import numpy as np
from numpy.typing import NDArray

from holdover.devices.simulators.virtual_clock import VirtualClock, WrongSequence
from holdover.devices.sources.ads1115 import CONFIG, CONVERSION, FULL_SCALE, RANGES_MV, RESET_CONFIG, STATUS_BIT

SINGLE_SHOT = 1 << 8


class SimulatedAds1115:
    """An `I2c` with one chip, which measures a signal.

    Parameters
    ----------
    mv
        (n,) mV at the input; time ends after the last.
    rate_hz
        Of the signal. It begins when the first conversion is read.

    Attributes
    ----------
    config
        The configuration register.
    gone
        Whether the chip does not answer.
    """

    def __init__(self, mv: NDArray[np.float64], rate_hz: float, clock: VirtualClock) -> None:
        self.mv, self.rate_hz, self.clock = mv, rate_hz, clock
        self.config = RESET_CONFIG
        self.gone = False
        self.closed = False
        self._began: float | None = None

    def read_i2c(self, register: int, n: int) -> bytes:
        """Read a register of two bytes."""
        self._answer()
        if register not in (CONVERSION, CONFIG) or n != 2:
            raise WrongSequence(f"{n} bytes of register {register}; conversion and configuration have 2")
        if register == CONFIG:
            return (self.config | STATUS_BIT).to_bytes(2, "big")
        if self.config & SINGLE_SHOT:
            raise WrongSequence("a conversion was read in single-shot mode, and none was started")
        return self._conversion().to_bytes(2, "big", signed=True)

    def write_i2c(self, register: int, data: bytes) -> None:
        """Write the configuration."""
        self._answer()
        if register != CONFIG or len(data) != 2:
            raise WrongSequence(
                f"{len(data)} bytes to register {register}; only the configuration, of 2, can be written"
            )
        self.config = int.from_bytes(data, "big") & ~STATUS_BIT

    def close(self) -> None:
        """Let go of the bus."""
        self.closed = True

    def _answer(self) -> None:
        if self.closed:
            raise WrongSequence("the bus was used after it was closed")
        if self.gone:
            raise OSError(errno.EREMOTEIO, "Remote I/O error")

    def _conversion(self) -> int:
        if self._began is None:
            self._began = self.clock.now()
        at = round((self.clock.now() - self._began) * self.rate_hz)
        self.clock.ended = at >= len(self.mv) - 1
        full_mv = next(mv for mv, bits in RANGES_MV.items() if bits == self.config >> 9 & 7)
        count = round(float(self.mv[min(at, len(self.mv) - 1)]) * FULL_SCALE / full_mv)
        return min(max(count, -FULL_SCALE), FULL_SCALE - 1)
